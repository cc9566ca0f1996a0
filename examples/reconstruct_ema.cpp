// Makes a model of another average of the weights than those that a training kept: from the snapshots of a
// PostHocEma, for any width, after the training (Karras et al. 2024, arXiv 2312.02696).

#include <cstdio>
#include <optional>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/training/post_hoc_ema.h>

#include "program.h"

using namespace diffusers;

namespace {

/// The model's own tensors, with the average in place of those that were averaged.
TensorMap with_average(TensorMap model, const TensorMap& average) {
  for (const auto& [name, tensor] : average) {
    if (!model.contains(name) || model.at(name).sizes() != tensor.sizes())
      throw FileError("the snapshots hold \"" + name + "\", " + describe(tensor) +
                      ", which the model does not have: they belong to another model");
    model[name] = tensor.to(model.at(name).scalar_type());
  }
  return model;
}

int run(int argc, char** argv) {
  std::string snapshots;
  std::string model;
  std::string output;
  double sigma_rel = 0.05;
  std::optional<int64_t> step;
  CLI::App app("Writes a model folder with averaged weights, for an average of any width");
  app.add_option("snapshots", snapshots, "folder with power_ema-STEP-WIDTH.safetensors files")->required();
  app.add_option("--model", model, "folder of the trained model, for its config and what is not averaged")
      ->required();
  app.add_option("--sigma_rel", sigma_rel, "width of the average, relative to the training")
      ->capture_default_str();
  app.add_option("--step", step, "step at which the average ends: that of a snapshot; default: the last");
  app.add_option("--output", output, "the model folder to write")->required();
  CLI11_PARSE(app, argc, argv);

  const auto result = reconstruct_power_ema(list_power_ema_snapshots(snapshots), sigma_rel, step);
  const TensorMap weights = with_average(load_weights(model), result.tensors);
  create_folders(output);
  write_file(read_model_file(model, "config.json"), join_path(output, "config.json"));
  save_weights(weights, output);
  std::printf("%s: sigma_rel %g at step %lld, relative error of the profile %.2g\n", output.c_str(),
              result.profile.sigma_rel, static_cast<long long>(result.profile.step), result.relative_error);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("reconstruct_ema", run, argc, argv); }
