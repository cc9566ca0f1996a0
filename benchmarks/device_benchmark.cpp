// Measures this library on a device for device_check.sh. Each row prints lines of JSON.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/random.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/ops/group_norm.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <torch/autograd.h>
#include <torch/cuda.h>

using namespace diffusers;

namespace {

constexpr const char* kUsage =
    "usage: device_benchmark devices\n"
    "       device_benchmark group_norm|mnist_step|unet_step [--device cuda|cpu] [--size full|quick]\n"
    "                        [--mixed_precision no|bf16|fp16] [--steps N] [--folder DIR]\n"
    "  devices     prints the number of CUDA devices; the exit status is 3 without one\n"
    "  group_norm  group norm + SiLU, forward and backward: LibTorch against the kernels of this library\n"
    "  mnist_step  training steps of the MNIST preset, batch 64\n"
    "  unet_step   training steps of Stable Diffusion 1.5's UNet on latents, batch 2\n"
    "The environment variable DIFFUSERS_CUDA switches on options of training steps.\n";

constexpr int kNoDevice = 3;

struct Arguments {
  std::string row, folder = "device_benchmark_output";
  at::Device device = at::Device(at::kCUDA, 0);
  bool is_quick = false;
  MixedPrecision mixed_precision = MixedPrecision::kNo;
  int64_t steps = 20;
};

void synchronize(const Arguments& arguments) {
  if (arguments.device.is_cuda()) torch::cuda::synchronize();
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Returns the median seconds of a function, after runs that warm it up.
double measured(const Arguments& arguments, const std::function<void()>& work) {
  for (int i = 0; i < 3; ++i) work();
  std::vector<double> seconds;
  for (int64_t i = 0; i < arguments.steps; ++i) {
    synchronize(arguments);
    const double start = seconds_now();
    work();
    synchronize(arguments);
    seconds.push_back(seconds_now() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void group_norm_row(const Arguments& arguments) {
  using Shape = std::vector<int64_t>;
  const std::vector<Shape> shapes =
      arguments.is_quick
          ? std::vector<Shape>{{1, 32, 8, 8}}
          : std::vector<Shape>{{64, 32, 28, 28}, {2, 320, 64, 64}, {2, 1280, 8, 8}, {1, 128, 512, 512}};
  for (const Shape& shape : shapes)
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      for (const bool channels_last : {false, true}) {
        const auto options = at::TensorOptions().dtype(dtype).device(arguments.device);
        const at::MemoryFormat order =
            channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
        const Tensor x = at::randn(shape, options).contiguous(order).set_requires_grad(true);
        const Tensor weight = at::ones({shape[1]}, options).set_requires_grad(true);
        const Tensor bias = at::zeros({shape[1]}, options).set_requires_grad(true);
        const Tensor grad = at::randn(shape, options).contiguous(order);
        const auto run = [&](bool kernels) {
          CudaOptions with = cuda_options();
          with.kernels = kernels;
          set_cuda_options(with);
          return measured(arguments, [&] {
            const Tensor y = group_norm(x, 32, weight, bias, {.silu = true});
            torch::autograd::grad({y}, {x, weight, bias}, {grad});
          });
        };
        const double libtorch = run(false);
        const double kernels = run(true);
        std::printf(
            "{\"row\": \"group_norm\", \"shape\": [%lld, %lld, %lld, %lld], \"dtype\": \"%s\", "
            "\"channels_last\": %s, \"libtorch_ms\": %.4f, \"kernels_ms\": %.4f, \"ratio\": %.3f}\n",
            static_cast<long long>(shape[0]), static_cast<long long>(shape[1]),
            static_cast<long long>(shape[2]), static_cast<long long>(shape[3]), at::toString(dtype),
            channels_last ? "true" : "false", 1e3 * libtorch, 1e3 * kernels, libtorch / kernels);
      }
}

/// Trains and prints the mean seconds of the steps after the first 10, which warm up and capture graphs.
void training_row(const Arguments& arguments, const std::function<Trainer(const TrainingConfig&)>& make,
                  int64_t batch_size, const Dataset& data) {
  constexpr int64_t kWarmUp = 10;
  Trainer trainer = make({.output_dir = arguments.folder,
                          .seed = 0,
                          .train_batch_size = batch_size,
                          .max_train_steps = kWarmUp + arguments.steps,
                          .learning_rate = 1e-4,
                          .lr_scheduler = "constant",
                          .lr_warmup_steps = 0,
                          .mixed_precision = arguments.mixed_precision,
                          .use_ema = true,
                          .checkpointing_steps = 0,
                          .logging_steps = kWarmUp + arguments.steps,
                          .progress_bar = false,
                          .tensorboard = false,
                          .report = false,
                          .overwrite_output_dir = true});
  double start = 0.0;
  double seconds = 0.0;
  trainer.on_step([&](int64_t step) {
    if (step == kWarmUp) {
      synchronize(arguments);
      start = seconds_now();
    } else if (step == kWarmUp + arguments.steps) {
      synchronize(arguments);
      seconds = (seconds_now() - start) / static_cast<double>(arguments.steps);
    }
  });
  const TrainingResult result = trainer.train(data);
  std::printf("{\"row\": \"%s\", \"seconds\": %.6f, \"loss\": %.4f}\n", arguments.row.c_str(), seconds,
              result.loss);
}

void mnist_row(const Arguments& arguments) {
  UNet2DModel unet({.sample_size = 28,
                    .in_channels = 1,
                    .out_channels = 1,
                    .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                    .block_out_channels = {16, 32, 64},
                    .layers_per_block = 1,
                    .norm_num_groups = 8});
  unet->to(arguments.device);
  const int64_t batch_size = arguments.is_quick ? 2 : 64;
  const TensorDataset data(Batch{.images = at::rand({16 * batch_size, 1, 28, 28}) * 2 - 1});
  training_row(
      arguments, [&](const TrainingConfig& config) { return Trainer(unet, DDPMScheduler(), config); },
      batch_size, data);
}

/// Draws weights with the variance of LibTorch's own initialisation, which takes much longer on the CPU.
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

void unet_row(const Arguments& arguments) {
  UNet2DConditionModelConfig config{.sample_size = 64, .cross_attention_dim = 768};
  if (arguments.is_quick)
    config = {.sample_size = 8,
              .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
              .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
              .block_out_channels = {32, 64},
              .layers_per_block = 1,
              .cross_attention_dim = 768};
  UNet2DConditionModel unet = [&] {
    const layers::SkipInitGuard skip_init;
    return UNet2DConditionModel(config);
  }();
  unet->to(arguments.device);
  draw_weights(*unet);
  const Tensor text = at::randn({1, 77, 768}).to(arguments.device);
  const DiffusionTaskOptions options{.conditioning = [text](const Batch& batch) {
    return Conditioning{.encoder_hidden_states = text.expand({batch.size(), -1, -1})};
  }};
  const int64_t side = arguments.is_quick ? 8 : 64;
  const TensorDataset data(Batch{.images = at::randn({16, 4, side, side}).clamp(-1, 1)});
  training_row(
      arguments,
      [&](const TrainingConfig& training) { return Trainer(unet, DDPMScheduler(), training, options); }, 2,
      data);
}

int count_devices() {
  const auto count = static_cast<int>(torch::cuda::device_count());
  std::printf("{\"devices\": %d}\n", count);
  return count > 0 ? 0 : kNoDevice;
}

[[noreturn]] void refuse() {
  std::fputs(kUsage, stderr);
  std::exit(2);
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  if (argc < 2 || argc % 2 != 0) refuse();
  arguments.row = argv[1];
  for (int i = 2; i < argc; i += 2) {
    const std::string word = argv[i];
    const std::string value = argv[i + 1];
    if (word == "--device" && (value == "cuda" || value == "cpu")) {
      arguments.device = value == "cuda" ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
    } else if (word == "--size" && (value == "full" || value == "quick")) {
      arguments.is_quick = value == "quick";
    } else if (word == "--mixed_precision" && (value == "no" || value == "bf16" || value == "fp16")) {
      arguments.mixed_precision = value == "no"     ? MixedPrecision::kNo
                                  : value == "bf16" ? MixedPrecision::kBf16
                                                    : MixedPrecision::kFp16;
    } else if (word == "--steps" && std::atoi(value.c_str()) > 0) {
      arguments.steps = std::atoi(value.c_str());
    } else if (word == "--folder" && !value.empty()) {
      arguments.folder = value;
    } else {
      refuse();
    }
  }
  return arguments;
}

}  // namespace

int main(int argc, char** argv) try {
  const Arguments arguments = parse(argc, argv);
  if (arguments.row == "devices") return count_devices();
  const std::map<std::string, std::function<void(const Arguments&)>> rows{
      {"group_norm", group_norm_row}, {"mnist_step", mnist_row}, {"unet_step", unet_row}};
  if (!rows.contains(arguments.row)) refuse();
  if (arguments.device.is_cuda() && !torch::cuda::is_available()) {
    std::fputs("device_benchmark: there is no CUDA device\n", stderr);
    return kNoDevice;
  }
  manual_seed(0);
  rows.at(arguments.row)(arguments);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "device_benchmark: %s\n", error.what());
  return 1;
}
