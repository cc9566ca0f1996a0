#pragma once

// The flags of the program sample.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/schedulers/scheduler.h>

#include "../flags.h"

/// Values of the flags.
struct SampleSettings {
  std::string model;
  std::optional<std::string> prompt;
  std::optional<std::string> negative_prompt;
  std::vector<std::string> images;  ///< picture to start from or to repaint, or one for each ControlNet
  std::optional<std::string> mask;
  std::optional<double> strength;
  std::vector<std::string> controlnets;  ///< folders
  std::vector<double> controlnet_conditioning_scale;
  bool guess_mode = false;
  std::vector<std::string> loras;  ///< LoRA files or folders
  std::vector<double> lora_scale;
  std::vector<std::string> textual_inversions;  ///< files or folders
  std::optional<std::string> scheduler;
  std::optional<int64_t> num_inference_steps;
  std::optional<double> guidance_scale;
  std::optional<double> image_guidance_scale;
  std::optional<double> eta;
  std::optional<int64_t> num_images;
  uint64_t seed = 0;
  std::string device = "cpu";
  std::string output = "samples.png";
};

/// Returns the flags.
const FlagTable<SampleSettings>& sample_flags();

/// Throws ConfigError with a message if `is_wrong`.
void refuse(bool is_wrong, const std::string& message);

/// Checks the flags with each other, before the model is loaded.
/// @throws diffusers::ConfigError naming the flags
void check_sample_flags(const SampleSettings& settings);

/// Checks the flags of a pipeline with ControlNets.
/// @param nets number of ControlNets
/// @throws diffusers::ConfigError naming the flags
void check_control_flags(const SampleSettings& settings, std::size_t nets);

/// Returns the scheduler of the flags: that of the pipeline, or another one made from its config.
/// @throws diffusers::ConfigError for `--eta` with a scheduler that takes none
std::unique_ptr<diffusers::Scheduler> choose_scheduler(const diffusers::Scheduler& own,
                                                       const SampleSettings& settings);
