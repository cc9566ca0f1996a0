// LDMPipeline against images that Python drew from the folder tests/golden/tiny_ldm_pipeline.

#include <string>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/pipelines/ldm_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers {
namespace {

// Models agree to 1e-4; a handful of steps through one does not add to that.
constexpr double kLdmTolerance = 1e-4;

LDMPipeline tiny_ldm() { return LDMPipeline::from_pretrained(test::golden_path("tiny_ldm_pipeline")); }

const test::Golden& ldm_golden() {
  static const test::Golden golden = test::load_golden("ldm_pipeline.safetensors");
  return golden;
}

void expect_ldm_images(LDMPipeline& pipeline, const std::string& name) {
  const Tensor images =
      pipeline({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 6}).images;
  test::expect_close(images, ldm_golden()[name], kLdmTolerance, kLdmTolerance, name);
}

TEST(LDMPipeline, ImagesMatchDiffusers) {
  LDMPipeline pipeline = tiny_ldm();
  expect_ldm_images(pipeline, "ddim");
  manual_seed(9);
  test::expect_close(pipeline({.batch_size = 3, .eta = 0.5, .num_inference_steps = 6}).images,
                     ldm_golden()["ddim_eta"], kLdmTolerance, kLdmTolerance, "ddim_eta");
  LDMPipeline kl(test::tiny_vae(), pipeline.unet(), pipeline.scheduler());
  expect_ldm_images(kl, "kl");
}

TEST(LDMPipeline, LoadsByItsClassNameAndSavesAFolderThatLoads) {
  const auto loaded = DiffusionPipeline::from_pretrained(test::golden_path("tiny_ldm_pipeline"));
  const test::TemporaryFolder folder;
  loaded->as<LDMPipeline>().save_pretrained(folder.path());
  LDMPipeline again = LDMPipeline::from_pretrained(folder.path());
  expect_ldm_images(again, "ddim");
  EXPECT_EQ(again.component<VQModel>("vqvae")->config().num_vq_embeddings, 16);
  EXPECT_EQ(read_text_file(folder / "model_index.json"),
            read_text_file(test::golden_path("tiny_ldm_pipeline/model_index.json")));
}

TEST(LDMPipeline, GivesTheLatentsThatItDecodes) {
  LDMPipeline pipeline = tiny_ldm();
  const LDMPipelineOptions options{.batch_size = 2, .generator = make_generator(7), .num_inference_steps = 3};
  LDMPipelineOptions latent = options;
  latent.generator = make_generator(7);
  latent.output_type = "latent";
  const Tensor images = pipeline(options).images;
  const Tensor latents = pipeline(latent).images;
  EXPECT_EQ(latents.sizes(), (at::IntArrayRef{2, 2, 4, 4}));
  const at::NoGradGuard no_grad;
  const Tensor decoded = pipeline.component<VQModel>("vqvae")->decode(latents / 0.18215).sample;
  test::expect_equal(images, (decoded / 2 + 0.5).clamp(0, 1));
}

TEST(LDMPipeline, NamesWhatDoesNotFit) {
  using test::expect_throws_with;
  LDMPipeline pipeline = tiny_ldm();
  expect_throws_with<ConfigError>([&] { pipeline({.batch_size = 0}); }, "batch_size is 0");
  expect_throws_with<ConfigError>([&] { pipeline({.num_inference_steps = 0}); }, "num_inference_steps is 0");
  expect_throws_with<ConfigError>(
      [] { LDMPipeline(test::tiny_vqvae(), test::tiny_latent_unet(3), DDIMScheduler()); },
      "in_channels of the unet is 3, but the latents of the vqvae have 2 channels");
  expect_throws_with<ConfigError>(
      [] {
        LDMPipeline(PipelineComponents{{"vqvae", test::tiny_vqvae()},
                                       {"unet", test::tiny_condition_unet()},
                                       {"scheduler", DDIMScheduler()}});
      },
      "component \"unet\" is a UNet2DConditionModel, expected a UNet2DModel");
}

}  // namespace
}  // namespace diffusers
