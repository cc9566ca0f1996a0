// Options that may change, and options that must not change, when a training is resumed.

#include "training/checkpoint/resume_rules.h"

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/lr_scheduler.h>

#include <gtest/gtest.h>

#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LogCapture;
using test::resumable_config;
using test::resumable_images;
using test::TemporaryFolder;
using test::TinyNet;
using test::train_until;

Json config_fields(const TrainingConfig& config = {}) { return parse_json(config.to_json(), "the config"); }

/// Returns another value of the same type.
Json changed_value(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>() + 1;
  if (value.is_number()) return value.get<double>() / 2 + 1;
  if (value.is_string()) return value.get<std::string>() + "x";
  return Json::array({1});  // an optional value or a list
}

TEST(ResumeRules, CoverEveryFieldOfTheConfigOnce) {
  std::set<std::string> listed;
  for (const ResumeRule& rule : resume_rules())
    EXPECT_TRUE(listed.insert(std::string(rule.key)).second) << rule.key << " stands twice";
  const Json config = config_fields();
  std::set<std::string> fields;
  for (const auto& item : config.items()) fields.insert(item.key());
  for (const std::string& key : fields)
    EXPECT_TRUE(listed.contains(key)) << key << ": say in resume_rules() whether it may change";
  for (const std::string& key : listed) EXPECT_TRUE(fields.contains(key)) << key << " is no field";
}

TEST(ResumeRules, DecideWhichFieldMayChange) {
  const Json saved = config_fields();
  int compared = 0;
  for (const ResumeRule& rule : resume_rules()) {
    const std::string key(rule.key);
    Json ours = saved;
    ours[key] = changed_value(saved.at(key));
    const auto compare = [&] { require_same_options(saved, ours, "trainer_state.json"); };
    if (rule.rule != OnResume::kCompared) {
      EXPECT_NO_THROW(compare()) << key;
      continue;
    }
    ++compared;
    expect_throws_with<ConfigError>(compare, key + " is " + ours[key].dump());
    expect_throws_with<ConfigError>(compare, "trained with " + saved.at(key).dump());
    expect_throws_with<ConfigError>(compare, "trainer_state.json");
    // An older checkpoint does not have the key.
    Json older = saved;
    older.erase(key);
    EXPECT_NO_THROW(require_same_options(older, ours, "")) << key;
  }
  EXPECT_EQ(compared, 53);
}

using Change = std::function<void(TrainingConfig&)>;

/// Resumes from step 3 with another option.
void resume_with(TrainingConfig config, const Change& change, int64_t stop = 4) {
  change(config);
  train_until(config, stop);
}

TEST(Resume, ComparesWhatTheTrainingDependsOn) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_until(config, 3);
  config.resume_from_checkpoint = "latest";
  struct Case {
    Change change;
    const char* ours;
    const char* saved;
  };
  const std::vector<Case> cases{
      {[](auto& c) { c.learning_rate = 2e-2; }, "learning_rate is 0.02", "with 0.01"},
      {[](auto& c) { c.lr_scheduler = "linear"; }, "lr_scheduler is \"linear\"", "with \"cosine\""},
      {[](auto& c) { c.lr_warmup_steps = 1; }, "lr_warmup_steps is 1", "with 2"},
      {[](auto& c) {
         c.lr_factors = {{"*.bias", 0.5}};
       },
       "lr_factors is [\"*.bias:0.5\"]", "with null"},
      {[](auto& c) { c.adam_amsgrad = true; }, "adam_amsgrad is true", "with false"},
      {[](auto& c) { c.use_ema_warmup = false; }, "use_ema_warmup is false", "with true"},
      {[](auto& c) { c.ema_type = EMAType::kLitEma; }, "ema_type is \"lit_ema\"", "with \"ema_model\""},
      {[](auto& c) { c.mixed_precision = MixedPrecision::kBf16; }, "mixed_precision is \"bf16\"",
       "with \"no\""},
      {[](auto& c) { c.snr_gamma = 5.0; }, "snr_gamma is 5.0", "with null"},
      {[](auto& c) { c.loss_type = LossType::kHuber; }, "loss_type is \"huber\"", "with \"l2\""},
      {[](auto& c) { c.noise_offset = 0.1; }, "noise_offset is 0.1", "with 0.0"},
      {[](auto& c) { c.input_perturbation = 0.1; }, "input_perturbation is 0.1", "with 0.0"},
      {[](auto& c) { c.max_grad_norm = 0; }, "max_grad_norm is 0.0", "with 1.0"},
      {[](auto& c) { c.adam_beta2 = 0.9; }, "adam_beta2 is 0.9", "with 0.999"},
      {[](auto& c) { c.adam_weight_decay = 0.1; }, "adam_weight_decay is 0.1", "with 1e-06"},
      {[](auto& c) { c.ema_max_decay = 0.9; }, "ema_max_decay is 0.9", "with 0.9999"},
      {[](auto& c) { c.freeze = {"time.*"}; }, "freeze is [\"time.*\"]", "with null"},
      {[](auto& c) { c.no_decay = {"*.bias"}; }, "no_decay is [\"*.bias\"]", "with null"},
      {[](auto& c) { c.post_hoc_ema_sigma_rels = {0.1}; }, "post_hoc_ema_sigma_rels is [0.1]", "with null"},
  };
  for (const Case& one : cases) {
    expect_throws_with<ConfigError>([&] { resume_with(config, one.change); }, one.ours);
    expect_throws_with<ConfigError>([&] { resume_with(config, one.change); }, one.saved);
  }
}

TEST(ResumeRules, FindTheOptionsOfATaskInOlderCheckpoints) {
  const Json ours = {{"_class_name", "DiffusionTask"}, {"options", {{"weighting", "none"}, {"p2_k", 1.0}}}};
  const Json older = {{"_class_name", "DiffusionTask"}};
  const Json fields = {{"weighting", "p2"}, {"seed", 3}};
  const Json filled = with_moved_options(older, fields, ours);
  EXPECT_EQ(filled, Json({{"_class_name", "DiffusionTask"}, {"options", {{"weighting", "p2"}}}}));
  expect_throws_with<ConfigError>([&] { require_same_config(filled, ours, "the task", "here"); },
                                  "weighting of the options is \"none\", but the checkpoint was trained with "
                                  "\"p2\"");
  EXPECT_EQ(with_moved_options(ours, fields, ours), ours);
  EXPECT_EQ(with_moved_options(older, fields, older), older);
  EXPECT_TRUE(with_moved_options({}, fields, ours).is_null());
}

TEST(Resume, ComparesTheOptionsOfTheTask) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_until(config, 3);
  config.resume_from_checkpoint = "latest";
  const auto resuming = [&](const DiffusionTaskOptions& options) {
    return [=] { train_until(config, 4, options); };
  };
  expect_throws_with<ConfigError>(resuming({.weighting = LossWeighting::kP2}),
                                  "weighting of the options is \"p2\", but the checkpoint was trained with "
                                  "\"none\"");
  expect_throws_with<ConfigError>(resuming({.original_elbo_weight = 0.5}),
                                  "original_elbo_weight of the options is 0.5");
  expect_throws_with<ConfigError>(
      resuming({.timestep_sampling = TimestepSampling::kStratified}),
      "timestep_sampling of the options is \"stratified\", but the checkpoint was "
      "trained with \"uniform\"");
  expect_throws_with<ConfigError>(resuming({.pyramid_noise_iterations = 2}),
                                  "pyramid_noise_iterations of the options is 2");
  expect_throws_with<ConfigError>(resuming({.class_conditional = false}),
                                  "class_conditional of the options is false");
  // The checkpoint has no log variance.
  expect_throws_with<ConfigError>(resuming({.learned_log_variance = LogVarianceType::kTable}),
                                  "learned_log_variance of the options is \"table\"");
}

TEST(Resume, GoesOnWithOtherOptionsThatDoNotMatter) {
  const std::vector<Change> changes{
      [](auto& c) { c.seed.reset(); },
      [](auto& c) { c.checkpointing_steps = 3; },
      [](auto& c) { c.checkpoints_total_limit = 3; },
      [](auto& c) { c.background_checkpoints = false; },
      [](auto& c) { c.validation_steps = 2; },
      [](auto& c) { c.logging_steps = 1; },
      [](auto& c) { c.dataloader_num_workers = 2; },
      [](auto& c) { c.max_nonfinite_steps = 2; },
      [](auto& c) { c.tensorboard = false; },
      [](auto& c) { c.logging_dir = "events"; },
      [](auto& c) { c.report = false; },
      [](auto& c) { c.validation_steps = 2, c.validation_samples = 3, c.validation_bins = 3; },
      [](auto& c) { c.overwrite_output_dir = true; },
      [](auto& c) { c.handle_signals = true; },
      [](auto& c) { c.num_epochs = 7; },
  };
  const TemporaryFolder whole;
  train_until(resumable_config(whole.path()), -1);
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_until(config, 3);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    SCOPED_TRACE(i);
    config.resume_from_checkpoint = "checkpoint-3";
    const LogCapture log;
    resume_with(config, changes[i], -1);
    test::expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  }
}

TEST(Resume, MayMakeTheTrainingLonger) {
  for (const char* schedule : {"cosine", "constant_with_warmup"}) {
    const TemporaryFolder folder;
    TrainingConfig config = resumable_config(folder.path());
    config.lr_scheduler = schedule;
    config.logging_steps = 1;
    train_until(config, -1);
    config.resume_from_checkpoint = "latest";
    config.max_train_steps = 12;
    const LogCapture log;
    EXPECT_EQ(train_until(config, -1).global_step, 12);
    const bool follows_length = std::string_view(schedule) == "cosine";
    EXPECT_EQ(log.contains("follows the new length"), follows_length);
    // As in Python, the learning rate is that of a training of 12 steps.
    const std::vector<TrainingProgress> rows = MetricsLog(folder.path(), 100).rows();
    ASSERT_EQ(rows.size(), 12U);
    const LRSchedule expected = get_scheduler(schedule, {.num_warmup_steps = 2, .num_training_steps = 12});
    for (const std::size_t i : {9, 10, 11})
      EXPECT_NEAR(rows[i].lr, 1e-2 * expected(static_cast<int64_t>(i)), 1e-9) << i;

    config.max_train_steps = 4;
    train_until(config, -1);
    EXPECT_TRUE(log.contains("nothing is left to train"));
  }
}

/// Trains the tiny network with another noise schedule.
void train_with(const TrainingConfig& config, const Scheduler& scheduler, int64_t stop) {
  Trainer trainer(TinyNet(), scheduler, config);
  trainer.on_step([&](int64_t step) {
    if (step >= stop) trainer.request_stop();
  });
  trainer.train(resumable_images());
}

TEST(Resume, ComparesTheNoiseSchedule) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  train_with(config, DDPMScheduler(), 2);
  config.resume_from_checkpoint = "latest";
  const auto expect_refused = [&](const Scheduler& scheduler, const char* ours, const char* saved) {
    expect_throws_with<ConfigError>([&] { train_with(config, scheduler, 3); }, ours);
    expect_throws_with<ConfigError>([&] { train_with(config, scheduler, 3); }, saved);
  };
  using enum PredictionType;
  expect_refused(DDPMScheduler({.prediction_type = kVPrediction}),
                 "prediction_type of the scheduler is \"v_prediction\"", "with \"epsilon\"");
  expect_refused(DDPMScheduler({.beta_end = 0.012}), "beta_end of the scheduler is 0.012", "with 0.02");
  expect_refused(DDPMScheduler({.beta_schedule = BetaSchedule::kSquaredcosCapV2}),
                 "beta_schedule of the scheduler is \"squaredcos_cap_v2\"", "with \"linear\"");
  expect_refused(DDPMScheduler({.num_train_timesteps = 500}), "num_train_timesteps of the scheduler is 500",
                 "with 1000");
  expect_refused(DDPMScheduler({.rescale_betas_zero_snr = true}), "rescale_betas_zero_snr", "with false");
  expect_refused(FlowMatchEulerDiscreteScheduler(), "of the scheduler is \"FlowMatchEulerDiscreteScheduler\"",
                 "with \"DDPMScheduler\"");
  // Options that affect only sampling may change.
  train_with(config, DDPMScheduler({.clip_sample = false, .timestep_spacing = TimestepSpacing::kTrailing}),
             3);
}

TEST(Resume, ComparesTheTask) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  const auto train_edm = [&](const EDMConfig& edm) {
    auto task = std::make_shared<EDMTask>(make_trainable(TinyNet()), edm);
    Trainer trainer(task, config);
    trainer.on_step([&](int64_t) { trainer.request_stop(); });
    trainer.train(resumable_images());
  };
  train_edm({});
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>([&] { train_edm({.p_mean = -0.4}); },
                                  "p_mean of the task is -0.4, but the checkpoint was trained with -1.2");
  train_edm({.sigma_max = 20});  // affects only the scheduler that is saved at the end
  expect_throws_with<ConfigError>([&] { train_with(config, DDPMScheduler(), 3); },
                                  "is \"DiffusionTask\", but the checkpoint was trained with \"EDMTask\"");

  /// A task that a program defines, without a description.
  class OwnTask : public EDMTask {
   public:
    using EDMTask::EDMTask;
    std::string config_json() const override { return "{}"; }
  };
  Trainer other(std::make_shared<OwnTask>(make_trainable(TinyNet())), config);
  expect_throws_with<ConfigError>([&] { other.train(resumable_images()); }, "by the task \"EDMTask\"");
}

UNet2DModelConfig small_unet_config() {
  return {.sample_size = 6,
          .in_channels = 1,
          .out_channels = 1,
          .down_block_types = {"DownBlock2D"},
          .up_block_types = {"UpBlock2D"},
          .block_out_channels = {8},
          .layers_per_block = 1,
          .norm_num_groups = 4};
}

TEST(Resume, ComparesTheConfigOfTheModelAndItsDtype) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  const auto train = [&](const UNet2DModelConfig& model, at::ScalarType dtype = at::kFloat) {
    UNet2DModel unet(model);
    unet->to(dtype);
    Trainer trainer(unet, DDPMScheduler(), config);
    trainer.on_step([&](int64_t) { trainer.request_stop(); });
    trainer.train(resumable_images());
  };
  train(small_unet_config());
  config.resume_from_checkpoint = "latest";
  UNet2DModelConfig other = small_unet_config();
  other.act_fn = "gelu";  // does not change the shapes of the parameters
  expect_throws_with<ConfigError>([&] { train(other); }, "act_fn of unet is \"gelu\"");
  expect_throws_with<ConfigError>([&] { train(other); }, "with \"silu\"");
  expect_throws_with<ConfigError>([&] { train(small_unet_config(), at::kDouble); },
                                  "dtype is \"float64\", but the checkpoint was trained with \"float32\"");
  train(small_unet_config());
}

}  // namespace
}  // namespace diffusers
