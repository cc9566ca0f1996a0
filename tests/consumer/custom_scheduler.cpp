// A scheduler class that a program defines: registered, saved, loaded by its name, and used in training.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include <diffusers/diffusers.h>

#include <ATen/ATen.h>

namespace {

using namespace diffusers;

struct LinearSchedulerConfig {
  int64_t num_train_timesteps = 100;
  EnumChoice<PredictionType> prediction_type = "epsilon";
};

void visit_fields(LinearSchedulerConfig& config, ConfigVisitor& visit) {
  visit("num_train_timesteps", config.num_train_timesteps);
  visit("prediction_type", config.prediction_type);
}

/// x_t = sqrt(1 - t / T) x_0 + sqrt(t / T) eps
class LinearScheduler : public ConfiguredScheduler<LinearScheduler, LinearSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "LinearScheduler";

  explicit LinearScheduler(LinearSchedulerConfig config = {}) : ConfiguredScheduler(std::move(config)) {
    LinearScheduler::set_timesteps(config_.num_train_timesteps);
  }

  Timesteps timesteps() const override { return timesteps_; }
  Tensor alphas_cumprod() const override {
    return 1 - at::arange(config_.num_train_timesteps, at::kFloat) / config_.num_train_timesteps;
  }
  Tensor add_noise(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const override {
    const Tensor share = timesteps.to(at::kFloat).view({-1, 1, 1, 1}) / config_.num_train_timesteps;
    return (1 - share).sqrt() * x0 + share.sqrt() * noise;
  }
  using Scheduler::set_timesteps;
  void set_timesteps(std::optional<int64_t> n, const SetTimestepsOptions& options = {}) override {
    timesteps_ = at::arange(n.value_or(1) - 1, -1, -1, at::TensorOptions(options.device).dtype(at::kLong));
  }
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& /*timestep*/, const Tensor& sample,
                       const StepOptions& /*options*/ = {}) override {
    return {.prev_sample = sample - model_output / config_.num_train_timesteps};
  }

 private:
  Timesteps timesteps_;
};

/// A dataset of noise images.
class Pictures : public Dataset {
 public:
  int64_t size() const override { return 4; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t /*augmentation_seed*/) const override {
    return {.images = at::zeros({static_cast<int64_t>(indices.size()), 1, 8, 8})};
  }
};

}  // namespace

int main() {
  register_scheduler<LinearScheduler>();
  const std::filesystem::path folder = "custom-scheduler-scratch";
  std::filesystem::remove_all(folder);

  UNet2DModel unet({.sample_size = 8,
                    .in_channels = 1,
                    .out_channels = 1,
                    .down_block_types = {"DownBlock2D"},
                    .up_block_types = {"UpBlock2D"},
                    .block_out_channels = {8},
                    .layers_per_block = 1,
                    .norm_num_groups = 4});
  const LinearScheduler scheduler({.num_train_timesteps = 50, .prediction_type = "sample"});
  Trainer trainer(unet, scheduler,
                  {.output_dir = folder.string(), .seed = 0, .train_batch_size = 2, .max_train_steps = 2});
  trainer.train(Pictures());

  const auto loaded = Scheduler::from_pretrained(folder, {.subfolder = "scheduler"});
  const bool is_same = loaded->class_name() == "LinearScheduler" && loaded->num_train_timesteps() == 50 &&
                       loaded->prediction_type() == PredictionType::kSample;
  std::printf("trained with and loaded a %s of %lld timesteps\n", loaded->class_name().c_str(),
              static_cast<long long>(loaded->num_train_timesteps()));
  std::filesystem::remove_all(folder);
  return is_same ? 0 : 1;
}
