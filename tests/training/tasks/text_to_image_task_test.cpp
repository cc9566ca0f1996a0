// TextToImageTask against ten steps of Python's scripts, and what a training needs before and writes after.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/training/text_to_image_task.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_text_to_image.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::load_golden;
using test::LogCapture;
using test::parity_config;
using test::parity_samples;
using test::TemporaryFolder;
using test::tiny_text_to_image;
using test::TinyTextToImage;

constexpr const char* kTextToImageGolden = "text_to_image.safetensors";

struct ParityCase {
  const char* name;
  TinyTextToImage kind = {};
  TextToImageTaskOptions options = {};
  std::function<void(TrainingConfig&)> change = [](auto&) {};
};

std::vector<ParityCase> parity_cases() {
  return {{"epsilon"},
          {"v",
           {.prediction_type = "v_prediction"},
           {},
           [](auto& config) {
             config.snr_gamma = 5.0;
             config.noise_offset = 0.1;
             config.use_ema = true;
             config.use_ema_warmup = false;
           }},
          {"perturbed",
           {},
           {.proportion_empty_prompts = 0.3},
           [](auto& config) { config.input_perturbation = 0.1; }},
          {"text", {}, {.train_text_encoder = true}},
          {"inpainting", {.in_channels = 9}},
          {"xl", {.is_xl = true}, {.proportion_empty_prompts = 0.3}}};
}

void expect_parity(ParityCase one, at::ScalarType dtype, const std::function<void(TrainingConfig&)>& change) {
  SCOPED_TRACE(one.name);
  const auto golden = load_golden(kTextToImageGolden);
  const TemporaryFolder folder;
  const LogCapture log;
  TrainingConfig config = parity_config(folder.path());
  one.change(config);
  change(config);
  one.kind.dtype = dtype;
  const auto task = std::make_shared<TextToImageTask>(tiny_text_to_image(one.kind), one.options);
  Batch samples = parity_samples(golden);
  samples.conditioning_images = Tensor();
  if (one.kind.in_channels != 9) samples.masks = Tensor();
  test::expect_trajectory(one.name, task, config, samples, dtype, golden);
}

TEST(TextToImageTask, FollowsThePythonScripts) {
  for (const ParityCase& one : parity_cases())
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) expect_parity(one, dtype, [](auto&) {});
}

TEST(TextToImageTask, AccumulatedBatchesDrawWhatOneLargeBatchDraws) {
  for (const ParityCase& one : parity_cases())
    expect_parity(one, at::kDouble, [](auto& config) {
      config.train_batch_size = 2;
      config.gradient_accumulation_steps = 2;
    });
}

TEST(TextToImageTask, GradientCheckpointingChangesNothing) {
  for (const ParityCase& one : parity_cases())
    expect_parity(one, at::kDouble, [](auto& config) { config.gradient_checkpointing = true; });
}

TEST(TextToImageTask, DividedBatchesChangeNothing) {
  for (const ParityCase& one : parity_cases())
    for (const bool is_checkpointing : {false, true})
      expect_parity(one, at::kDouble, [&](auto& config) {
        config.cpu_data_parallel = 3;
        config.gradient_checkpointing = is_checkpointing;
      });
}

Batch few_samples(bool has_masks = false) {
  const auto golden = load_golden(kTextToImageGolden);
  Batch samples = parity_samples(golden).slice(0, 12);
  samples.conditioning_images = Tensor();
  if (!has_masks) samples.masks = Tensor();
  return samples;
}

std::shared_ptr<TextToImageTask> make_task(const TinyTextToImage& kind = {},
                                           const TextToImageTaskOptions& options = {}) {
  return std::make_shared<TextToImageTask>(tiny_text_to_image(kind), options);
}

TEST(TextToImageTask, WritesAPipelineFolder) {
  struct Case {
    TinyTextToImage kind;
    bool trains_text;
    const char* class_name;
  };
  for (const Case& one :
       {Case{{}, false, "StableDiffusionPipeline"}, Case{{}, true, "StableDiffusionPipeline"},
        Case{{.in_channels = 9}, false, "StableDiffusionInpaintPipeline"},
        Case{{.is_xl = true}, false, "StableDiffusionXLPipeline"},
        Case{{.is_xl = true}, true, "StableDiffusionXLPipeline"}}) {
    SCOPED_TRACE(one.class_name);
    const LogCapture log;
    const TemporaryFolder folder;
    TrainingConfig config = parity_config(folder.path());
    config.max_train_steps = 2;
    const auto task = make_task(one.kind, {.train_text_encoder = one.trains_text});
    Trainer(task, config).train(TensorDataset(few_samples(one.kind.in_channels == 9)));
    EXPECT_NE(read_text_file(folder / "model_index.json").find(one.class_name), std::string::npos);
    const TextToImageModels loaded = TextToImageModels::from_pretrained(folder.path());
    const TextToImageModels& models = task->models();
    EXPECT_EQ(loaded.is_xl(), one.kind.is_xl);
    EXPECT_EQ(loaded.is_inpainting(), one.kind.in_channels == 9);
    EXPECT_EQ(loaded.scheduler->config_json(), models.scheduler->config_json());
    EXPECT_EQ(loaded.scheduler->class_name(), "PNDMScheduler");
    EXPECT_EQ(loaded.tokenizer.encode("a red cat"), models.tokenizer.encode("a red cat"));
    const auto expect_same = [](auto found, auto expected) {
      for (std::size_t i = 0; i < expected->parameters().size(); ++i)
        expect_equal(found->parameters()[i], expected->parameters()[i]);
    };
    expect_same(loaded.unet, models.unet);
    expect_same(loaded.vae, models.vae);
    expect_same(loaded.text_encoder, models.text_encoder);
    if (one.kind.is_xl) expect_same(loaded.text_encoder_2, models.text_encoder_2);
    const auto before = tiny_text_to_image(one.kind);
    EXPECT_EQ(at::equal(before.text_encoder->parameters().front(), models.text_encoder->parameters().front()),
              !one.trains_text);
    EXPECT_FALSE(at::equal(before.unet->parameters().front(), models.unet->parameters().front()));
    expect_same(loaded.vae, before.vae);
  }
}

TEST(TextToImageTask, ModelsAreSavedAsAWholeFolder) {
  const TemporaryFolder folder;
  const TextToImageModels models = tiny_text_to_image({.is_xl = true});
  models.save_pretrained(folder.path());
  const TextToImageModels loaded = TextToImageModels::from_pretrained(
      parent_folder(folder.path()), {.subfolder = base_name(folder.path())});
  for (std::size_t i = 0; i < models.unet->parameters().size(); ++i)
    expect_equal(loaded.unet->parameters()[i], models.unet->parameters()[i]);
  EXPECT_TRUE(loaded.force_zeros_for_empty_prompt);
}

TEST(TextToImageTask, ResumesBitForBit) {
  const LogCapture log;
  const auto train_until = [](const std::string& folder, int64_t stop, bool resumes) {
    TrainingConfig config = parity_config(folder);
    config.max_train_steps = 5;
    config.checkpointing_steps = 5;
    config.use_ema = true;
    config.use_ema_warmup = false;
    config.gradient_accumulation_steps = 2;
    config.train_batch_size = 2;
    if (resumes) config.resume_from_checkpoint = "latest";
    const auto task = make_task({}, {.train_text_encoder = true, .proportion_empty_prompts = 0.4});
    if (resumes)
      for (const NamedModule& named : task->trained())
        for (Tensor& parameter : named.module->module().parameters()) parameter.detach().zero_();
    Trainer trainer(task, config);
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    return trainer.train(TensorDataset(few_samples())).is_complete;
  };
  const TemporaryFolder whole;
  EXPECT_TRUE(train_until(whole.path(), -1, false));
  const TemporaryFolder parts;
  EXPECT_FALSE(train_until(parts.path(), 2, false));
  EXPECT_TRUE(train_until(parts.path(), -1, true));
  for (const char* name : {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
                           "unet_ema/diffusion_pytorch_model.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(read_text_file(join_path(parts / "checkpoint-5", name)),
              read_text_file(join_path(whole / "checkpoint-5", name)))
        << name;
  // The average is one of the UNet.
  EXPECT_FALSE(folder_exists(join_path(whole / "checkpoint-5", "text_encoder_ema")));
}

TEST(TextToImageTask, ALongCaptionIsCutWithOneWarning) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 2;
  Batch samples = few_samples();
  samples.captions.assign(12, "cat");
  std::string text;
  const LogSink sink = set_log_sink([&](LogLevel, std::string_view message) { text += message; });
  Trainer(make_task(), config).train(TensorDataset(samples));
  EXPECT_EQ(text.find("cut off"), std::string::npos);
  for (std::string& caption : samples.captions) {
    caption.clear();
    for (int i = 0; i < 80; ++i) caption += "dog ";
  }
  config.overwrite_output_dir = true;
  Trainer(make_task(), config).train(TensorDataset(samples));
  set_log_sink(sink);
  const std::size_t first = text.find("this part of a caption was cut off");
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(text.find("was cut off", first + 40), std::string::npos);
  EXPECT_NE(text.find("takes 77 tokens"), std::string::npos);
}

TEST(TextToImageTask, ValidationDrawsTheSameEachTime) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 2;
  config.validation_steps = 1;
  config.learning_rate = 0;
  for (const bool is_inpainting : {false, true}) {
    config.overwrite_output_dir = true;
    Trainer trainer(make_task({.in_channels = is_inpainting ? 9 : 4}, {.proportion_empty_prompts = 0.5}),
                    config);
    std::vector<double> losses;
    trainer.on_validation([&](const ValidationResult& result) { losses.push_back(result.loss); });
    const TensorDataset data(few_samples(is_inpainting));
    trainer.train(data, data);
    ASSERT_GE(losses.size(), 2U);
    for (const double loss : losses) EXPECT_EQ(loss, losses.front());
  }
}

TEST(TextToImageTask, TrainsInHalfPrecision) {
  const LogCapture log;
  const auto final_loss = [](MixedPrecision precision) {
    const TemporaryFolder folder;
    TrainingConfig config = parity_config(folder.path());
    config.max_train_steps = 2;
    config.mixed_precision = precision;
    return Trainer(make_task(), config).train(TensorDataset(few_samples())).loss;
  };
  EXPECT_NEAR(final_loss(MixedPrecision::kBf16), final_loss(MixedPrecision::kNo), 0.05);
}

TEST(TextToImageTask, ComponentsThatDoNotFitAreNamed) {
  const auto construct = [](const TextToImageModels& models) { const TextToImageTask task(models); };
  TextToImageModels models = tiny_text_to_image();
  models.unet = UNet2DConditionModel(test::tiny_unet_config({.in_channels = 5}));
  expect_throws_with<ConfigError>([&] { construct(models); }, "in_channels of the unet is 5");
  UNet2DConditionModelConfig wide = test::tiny_unet_config();
  wide.cross_attention_dim = 24;
  models.unet = UNet2DConditionModel(wide);
  expect_throws_with<ConfigError>([&] { construct(models); },
                                  "cross_attention_dim of the unet is 24, but the hidden states of "
                                  "text_encoder have the width 16");
  models = tiny_text_to_image();
  models.text_encoder = nullptr;
  expect_throws_with<ConfigError>([&] { construct(models); }, "the component \"text_encoder\" is missing");
  models = tiny_text_to_image();
  models.scheduler = {};
  expect_throws_with<ConfigError>([&] { construct(models); }, "the component \"scheduler\" is missing");
  models = tiny_text_to_image();
  models.tokenizer.add_tokens({"<new>"});
  expect_throws_with<ConfigError>([&] { construct(models); }, "vocab_size");
  models = tiny_text_to_image();
  models.tokenizer_2 = models.tokenizer;
  expect_throws_with<ConfigError>([&] { construct(models); }, "addition_embed_type of the unet is not");
  models = tiny_text_to_image({.is_xl = true});
  models.text_encoder_2 = nullptr;
  expect_throws_with<ConfigError>([&] { construct(models); }, "the component \"text_encoder_2\" is missing");
  UNet2DConditionModelConfig other = test::tiny_unet_config({.is_xl = true});
  other.projection_class_embeddings_input_dim = 40;
  models = tiny_text_to_image({.is_xl = true});
  models.unet = UNet2DConditionModel(other);
  expect_throws_with<ConfigError>([&] { construct(models); },
                                  "projection_class_embeddings_input_dim of the unet is 40");
  expect_throws_with<ConfigError>(
      [&] { TextToImageTask task(tiny_text_to_image(), {.proportion_empty_prompts = 1.5}); },
      "proportion_empty_prompts is 1.5, expected 0 to 1");
  expect_throws_with<ConfigError>(
      [&] {
        TextToImageTask task(tiny_text_to_image(),
                             {.diffusion = {.conditioning = [](const Batch&) { return Conditioning(); }}});
      },
      "conditioning is set");
}

TEST(TextToImageTask, DataThatDoesNotFitIsNamedBeforeTheFirstStep) {
  const LogCapture log;
  const auto train = [](const Batch& samples, const TinyTextToImage& kind = {}) {
    const TemporaryFolder folder;
    Trainer(make_task(kind), parity_config(folder.path())).train(TensorDataset(samples));
  };
  Batch samples = few_samples();
  samples.captions.clear();
  expect_throws_with<ConfigError>([&] { train(samples); }, "0 captions for 4 images");
  expect_throws_with<ConfigError>([&] { train(few_samples(), {.in_channels = 9}); },
                                  "trained with masks, but the dataset gives none");
  samples = few_samples(true);
  samples.masks = at::zeros({12, 1, 8, 8});
  expect_throws_with<TensorError>([&] { train(samples, {.in_channels = 9}); },
                                  "masks are float32 [4, 1, 8, 8]");
  samples = few_samples();
  samples.images = at::zeros({12, 3, 15, 15});
  expect_throws_with<TensorError>([&] { train(samples); }, "multiples of 2");
  samples = few_samples();
  samples.original_sizes = at::zeros({12, 3}, at::kLong);
  expect_throws_with<TensorError>([&] { train(samples, {.is_xl = true}); }, "original_sizes are");
  train(few_samples(true));
  EXPECT_TRUE(log.contains("so they are not used; an inpainting UNet has 9"));
}

TEST(TextToImageTask, SizesThatAreMissingAreThoseOfTheImages) {
  const LogCapture log;
  const auto final_loss = [](const Batch& samples) {
    const TemporaryFolder folder;
    TrainingConfig config = parity_config(folder.path());
    config.max_train_steps = 1;
    return Trainer(make_task({.is_xl = true}), config).train(TensorDataset(samples)).loss;
  };
  Batch samples = few_samples();
  samples.original_sizes = at::full({12, 2}, 16, at::kLong);
  samples.crop_top_lefts = at::zeros({12, 2}, at::kLong);
  const double given = final_loss(samples);
  samples.original_sizes = Tensor();
  samples.crop_top_lefts = Tensor();
  EXPECT_EQ(final_loss(samples), given);
  EXPECT_NE(final_loss(few_samples()), given);
}

/// Gives access to the inputs of the UNet.
class OpenTextToImage : public TextToImageTask {
 public:
  using TextToImageTask::conditioning;
  using TextToImageTask::draw;
  using TextToImageTask::TextToImageTask;
};

TEST(TextToImageTask, ATextEncoderWithAttentionMaskSeesTheTokensOfTheCaptionAlone) {
  TextToImageModels models = tiny_text_to_image();
  auto config = nlohmann::json::parse(models.text_encoder->config_json());
  config["use_attention_mask"] = true;
  CLIPTextModel masked = CLIPTextModel::from_config(config.dump());
  load_state_dict(masked, state_dict(models.text_encoder));
  masked->eval();
  models.text_encoder = masked;
  Batch batch = few_samples().slice(0, 3);
  const auto encode = [&](const Texts& texts) {
    const BatchEncoding tokens =
        models.tokenizer(texts, {.padding = Padding::kMaxLength, .truncation = true, .max_length = 77});
    return masked->forward(tokens.input_ids, {.attention_mask = tokens.attention_mask}).last_hidden_state;
  };
  OpenTextToImage task(models);
  expect_equal(task.conditioning(batch).encoder_hidden_states, encode(batch.captions));

  OpenTextToImage dropping(models, {.proportion_empty_prompts = 1.0});
  dropping.configure({});
  dropping.begin_step({.samples = 3, .generator = make_generator(0)});
  dropping.draw(at::zeros({3, 4, 8, 8}));
  expect_equal(dropping.conditioning(batch).encoder_hidden_states, encode(std::vector<std::string>(3)));
}

TEST(TextToImageModels, AFolderThatLacksAComponentIsRefused) {
  const TemporaryFolder folder;
  tiny_text_to_image().save_pretrained(folder.path());
  remove_folder(folder / "vae");
  expect_throws_with<FileError>([&] { TextToImageModels::from_pretrained(folder.path()); },
                                "the folder of component \"vae\" is missing");
  tiny_text_to_image({.is_xl = true}).save_pretrained(folder.path());
  std::string index = read_text_file(folder / "model_index.json");
  const std::size_t at = index.find("tokenizer_2");
  index[at] = 'T';
  write_file(index, folder / "model_index.json");
  expect_throws_with<FileError>([&] { TextToImageModels::from_pretrained(folder.path()); },
                                "component \"tokenizer_2\" is missing");
  const TemporaryFolder empty;
  expect_throws_with<FileError>([&] { TextToImageModels::from_pretrained(empty.path()); },
                                "model_index.json");
}

}  // namespace
}  // namespace diffusers
