// Measures one row of compare.py, which compares this library with Python diffusers.
//
// The program prepares the row and prints a line of JSON. For each line on standard input it then does the
// work of the row once and prints {"seconds": S}. At the end of the input it prints the peak memory. Programs
// of both sides can so take turns without starting anew.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/data/mnist.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/progress.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

using namespace diffusers;

namespace {

constexpr const char* kUsage =
    "usage: compare ROW [--size reduced|full|quick] [--parts N] [--batch N] [--precision no|bf16]\n"
    "               [--fused_backward no|yes] [--adapter none|active|fused]\n"
    "               --folder DIR --tokenizer DIR --mnist DIR\n"
    "  ROW          the work of a row of compare.py, such as mnist_step_64\n"
    "  --size       widths of the models: of Stable Diffusion (full), a fifth of them (reduced), a few "
    "layers (quick)\n"
    "  --parts      cpu_data_parallel of the training rows; 0 lets the Trainer choose\n"
    "  --batch      batch size of unet_step, lora_step and unet_forward; 2 by default\n"
    "  --precision  mixed_precision of the training rows\n"
    "  --fused_backward  yes: fused_backward_pass, and no clipping\n"
    "  --adapter    LoRA of unet_forward: none by default\n"
    "  --folder     existing folder for the output and for the model of the row \"load\"\n"
    "  --tokenizer  folder of a CLIP tokenizer\n"
    "  --mnist      folder of MNIST\n";

struct Arguments {
  std::string row, folder, tokenizer, mnist;
  std::string size = "reduced";
  std::string precision = "no";
  std::string adapter = "none";
  bool has_fused_backward = false;
  int64_t parts = 0;
  int64_t batch = 2;
  bool is_quick() const { return size == "quick"; }
  /// The value for the size.
  template <class T>
  T pick(T reduced, T full, T quick) const {
    return size == "full" ? full : is_quick() ? quick : reduced;
  }
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Waits for the order to measure once more.
/// @return false at the end of the input
bool wait_for_order() {
  std::string line;
  return static_cast<bool>(std::getline(std::cin, line));
}

void print_ready(int64_t parameters) {
  std::printf("{\"parameters\": %lld, \"threads\": %d}\n", static_cast<long long>(parameters),
              at::get_num_threads());
  std::fflush(stdout);
}

void print_seconds(double seconds) {
  std::printf("{\"seconds\": %.9f}\n", seconds);
  std::fflush(stdout);
}

/// Measures a function for each order.
void serve(int64_t parameters, const std::function<void()>& work) {
  print_ready(parameters);
  while (wait_for_order()) {
    const double start = seconds_now();
    work();
    print_seconds(seconds_now() - start);
  }
}

/// Ends a training at the end of the input.
struct EndOfInput {};

/// Measures the mean step of blocks of steps.
void serve_training(Trainer& trainer, const Dataset& data, int64_t parameters, int64_t block) {
  double start = 0.0;
  trainer.on_step([&](int64_t step) {
    if (step % block != 0) return;
    if (start > 0.0) {
      print_seconds((seconds_now() - start) / static_cast<double>(block));
    } else {
      print_ready(parameters);  // the first block warms up
    }
    if (!wait_for_order()) throw EndOfInput();
    start = seconds_now();
  });
  try {
    trainer.train(data);
  } catch (const EndOfInput&) {
  }
}

TrainingConfig step_config(const Arguments& arguments, int64_t batch_size) {
  return {.output_dir = join_path(arguments.folder, "out"),
          .seed = 0,
          .train_batch_size = batch_size,
          .max_train_steps = int64_t{1} << 40,
          .fused_backward_pass = arguments.has_fused_backward,
          .learning_rate = 1e-4,
          .lr_scheduler = "constant",
          .lr_warmup_steps = 0,
          .mixed_precision = arguments.precision == "bf16" ? MixedPrecision::kBf16 : MixedPrecision::kNo,
          .max_grad_norm = arguments.has_fused_backward ? 0.0 : 1.0,
          .checkpointing_steps = 0,
          .progress_bar = false,
          .cpu_data_parallel = arguments.parts,
          .tensorboard = false,
          .report = false,
          .overwrite_output_dir = true};
}

/// The model of `train_mnist`.
UNet2DModel digit_model() {
  return UNet2DModel({.sample_size = 28,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                      .block_out_channels = {16, 32, 64},
                      .layers_per_block = 1,
                      .norm_num_groups = 8});
}

void mnist_step(const Arguments& arguments, int64_t batch_size) {
  const UNet2DModel unet = digit_model();
  TrainingConfig config = step_config(arguments, arguments.is_quick() ? 4 : batch_size);
  config.use_ema = true;
  Trainer trainer(unet, DDPMScheduler(), config, {.class_conditional = false});
  serve_training(trainer, MnistDataset(arguments.mnist), unet->num_parameters(),
                 arguments.is_quick() ? 1 : 5);
}

void ddim(const Arguments& arguments) {
  const UNet2DModel unet = digit_model();
  DDIMPipeline pipeline(unet, DDIMScheduler());
  pipeline.set_progress_bar_config({.disable = true});
  serve(unet->num_parameters(), [&] {
    pipeline({.batch_size = arguments.is_quick() ? 4 : 64,
              .generator = make_generator(0),
              .num_inference_steps = arguments.is_quick() ? 2 : 50});
  });
}

CLIPTextConfig text_config(const Arguments& arguments) {
  return {.hidden_size = arguments.pick<int64_t>(256, 768, 32),
          .intermediate_size = arguments.pick<int64_t>(1024, 3072, 64),
          .projection_dim = arguments.pick<int64_t>(256, 768, 32),
          .num_hidden_layers = arguments.pick<int64_t>(12, 12, 2),
          .num_attention_heads = arguments.pick<int64_t>(4, 12, 2)};
}

UNet2DConditionModelConfig unet_config(const Arguments& arguments) {
  if (arguments.is_quick())
    return {.sample_size = 8,
            .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
            .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
            .block_out_channels = {32, 64},
            .layers_per_block = 1,
            .cross_attention_dim = 32};
  using Widths = std::vector<int64_t>;
  return {.sample_size = 64,
          .block_out_channels = arguments.pick<Widths>({64, 128, 256, 256}, {320, 640, 1280, 1280}, {}),
          .cross_attention_dim = text_config(arguments).hidden_size};
}

AutoencoderKLConfig vae_config(const Arguments& arguments) {
  using Widths = std::vector<int64_t>;
  return {.down_block_types = std::vector<std::string>(4, "DownEncoderBlock2D"),
          .up_block_types = std::vector<std::string>(4, "UpDecoderBlock2D"),
          .block_out_channels =
              arguments.pick<Widths>({32, 64, 128, 128}, {128, 256, 512, 512}, {32, 32, 32, 32}),
          .layers_per_block = arguments.pick<int64_t>(2, 2, 1),
          .sample_size = 512};
}

/// The embeddings of a caption.
Tensor text_embeddings(const Arguments& arguments) {
  return at::randn({1, 77, text_config(arguments).hidden_size});
}

int64_t latent_side(const Arguments& arguments) { return arguments.pick<int64_t>(32, 64, 8); }

TensorDataset latent_dataset(const Arguments& arguments) {
  const int64_t side = latent_side(arguments);
  return TensorDataset(Batch{.images = at::randn({8, 4, side, side}).clamp(-1, 1)});
}

/// Trains the UNet alone, on latents with the embeddings of captions.
void unet_step(const Arguments& arguments) {
  const UNet2DConditionModel unet(unet_config(arguments));
  Trainer trainer(unet, DDPMScheduler(), step_config(arguments, arguments.batch),
                  {.conditioning = [text = text_embeddings(arguments)](const Batch& batch) {
                    return Conditioning{.encoder_hidden_states = text.expand({batch.size(), -1, -1})};
                  }});
  serve_training(trainer, latent_dataset(arguments), unet->num_parameters(), 1);
}

/// Trains adapters on latents with given embeddings, without the VAE and the text encoder.
class LatentLoraTask : public TextToImageLoraTask {
 public:
  LatentLoraTask(TextToImageModels models, Tensor text)
      : TextToImageLoraTask(std::move(models)), text_(std::move(text)) {}
  void begin_step(const StepContext& context) override { DiffusionTask::begin_step(context); }
  void check_batch(const Batch& batch) override { DiffusionTask::check_batch(batch); }

 protected:
  Tensor encode(const Batch& batch) override { return DiffusionTask::encode(batch); }
  Conditioning conditioning(const Batch& batch) override {
    return {.encoder_hidden_states = text_.expand({batch.size(), -1, -1})};
  }
  Draw draw(const Tensor& x0) override { return DiffusionTask::draw(x0); }

 private:
  Tensor text_;
};

/// Trains the LoRA layers of the attention on the inputs of `unet_step`.
void lora_step(const Arguments& arguments) {
  const UNet2DConditionModel unet(unet_config(arguments));
  CLIPTokenizer tokenizer = CLIPTokenizer::from_pretrained(arguments.tokenizer);
  // The task needs a text encoder and a VAE. They are small, since they do nothing here.
  const CLIPTextModel text_encoder({.vocab_size = tokenizer.size(),
                                    .hidden_size = text_config(arguments).hidden_size,
                                    .intermediate_size = 32,
                                    .num_hidden_layers = 1,
                                    .num_attention_heads = 1});
  const AutoencoderKL vae({.block_out_channels = {32}});
  const auto task = std::make_shared<LatentLoraTask>(TextToImageModels{.tokenizer = std::move(tokenizer),
                                                                       .text_encoder = text_encoder,
                                                                       .vae = vae,
                                                                       .unet = unet,
                                                                       .scheduler = DDPMScheduler()},
                                                     text_embeddings(arguments));
  Trainer trainer(task, step_config(arguments, arguments.batch));
  serve_training(trainer, latent_dataset(arguments), unet->num_parameters(), 1);
}

/// Runs the UNet without gradients, with an adapter if one is asked for.
void unet_forward(const Arguments& arguments) {
  const at::NoGradGuard no_grad;
  UNet2DConditionModel unet(unet_config(arguments));
  unet->eval();
  if (arguments.adapter != "none")
    unet->add_adapter({.r = 4, .lora_alpha = 4, .target_modules = {"to_k", "to_q", "to_v", "to_out.0"}});
  if (arguments.adapter == "fused") unet->fuse_lora();
  const int64_t side = latent_side(arguments);
  const Tensor latents = at::randn({arguments.batch, 4, side, side});
  const Tensor text = text_embeddings(arguments).expand({arguments.batch, -1, -1});
  const Tensor timesteps = at::full({arguments.batch}, 500, at::kLong);
  serve(unet->num_parameters(), [&] { unet->forward(latents, timesteps, text); });
}

void text_to_image_step(const Arguments& arguments) {
  const TextToImageModels models{.tokenizer = CLIPTokenizer::from_pretrained(arguments.tokenizer),
                                 .text_encoder = CLIPTextModel(text_config(arguments)),
                                 .vae = AutoencoderKL(vae_config(arguments)),
                                 .unet = UNet2DConditionModel(unet_config(arguments)),
                                 .scheduler = DDPMScheduler()};
  const int64_t side = arguments.pick<int64_t>(256, 512, 64);
  Batch samples{.images = at::rand({8, 3, side, side}) * 2 - 1};
  samples.captions.assign(8, "a photo of a cat");
  Trainer trainer(std::make_shared<TextToImageTask>(models), step_config(arguments, 2));
  serve_training(trainer, TensorDataset(samples), models.unet->num_parameters(), 1);
}

void vae(const Arguments& arguments, bool is_decoding) {
  const at::NoGradGuard no_grad;
  AutoencoderKL model(vae_config(arguments));
  model->eval();
  const int64_t side = arguments.pick<int64_t>(512, 512, 64);
  const Tensor images = at::rand({1, 3, side, side}) * 2 - 1;
  const Tensor latents = at::randn({1, 4, side / 8, side / 8});
  serve(model->num_parameters(), [&] {
    if (is_decoding) {
      model->decode(latents);
    } else {
      model->encode(images);
    }
  });
}

void clip(const Arguments& arguments) {
  const at::NoGradGuard no_grad;
  CLIPTextModel model(text_config(arguments));
  model->eval();
  const Tensor ids = at::randint(0, 49000, {8, 77}, at::kLong);
  serve(model->num_parameters(), [&] { model->forward(ids); });
}

/// Loads the UNet that this row saves first.
void load(const Arguments& arguments) {
  const std::string folder = join_path(arguments.folder, "unet");
  const UNet2DConditionModel saved(unet_config(arguments));
  if (!folder_exists(folder)) saved->save_pretrained(folder);
  serve(saved->num_parameters(), [&] { UNet2DConditionModel::from_pretrained(folder); });
}

/// Ends after the first step; compare.py measures the time since the process was started.
void start(const Arguments& arguments) {
  const UNet2DModel unet = digit_model();
  Trainer trainer(unet, DDPMScheduler(), step_config(arguments, 4), {.class_conditional = false});
  serve_training(trainer, MnistDataset(arguments.mnist), unet->num_parameters(), 1);
}

/// The product of two matrices: its rate limits all other rows.
void matrix_product(const Arguments& arguments) {
  const int64_t n = arguments.is_quick() ? 256 : 1024;
  const Tensor a = at::randn({n, n});
  const Tensor b = at::randn({n, n});
  Tensor c = at::empty({n, n});
  serve(0, [&] { at::mm_out(c, a, b); });
}

/// The copy of a tensor that is larger than the caches: its rate limits what is read and written.
void copy(const Arguments& arguments) {
  const Tensor from = at::zeros({arguments.is_quick() ? int64_t{1} << 21 : int64_t{1} << 26});
  Tensor to = at::zeros_like(from);
  serve(0, [&] { to.copy_(from); });
}

using Row = std::function<void(const Arguments&)>;

const std::map<std::string, Row>& rows() {
  static const std::map<std::string, Row> kRows{
      {"mnist_step_64", [](const Arguments& a) { mnist_step(a, 64); }},
      {"mnist_step_128", [](const Arguments& a) { mnist_step(a, 128); }},
      {"ddim_50", ddim},
      {"unet_step", unet_step},
      {"lora_step", lora_step},
      {"unet_forward", unet_forward},
      {"vae_encode", [](const Arguments& a) { vae(a, false); }},
      {"vae_decode", [](const Arguments& a) { vae(a, true); }},
      {"clip_encode", clip},
      {"text_to_image_step", text_to_image_step},
      {"start", start},
      {"load", load},
      {"matrix_product", matrix_product},
      {"copy", copy}};
  return kRows;
}

Arguments parse(int argc, char** argv) {
  const auto refuse = [] {
    std::fputs(kUsage, stderr);
    std::exit(2);
  };
  Arguments arguments;
  if (argc < 2 || argc % 2 != 0) refuse();
  arguments.row = argv[1];
  for (int i = 2; i < argc; i += 2) {
    const std::string word = argv[i];
    const std::string value = argv[i + 1];
    if (word == "--size" && (value == "reduced" || value == "full" || value == "quick")) {
      arguments.size = value;
    } else if (word == "--parts" && (value == "0" || std::atoi(value.c_str()) > 0)) {
      arguments.parts = std::atoi(value.c_str());
    } else if (word == "--batch" && std::atoi(value.c_str()) > 0) {
      arguments.batch = std::atoi(value.c_str());
    } else if (word == "--precision" && (value == "no" || value == "bf16")) {
      arguments.precision = value;
    } else if (word == "--adapter" && (value == "none" || value == "active" || value == "fused")) {
      arguments.adapter = value;
    } else if (word == "--fused_backward" && (value == "no" || value == "yes")) {
      arguments.has_fused_backward = value == "yes";
    } else if (word == "--folder") {
      arguments.folder = value;
    } else if (word == "--tokenizer") {
      arguments.tokenizer = value;
    } else if (word == "--mnist") {
      arguments.mnist = value;
    } else {
      refuse();
    }
  }
  if (!rows().contains(arguments.row) || arguments.folder.empty() || arguments.tokenizer.empty() ||
      arguments.mnist.empty())
    refuse();
  return arguments;
}

}  // namespace

int main(int argc, char** argv) try {
  const Arguments arguments = parse(argc, argv);
  manual_seed(0);
  rows().at(arguments.row)(arguments);
  std::printf("{\"peak\": %lld}\n", static_cast<long long>(peak_memory_bytes()));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "compare: %s\n", error.what());
  return 1;
}
