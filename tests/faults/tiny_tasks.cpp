#include "faults/tiny_tasks.h"

#include <array>
#include <atomic>
#include <csignal>
#include <span>
#include <string>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/controlnet_task.h>
#include <diffusers/training/instruct_pix2pix_task.h>
#include <diffusers/training/latent_cache.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/t2i_adapter_task.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/textual_inversion_task.h>

#include <ATen/ATen.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"
#include "training/tiny_model.h"

namespace diffusers::faults {
namespace {

constexpr int64_t kSamples = 18;

[[noreturn]] void end_process() {
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

/// Images of one channel, for the denoiser.
class DeadlyImages : public test::TinyImages {
 public:
  explicit DeadlyImages(int64_t deadly_batch) : TinyImages(kSamples), batches_left_(deadly_batch) {}
  Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
    if (batches_left_ > 0 && --batches_left_ == 0) end_process();
    return TinyImages::get_batch(indices, seed);
  }

 private:
  mutable std::atomic<int64_t> batches_left_;
};

/// Pairs of an instance and a class image, for DreamBooth.
class InstancePairs : public TensorDataset {
 public:
  using TensorDataset::TensorDataset;
  Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
    Batch instances = TensorDataset::get_batch(indices, seed);
    Batch classes = instances;
    classes.images = -instances.images;
    classes.captions.assign(indices.size(), "cat");
    instances.is_prior = at::zeros({instances.size()}, at::kBool);
    classes.is_prior = at::ones({instances.size()}, at::kBool);
    return collate(std::array{instances, classes});
  }
};

/// A task of which one call of `loss` ends the process.
template <class T>
class Deadly : public T {
 public:
  template <class... Arguments>
  explicit Deadly(const Request& request, Arguments&&... arguments)
      : T(std::forward<Arguments>(arguments)...), losses_left_(request.number("deadly_loss", 0)) {}
  StepLoss loss(const Batch& batch, std::size_t update) override {
    if (losses_left_ > 0 && --losses_left_ == 0) end_process();
    return T::loss(batch, update);
  }

 private:
  int64_t losses_left_;
};

/// Two updates: the discriminator begins in the fourth step.
std::shared_ptr<Task> make_autoencoder_task(const Request& request) {
  AutoencoderKL vae(test::tiny_vae_config());
  NLayerDiscriminator discriminator({.ndf = 4, .n_layers = 2});
  LPIPSWithDiscriminator loss({.disc_start = 3, .kl_weight = 1e-3, .perceptual_weight = 0}, nullptr,
                              discriminator);
  return std::make_shared<Deadly<AutoencoderTask>>(request, vae, loss);
}

std::shared_ptr<Task> make_latent_diffusion_task(const Request& request) {
  AutoencoderKL vae = test::tiny_vae();
  if (request.number("other_vae", 0) != 0) {
    const at::NoGradGuard no_grad;
    vae->encoder->conv_in->weight.mul_(1.5);
  }
  const LatentEncoder encoder(vae);
  const std::unique_ptr<Dataset> dataset = make_dataset(request);
  if (request.number("cache_gate", 0) != 0) wait_at_gate();
  LatentDiffusionTaskOptions options{
      .cache = LatentCache::build(join_path(request.text("out"), "latents"), *dataset, encoder,
                                  {.batch_size = 4, .random_flip = true, .samples_per_file = 4})};
  return std::make_shared<Deadly<LatentDiffusionTask>>(
      request, test::tiny_latent_unet(), DDPMScheduler({.clip_sample = false}), encoder, std::move(options));
}

TextToImageModels tiny_stable_diffusion() {
  return TextToImageModels::from_pretrained(join_path(DIFFUSERS_TEST_GOLDEN, "tiny_stable_diffusion"));
}

std::shared_ptr<Task> make_controlnet_task(const Request& request) {
  TextToImageModels models = tiny_stable_diffusion();
  ControlNetModel controlnet =
      ControlNetModel::from_unet(models.unet, {.conditioning_embedding_out_channels = {4, 8}});
  return std::make_shared<Deadly<ControlNetTask>>(request, std::move(models), std::move(controlnet),
                                                  ControlNetTaskOptions{.proportion_empty_prompts = 0.4});
}

std::shared_ptr<Task> make_editing_task(const Request& request) {
  TextToImageModels models = tiny_stable_diffusion();
  models.unet = InstructPix2PixTask::widened_unet(models.unet);
  return std::make_shared<Deadly<InstructPix2PixTask>>(
      request, models, InstructPix2PixTaskOptions{.conditioning_dropout_prob = 0.2});
}

}  // namespace

void wait_at_gate() {
  ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  ::raise(SIGSTOP);
}

std::unique_ptr<Dataset> make_dataset(const Request& request) {
  const std::string task = request.text("task");
  if (task.empty() || task == "denoiser")
    return std::make_unique<DeadlyImages>(request.number("deadly_batch", 0));
  Batch samples{.images = test::tiny_images(kSamples, 16)};
  const bool has_conditioning_images = task == "controlnet" || task == "t2i_adapter";
  const bool inverts = task == "textual_inversion";
  const bool edits = task == "instruct_pix2pix";
  const bool is_dreambooth = task == "dreambooth";
  if (task == "text_to_image" || task == "lora" || inverts || edits || is_dreambooth ||
      has_conditioning_images)
    for (int64_t i = 0; i < kSamples; ++i)
      samples.captions.emplace_back(inverts ? "a red <toy> <toy>_1" : i % 3 == 0 ? "a red cat" : "two dogs");
  if (edits) samples.original_images = samples.images.flip({3});
  if (has_conditioning_images) samples.conditioning_images = samples.images.flip({3}) / 2 + 0.5;
  if (is_dreambooth) return std::make_unique<InstancePairs>(std::move(samples));
  return std::make_unique<TensorDataset>(std::move(samples));
}

std::shared_ptr<Task> make_task(const Request& request) {
  const std::string task = request.text("task");
  if (task.empty() || task == "denoiser")
    return std::make_shared<Deadly<DiffusionTask>>(request, TrainableDenoiser(test::TinyNet(0.2)),
                                                   DDPMScheduler());
  if (task == "autoencoder") return make_autoencoder_task(request);
  if (task == "latent_diffusion") return make_latent_diffusion_task(request);
  if (task == "text_to_image")
    return std::make_shared<Deadly<TextToImageTask>>(
        request, tiny_stable_diffusion(),
        TextToImageTaskOptions{.train_text_encoder = true, .proportion_empty_prompts = 0.4});
  if (task == "controlnet") return make_controlnet_task(request);
  if (task == "t2i_adapter")
    return std::make_shared<Deadly<T2IAdapterTask>>(request, tiny_stable_diffusion(), T2IAdapter(nullptr),
                                                    T2IAdapterTaskOptions{.proportion_empty_prompts = 0.4});
  if (task == "textual_inversion")
    return std::make_shared<Deadly<TextualInversionTask>>(
        request, tiny_stable_diffusion(),
        TextualInversionTaskOptions{
            .placeholder_token = "<toy>", .initializer_token = "cat", .num_vectors = 2});
  if (task == "instruct_pix2pix") return make_editing_task(request);
  if (task == "lora")
    return std::make_shared<Deadly<TextToImageLoraTask>>(
        request, tiny_stable_diffusion(),
        TextToImageLoraTaskOptions{.train_text_encoder = true, .proportion_empty_prompts = 0.4});
  if (task == "dreambooth")
    return std::make_shared<Deadly<TextToImageLoraTask>>(
        request, tiny_stable_diffusion(),
        TextToImageLoraTaskOptions{.train_text_encoder = true, .prior_loss_weight = 0.5});
  throw ConfigError("task is \"" + task + "\", which the driver does not know");
}

}  // namespace diffusers::faults
