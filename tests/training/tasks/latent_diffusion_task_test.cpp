// Latent diffusion against ten training steps that tests/reference/latent_diffusion.py made with diffusers.

#include <cstddef>
#include <string>
#include <vector>

#include <diffusers/core/tensor_map.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/training/latent_cache.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/latent_diffusion_parts.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::latent_case;
using test::latent_config;
using test::latent_golden;
using test::latent_parts;
using test::latent_samples;
using test::LatentParts;
using test::LogCapture;
using test::SamplesInOrder;
using test::TemporaryFolder;

TEST(LatentDiffusionTask, TenStepsOfEachConditioningKeyMatchDiffusers) {
  const LogCapture log;
  const Json cases = parse_json(latent_golden().metadata.at("cases"), "cases");
  ASSERT_EQ(cases.size(), 11U);
  for (const Json& given : cases) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const bool is_wide = dtype == at::kDouble;
      const std::string name = given.at("name").get<std::string>() + (is_wide ? ".float64" : ".float32");
      SCOPED_TRACE(name);
      const TemporaryFolder folder;
      const LatentParts parts = latent_parts(given, dtype);
      const auto task = parts.task();
      TrainingConfig config = latent_config(folder.path());
      config.noise_offset = parts.noise_offset;
      Trainer trainer(task, config);
      std::vector<double> losses;
      trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
      trainer.train(SamplesInOrder(latent_samples()));
      std::vector<Tensor> flat;
      for (const Tensor& parameter : parts.parameters()) flat.push_back(parameter.detach().flatten());
      // Sums in another order; Adam divides gradients by their size, which carries roundings on.
      const double tolerance = is_wide ? 1e-9 : 1e-4;
      const test::Golden& golden = latent_golden();
      expect_close(at::tensor(losses, at::kDouble), golden[name + ".losses"], tolerance, tolerance, "losses");
      expect_close(at::cat(flat), golden[name + ".model"], tolerance, tolerance, "weights");
      if (const Tensor& scale = task->encoder().measured_scale(); scale.defined())
        expect_close(scale, golden[name + ".scale"], tolerance, tolerance, "scale");
    }
  }
}

TEST(LatentDiffusionTask, AccumulatedAndDividedBatchesEqualOneLargeBatch) {
  const LogCapture log;
  for (const char* name : {"inpainting", "hybrid", "adm"}) {
    const auto train = [&](int64_t batch_size, int64_t accumulation, int64_t parts_of_batch) {
      const TemporaryFolder folder;
      const LatentParts parts = latent_parts(latent_case(name), at::kDouble);
      TrainingConfig config = latent_config(folder.path());
      config.train_batch_size = batch_size;
      config.gradient_accumulation_steps = accumulation;
      config.cpu_data_parallel = parts_of_batch;
      Trainer(parts.task(), config).train(SamplesInOrder(latent_samples()));
      return copies(parts.parameters());
    };
    const std::vector<Tensor> large = train(8, 1, 1);
    const std::vector<Tensor> small = train(2, 4, 1);
    const std::vector<Tensor> divided = train(8, 1, 3);
    for (std::size_t i = 0; i < large.size(); ++i) {
      expect_close(small[i], large[i], 1e-9, 1e-9, name);
      expect_close(divided[i], large[i], 1e-9, 1e-9, name);
    }
  }
}

TEST(LatentDiffusionTask, ResumesBitForBit) {
  const LogCapture log;
  for (const char* name : {"kl_by_std", "inpainting", "hybrid"}) {
    SCOPED_TRACE(name);
    const auto train_until = [&](const std::string& folder, int64_t stop, bool resumes) {
      TrainingConfig config = latent_config(folder);
      config.checkpointing_steps = 6;
      config.max_train_steps = 6;
      config.num_epochs = 10;
      config.use_ema = true;
      config.gradient_accumulation_steps = 2;
      if (resumes) config.resume_from_checkpoint = "latest";
      const LatentParts parts = latent_parts(latent_case(name), at::kFloat);
      if (resumes)
        for (Tensor& parameter : parts.parameters()) parameter.detach().zero_();
      Trainer trainer(parts.task(), config);
      trainer.on_step([&](int64_t step) {
        if (step == stop) trainer.request_stop();
      });
      return trainer.train(TensorDataset(latent_samples())).is_complete;
    };
    const TemporaryFolder whole;
    EXPECT_TRUE(train_until(whole.path(), -1, false));
    const TemporaryFolder parts;
    EXPECT_FALSE(train_until(parts.path(), 2, false));
    EXPECT_TRUE(train_until(parts.path(), -1, true));
    for (const char* file : {"unet/diffusion_pytorch_model.safetensors",
                             "unet_ema/diffusion_pytorch_model.safetensors", "optimizer.safetensors"})
      EXPECT_EQ(read_text_file(join_path(parts / "checkpoint-6", file)),
                read_text_file(join_path(whole / "checkpoint-6", file)))
          << file;
  }
}

TEST(LatentDiffusionTask, RefusesToResumeWithAnotherAutoencoder) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = latent_config(folder.path());
  config.checkpointing_steps = 2;
  config.max_train_steps = 2;
  const LatentParts parts = latent_parts(latent_case("none"), at::kFloat);
  Trainer(parts.task(), config).train(TensorDataset(latent_samples()));
  {
    const at::NoGradGuard no_grad;
    parts.encoder.vae()->encoder->conv_in->weight.mul_(2);
  }
  config.resume_from_checkpoint = "latest";
  config.max_train_steps = 4;
  expect_throws_with<Error>([&] { Trainer(parts.task(), config).train(TensorDataset(latent_samples())); },
                            "autoencoder_sha256");
}

TEST(LatentDiffusionTask, TrainsPartsOfTheModelAndLeavesTheAutoencoder) {
  const LogCapture log;
  const TemporaryFolder folder;
  const LatentParts parts = latent_parts(latent_case("none"), at::kFloat);
  TrainingConfig config = latent_config(folder.path());
  config.train_only = {"*attentions*"};
  const TensorMap before(parts.unet.saved->module().named_parameters());
  const std::vector<Tensor> old = copies(parts.parameters());
  const std::vector<Tensor> autoencoder = copies(parts.encoder.vae()->parameters());
  Trainer(parts.task(), config).train(TensorDataset(latent_samples()));
  const std::vector<std::string> names = before.keys();
  for (std::size_t i = 0; i < names.size(); ++i)
    EXPECT_EQ(at::equal(old[i], parts.parameters()[i]), names[i].find("attentions") == std::string::npos)
        << names[i];
  const std::vector<Tensor> after = copies(parts.encoder.vae()->parameters());
  for (std::size_t i = 0; i < after.size(); ++i) expect_equal(after[i], autoencoder[i]);
  EXPECT_FALSE(parts.encoder.vae()->is_training());
}

TEST(LatentDiffusionTask, ValidationChangesNothing) {
  const LogCapture log;
  const auto train = [&](bool validates) {
    const TemporaryFolder folder;
    const LatentParts parts = latent_parts(latent_case("inpainting"), at::kFloat);
    TrainingConfig config = latent_config(folder.path());
    config.validation_steps = validates ? 2 : 0;
    const TensorDataset dataset(latent_samples());
    Trainer trainer(parts.task(), config);
    if (validates) {
      trainer.train(dataset, TensorDataset(latent_samples().slice(0, 6)));
    } else {
      trainer.train(dataset);
    }
    return copies(parts.parameters());
  };
  const std::vector<Tensor> with = train(true);
  const std::vector<Tensor> without = train(false);
  for (std::size_t i = 0; i < with.size(); ++i) expect_equal(with[i], without[i]);
}

TEST(LatentDiffusionTask, TrainsOnTheLatentsOfACache) {
  const LogCapture log;
  const auto train = [&](bool caches) {
    const TemporaryFolder folder;
    LatentParts parts = latent_parts(latent_case("none"), at::kFloat);
    const TensorDataset dataset(latent_samples());
    if (caches)
      parts.options.cache =
          LatentCache::build(folder / "cache", dataset, parts.encoder, {.random_flip = true});
    TrainingConfig config = latent_config(folder.path());
    config.validation_steps = 5;
    // The cache has no held-out data.
    Trainer(parts.task(), config).train(dataset, TensorDataset(latent_samples().images * 0.5));
    return copies(parts.parameters());
  };
  const std::vector<Tensor> cached = train(true);
  const std::vector<Tensor> encoded = train(false);
  // A convolution may sum in another order for another batch size.
  for (std::size_t i = 0; i < cached.size(); ++i) expect_close(cached[i], encoded[i], 1e-4, 1e-5);
}

}  // namespace
}  // namespace diffusers
