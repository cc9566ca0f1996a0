// Fine-tunes the UNet of Stable Diffusion 1.5 for a few steps with TextToImageTask and Trainer, on random
// images with captions and with random weights: batch 1, gradient checkpointing, AdamW. With --lora it trains
// an adapter with TextToImageLoraTask. It prints one line of
// JSON with the seconds of each step and the peak resident memory. stable_diffusion_step.py compares it with
// Python.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/models/layers.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/training/progress.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

using namespace diffusers;

namespace {

constexpr const char* kUsage =
    "usage: stable_diffusion_step [--size full|tiny] [--mixed_precision no|bf16] [--steps N] [--lora RANK]\n"
    "                             [--save] OUTPUT_DIR TOKENIZER_DIR\n"
    "  --size             full: the models of Stable Diffusion 1.5, images of 512 x 512. tiny: a few layers\n"
    "  --mixed_precision  bf16: autocast, and with --lora the weights of the models\n"
    "  --steps            number of steps, 1 or more\n"
    "  --lora             rank of an adapter, which is trained instead of the UNet; 0: none\n"
    "  --save             also write the output folder at the end, and report the peak memory of that\n";

struct Arguments {
  bool is_full = true;
  MixedPrecision mixed_precision = MixedPrecision::kNo;
  int64_t steps = 3;
  int64_t rank = 0;
  bool saves = false;
  std::string output_dir, tokenizer_dir;
};

struct Sizes {
  UNet2DConditionModelConfig unet;
  AutoencoderKLConfig vae;
  CLIPTextConfig text_encoder;
  int64_t resolution = 0;
};

Sizes full_sizes() {
  return {.unet = {.sample_size = 64, .cross_attention_dim = 768},
          .vae = {.down_block_types = std::vector<std::string>(4, "DownEncoderBlock2D"),
                  .up_block_types = std::vector<std::string>(4, "UpDecoderBlock2D"),
                  .block_out_channels = {128, 256, 512, 512},
                  .layers_per_block = 2,
                  .sample_size = 512},
          .text_encoder = {.hidden_size = 768,
                           .intermediate_size = 3072,
                           .projection_dim = 768,
                           .num_hidden_layers = 12,
                           .num_attention_heads = 12},
          .resolution = 512};
}

Sizes tiny_sizes() {
  return {.unet = {.sample_size = 8,
                   .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                   .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                   .block_out_channels = {32, 64},
                   .layers_per_block = 1,
                   .cross_attention_dim = 32},
          .vae = {.down_block_types = std::vector<std::string>(4, "DownEncoderBlock2D"),
                  .up_block_types = std::vector<std::string>(4, "UpDecoderBlock2D"),
                  .block_out_channels = {32, 32, 32, 32},
                  .sample_size = 64},
          .text_encoder = {.hidden_size = 32,
                           .intermediate_size = 64,
                           .projection_dim = 32,
                           .num_hidden_layers = 2,
                           .num_attention_heads = 2},
          .resolution = 64};
}

/// Draws weights with the variance of LibTorch's own initialisation, which takes much longer for a billion
/// numbers.
void draw_weights(torch::nn::Module& model) {
  const at::NoGradGuard no_grad;
  for (const auto& item : model.named_parameters()) {
    Tensor parameter = item.value();
    if (parameter.dim() >= 2) {
      const auto fan_in = static_cast<double>(parameter.numel() / parameter.size(0));
      parameter.normal_(0.0, 1.0 / std::sqrt(3.0 * fan_in));
    } else if (item.key().ends_with(".bias")) {
      parameter.zero_();
    }
  }
}

/// @param dtype of all weights; they are converted before they are drawn, so that float32 takes no memory
TextToImageModels make_models(const Sizes& sizes, const std::string& tokenizer_dir, at::ScalarType dtype) {
  const layers::SkipInitGuard skip_init;
  manual_seed(0);
  TextToImageModels models{.tokenizer = CLIPTokenizer::from_pretrained(tokenizer_dir),
                           .text_encoder = CLIPTextModel(sizes.text_encoder),
                           .vae = AutoencoderKL(sizes.vae),
                           .unet = UNet2DConditionModel(sizes.unet),
                           .scheduler = PNDMScheduler({.beta_start = 0.00085,
                                                       .beta_end = 0.012,
                                                       .beta_schedule = BetaSchedule::kScaledLinear,
                                                       .skip_prk_steps = true,
                                                       .set_alpha_to_one = false,
                                                       .steps_offset = 1})};
  models.text_encoder->to(dtype);
  models.vae->to(dtype);
  models.unet->to(dtype);
  draw_weights(*models.text_encoder);
  draw_weights(*models.vae);
  draw_weights(*models.unet);
  return models;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Arguments parse(int argc, char** argv) {
  const auto refuse = [] {
    std::fputs(kUsage, stderr);
    std::exit(2);
  };
  Arguments arguments;
  std::vector<std::string> folders;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--save") {
      arguments.saves = true;
    } else if (!word.starts_with("--")) {
      folders.push_back(word);
    } else {
      ++i;
      if (word == "--size" && (value == "full" || value == "tiny")) {
        arguments.is_full = value == "full";
      } else if (word == "--mixed_precision" && (value == "no" || value == "bf16")) {
        arguments.mixed_precision = value == "no" ? MixedPrecision::kNo : MixedPrecision::kBf16;
      } else if (word == "--steps" && std::atoi(value.c_str()) > 0) {
        arguments.steps = std::atoi(value.c_str());
      } else if (word == "--lora" && !value.empty() && std::atoi(value.c_str()) >= 0) {
        arguments.rank = std::atoi(value.c_str());
      } else {
        refuse();
      }
    }
  }
  if (folders.size() != 2) refuse();
  arguments.output_dir = folders[0];
  arguments.tokenizer_dir = folders[1];
  return arguments;
}

/// Ends a training without the final folder of the pipeline.
struct Measured {};

std::shared_ptr<Task> make_task(const TextToImageModels& models, int64_t rank) {
  if (rank == 0) return std::make_shared<TextToImageTask>(models);
  TextToImageLoraTaskOptions options;
  options.unet_lora.r = rank;
  options.unet_lora.lora_alpha = rank;
  return std::make_shared<TextToImageLoraTask>(models, options);
}

void run(const Arguments& arguments) {
  const Sizes sizes = arguments.is_full ? full_sizes() : tiny_sizes();
  const bool is_half = arguments.rank > 0 && arguments.mixed_precision == MixedPrecision::kBf16;
  const TextToImageModels models =
      make_models(sizes, arguments.tokenizer_dir, is_half ? at::kBFloat16 : at::kFloat);
  const int64_t parameters = models.unet->num_parameters();
  Batch samples{.images = at::rand({arguments.steps, 3, sizes.resolution, sizes.resolution}) * 2 - 1};
  samples.captions.assign(static_cast<std::size_t>(arguments.steps), "a photo of a cat");
  const TensorDataset data(samples);

  Trainer trainer(make_task(models, arguments.rank), {.output_dir = arguments.output_dir,
                                                      .seed = 0,
                                                      .resolution = sizes.resolution,
                                                      .train_batch_size = 1,
                                                      .max_train_steps = arguments.steps,
                                                      .gradient_checkpointing = true,
                                                      .learning_rate = 1e-5,
                                                      .lr_scheduler = "constant",
                                                      .lr_warmup_steps = 0,
                                                      .mixed_precision = arguments.mixed_precision,
                                                      .adam_beta1 = 0.9,
                                                      .adam_weight_decay = 1e-2,
                                                      .checkpointing_steps = 0,
                                                      .logging_steps = 1,
                                                      .progress_bar = false,
                                                      .tensorboard = false,
                                                      .report = false});
  std::string seconds, losses;
  int64_t peak = 0;
  double start = seconds_now();
  trainer.on_step([&](int64_t) {
    const double now = seconds_now();
    seconds += (seconds.empty() ? "" : ", ") + std::to_string(now - start);
    start = now;
    peak = peak_memory_bytes();
  });
  trainer.on_log([&](const TrainingProgress& progress) {
    losses += (losses.empty() ? "" : ", ") + std::to_string(progress.loss);
    if (progress.step == arguments.steps && !arguments.saves) throw Measured();
  });
  try {
    trainer.train(data);
  } catch (const Measured&) {
  }
  std::printf("{\"parameters\": %lld, \"threads\": %d, \"seconds\": [%s], \"losses\": [%s], \"peak\": %lld",
              static_cast<long long>(parameters), at::get_num_threads(), seconds.c_str(), losses.c_str(),
              static_cast<long long>(peak));
  // The kernel's counter of resident pages is approximate, and the peak that it reports may shrink a little.
  if (arguments.saves)
    std::printf(", \"peak_with_saving\": %lld", static_cast<long long>(std::max(peak, peak_memory_bytes())));
  std::printf("}\n");
}

}  // namespace

int main(int argc, char** argv) try {
  run(parse(argc, argv));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "stable_diffusion_step: %s\n", error.what());
  return 1;
}
