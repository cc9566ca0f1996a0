// Measures the overhead of the Trainer compared with a hand-written loop. One process alternates blocks of
// Trainer steps with blocks of the same steps in a hand-written loop, on the same model and data. It prints
// medians over the rounds of the time of a step and of the ratio, in wall time and in CPU time. Each round
// has a second hand-written block, which shows the measurement noise of the ratio. trainer_overhead [rounds]
// [threads] (run in the root of the repository)

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include <diffusers/diffusers.h>

using namespace diffusers;

namespace {

constexpr const char* kOutput = "out/trainer_overhead";

/// Wall time, and CPU time of all threads, which depends less on other load of the machine. In seconds.
struct Times {
  double clock = 0, cpu = 0;
};

Times now() {
  timespec cpu{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  const std::chrono::duration<double> clock = std::chrono::steady_clock::now().time_since_epoch();
  return {clock.count(), static_cast<double>(cpu.tv_sec) + 1e-9 * static_cast<double>(cpu.tv_nsec)};
}

Times operator-(const Times& a, const Times& b) { return {a.clock - b.clock, a.cpu - b.cpu}; }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// The blocks of one round.
struct Round {
  Times trainer, by_hand, by_hand_again;
};

void print_row(const std::string& name, const std::vector<Round>& rounds, int64_t block,
               double Times::*kind) {
  std::vector<double> trainer, by_hand, difference, ratio, again;
  for (const Round& round : rounds) {
    const double microseconds = 1e6 / static_cast<double>(block);
    trainer.push_back(round.trainer.*kind * microseconds);
    by_hand.push_back(round.by_hand.*kind * microseconds);
    difference.push_back(trainer.back() - by_hand.back());
    ratio.push_back(trainer.back() / by_hand.back());
    again.push_back(round.by_hand_again.*kind / (round.by_hand.*kind));
  }
  std::printf("%-30s %11.1f %11.1f %11.1f %8.4f %8.4f\n", name.c_str(), median(trainer), median(by_hand),
              median(difference), median(ratio), median(again));
}

struct Case {
  std::string name;
  UNet2DModelConfig model;
  TrainingConfig training;
  int64_t block = 50;  ///< steps of a timed block; the Trainer logs once in each block
};

/// The loop of a program without the Trainer.
class HandWrittenLoop {
 public:
  HandWrittenLoop(const Case& setup, const Dataset& data)
      : config_(setup.training),
        unet_(setup.model),
        trainable_(make_trainable(unet_)),
        parameters_(unet_->parameters()),
        loader_(data, {.batch_size = config_.train_batch_size, .shuffle = true}),
        objective_(scheduler_),
        optimizer_(parameters_, {.lr = config_.learning_rate,
                                 .beta1 = config_.adam_beta1,
                                 .beta2 = config_.adam_beta2,
                                 .weight_decay = config_.adam_weight_decay}),
        ema_(parameters_, {.use_ema_warmup = true, .inv_gamma = 1.0, .power = 0.75}),
        lr_(get_scheduler(config_.lr_scheduler, {.num_warmup_steps = config_.lr_warmup_steps,
                                                 .num_training_steps = *config_.max_train_steps})) {
    unet_->train();
  }

  void run(int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) {
      std::optional<Batch> batch = loader_.next();
      if (!batch) batch = loader_.next();
      const Tensor& x0 = batch->images;
      const Tensor noise = torch::randn(x0.sizes(), generator_);
      const Tensor timesteps = torch::randint(0, scheduler_.num_train_timesteps(), {x0.size(0)}, generator_,
                                              torch::TensorOptions().dtype(torch::kLong));
      const Tensor noisy = scheduler_.add_noise(x0, noise, timesteps);
      const Tensor prediction = predict_in_parts(trainable_, noisy, timesteps, {}, config_.cpu_data_parallel);
      objective_(prediction, x0, noise, timesteps).backward();
      clip_grad_norm_(parameters_, config_.max_grad_norm);
      optimizer_.step(lr_(step_++));
      optimizer_.zero_grad();
      ema_.step(parameters_);
    }
  }

 private:
  TrainingConfig config_;
  UNet2DModel unet_;
  TrainableDenoiser trainable_;
  std::vector<Tensor> parameters_;
  DataLoader loader_;
  DDPMScheduler scheduler_;
  DiffusionObjective objective_;
  Optimizer optimizer_;
  EMAModel ema_;
  LRSchedule lr_;
  Generator generator_ = make_generator(0);
  int64_t step_ = 0;
};

void compare(Case setup, const Dataset& data, int64_t rounds) {
  TrainingConfig& config = setup.training;
  config.output_dir = kOutput;
  config.overwrite_output_dir = true;
  config.seed = 0;
  config.max_train_steps = (rounds + 1) * setup.block;
  config.lr_warmup_steps = 0;
  config.use_ema = true;
  config.checkpointing_steps = 0;
  config.logging_steps = setup.block;
  config.progress_bar = false;

  HandWrittenLoop by_hand(setup, data);
  Trainer trainer(UNet2DModel(setup.model), DDPMScheduler(), config);
  std::vector<Round> measured;
  Times start = now();
  trainer.on_step([&](int64_t step) {
    if (step % setup.block != 0) return;
    const Times first = now();
    by_hand.run(setup.block);
    const Times second = now();
    by_hand.run(setup.block);
    const Times third = now();
    // The first round warms up.
    if (step > setup.block) measured.push_back({first - start, second - first, third - second});
    start = now();
  });
  trainer.train(data);
  print_row(setup.name + ", clock", measured, setup.block, &Times::clock);
  print_row(setup.name + ", CPU", measured, setup.block, &Times::cpu);
}

}  // namespace

int main(int argc, char** argv) try {
  const int64_t rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 25;
  const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2;
  torch::set_num_threads(threads);
  manual_seed(0);
  const MnistDataset data("examples/data/mnist");
  const Case mnist{.name = "MNIST preset, batch 32",
                   .model = {.sample_size = 28,
                             .in_channels = 1,
                             .out_channels = 1,
                             .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                             .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                             .block_out_channels = {16, 32, 64},
                             .layers_per_block = 1,
                             .norm_num_groups = 8},
                   .training = {.train_batch_size = 32, .cpu_data_parallel = threads},
                   .block = 5};
  const MnistDataset small_data("examples/data/mnist", {.resolution = 8});
  const Case tiny{.name = "tiny, batch 2",
                  .model = {.sample_size = 8,
                            .in_channels = 1,
                            .out_channels = 1,
                            .down_block_types = {"DownBlock2D"},
                            .up_block_types = {"UpBlock2D"},
                            .block_out_channels = {8},
                            .layers_per_block = 1,
                            .norm_num_groups = 4,
                            .add_attention = false},
                  .training = {.train_batch_size = 2, .cpu_data_parallel = 1},
                  .block = 50};
  std::printf("%lld rounds, %d threads\n%-30s %11s %11s %11s %8s %8s\n", static_cast<long long>(rounds),
              threads, "microseconds a step", "Trainer", "by hand", "difference", "ratio", "by hand");
  compare(mnist, data, rounds);
  compare(tiny, small_data, rounds);
  remove_folder(kOutput);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "trainer_overhead: %s\n", error.what());
  return 1;
}
