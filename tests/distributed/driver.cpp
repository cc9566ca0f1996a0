// Trains tiny models in the group of processes that the environment describes; see run.py.
//
//     distributed_driver FILE
//
// Each line of FILE is a training, `key=value key=value ...`; all of them run one after another in the same
// group. Each process saves its parameters as NAME-rankR.safetensors at the end of a training.

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/data/loader.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/process_group.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>
#include <unistd.h>

#include "faults/request.h"
#include "training/distributed/gradient_reducer.h"
#include "training/distributed/parameter_shards.h"
#include "training/distributed/sharded_reducer.h"
#include "training/loop/sharding.h"
#include "training/tiny_model.h"

namespace diffusers::distributed {
namespace {

using faults::Request;

constexpr int64_t kSide = 8;
constexpr int64_t kClasses = 10;

TrainingConfig config_of(const Request& request, const ProcessGroup& group) {
  TrainingConfig config;
  config.output_dir = request.text("out");
  config.seed = 7;
  config.train_batch_size = request.number("batch", 4);
  config.max_train_steps = request.number("steps", 50);
  config.gradient_accumulation_steps = request.number("accumulate", 1);
  config.learning_rate = 1e-3;
  if (group.rank() == request.number("wrong_rank", -1)) config.learning_rate = 5e-3;
  const bool is_constant = request.number("constant", 0) != 0;
  config.lr_scheduler = is_constant ? "constant" : "cosine";
  config.lr_warmup_steps = is_constant ? 0 : 5;
  if (request.number("sgd", 0) != 0) {
    // Adam would amplify the rounding of gradients that are 0, such as that of the bias of attention's keys.
    config.optimizer = OptimizerType::kSGD;
    config.learning_rate = 1e-2;
  }
  // An AutoencoderKL's loss is a sum over pixels.
  if (request.text("model").starts_with("gan")) config.learning_rate = 1e-4;
  config.max_grad_norm = request.number("clip", 0) != 0 ? 0.05 : 0.0;
  config.use_ema = request.number("ema", 0) != 0;
  if (request.number("snr", 0) != 0) config.snr_gamma = 5.0;
  if (request.number("lit_ema", 0) != 0) config.ema_type = EMAType::kLitEma;
  if (!request.text("optimizer").empty()) config.optimizer = std::string_view(request.text("optimizer"));
  config.validation_steps = request.number("preview", 0);
  config.gradient_checkpointing = request.number("checkpointing", 0) != 0;
  config.fused_backward_pass = request.number("fused_backward", 0) != 0;
  config.cpu_data_parallel = request.number("parts", 1);
  config.checkpointing_steps = request.number("every", 0);
  config.background_checkpoints = request.number("background", 1) != 0;
  if (request.number("resume", 0) != 0) config.resume_from_checkpoint = "latest";
  config.overwrite_output_dir = request.number("resume", 0) == 0;
  config.logging_steps = request.number("log", 5);
  config.progress_bar = false;
  config.handle_signals = true;
  config.dataloader_num_workers = request.number("workers", 0);
  return config;
}

TensorDataset make_data(const Request& request) {
  const int64_t size = request.number("size", 64);
  const int64_t side = request.number("side", kSide);
  const Tensor images =
      at::linspace(-1, 1, size * side * side, at::kFloat).mul(37.0).sin().view({size, 1, side, side});
  if (const int64_t bad = request.number("nan", -1); bad >= 0) images[bad].fill_(NAN);
  return TensorDataset(images, at::arange(size, at::kLong).remainder(kClasses));
}

struct PairImpl : torch::nn::Module {
  torch::nn::Linear first = register_module("first", torch::nn::Linear(kSide* kSide, 3));
  torch::nn::Linear second = register_module("second", torch::nn::Linear(3, kSide* kSide));
};
TORCH_MODULE(Pair);

/// Two models, each with an update of its own: the second one begins later.
class TwoUpdates : public Task {
 public:
  explicit TwoUpdates(Pair pair) : pair_(std::move(pair)) {
    trained_ = {{"first", make_saved_module(pair_->first)},
                {"second", make_saved_module(pair_->second), /*is_averaged=*/false}};
  }
  const std::vector<NamedModule>& trained() const override { return trained_; }
  std::vector<Update> updates(const TrainingConfig&) const override {
    return {{.name = "first", .modules = {"first"}},
            {.name = "second",
             .modules = {"second"},
             .optimizer = OptimizerConfig{.type = OptimizerType::kAdam, .lr = 3e-3, .weight_decay = 0},
             .start_step = 3}};
  }
  void configure(const TrainingConfig&) override {}
  void begin_step(const StepContext&) override {}
  StepLoss loss(const Batch& batch, std::size_t update) override {
    const Tensor images = batch.images.flatten(1);
    const Tensor output = pair_->second->forward(pair_->first->forward(images).tanh());
    return {update == 0 ? (output - images).abs().mean(1) : (output - images).square().mean(1), {}};
  }
  void save_extras(const std::filesystem::path&) const override {}

 private:
  Pair pair_;
  std::vector<NamedModule> trained_;
};

/// A model, and the task that trains it.
struct Trained {
  std::shared_ptr<torch::nn::Module> model;
  std::shared_ptr<Task> task;
};

/// An autoencoder with a discriminator: batch norm for the AutoencoderKL, ActNorm for the VQModel.
Trained make_gan(bool is_kl, int64_t disc_start) {
  NLayerDiscriminator disc({.input_nc = 1, .ndf = 4, .n_layers = 2, .use_actnorm = !is_kl});
  if (is_kl) {
    AutoencoderKL vae({.in_channels = 1,
                       .out_channels = 1,
                       .down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
                       .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
                       .block_out_channels = {4, 8},
                       .latent_channels = 2,
                       .norm_num_groups = 2,
                       .mid_block_add_attention = false});
    LPIPSWithDiscriminator loss({.disc_start = disc_start, .kl_weight = 1e-3, .perceptual_weight = 0},
                                nullptr, disc);
    return {vae.ptr(), std::make_shared<AutoencoderTask>(vae, loss)};
  }
  VQModel vq({.in_channels = 1,
              .out_channels = 1,
              .down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
              .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
              .block_out_channels = {4, 8},
              .latent_channels = 2,
              .num_vq_embeddings = 16,
              .norm_num_groups = 2,
              .mid_block_add_attention = false});
  VQLPIPSWithDiscriminator loss({.disc_start = disc_start, .perceptual_weight = 0}, nullptr, disc);
  return {vq.ptr(), std::make_shared<AutoencoderTask>(vq, loss)};
}

/// The parameters and buffers of all trained modules.
TensorMap state_of(const Trained& trained) {
  TensorMap state;
  for (const NamedModule& named : trained.task->trained()) {
    for (const auto& item : named.module->module().named_parameters())
      state.insert(named.name + "." + item.key(), item.value());
    for (const auto& item : named.module->module().named_buffers())
      state.insert(named.name + "." + item.key(), item.value().to(at::kFloat));
  }
  return state;
}

Trained make_task(const Request& request, const ProcessGroup& group) {
  // Different weights: the group has to start from those of rank 0.
  manual_seed(11 + static_cast<uint64_t>(group.rank()));
  const DDPMScheduler scheduler;
  DiffusionTaskOptions options;
  if (request.number("drop_labels", 0) != 0) options.class_dropout_prob = 0.3;
  if (request.text("sampling") == "loss_second_moment")
    options.timestep_sampling = TimestepSampling::kLossSecondMoment;
  const auto task = [&](auto model) {
    return Trained{model.ptr(),
                   std::make_shared<DiffusionTask>(TrainableDenoiser(model), scheduler, options)};
  };
  const std::string model = request.text("model");
  if (model == "unet") {
    UNet2DModel unet({.sample_size = kSide,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {8, 16},
                      .layers_per_block = 1,
                      .norm_num_groups = 4,
                      .num_class_embeds = kClasses + 1});
    return task(unet);
  }
  if (model == "gan" || model == "gan_vq") return make_gan(model == "gan", request.number("disc_start", 3));
  if (model == "batch_norm") {
    test::TinyNet net;
    net->register_module("norm", torch::nn::BatchNorm2d(1));
    return task(net);
  }
  if (model == "two") {
    Pair pair;
    return {pair.ptr(), std::make_shared<TwoUpdates>(pair)};
  }
  if (model == "unused") {
    test::LabelledNet net;
    net->register_parameter("unused", at::ones({3}));
    options.class_conditional = true;
    return task(net);
  }
  return task(test::TinyNet(static_cast<double>(request.number("dropout", 0)) / 100));
}

/// Saves what Python needs for the same training: the initial weights, and the samples of each batch.
void save_start(const Request& request, const Trained& trained, const ProcessGroup& group) {
  if (request.text("initial").empty() || !group.is_main()) return;
  save_safetensors(TensorMap(trained.model->named_parameters()), request.text("initial"));
  const TensorDataset data = make_data(request);
  const TrainingConfig config = config_of(request, group);
  DataLoader loader(data, {.batch_size = config.train_batch_size * group.world_size(),
                           .shuffle = true,
                           .seed = static_cast<uint64_t>(*config.seed)});
  std::ofstream order(request.text("order"));
  for (int64_t step = 0; step < *config.max_train_steps;) {
    const std::optional<Batch> batch = loader.next();
    if (!batch) continue;
    for (int64_t i = 0; i < batch->size(); ++i) order << batch->indices[i].item<int64_t>() << ' ';
    order << '\n';
    ++step;
  }
}

/// Sends a signal to itself in one process.
void raise_at(const Request& request, const ProcessGroup& group, int64_t step, const char* name, int signal) {
  const char* restarts = std::getenv("TORCHELASTIC_RESTART_COUNT");
  const bool is_first_start = restarts == nullptr || std::string(restarts) == "0";
  if (step == request.number(name, -1) && group.rank() == request.number("signal_rank", 1) && is_first_start)
    ::kill(::getpid(), signal);
}

int64_t bytes_of(const std::vector<Tensor>& tensors) {
  int64_t bytes = 0;
  for (const Tensor& tensor : tensors)
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

/// Prints the bytes that this process has of the optimizer's state and of the averages, and those of the
/// gradients that a backward pass leaves.
void print_bytes(const Request& request, const Trainer& trainer, const Trained& trained,
                 const ProcessGroup& group) {
  const std::vector<Tensor> parameters = trained.model->parameters();
  std::vector<Tensor> moments;
  for (const auto& entry : trainer.optimizer()->state_dict()) moments.push_back(entry.second);
  std::vector<Tensor> averages;
  for (const Tensor& average : trainer.ema()->shadow_params())
    if (std::none_of(parameters.begin(), parameters.end(),
                     [&](const Tensor& parameter) { return average.is_alias_of(parameter); }))
      averages.push_back(average);

  const ParameterShards shards(parameters, group.world_size(), group.rank());
  std::unique_ptr<GradientExchange> exchange;
  if (group.options().zero_stage == 2) {
    exchange = std::make_unique<ShardedReducer>(parameters, shards, group);
  } else if (group.is_connected()) {
    exchange = std::make_unique<GradientReducer>(parameters, group);
  }
  if (group.options().zero_stage > 0 && group.world_size() > 1) {
    const Sharding sharding(parameters, group);
    const auto any = [&](bool is_set) {
      return sharding.any_process(at::full({}, is_set ? 1.0 : 0.0)).item<double>();
    };
    if (any(group.rank() == 1) != 1 || any(true) != 1 || any(false) != 0)
      throw Error("any_process does not give the flag of any process");
  }
  trained.model->train();
  Tensor loss = at::zeros({});
  for (const Tensor& parameter : parameters) loss = loss + parameter.square().sum();
  if (exchange) {
    exchange->backward(loss, true);
  } else {
    loss.backward();
  }
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : parameters) {
    gradients.push_back(parameter.grad());
    // All processes have the same parameters, whose gradients they have added.
    const auto processes = static_cast<double>(group.world_size());
    if (parameter.grad().defined() && !at::allclose(parameter.grad(), parameter * (2 * processes)))
      throw Error("the gradient of the sum of squares is wrong");
  }
  std::printf("bytes of %s: {\"rank\": %d, \"moments\": %d, \"averages\": %d, \"gradients\": %d}\n",
              request.text("name").c_str(), static_cast<int>(group.rank()),
              static_cast<int>(bytes_of(moments)), static_cast<int>(bytes_of(averages)),
              static_cast<int>(bytes_of(gradients)));
  std::fflush(stdout);
}

/// @return the exit code
int train(const Request& request, const ProcessGroup& group) {
  const Trained trained = make_task(request, group);
  save_start(request, trained, group);
  Trainer trainer(trained.task, config_of(request, group), group);
  trainer.on_step([&](int64_t step) {
    raise_at(request, group, step, "term", SIGTERM);
    raise_at(request, group, step, "kill", SIGKILL);
    raise_at(request, group, step, "halt", SIGSTOP);
    if (step == request.number("request_stop", -1) && group.rank() == 1) trainer.request_stop();
  });
  if (request.number("preview", 0) != 0)
    trainer.on_preview([&](const PreviewContext& context) {
      save_safetensors(TensorMap(trained.model->named_parameters()),
                       request.text("save") + "-preview" + std::to_string(context.step) + ".safetensors");
    });
  const TrainingResult result = trainer.train(make_data(request));
  save_safetensors(state_of(trained),
                   request.text("save") + "-rank" + std::to_string(group.rank()) + ".safetensors");
  std::printf("process %d: %s ended at step %d, loss %.9g\n", static_cast<int>(group.rank()),
              request.text("name").c_str(), static_cast<int>(result.global_step), result.loss);
  std::fflush(stdout);
  if (request.number("print_bytes", 0) != 0) print_bytes(request, trainer, trained, group);
  return result.signal ? 128 + *result.signal : 0;
}

ProcessGroupOptions options_of(const Request& request) {
  ProcessGroupOptions options;
  options.timeout_seconds = static_cast<double>(request.number("timeout", 60));
  options.find_unused_parameters = request.number("find_unused", 0) != 0;
  if (request.number("bf16", 0) != 0) options.gradient_compression = GradientCompression::kBf16;
  if (request.number("small_buckets", 0) != 0) options.bucket_cap_mb = 0.001;
  options.zero_stage = request.number("zero", 0);
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (rank != nullptr && std::stoll(rank) == request.number("wrong_stage_rank", -1)) options.zero_stage = 2;
  return options;
}

int run(const char* file) {
  std::ifstream lines(file);
  std::vector<Request> requests;
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) requests.emplace_back(line);
  const ProcessGroup group = ProcessGroup::from_environment(options_of(requests.at(0)));
  int status = 0;
  for (const Request& request : requests) {
    try {
      status = std::max(status, train(request, group));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "process %d: error: %s\n", static_cast<int>(group.rank()), error.what());
      return 1;
    }
  }
  return status;
}

}  // namespace
}  // namespace diffusers::distributed

int main(int, char** argv) {
  at::set_num_threads(1);
  try {
    return diffusers::distributed::run(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
