// Compares both unconditional pipelines with the images that Python generated from the folder
// tests/golden/tiny_ddpm_pipeline.

#include <string>
#include <type_traits>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "pipelines/small_unet.h"
#include "support/golden.h"

namespace diffusers {
namespace {

// Models agree to 1e-4, and a few steps do not increase the error.
constexpr double kTolerance = 1e-4;

std::string tiny_folder() { return test::golden_path("tiny_ddpm_pipeline"); }

const test::Golden& golden() {
  static const test::Golden instance = test::load_golden("pipelines.safetensors");
  return instance;
}

TEST(DDPMPipeline, ImagesMatchDiffusers) {
  DDPMPipeline pipeline = DDPMPipeline::from_pretrained(tiny_folder());
  const Tensor images =
      pipeline({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 6}).images;
  test::expect_close(images, golden()["ddpm"], kTolerance, kTolerance, "ddpm");
}

TEST(DDPMPipeline, DrawsWithADdimSchedulerAsPythonDoes) {
  DDPMPipeline loaded = DDPMPipeline::from_pretrained(tiny_folder());
  DDPMPipeline pipeline(loaded.unet(), DDIMScheduler::from_config(loaded.scheduler().config_json()));
  const Tensor images =
      pipeline({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 4}).images;
  test::expect_close(images, golden()["ddpm_with_ddim_scheduler"], kTolerance, kTolerance, "ddpm with ddim");
}

TEST(DDIMPipeline, ImagesMatchDiffusers) {
  DDIMPipeline pipeline = DDIMPipeline::from_pretrained(tiny_folder());
  struct Case {
    const char* name;
    DDIMPipelineOptions options;
  };
  for (auto [name, options] : {Case{"ddim", {}}, Case{"ddim_eta", {.eta = 0.5}},
                               Case{"ddim_eta_clipped", {.eta = 0.5, .use_clipped_model_output = true}}}) {
    options.batch_size = 3;
    options.generator = make_generator(7);
    options.num_inference_steps = 6;
    test::expect_close(pipeline(options).images, golden()[name], kTolerance, kTolerance, name);
  }
}

// Each thread computes a part of the batch.
TEST(DDIMPipeline, SeveralThreadsDrawTheSameImages) {
  torch::manual_seed(1);
  UNet2DModelConfig config = test::small_unet_config();
  config.sample_size = 16;
  config.block_out_channels = {64};
  config.norm_num_groups = 8;
  const UNet2DModel unet(config);
  DDIMPipeline pipeline(unet, DDIMScheduler());
  pipeline.set_progress_bar_config({.disable = true});
  const int before = at::get_num_threads();
  const auto draw = [&](int threads) {
    at::set_num_threads(threads);
    return pipeline({.batch_size = 6, .generator = make_generator(7), .num_inference_steps = 3}).images;
  };
  const Tensor images = draw(2);
  test::expect_equal(draw(2), images);
  test::expect_close(draw(1), images, kTolerance, kTolerance, "one thread");
  at::set_num_threads(before);
}

TEST(DDIMPipeline, TakesTheSchedulerOfTheTraining) {
  DDIMPipeline pipeline(UNet2DModel(test::small_unet_config()),
                        DDPMScheduler({.prediction_type = PredictionType::kSample}));
  EXPECT_EQ(pipeline.scheduler().class_name(), "DDIMScheduler");
  EXPECT_EQ(pipeline.scheduler().prediction_type_name(), "sample");
}

// `pipeline.scheduler() = ...` would copy only the base class.
static_assert(!std::is_assignable_v<Scheduler&, DDIMScheduler>);
static_assert(!std::is_assignable_v<Scheduler&, const DDIMScheduler&>);
static_assert(!std::is_assignable_v<Scheduler&, Scheduler&>);
static_assert(!std::is_assignable_v<Scheduler&, Scheduler&&>);
static_assert(std::is_copy_assignable_v<DDIMScheduler> && std::is_move_assignable_v<DDIMScheduler>);
static_assert(std::is_copy_constructible_v<DDIMScheduler> && std::is_move_constructible_v<DDIMScheduler>);

TEST(DDPMPipeline, SetSchedulerDrawsAsAPipelineMadeWithIt) {
  DDPMPipeline pipeline = DDPMPipeline::from_pretrained(tiny_folder());
  // The scheduler has timesteps from an earlier call.
  pipeline({.num_inference_steps = 2});
  pipeline.set_scheduler(DDIMScheduler::from_config(pipeline.scheduler().config_json()));
  EXPECT_EQ(pipeline.scheduler().class_name(), "DDIMScheduler");
  const Tensor images =
      pipeline({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 4}).images;
  test::expect_close(images, golden()["ddpm_with_ddim_scheduler"], kTolerance, kTolerance, "ddpm with ddim");

  const test::TemporaryFolder folder;
  pipeline.save_pretrained(folder.path());
  EXPECT_NE(read_text_file(folder / "model_index.json").find("\"DDIMScheduler\""), std::string::npos);
  DDPMPipeline loaded = DDPMPipeline::from_pretrained(folder.path());
  EXPECT_EQ(loaded.scheduler().class_name(), "DDIMScheduler");
  EXPECT_TRUE(loaded({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 4})
                  .images.equal(images));
}

TEST(DDIMPipeline, SetSchedulerConvertsAsTheConstructorDoes) {
  const UNet2DModel unet(test::small_unet_config());
  const DDPMScheduler given({.num_train_timesteps = 500, .prediction_type = PredictionType::kSample});
  DDIMPipeline swapped(unet, DDIMScheduler());
  const DDIMPipelineOptions options{.generator = make_generator(7), .num_inference_steps = 3};
  const Tensor before = swapped(options).images;
  swapped.set_scheduler(given);
  EXPECT_EQ(swapped.scheduler().class_name(), "DDIMScheduler");
  EXPECT_EQ(swapped.scheduler().prediction_type_name(), "sample");
  const DDIMPipelineOptions again{.generator = make_generator(7), .num_inference_steps = 3};
  const Tensor after = swapped(again).images;
  EXPECT_FALSE(after.equal(before));
  const DDIMPipelineOptions anew{.generator = make_generator(7), .num_inference_steps = 3};
  EXPECT_TRUE(after.equal(DDIMPipeline(unet, given)(anew).images));
}

TEST(Pipelines, KeepTheirSchedulerIfAnotherDoesNotFit) {
  DDIMPipeline pipeline(UNet2DModel(test::small_unet_config()), DDIMScheduler({.num_train_timesteps = 100}));
  // DDIM has no flow matching.
  EXPECT_THROW(pipeline.set_scheduler(
                   DPMSolverMultistepScheduler({.prediction_type = PredictionType::kFlowPrediction})),
               ConfigError);
  EXPECT_EQ(pipeline.scheduler().num_train_timesteps(), 100);
  pipeline.set_scheduler(pipeline.scheduler());
  EXPECT_EQ(pipeline.scheduler().num_train_timesteps(), 100);
}

TEST(Pipelines, GiveImagesBetweenZeroAndOne) {
  const UNet2DModel unet(test::small_unet_config());
  DDPMPipeline ddpm(unet, DDPMScheduler());
  DDIMPipeline ddim(unet, DDIMScheduler());
  for (const Tensor& images : {ddpm({.batch_size = 2, .num_inference_steps = 2}).images,
                               ddim({.batch_size = 2, .num_inference_steps = 2}).images}) {
    EXPECT_EQ(images.sizes(), (std::vector<int64_t>{2, 1, 8, 8}));
    EXPECT_FALSE(images.requires_grad());
    EXPECT_GE(images.min().item<float>(), 0.0F);
    EXPECT_LE(images.max().item<float>(), 1.0F);
  }
}

TEST(Pipelines, LeaveTheModelInItsMode) {
  UNet2DModel unet(test::small_unet_config());
  unet->train();
  // A frozen part of a model in training stays frozen.
  unet->modules().back()->eval();
  DDPMPipeline pipeline(unet, DDPMScheduler());
  bool was_training = true;
  pipeline({.num_inference_steps = 1, .callback_on_step_end = [&](int64_t, const Tensor&, const Tensor&) {
              was_training = unet->is_training();
            }});
  EXPECT_FALSE(was_training);
  EXPECT_TRUE(unet->is_training());
  EXPECT_FALSE(unet->modules().back()->is_training());
}

TEST(Pipelines, LeaveTheModeEvenIfACallThrows) {
  UNet2DModel unet(test::small_unet_config());
  unet->train();
  DDPMPipeline pipeline(unet, DDPMScheduler());
  EXPECT_THROW(
      pipeline({.num_inference_steps = 2,
                .callback_on_step_end = [](int64_t, const Tensor&, Tensor& sample) { sample = Tensor(); }}),
      TensorError);
  EXPECT_TRUE(unet->is_training());
}

TEST(Pipelines, CallbackSeesEveryStepAndMayChangeTheSample) {
  const UNet2DModel unet(test::small_unet_config());
  DDIMPipeline pipeline(unet, DDIMScheduler());
  std::vector<int64_t> steps;
  std::vector<int64_t> timesteps;
  const Tensor images = pipeline({.num_inference_steps = 4,
                                  .callback_on_step_end =
                                      [&](int64_t step, const Tensor& t, Tensor& sample) {
                                        steps.push_back(step);
                                        timesteps.push_back(t.item<int64_t>());
                                        if (step == 3) sample = sample.new_full(sample.sizes(), 0.5);
                                      }})
                            .images;
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(timesteps, (std::vector<int64_t>{750, 500, 250, 0}));
  EXPECT_TRUE(images.eq(0.75).all().item<bool>());
}

TEST(Pipelines, SaveWhatTheyLoad) {
  DDPMPipeline pipeline = DDPMPipeline::from_pretrained(tiny_folder());
  const test::TemporaryFolder folder;
  pipeline.save_pretrained(folder / "saved");
  for (const char* file : {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
                           "scheduler/scheduler_config.json"})
    EXPECT_TRUE(file_exists(folder / "saved/" + file)) << file;
  EXPECT_EQ(read_text_file(folder / "saved/model_index.json"),
            read_text_file(tiny_folder() + "/model_index.json"));

  DDPMPipeline again = DDPMPipeline::from_pretrained(folder / "saved");
  const Tensor images =
      again({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 6}).images;
  test::expect_close(images, golden()["ddpm"], kTolerance, kTolerance, "saved and loaded");

  DDIMPipeline(pipeline.unet(), pipeline.scheduler()).save_pretrained(folder / "ddim");
  EXPECT_NE(read_text_file(folder / "ddim/model_index.json").find("DDIMScheduler"), std::string::npos);
}

TEST(Pipelines, RefuseWhatCannotWork) {
  const UNet2DModel unet(test::small_unet_config());
  DDPMPipeline ddpm(unet, DDPMScheduler());
  DDIMPipeline ddim(unet, DDIMScheduler());
  test::expect_throws_with<ConfigError>([&] { ddpm({.batch_size = 0}); }, "batch_size is 0");
  test::expect_throws_with<ConfigError>([&] { ddim({.batch_size = -3}); }, "batch_size is -3");
  test::expect_throws_with<ConfigError>([&] { ddim({.num_inference_steps = 0}); },
                                        "num_inference_steps is 0");
  EXPECT_THROW(ddpm({.num_inference_steps = 1001}), Error);

  UNet2DModelConfig config = test::small_unet_config();
  config.sample_size = {};
  test::expect_throws_with<ConfigError>([&] { DDPMPipeline(UNet2DModel(config), DDPMScheduler()); },
                                        "sample_size");
}

TEST(Pipelines, NameTheComponentThatDoesNotFit) {
  const test::TemporaryFolder folder;
  DDPMPipeline::from_pretrained(tiny_folder()).save_pretrained(folder.path());
  const std::string index = folder / "model_index.json";
  write_file(R"({"unet": ["diffusers", "UNet1DModel"], "scheduler": ["diffusers", "DDPMScheduler"]})", index);
  test::expect_throws_with<FileError>(
      [&] { DDPMPipeline::from_pretrained(folder.path()); },
      "component \"unet\" is a UNet1DModel, DDPMPipeline takes a UNet2DModel");
  write_file(R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "NoSuchScheduler"]})",
             index);
  test::expect_throws_with<Error>([&] { DDIMPipeline::from_pretrained(folder.path()); }, "NoSuchScheduler");
  write_file(R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]})", index);
  remove_file(folder / "scheduler/scheduler_config.json");
  test::expect_throws_with<FileError>([&] { DDIMPipeline::from_pretrained(folder.path()); },
                                      "component \"scheduler\" has no scheduler_config.json");
}

}  // namespace
}  // namespace diffusers
