// A training step copies only the batch to its device and reads nothing from it. All other data is copied
// before the first step. The test runs complete trainings on a counting device: the traffic of one more step
// may only be the batch. Logging steps, validation and checkpoints read from the device and are left out.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/controlnet_task.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/instruct_pix2pix_task.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/pyramid_noise.h>
#include <diffusers/training/t2i_adapter_task.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/textual_inversion_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/counting_device.h"
#include "support/golden.h"
#include "training/quick_training.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"
#include "training/tiny_text_to_image.h"

namespace diffusers::test {
namespace {

TrainingConfig unlogged_config(const std::string& folder, int64_t steps) {
  TrainingConfig config = quiet_config(folder);
  config.num_epochs = 1000;
  config.max_train_steps = steps;
  config.logging_steps = 1'000'000;
  config.tensorboard = false;
  config.report = false;
  return config;
}

using Change = std::function<void(TrainingConfig&)>;

/// Returns the traffic of one more step without the upload of the batch.
template <class Train>
void expect_batch_alone(const Train& train, const std::string& label, int64_t tensors_of_batch = 1) {
  SCOPED_TRACE(label);
  DeviceTraffic traffic = traffic_of_one(
      [&](int64_t steps) {
        const TemporaryFolder folder;
        train(unlogged_config(folder.path(), steps));
      },
      3);
  traffic["copy to the device"] -= tensors_of_batch;
  std::erase_if(traffic, [](const auto& event) { return event.second == 0; });
  EXPECT_EQ(traffic, DeviceTraffic{});
}

TinyNet device_net() {
  TinyNet model = seeded_net();
  move_to_counting_device(*model);
  return model;
}

TEST(TrainingTraffic, OfAStepIsTheBatchAlone) {
  struct Case {
    const char* label;
    Change change;
    DiffusionTaskOptions options = {};
  };
  const Case cases[] = {
      {"defaults", [](auto&) {}},
      {"snr_gamma", [](auto& config) { config.snr_gamma = 5.0; }},
      {"noise_offset", [](auto& config) { config.noise_offset = 0.1; }},
      {"input_perturbation", [](auto& config) { config.input_perturbation = 0.1; }},
      {"pyramid_noise", [](auto&) {}, {.pyramid_noise_iterations = 4}},
      {"no clipping", [](auto& config) { config.max_grad_norm = 0; }},
      {"fused_backward_pass",
       [](auto& config) { config.max_grad_norm = 0, config.fused_backward_pass = true; }},
      {"fused_backward_pass, adafactor",
       [](auto& config) {
         config.max_grad_norm = 0, config.fused_backward_pass = true;
         config.optimizer = OptimizerType::kAdafactor;
         config.lr_scheduler = "linear";
       }},
      {"use_ema", [](auto& config) { config.use_ema = true; }},
      {"use_ema, no warm-up", [](auto& config) { config.use_ema = true, config.use_ema_warmup = false; }},
      {"lit_ema", [](auto& config) { config.use_ema = true, config.ema_type = EMAType::kLitEma; }},
      {"lr_factors",
       [](auto& config) {
         config.lr_factors = {{"*.bias", 0.5}};
       }},
      {"post_hoc_ema",
       [](auto& config) {
         config.post_hoc_ema_sigma_rels = {0.05, 0.1};
       }},
      {"adafactor", [](auto& config) { config.optimizer = OptimizerType::kAdafactor; }},
      {"lion", [](auto& config) { config.optimizer = OptimizerType::kLion; }},
      {"adam", [](auto& config) { config.optimizer = OptimizerType::kAdam; }},
      {"sgd",
       [](auto& config) {
         config.optimizer = OptimizerType::kSGD;
         config.sgd_momentum = 0.9;
       }},
      {"huber",
       [](auto& config) {
         config.loss_type = LossType::kHuber;
         config.huber_schedule = HuberSchedule::kSnr;
       }},
      {"huber, exponential",
       [](auto& config) {
         config.loss_type = LossType::kSmoothL1;
         config.huber_schedule = HuberSchedule::kExponential;
       }},
      {"l1", [](auto& config) { config.loss_type = LossType::kL1; }},
      {"elbo", [](auto&) {}, {.original_elbo_weight = 0.1}},
      {"stratified", [](auto&) {}, {.timestep_sampling = TimestepSampling::kStratified}},
      {"antithetic", [](auto&) {}, {.timestep_sampling = TimestepSampling::kAntithetic}},
      {"logit_normal", [](auto&) {}, {.timestep_sampling = TimestepSampling::kLogitNormal}},
      {"cubic", [](auto&) {}, {.timestep_sampling = TimestepSampling::kCubic}},
      {"mode", [](auto&) {}, {.timestep_sampling = TimestepSampling::kMode}},
      {"bias", [](auto& config) { config.timestep_bias_strategy = TimestepBias::kLater; }},
      {"cosine lr", [](auto& config) { config.lr_scheduler = "cosine"; }},
  };
  for (const Case& one : cases)
    expect_batch_alone(
        [&](TrainingConfig config) {
          one.change(config);
          Trainer(device_net(), DDPMScheduler(), config, one.options).train(TinyImages(16));
        },
        one.label);
}

TEST(TrainingTraffic, OfEveryWeightingIsTheBatchAlone) {
  for (const auto& [weighting, name] : EnumNames<LossWeighting>::kTable)
    expect_batch_alone(
        [&, weighting = weighting](TrainingConfig config) {
          DiffusionTaskOptions options;
          options.weighting = weighting;
          if (weighting == LossWeighting::kMinSnr || weighting == LossWeighting::kSoftMinSnr)
            config.snr_gamma = 5.0;
          Trainer(device_net(), DDPMScheduler(), config, options).train(TinyImages(16));
        },
        std::string(name));
}

TEST(TrainingTraffic, OfAccumulatedBatchesIsTheBatchesAlone) {
  expect_batch_alone(
      [&](TrainingConfig config) {
        config.gradient_accumulation_steps = 2;
        Trainer(device_net(), DDPMScheduler(), config).train(TinyImages(16));
      },
      "accumulation", 2);
}

TEST(TrainingTraffic, OfAUNet2DModelIsTheBatchAlone) {
  for (const bool checkpointing : {false, true})
    expect_batch_alone(
        [&](TrainingConfig config) {
          UNet2DModel model({.sample_size = 8,
                             .in_channels = 1,
                             .out_channels = 1,
                             .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                             .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                             .block_out_channels = {8, 16},
                             .layers_per_block = 1,
                             .norm_num_groups = 4,
                             .num_class_embeds = 11});
          move_to_counting_device(*model);
          config.gradient_checkpointing = checkpointing;
          Trainer(model, DDPMScheduler(), config, {.class_dropout_prob = 0.2})
              .train(TinyImages(16, /*has_labels=*/true, /*side=*/8));
        },
        checkpointing ? "gradient_checkpointing" : "unet", 2);
}

TEST(TrainingTraffic, OfEDMIsTheBatchAlone) {
  expect_batch_alone(
      [&](const TrainingConfig& config) {
        Trainer(std::make_shared<EDMTask>(make_trainable(device_net())), config).train(TinyImages(16));
      },
      "edm");
}

TEST(TrainingTraffic, OfLatentDiffusionIsTheBatchAlone) {
  struct Case {
    const char* label;
    int64_t tensors_of_batch;
    LatentDiffusionTaskOptions options = {};
    int64_t channels = 2;
    bool scale_by_std = false;
    bool caches = false;
  };
  const Tensor states = at::randn({10, 3, 6}, make_generator(1)).to(counting_device());
  const DiffusionTaskOptions by_label{.conditioning = [states](const Batch& batch) {
    return Conditioning{.encoder_hidden_states = states.index_select(0, batch.class_labels)};
  }};
  // The images; for some the labels, the masks or the conditioning images; means and log-variances of a
  // cache.
  const Case cases[] = {
      {"none", 1},
      {"scale_by_std", 1, {}, 2, true},
      {"cache", 3, {}, 2, false, true},
      {"adm", 2, {.conditioning_key = "adm", .diffusion = {.class_dropout_prob = 0.2}}},
      {"crossattn",
       2,
       {.conditioning_key = "crossattn",
        .unconditional_hidden_states = states.slice(0, 0, 1),
        .conditioning_dropout_prob = 0.2,
        .diffusion = by_label}},
      {"concat", 2, {.conditioning_key = "concat", .conditioning_dropout_prob = 0.2}, 5},
      {"encoded", 2, {.conditioning_key = "concat", .concat_input = "encoded_images"}, 4},
      {"inpainting", 2, {.conditioning_key = "concat", .concat_input = "inpainting"}, 5},
      {"hybrid", 3, {.conditioning_key = "hybrid", .diffusion = by_label}, 5},
  };
  const LogCapture log;
  for (const Case& one : cases) {
    const bool attends =
        one.options.conditioning_key == "crossattn" || one.options.conditioning_key == "hybrid";
    const bool has_labels = attends || one.options.conditioning_key == "adm";
    const bool inpaints = one.options.concat_input == "inpainting";
    Batch samples{.images = tiny_images(16)};
    if (has_labels) samples.class_labels = at::arange(16).remainder(10);
    if (one.channels > 2 && !inpaints) samples.conditioning_images = at::rand({16, 3, 8, 8});
    if (inpaints) samples.masks = at::ones({16, 1, 8, 8});
    const TensorDataset dataset(samples);
    const TemporaryFolder cache;
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          AutoencoderKL vae = tiny_vae();
          move_to_counting_device(*vae);
          const LatentEncoder encoder(vae, {.scale_by_std = one.scale_by_std});
          const auto unet = [&]() -> TrainableDenoiser {
            if (attends) {
              UNet2DConditionModel model = tiny_condition_unet(one.channels);
              move_to_counting_device(*model);
              return model;
            }
            UNet2DModel model =
                tiny_latent_unet(one.channels, has_labels ? std::optional<int64_t>(11) : std::nullopt);
            move_to_counting_device(*model);
            return model;
          };
          LatentDiffusionTaskOptions options = one.options;
          if (one.caches) options.cache = LatentCache::build(cache.path(), dataset, encoder);
          Trainer(std::make_shared<LatentDiffusionTask>(unet(), DDPMScheduler(), encoder, options), config)
              .train(dataset);
        },
        one.label, one.tensors_of_batch);
  }
}

TEST(TrainingTraffic, OfAnAutoencoderIsTheBatchAlone) {
  const std::vector<std::string> down = {"DownEncoderBlock2D", "DownEncoderBlock2D"};
  const std::vector<std::string> up = {"UpDecoderBlock2D", "UpDecoderBlock2D"};
  const auto networks = [](bool use_actnorm) {
    return std::pair(
        LPIPS({.net = "alex"}),
        NLayerDiscriminator({.input_nc = 1, .ndf = 4, .n_layers = 2, .use_actnorm = use_actnorm}));
  };
  const TinyImages images(16, /*has_labels=*/false, /*side=*/16);
  expect_batch_alone(
      [&](const TrainingConfig& config) {
        AutoencoderKL vae({.in_channels = 1,
                           .out_channels = 1,
                           .down_block_types = down,
                           .up_block_types = up,
                           .block_out_channels = {4, 8},
                           .norm_num_groups = 2});
        const auto [lpips, disc] = networks(/*use_actnorm=*/false);
        LPIPSWithDiscriminator loss({}, lpips, disc);
        move_to_counting_device(*vae);
        move_to_counting_device(*loss);
        Trainer(std::make_shared<AutoencoderTask>(vae, loss), config).train(images);
      },
      "kl");
  expect_batch_alone(
      [&](const TrainingConfig& config) {
        VQModel vq({.in_channels = 1,
                    .out_channels = 1,
                    .down_block_types = down,
                    .up_block_types = up,
                    .block_out_channels = {4, 8},
                    .num_vq_embeddings = 8,
                    .norm_num_groups = 2});
        const auto [lpips, disc] = networks(/*use_actnorm=*/true);
        VQLPIPSWithDiscriminator loss({}, lpips, disc);
        move_to_counting_device(*vq);
        move_to_counting_device(*loss);
        Trainer(std::make_shared<AutoencoderTask>(vq, loss), config).train(images);
      },
      "vq");
}

TEST(TrainingTraffic, OfEveryPredictionTypeIsTheBatchAlone) {
  for (const PredictionType type :
       {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction})
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          Trainer(device_net(), DDPMScheduler({.prediction_type = type}), config).train(TinyImages(16));
        },
        std::string(enum_name(type)));
  for (const bool continuous : {false, true})
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          Trainer(device_net(), FlowMatchEulerDiscreteScheduler({.shift = 3.0}), config,
                  {.continuous_timesteps = continuous})
              .train(TinyImages(16));
        },
        continuous ? "flow, any sigma" : "flow");
}

TEST(TrainingTraffic, OfAStepWithLabelsIsTheBatchAlone) {
  for (const double dropout : {0.0, 0.3})
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          LabelledNet model;
          model->facts.num_class_embeds = 11;
          move_to_counting_device(*model);
          Trainer(model, DDPMScheduler(), config, {.class_dropout_prob = dropout})
              .train(TinyImages(16, /*has_labels=*/true));
        },
        "labels", 2);
}

/// A dataset of TinyImages that sets every field of a batch.
class AllFields : public TinyImages {
 public:
  using TinyImages::TinyImages;
  Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
    Batch batch = TinyImages::get_batch(indices, seed);
    const int64_t size = batch.size();
    batch.class_labels = at::zeros({size}, at::kLong);
    batch.captions.assign(static_cast<std::size_t>(size), "a picture");
    batch.conditioning_images = at::zeros_like(batch.images);
    batch.original_images = at::zeros_like(batch.images);
    batch.masks = at::zeros_like(batch.images);
    batch.original_sizes = at::zeros({size, 2}, at::kLong);
    batch.crop_top_lefts = at::zeros({size, 2}, at::kLong);
    batch.is_prior = at::zeros({size}, at::kBool);
    return batch;
  }
};

TEST(TrainingTraffic, OfEveryFieldIsWhatAModelReads) {
  // The step uploads images, class labels, conditioning images, original images, masks and is_prior. Sizes,
  // crops and indices stay on the host.
  expect_batch_alone(
      [&](const TrainingConfig& config) {
        Trainer(device_net(), DDPMScheduler(), config).train(AllFields(16));
      },
      "all fields", 6);
}

/// Models on the counting device, to which no module is moved in the usual way.
/// @param change changes the models before
TextToImageModels device_models(const TinyTextToImage& kind,
                                const std::function<void(TextToImageModels&)>& change = {}) {
  TextToImageModels models = tiny_text_to_image(kind);
  if (change) change(models);
  move_to_counting_device(*models.unet);
  move_to_counting_device(*models.vae);
  move_to_counting_device(*models.text_encoder);
  if (kind.is_xl) move_to_counting_device(*models.text_encoder_2);
  return models;
}

TensorDataset captioned_images(bool has_masks, bool has_conditioning_images) {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors")).slice(0, 16);
  samples.captions.assign(16, "a red cat");
  if (!has_masks) samples.masks = Tensor();
  if (!has_conditioning_images) samples.conditioning_images = Tensor();
  return TensorDataset(samples);
}

TEST(TrainingTraffic, OfTextToImageIsTheBatchAndTheTokens) {
  struct Case {
    const char* label;
    TinyTextToImage kind;
    TextToImageTaskOptions options;
    int64_t tensors;
  };
  const Case cases[] = {
      {"text to image", {}, {}, 2},
      {"text encoder, empty prompts", {}, {.train_text_encoder = true, .proportion_empty_prompts = 0.3}, 2},
      {"inpainting", {.in_channels = 9}, {}, 3},
      // The tokens of two encoders and the time ids.
      {"xl", {.is_xl = true}, {.proportion_empty_prompts = 0.3}, 4},
  };
  for (const Case& one : cases)
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          Trainer(std::make_shared<TextToImageTask>(device_models(one.kind), one.options), config)
              .train(captioned_images(one.kind.in_channels == 9, false));
        },
        one.label, one.tensors);
}

TEST(TrainingTraffic, OfControlNetIsTheBatchAndTheTokens) {
  expect_batch_alone(
      [&](const TrainingConfig& config) {
        const TextToImageModels models = device_models({});
        ControlNetModel controlnet = ControlNetModel::from_unet(
            tiny_text_to_image().unet, {.conditioning_embedding_out_channels = {4, 8}});
        move_to_counting_device(*controlnet);
        Trainer(std::make_shared<ControlNetTask>(models, controlnet), config)
            .train(captioned_images(false, true));
      },
      "controlnet", 3);
}

TEST(TrainingTraffic, OfT2IAdapterIsTheBatchAndTheTokens) {
  for (const bool is_xl : {false, true})
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          T2IAdapter adapter = T2IAdapterTask::make_adapter(tiny_text_to_image({.is_xl = is_xl}));
          move_to_counting_device(*adapter);
          Trainer(std::make_shared<T2IAdapterTask>(device_models({.is_xl = is_xl}), adapter,
                                                   T2IAdapterTaskOptions{.proportion_empty_prompts = 0.3}),
                  config)
              .train(captioned_images(false, true));
        },
        // For XL also the tokens of the second encoder and the time ids.
        is_xl ? "t2i adapter, xl" : "t2i adapter", is_xl ? 5 : 3);
}

TEST(TrainingTraffic, OfLoraIsTheBatchAndTheTokens) {
  for (const bool dora : {false, true})
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          TextToImageLoraTaskOptions options;
          options.unet_lora.use_dora = dora;
          options.unet_lora.lora_dropout = 0.1;
          Trainer(std::make_shared<TextToImageLoraTask>(device_models({}), options), config)
              .train(captioned_images(false, false));
        },
        dora ? "lora, dora" : "lora", 2);
}

TEST(TrainingTraffic, OfTextualInversionIsTheBatchAndTheTokens) {
  for (const bool is_xl : {false, true})
    expect_batch_alone(
        [&](const TrainingConfig& config) {
          const auto grow = [](TextToImageModels& models) {
            models.text_encoder->resize_token_embeddings(models.tokenizer.size() + 2);
          };
          const auto task = std::make_shared<TextualInversionTask>(
              device_models({.is_xl = is_xl}, grow),
              TextualInversionTaskOptions{
                  .placeholder_token = "<toy>", .initializer_token = "cat", .num_vectors = 2});
          Batch samples = captioned_images(false, false).samples();
          samples.captions.assign(16, "a red " + task->placeholder());
          Trainer(task, config).train(TensorDataset(samples));
        },
        is_xl ? "textual inversion, xl" : "textual inversion", is_xl ? 4 : 2);
}

TEST(TrainingTraffic, OfInstructPix2PixIsTheBatchAndTheTokens) {
  expect_batch_alone(
      [&](const TrainingConfig& config) {
        const TextToImageModels models = device_models({}, [](TextToImageModels& changed) {
          changed.unet = InstructPix2PixTask::widened_unet(changed.unet);
        });
        Batch samples = captioned_images(false, false).samples();
        samples.original_images = samples.images.flip({3});
        Trainer(std::make_shared<InstructPix2PixTask>(
                    models, InstructPix2PixTaskOptions{.conditioning_dropout_prob = 0.2}),
                config)
            .train(TensorDataset(samples));
      },
      "instruct pix2pix", 3);
}

TEST(TrainingTraffic, OfDreamBoothIsTheBatchTheKindsAndTheTokens) {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors")).slice(0, 16);
  samples.captions.assign(16, "a red cat");
  samples.masks = samples.conditioning_images = Tensor();
  samples.is_prior = at::arange(16) % 3 == 0;
  const auto train = [&](bool is_lora) {
    expect_batch_alone(
        [&](TrainingConfig config) {
          config.gradient_accumulation_steps = 2;
          std::shared_ptr<Task> task;
          if (is_lora) {
            task = std::make_shared<TextToImageLoraTask>(
                device_models({}), TextToImageLoraTaskOptions{.prior_loss_weight = 0.5});
          } else {
            task = std::make_shared<TextToImageTask>(device_models({}),
                                                     TextToImageTaskOptions{.prior_loss_weight = 0.5});
          }
          Trainer(task, config).train(TensorDataset(samples));
        },
        // Of each of the two batches: images, kinds and tokens.
        is_lora ? "dreambooth, lora" : "dreambooth", 6);
  };
  train(false);
  train(true);
}

TEST(TrainingTraffic, PyramidNoiseOnADeviceFollowsItsGenerator) {
  const at::TensorOptions options = at::TensorOptions().device(counting_device());
  const auto drawn = [&](uint64_t seed, int64_t before) {
    Generator generator =
        at::globalContext().getAcceleratorHooksInterface(counting_device().type()).getNewGenerator(0);
    generator.set_current_seed(seed);
    for (int64_t i = 0; i < before; ++i) at::randn({1}, generator, options);
    const Tensor noise = at::randn({2, 1, 16, 16}, generator, options);
    return pyramid_noise(noise, {.iterations = 4, .discount = 0.8}, generator).cpu();
  };
  EXPECT_TRUE(at::equal(drawn(1, 0), drawn(1, 0)));
  EXPECT_FALSE(at::allclose(drawn(1, 0), drawn(2, 0)));
  EXPECT_FALSE(at::allclose(drawn(1, 0), drawn(1, 1)));
  EXPECT_NEAR(drawn(1, 0).std().item<double>(), 1.0, 1e-4);
}

}  // namespace
}  // namespace diffusers::test
