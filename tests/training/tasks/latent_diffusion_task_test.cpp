// Latent diffusion against ten training steps that tests/reference/latent_diffusion.py made with diffusers.

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/quick_training.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::TemporaryFolder;
using test::tiny_condition_unet;
using test::tiny_images;
using test::tiny_latent_unet;
using test::tiny_vae;
using test::tiny_vqvae;

const test::Golden& latent_golden() {
  static const test::Golden golden = test::load_golden("latent_diffusion.safetensors");
  return golden;
}

/// All samples of the golden file, batch after batch, whatever is asked for.
class InOrder : public Dataset {
 public:
  explicit InOrder(Batch samples) : samples_(std::move(samples)) {}
  int64_t size() const override { return samples_.size(); }
  int64_t class_count() const override { return 4; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t) const override {
    const int64_t first = next_;
    next_ += static_cast<int64_t>(indices.size());
    return samples_.slice(first, next_);
  }

 private:
  Batch samples_;
  mutable int64_t next_ = 0;
};

Batch golden_samples() {
  const test::Golden& golden = latent_golden();
  return {.images = golden["data.images"],
          .class_labels = golden["data.labels"],
          .conditioning_images = golden["data.conditioning_images"],
          .masks = golden["data.masks"]};
}

/// The parts of a training of one of the cases.
struct Parts {
  TrainableDenoiser unet;
  LatentEncoder encoder;
  LatentDiffusionTaskOptions options;
  DDPMSchedulerConfig scheduler;
  double noise_offset = 0.0;

  std::shared_ptr<LatentDiffusionTask> task() const {
    return std::make_shared<LatentDiffusionTask>(unet, DDPMScheduler(scheduler), encoder, options);
  }
  std::vector<Tensor> parameters() const { return unet.saved->module().parameters(); }
};

ConditioningFunction label_states(at::ScalarType dtype) {
  return [states = latent_golden()["data.embeddings"].to(dtype)](const Batch& batch) {
    return Conditioning{.encoder_hidden_states = states.index_select(0, batch.class_labels)};
  };
}

Parts parts_of(const Json& given, at::ScalarType dtype) {
  const std::string key = given.value("key", "none");
  const std::string concat = given.value("concat", "");
  const bool attends = key == "crossattn" || key == "hybrid";
  const double dropout = given.value("dropout", false) ? 0.4 : 0.0;
  const int64_t channels = concat.empty() ? 2 : concat == "encoded_images" ? 4 : 5;
  const LatentEncoderOptions encoding{.scale_by_std = given.value("scale_by_std", false)};
  LatentDiffusionTaskOptions options{.conditioning_key = std::string_view(key)};
  if (!concat.empty()) options.concat_input = std::string_view(concat);
  if (key == "adm") {
    options.diffusion.class_dropout_prob = dropout;
  } else {
    options.conditioning_dropout_prob = dropout;
  }
  if (attends) {
    options.diffusion.conditioning = label_states(dtype);
    options.unconditional_hidden_states = latent_golden()["data.unconditional"];
  }
  const auto encoder = [&] {
    if (given.value("vae", "kl") == "vq") {
      VQModel vqvae = tiny_vqvae();
      vqvae->to(dtype);
      return LatentEncoder(vqvae, encoding);
    }
    AutoencoderKL vae = tiny_vae();
    vae->to(dtype);
    return LatentEncoder(vae, encoding);
  };
  const auto unet = [&]() -> TrainableDenoiser {
    if (attends) {
      UNet2DConditionModel model = tiny_condition_unet(channels);
      model->to(dtype);
      return model;
    }
    UNet2DModel model = tiny_latent_unet(channels, key == "adm" ? std::optional<int64_t>(5) : std::nullopt);
    model->to(dtype);
    return model;
  };
  return {.unet = unet(),
          .encoder = encoder(),
          .options = options,
          .scheduler = {.prediction_type = std::string_view(given.value("prediction_type", "epsilon"))},
          .noise_offset = given.value("noise_offset", 0.0)};
}

TrainingConfig latent_config(const std::string& folder) {
  TrainingConfig config = quiet_config(folder);
  config.seed = 5;
  config.learning_rate = 1e-3;
  config.adam_epsilon = 1e-6;
  config.tensorboard = false;
  config.report = false;
  return config;
}

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
      const Parts parts = parts_of(given, dtype);
      const auto task = parts.task();
      TrainingConfig config = latent_config(folder.path());
      config.noise_offset = parts.noise_offset;
      Trainer trainer(task, config);
      std::vector<double> losses;
      trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
      trainer.train(InOrder(golden_samples()));
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

Json latent_case(const std::string& name) {
  const Json cases = parse_json(latent_golden().metadata.at("cases"), "cases");
  return *std::ranges::find_if(cases, [&](const Json& given) { return given.at("name") == name; });
}

TEST(LatentDiffusionTask, AccumulatedBatchesEqualOneLargeBatch) {
  const LogCapture log;
  for (const char* name : {"inpainting", "hybrid", "adm"}) {
    const auto train = [&](int64_t batch_size, int64_t accumulation) {
      const TemporaryFolder folder;
      const Parts parts = parts_of(latent_case(name), at::kDouble);
      TrainingConfig config = latent_config(folder.path());
      config.train_batch_size = batch_size;
      config.gradient_accumulation_steps = accumulation;
      Trainer(parts.task(), config).train(InOrder(golden_samples()));
      return copies(parts.parameters());
    };
    const std::vector<Tensor> large = train(8, 1);
    const std::vector<Tensor> small = train(2, 4);
    for (std::size_t i = 0; i < large.size(); ++i) expect_close(small[i], large[i], 1e-9, 1e-9, name);
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
      const Parts parts = parts_of(latent_case(name), at::kFloat);
      if (resumes)
        for (Tensor& parameter : parts.parameters()) parameter.detach().zero_();
      Trainer trainer(parts.task(), config);
      trainer.on_step([&](int64_t step) {
        if (step == stop) trainer.request_stop();
      });
      return trainer.train(TensorDataset(golden_samples())).is_complete;
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
  const Parts parts = parts_of(latent_case("none"), at::kFloat);
  Trainer(parts.task(), config).train(TensorDataset(golden_samples()));
  {
    const at::NoGradGuard no_grad;
    parts.encoder.vae()->encoder->conv_in->weight.mul_(2);
  }
  config.resume_from_checkpoint = "latest";
  config.max_train_steps = 4;
  expect_throws_with<Error>([&] { Trainer(parts.task(), config).train(TensorDataset(golden_samples())); },
                            "autoencoder_sha256");
}

TEST(LatentDiffusionTask, TrainsPartsOfTheModelAndLeavesTheAutoencoder) {
  const LogCapture log;
  const TemporaryFolder folder;
  const Parts parts = parts_of(latent_case("none"), at::kFloat);
  TrainingConfig config = latent_config(folder.path());
  config.train_only = {"*attentions*"};
  const TensorMap before(parts.unet.saved->module().named_parameters());
  const std::vector<Tensor> old = copies(parts.parameters());
  const std::vector<Tensor> autoencoder = copies(parts.encoder.vae()->parameters());
  Trainer(parts.task(), config).train(TensorDataset(golden_samples()));
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
    const Parts parts = parts_of(latent_case("inpainting"), at::kFloat);
    TrainingConfig config = latent_config(folder.path());
    config.validation_steps = validates ? 2 : 0;
    const TensorDataset dataset(golden_samples());
    Trainer trainer(parts.task(), config);
    if (validates) {
      trainer.train(dataset, TensorDataset(golden_samples().slice(0, 6)));
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
    Parts parts = parts_of(latent_case("none"), at::kFloat);
    const TensorDataset dataset(golden_samples());
    if (caches)
      parts.options.cache =
          LatentCache::build(folder / "cache", dataset, parts.encoder, {.random_flip = true});
    TrainingConfig config = latent_config(folder.path());
    config.validation_steps = 5;
    // The cache has no held-out data.
    Trainer(parts.task(), config).train(dataset, TensorDataset(golden_samples().images * 0.5));
    return copies(parts.parameters());
  };
  const std::vector<Tensor> cached = train(true);
  const std::vector<Tensor> encoded = train(false);
  // A convolution may sum in another order for another batch size.
  for (std::size_t i = 0; i < cached.size(); ++i) expect_close(cached[i], encoded[i], 1e-4, 1e-5);
}

TEST(LatentDiffusionTask, WritesTheFolderOfAPipeline) {
  const LogCapture log;
  const auto index_of = [](const Parts& parts, const std::string& folder) {
    Trainer(parts.task(), latent_config(folder)).train(TensorDataset(golden_samples()));
    return parse_json(read_text_file(join_path(folder, "model_index.json")), "model_index.json");
  };
  const TemporaryFolder unconditional;
  const Json ldm = index_of(parts_of(latent_case("kl_by_std"), at::kFloat), unconditional.path());
  EXPECT_EQ(ldm.at("_class_name"), "LDMPipeline");
  EXPECT_EQ(ldm.at("vqvae"), Json::array({"diffusers", "AutoencoderKL"}));
  EXPECT_EQ(ldm.at("unet"), Json::array({"diffusers", "UNet2DModel"}));
  EXPECT_EQ(ldm.at("scheduler"), Json::array({"diffusers", "DDPMScheduler"}));
  const auto vqvae = AutoencoderKL::from_pretrained(unconditional / "vqvae");
  EXPECT_NE(vqvae->config().scaling_factor, 0.18215);
  EXPECT_TRUE(file_exists(unconditional / "unet/diffusion_pytorch_model.safetensors"));

  const TemporaryFolder labelled;
  const Json adm = index_of(parts_of(latent_case("adm"), at::kFloat), labelled.path());
  EXPECT_EQ(adm.at("_class_name"), "LatentDiffusionPipeline");
  EXPECT_EQ(adm.at("vae"), Json::array({"diffusers", "AutoencoderKL"}));
  EXPECT_EQ(adm.at("encodes_conditioning_images"), false);
  EXPECT_TRUE(file_exists(labelled / "vae/config.json"));

  // Python's LDMPipeline would not shift the latents back.
  const TemporaryFolder shifted;
  AutoencoderKLConfig config = test::tiny_vae_config();
  config.shift_factor = 0.5;
  Parts parts = parts_of(latent_case("none"), at::kFloat);
  parts.encoder = LatentEncoder(tiny_vae(config));
  EXPECT_EQ(index_of(parts, shifted.path()).at("_class_name"), "LatentDiffusionPipeline");

  const TemporaryFolder encoded;
  const Json concat = index_of(parts_of(latent_case("encoded"), at::kFloat), encoded.path());
  EXPECT_EQ(concat.at("encodes_conditioning_images"), true);
}

LatentDiffusionTaskOptions with_captions(double dropout) {
  const std::string folder = test::golden_path("tiny_stable_diffusion");
  return {.conditioning_key = "crossattn",
          .tokenizer = CLIPTokenizer::from_pretrained(folder, {.subfolder = "tokenizer"}),
          .text_encoder = CLIPTextModel::from_pretrained(folder, {.subfolder = "text_encoder"}),
          .conditioning_dropout_prob = dropout};
}

TEST(LatentDiffusionTask, EmbedsCaptionsAndWritesAStableDiffusionFolder) {
  const LogCapture log;
  Batch samples = golden_samples();
  for (int64_t i = 0; i < samples.size(); ++i)
    samples.captions.emplace_back(i % 2 == 0 ? "a red cat" : "two dogs");
  const auto train = [&](double dropout, const std::string& folder) {
    UNet2DConditionModel unet = tiny_condition_unet(2, 16);
    const auto task = std::make_shared<LatentDiffusionTask>(unet, DDPMScheduler(), LatentEncoder(tiny_vae()),
                                                            with_captions(dropout));
    EXPECT_EQ(task->frozen().size(), 2U);
    Trainer(task, latent_config(folder)).train(TensorDataset(samples));
    return copies(unet->parameters());
  };
  const TemporaryFolder folder;
  const std::vector<Tensor> plain = train(0.0, folder.path());
  const Json index = parse_json(read_text_file(folder / "model_index.json"), "model_index.json");
  EXPECT_EQ(index.at("_class_name"), "StableDiffusionPipeline");
  EXPECT_EQ(index.at("text_encoder"), Json::array({"transformers", "CLIPTextModel"}));
  EXPECT_EQ(index.at("safety_checker"), Json::array({nullptr, nullptr}));
  for (const char* part : {"vae", "text_encoder", "tokenizer", "unet", "scheduler"})
    EXPECT_TRUE(folder_exists(folder / part)) << part;
  const TemporaryFolder dropped;
  const std::vector<Tensor> other = train(0.5, dropped.path());
  bool differs = false;
  for (std::size_t i = 0; i < plain.size(); ++i) differs = differs || !at::equal(plain[i], other[i]);
  EXPECT_TRUE(differs);

  expect_throws_with<ConfigError>(
      [&] {
        LatentDiffusionTask(tiny_condition_unet(2, 6), DDPMScheduler(), LatentEncoder(tiny_vae()),
                            with_captions(0.0));
      },
      "cross_attention_dim of the model is 6, but hidden_size of the text encoder is 16");
  EXPECT_FALSE(log.contains("a caption has more than"));
  std::string long_caption = "cat";
  for (int i = 0; i < 100; ++i) long_caption += " cat";
  samples.captions[3] = long_caption;
  const TemporaryFolder cut;
  train(0.0, cut.path());
  EXPECT_TRUE(log.contains("a caption has more than"));
  const TemporaryFolder without;
  expect_throws_with<TensorError>(
      [&] {
        const auto task = std::make_shared<LatentDiffusionTask>(
            tiny_condition_unet(2, 16), DDPMScheduler(), LatentEncoder(tiny_vae()), with_captions(0.0));
        Trainer(task, latent_config(without.path())).train(TensorDataset(golden_samples()));
      },
      "the dataset gives 0 captions for 4 images");
}

TEST(LatentDiffusionTask, WarnsOfASchedulerThatClipsLatents) {
  const LogCapture log;
  const auto make = [](const Scheduler& scheduler) {
    LatentDiffusionTask(tiny_latent_unet(), scheduler, LatentEncoder(tiny_vae()));
  };
  make(DDPMScheduler({.clip_sample = false}));
  EXPECT_FALSE(log.contains("clip_sample"));
  // The only task of this class here: a warning comes once.
  make(DDIMScheduler());
  EXPECT_TRUE(log.contains("DDIMScheduler: clip_sample is true"));
}

TEST(LatentDiffusionTask, RefusesOptionsThatDoNotFit) {
  const auto refuse = [](const LatentDiffusionTaskOptions& options, const char* part,
                         const TrainableDenoiser& unet = tiny_latent_unet()) {
    expect_throws_with<ConfigError>(
        [&] { LatentDiffusionTask(unet, DDPMScheduler(), LatentEncoder(tiny_vae()), options); }, part);
  };
  const ConditioningFunction states = label_states(at::kFloat);
  refuse({.conditioning_key = "adm"}, "the model takes no class labels");
  refuse({.conditioning_key = "crossattn"}, "nothing gives the hidden states");
  refuse({.conditioning_key = "crossattn", .diffusion = {.conditioning = states}},
         "the model takes no encoder_hidden_states");
  refuse({.concat_input = "inpainting"}, "concat_input is \"inpainting\", but conditioning_key is \"none\"");
  refuse({.conditioning_dropout_prob = 0.1}, "there is nothing to drop");
  refuse({.conditioning_key = "adm", .conditioning_dropout_prob = 0.1}, "class_dropout_prob of the diffusion",
         tiny_latent_unet(2, 5));
  refuse({.conditioning_key = "concat", .conditioning_dropout_prob = 1.0}, "expected 0 to less than 1");
  refuse({.diffusion = {.conditioning = states}}, "a conditioning function is given");
  refuse({.diffusion = {.class_conditional = true}}, "leave it unset");
  refuse({.diffusion = {.class_dropout_prob = 0.1}}, "the model is given no class labels");
  refuse({.unconditional_hidden_states = at::zeros({1, 3, 6})}, "unconditional_hidden_states are given");
  refuse({.conditioning_key = "crossattn",
          .conditioning_dropout_prob = 0.1,
          .diffusion = {.conditioning = states}},
         "there are no unconditional_hidden_states", tiny_condition_unet());
  refuse({}, "expected in_channels 2", tiny_latent_unet(3));
  refuse({.conditioning_key = "concat", .concat_input = "inpainting"}, "expected in_channels 5");
  refuse({.conditioning_key = "concat", .concat_input = "encoded_images"}, "expected in_channels 4");
  refuse({.conditioning_key = "concat"}, "expected in_channels 3");
  LatentDiffusionTaskOptions half = with_captions(0.0);
  half.tokenizer.reset();
  refuse(half, "a tokenizer or a text_encoder without the other", tiny_condition_unet(2, 16));
  LatentDiffusionTaskOptions unused = with_captions(0.0);
  unused.conditioning_key = "none";
  refuse(unused, "a text_encoder is given, but conditioning_key is \"none\"");
  LatentDiffusionTaskOptions twice = with_captions(0.0);
  twice.diffusion.conditioning = states;
  refuse(twice, "a text_encoder and a conditioning function are given", tiny_condition_unet(2, 16));
  expect_throws_with<TensorError>(
      [&] {
        LatentDiffusionTask(tiny_condition_unet(), DDPMScheduler(), LatentEncoder(tiny_vae()),
                            {.conditioning_key = "crossattn",
                             .unconditional_hidden_states = at::zeros({2, 3, 6}),
                             .conditioning_dropout_prob = 0.1,
                             .diffusion = {.conditioning = states}});
      },
      "expected floating [L, D] or [1, L, D]");
}

TEST(LatentDiffusionTask, NamesDataThatDoesNotFit) {
  const LogCapture log;
  const TemporaryFolder unlabelled;
  expect_throws_with<ConfigError>(
      [&] {
        const auto task = std::make_shared<LatentDiffusionTask>(
            tiny_latent_unet(2, 5), DDPMScheduler(), LatentEncoder(tiny_vae()),
            LatentDiffusionTaskOptions{.conditioning_key = "adm"});
        Trainer(task, latent_config(unlabelled.path())).train(TensorDataset(golden_samples().images));
      },
      "conditioning_key is \"adm\", but the dataset has no class labels");
  const auto refuse = [](const std::string& name, const std::function<void(Batch&)>& change,
                         const char* part) {
    const TemporaryFolder folder;
    Batch samples = golden_samples();
    change(samples);
    expect_throws_with<Error>(
        [&] {
          Trainer(parts_of(latent_case(name), at::kFloat).task(), latent_config(folder.path()))
              .train(TensorDataset(samples));
        },
        part);
  };
  refuse(
      "none",
      [](Batch& batch) {
        batch.images = at::zeros({40, 1, 8, 8});
      },
      "in_channels is 3");
  refuse(
      "none",
      [](Batch& batch) {
        batch.images = at::zeros({40, 3, 8, 7});
      },
      "multiples of 2");
  refuse(
      "concat", [](Batch& batch) { batch.conditioning_images = Tensor(); }, "the conditioning images of");
  refuse(
      "concat",
      [](Batch& batch) {
        batch.conditioning_images = at::zeros({40, 1, 8, 8});
      },
      "expected in_channels 3");
  refuse(
      "encoded",
      [](Batch& batch) {
        batch.conditioning_images = at::zeros({40, 3, 4, 4});
      },
      "expected equal sizes");
  refuse(
      "inpainting", [](Batch& batch) { batch.masks = Tensor(); }, "the masks of the dataset are");
}

}  // namespace
}  // namespace diffusers
