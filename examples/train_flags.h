#pragma once

// The command line of train_mnist: a preset, and flags that change it.

#include <cstdint>
#include <string>

#include <diffusers/diffusers.h>

struct Settings {
  std::string dataset = "mnist";  ///< mnist, fashion-mnist, or a folder of pictures
  std::string data_dir = {};      ///< where the IDX files are; empty: a default for each data set
  bool center_crop = false;
  bool random_flip = false;
  torch::Device device = torch::kCPU;
  int64_t eval_batch_size = 256;
  int64_t num_inference_steps = 100;
  double eta = 1.0;
  double temperature = 0.8;
  double guidance_scale = 2.0;  ///< of class-conditional samples

  diffusers::UNet2DModelConfig model = {};
  bool has_model_config = false;  ///< the model is that of --model_config_name_or_path
  diffusers::DDPMSchedulerConfig scheduler = {};
  diffusers::TrainingConfig training = {};
  diffusers::DiffusionTaskOptions task = {};

  bool is_class_conditional() const { return task.class_conditional.value_or(false); }
  bool is_idx() const { return dataset == "mnist" || dataset == "fashion-mnist"; }
  std::string data_folder() const;
};

/// Prints help or what is wrong and ends the program where that is called for.
Settings parse_flags(int argc, char** argv);
