// A pipeline class and a model class that a program defines, loaded by their names.

#include <string>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/denoise.h>
#include <diffusers/pipelines/inference_guard.h>
#include <diffusers/pipelines/register_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "support/golden.h"

namespace diffusers {
namespace {

/// A model class that the library does not have. It predicts a multiple of the sample.
class ShareImpl : public torch::nn::Module {
 public:
  explicit ShareImpl(double share = 0.0) : share_(register_parameter("share", at::full({1}, share))) {}
  Tensor forward(const Tensor& sample, const Tensor& /*timestep*/) const { return share_ * sample; }
  static constexpr std::string_view kClassName = "ShareModel";
  static std::string class_name() { return std::string(kClassName); }
  void save_pretrained(const std::filesystem::path& folder) const {
    create_folders(folder);
    write_file(std::to_string(share_.item<float>()), folder / "share.txt");
  }

 private:
  Tensor share_;
};

class Share : public torch::nn::ModuleHolder<ShareImpl> {
 public:
  using torch::nn::ModuleHolder<ShareImpl>::ModuleHolder;
  static Share from_pretrained(const std::filesystem::path& folder, const ModelLoadOptions& options = {}) {
    const std::string text = read_text_file(folder / options.subfolder / "share.txt");
    Share model(std::stod(text));
    model->to(options.device, options.dtype);
    return model;
  }
};

class SharePipeline : public TypedPipeline<SharePipeline> {
 public:
  static const PipelineSpec& spec() {
    static const PipelineSpec spec{
        .class_name = "SharePipeline",
        .components = {{"model", {"ShareModel"}},
                       {"scheduler"},
                       {.name = "second", .class_names = {"ShareModel"}, .is_optional = true}},
        .settings = {{"is_shared", true}}};
    return spec;
  }
  explicit SharePipeline(PipelineComponents components) : TypedPipeline(std::move(components)) {}
  ImagePipelineOutput operator()(const Tensor& noise, int64_t steps) {
    const InferenceGuard guard(*this);
    scheduler().set_timesteps(steps, {.device = device()});
    return {denoise(*this, make_denoiser(component<Share>("model")), {}, noise, steps)};
  }
};

/// A pipeline that takes any class as its only component.
class AnyModelPipeline : public TypedPipeline<AnyModelPipeline> {
 public:
  static const PipelineSpec& spec() {
    static const PipelineSpec spec{.class_name = "AnyModelPipeline", .components = {{.name = "model"}}};
    return spec;
  }
  explicit AnyModelPipeline(PipelineComponents components) : TypedPipeline(std::move(components)) {}
};

/// A class with the same name as a class of the library.
class ImpostorPipeline : public TypedPipeline<ImpostorPipeline> {
 public:
  static const PipelineSpec& spec() { return DDPMPipeline::spec(); }
  explicit ImpostorPipeline(PipelineComponents components) : TypedPipeline(std::move(components)) {}
};

TEST(RegisterPipeline, LoadsThePipelineAndTheModelOfAProgram) {
  const test::TemporaryFolder folder;
  const Tensor noise = randn_tensor({1, 2, 3, 3}, make_generator(1));
  SharePipeline made({{"model", Share(0.25)}, {"scheduler", DDIMScheduler()}});
  made.save_pretrained(folder / "share");
  EXPECT_TRUE(file_exists(folder / "share/model/share.txt"));
  EXPECT_FALSE(folder_exists(folder / "share/second"));
  const std::string index = read_text_file(folder / "share/model_index.json");
  EXPECT_NE(index.find("\"second\": [\n    null,\n    null\n  ]"), std::string::npos) << index;
  EXPECT_NE(index.find("\"is_shared\": true"), std::string::npos) << index;

  test::expect_throws_with<FileError>([&] { DiffusionPipeline::from_pretrained(folder / "share"); },
                                      "_class_name is \"SharePipeline\", expected one of: DDIMPipeline");
  register_pipeline<SharePipeline>();
  test::expect_throws_with<FileError>(
      [&] { DiffusionPipeline::from_pretrained(folder / "share"); },
      "component \"model\" is a ShareModel, expected a scheduler or one of: ");
  register_pipeline_component<Share>("ShareModel");
  // Registering the class again has no effect.
  register_pipeline<SharePipeline>();
  register_pipeline_component<Share>();

  auto loaded = DiffusionPipeline::from_pretrained(folder / "share", {.dtype = at::kDouble});
  EXPECT_EQ(loaded->dtype(), at::kDouble);
  loaded->to(at::kFloat);
  EXPECT_TRUE(loaded->as<SharePipeline>()(noise, 4).images.equal(made(noise, 4).images));
}

TEST(RegisterPipeline, LoadsAModelThatNoPipelineOfTheLibraryTakes) {
  const test::TemporaryFolder folder;
  const AutoencoderTiny model({.encoder_block_out_channels = {4},
                               .decoder_block_out_channels = {4},
                               .num_encoder_blocks = {1},
                               .num_decoder_blocks = {1}});
  PipelineComponents components;
  components["model"] = model;
  AnyModelPipeline(components).save_pretrained(folder.path());
  auto loaded = AnyModelPipeline::from_pretrained(folder.path());
  EXPECT_TRUE(loaded.component<AutoencoderTiny>("model")->decoder->conv_in->weight.equal(
      model->decoder->conv_in->weight));
}

TEST(RegisterPipeline, RefusesASecondClassOfAName) {
  register_pipeline<SharePipeline>();
  test::expect_throws_with<ConfigError>(
      [] { register_pipeline<ImpostorPipeline>(); },
      "the class name \"DDPMPipeline\" cannot be registered: another class has it");
  test::expect_throws_with<ConfigError>([] { register_pipeline_component<Share>("UNet2DModel"); },
                                        "the class name \"UNet2DModel\" cannot be registered");
}

TEST(RegisterPipeline, AnOptionalComponentIsSharedByFromPipe) {
  const Share second(0.5);
  const SharePipeline both({{"model", Share(0.25)}, {"scheduler", DDIMScheduler()}, {"second", second}});
  EXPECT_EQ(SharePipeline::from_pipe(both).component<Share>("second").ptr(), second.ptr());
  const SharePipeline one({{"model", Share(0.25)}, {"scheduler", DDIMScheduler()}});
  EXPECT_FALSE(one.components().at("second").has_value());
  EXPECT_FALSE(SharePipeline::from_pipe(one).components().at("second").has_value());
}

}  // namespace
}  // namespace diffusers
