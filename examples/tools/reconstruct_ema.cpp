// Reconstructs EMA weights of any width after training, from the snapshots of PostHocEma (Karras et al. 2024,
// arXiv 2312.02696), and writes them to a model folder.

#include <cstdio>
#include <optional>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/training/post_hoc_ema.h>

#include "../flags.h"
#include "../program.h"

using namespace diffusers;

namespace {

/// Returns the model's tensors, in which the averages replace the averaged tensors.
TensorMap with_average(TensorMap model, const TensorMap& average) {
  for (const auto& [name, tensor] : average) {
    if (!model.contains(name) || model.at(name).sizes() != tensor.sizes())
      throw FileError("the snapshots hold \"" + name + "\", " + describe(tensor) +
                      ", which the model does not have: they belong to another model");
    model[name] = tensor.to(model.at(name).scalar_type());
  }
  return model;
}

struct Settings {
  std::string snapshots;
  std::string model;
  double sigma_rel = 0.05;
  std::optional<int64_t> step;
  std::string output;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Flags",
       {{"snapshots",
         &Settings::snapshots,
         "Folder with power_ema-STEP-WIDTH.safetensors files.",
         {.required = true}},
        {"--model",
         &Settings::model,
         "Folder of the trained model, for its config and for the tensors that are not averaged.",
         {.required = true}},
        {"--sigma_rel",
         &Settings::sigma_rel,
         "Width of the average, relative to the training.",
         {.check = greater_than(0)}},
        {"--step",
         &Settings::step,
         "Step at which the average ends: that of a snapshot.",
         {.check = at_least(1), .default_text = "the last"}},
        {"--output", &Settings::output, "Model folder to write.", {.required = true}}}},
  };
  return table;
}

int run(int argc, char** argv) {
  const Settings settings = parse_flags(
      flags(), "Writes a model folder with averaged weights, for an average of any width", argc, argv);

  const auto result =
      reconstruct_power_ema(list_power_ema_snapshots(settings.snapshots), settings.sigma_rel, settings.step);
  const TensorMap weights = with_average(load_weights(settings.model), result.tensors);
  create_folders(settings.output);
  write_file(read_model_file(settings.model, "config.json"), join_path(settings.output, "config.json"));
  save_weights(weights, settings.output);
  std::printf("%s: sigma_rel %g at step %lld, relative error of the profile %.2g\n", settings.output.c_str(),
              result.profile.sigma_rel, static_cast<long long>(result.profile.step), result.relative_error);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("reconstruct_ema", run, argc, argv); }
