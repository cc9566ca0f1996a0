#pragma once

// What the tests of the Stable Diffusion pipelines share; tests/reference/stable_diffusion_pipelines.py has
// the other side.

#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers::test {

// Models agree to 1e-4; a handful of steps through one does not add to that.
inline constexpr double kImageTolerance = 1e-4;

inline const Golden& pipelines_golden() {
  static const Golden golden = load_golden("stable_diffusion_pipelines.safetensors");
  return golden;
}

inline void expect_as_python(const std::string& name, const Tensor& images) {
  expect_close(images, pipelines_golden()[name], kImageTolerance, kImageTolerance, name);
}

/// The options of every case: five steps, generator 7, and a prompt unless there is one.
template <class Options>
Options five_steps(Options options) {
  if (options.prompt.values().empty() && !options.prompt_embeds.defined()) options.prompt = "a red cat";
  options.num_inference_steps = 5;
  options.generator = make_generator(7);
  return options;
}

/// Gives a pipeline its scheduler's config as a scheduler of another class.
inline void take_scheduler(DiffusionPipeline& pipeline, const std::string& class_name) {
  if (class_name.empty()) return;
  Json config = parse_json(pipeline.scheduler().config_json(), "config");
  config["_class_name"] = class_name;
  pipeline.set_scheduler(*Scheduler::from_config(config.dump()));
}

/// The pipeline saves the model_index.json that Python writes.
inline void expect_python_index(const DiffusionPipeline& pipeline, const std::string& name) {
  const TemporaryFolder folder;
  pipeline.save_pretrained(folder.path());
  const std::string path = golden_path("stable_diffusion_pipelines.json");
  EXPECT_EQ(parse_json(read_text_file(folder / "model_index.json"), "saved"),
            parse_json(read_text_file(path), path).at(name))
      << name;
}

/// Draws the zero-initialised layers of a ControlNet as Python's side does, so that they have an effect.
template <class ControlNet>
void move_zero_layers(ControlNet& net) {
  const at::NoGradGuard no_grad;
  for (auto& item : net->named_parameters()) {
    if (!item.key().starts_with("controlnet_")) continue;
    const Tensor numbers = at::cos(at::arange(item.value().numel(), at::kFloat));
    item.value() += 0.1 * numbers.view(item.value().sizes());
  }
  net->eval();
}

}  // namespace diffusers::test
