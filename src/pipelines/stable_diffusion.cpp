#include "pipelines/stable_diffusion.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/pipeline_index.h"
#include "pipelines/progress_bar.h"

namespace diffusers {
namespace {

/// The scheduler as Python's pipelines correct configs from before these keys existed.
std::unique_ptr<Scheduler> scheduler_for_latents(const Scheduler& scheduler) {
  std::vector<ConfigOverride> corrections;
  const auto correct = [&](const char* key, const ConfigValue& found, const ConfigValue& value) {
    warn_once(fmt::format("{}: {} is {} in the config, Stable Diffusion is sampled with {}",
                          scheduler.class_name(), key, found.json(), value.json()));
    corrections.push_back({key, value});
  };
  const int64_t steps_offset = scheduler.steps_offset().value_or(1);
  if (steps_offset != 1) correct("steps_offset", steps_offset, 1);
  if (scheduler.clip_sample().value_or(false)) correct("clip_sample", true, false);
  return corrections.empty() ? scheduler.clone()
                             : Scheduler::from_config(scheduler.config_json(), corrections);
}

/// Lin et al. 2024, eq. 15 and 16: the spread of the guided prediction drawn back to that of the prompt's.
Tensor rescaled_guidance(const Tensor& guided, const Tensor& with_prompt, double guidance_rescale) {
  const std::vector<int64_t> dims = {1, 2, 3};
  const Tensor std_prompt = at::std(with_prompt, at::IntArrayRef(dims), true, true);
  const Tensor std_guided = at::std(guided, at::IntArrayRef(dims), true, true);
  return guidance_rescale * (guided * (std_prompt / std_guided)) + (1 - guidance_rescale) * guided;
}

void require_class(const std::filesystem::path& folder, const PipelineComponents& components,
                   const std::string& name, std::initializer_list<std::string_view> classes,
                   std::string_view pipeline_class) {
  const std::string& found = components.at(name);
  require<FileError>(std::find(classes.begin(), classes.end(), found) != classes.end(),
                     "{}: component \"{}\" is a {}, {} takes a {}", folder.string(), name, found,
                     pipeline_class, fmt::join(classes, " or "));
}

}  // namespace

std::unique_ptr<StableDiffusionParts> StableDiffusionParts::make(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder, const CLIPTokenizer& tokenizer,
    const UNet2DConditionModel& unet, const Scheduler& scheduler, std::string_view class_name) {
  require<ConfigError>(!vae.is_empty(), "{}: the vae is empty", class_name);
  require<ConfigError>(!text_encoder.is_empty(), "{}: the text_encoder is empty", class_name);
  require<ConfigError>(!unet.is_empty(), "{}: the unet is empty", class_name);
  return std::make_unique<StableDiffusionParts>(
      StableDiffusionParts{vae, text_encoder, tokenizer, unet, scheduler_for_latents(scheduler)});
}

std::unique_ptr<StableDiffusionParts> StableDiffusionParts::load(const std::filesystem::path& folder,
                                                                 const PipelineLoadOptions& options,
                                                                 std::string_view class_name) {
  PipelineSettings settings = {{"requires_safety_checker", true}};
  const PipelineComponents components =
      read_pipeline_index(folder, class_name, {"scheduler", "text_encoder", "tokenizer", "unet", "vae"},
                          {"feature_extractor", "image_encoder", "safety_checker"}, &settings);
  require_class(folder, components, "text_encoder", {"CLIPTextModel"}, class_name);
  require_class(folder, components, "tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}, class_name);
  require_class(folder, components, "unet", {"UNet2DConditionModel"}, class_name);
  require_class(folder, components, "vae", {"AutoencoderKL"}, class_name);
  const bool has_safety_checker = components.contains("safety_checker");
  if (has_safety_checker)
    warn_once(fmt::format("{}: the safety checker is not run, images are given as they are drawn",
                          folder.string()));

  const auto component = [&](const char* name) {
    return ModelLoadOptions{
        .subfolder = name, .variant = options.variant, .dtype = options.dtype, .device = options.device};
  };
  const auto scheduler = load_pipeline_scheduler(folder, components.at("scheduler"));
  const CLIPTokenizer tokenizer = CLIPTokenizer::from_pretrained(folder, {.subfolder = "tokenizer"});
  auto parts = make(AutoencoderKL::from_pretrained(folder, component("vae")),
                    CLIPTextModel::from_pretrained(folder, component("text_encoder")), tokenizer,
                    UNet2DConditionModel::from_pretrained(folder, component("unet")), *scheduler, class_name);
  parts->requires_safety_checker = settings["requires_safety_checker"] && !has_safety_checker;
  return parts;
}

void StableDiffusionParts::save(const std::filesystem::path& folder, std::string_view class_name) const {
  create_folders(folder);
  vae->save_pretrained(folder / "vae");
  text_encoder->save_pretrained(folder / "text_encoder");
  tokenizer.save_pretrained(folder / "tokenizer");
  unet->save_pretrained(folder / "unet");
  scheduler->save_pretrained(folder / "scheduler");
  // Last, so that a folder with an index is complete.
  write_pipeline_index(folder, class_name,
                       {{"feature_extractor", ""},
                        {"image_encoder", ""},
                        {"safety_checker", ""},
                        {"scheduler", scheduler->class_name()},
                        {"text_encoder", "CLIPTextModel"},
                        {"tokenizer", "CLIPTokenizer"},
                        {"unet", "UNet2DConditionModel"},
                        {"vae", "AutoencoderKL"}},
                       {{"requires_safety_checker", requires_safety_checker}});
}

void StableDiffusionParts::set_scheduler(const Scheduler& given) { scheduler = scheduler_for_latents(given); }

int64_t StableDiffusionParts::vae_scale_factor() const {
  return int64_t{1} << (vae->config().block_out_channels.size() - 1);
}

at::TensorOptions StableDiffusionParts::tensor_options() const {
  return unet->parameters().front().options();
}

int64_t StableDiffusionParts::set_timesteps(int64_t num_inference_steps, const std::vector<double>& timesteps,
                                            const std::vector<double>& sigmas) {
  require<ConfigError>(timesteps.empty() || sigmas.empty(),
                       "timesteps and sigmas are both given, expected at most one of them");
  const at::Device device = tensor_options().device();
  if (!timesteps.empty() || !sigmas.empty()) {
    scheduler->set_timesteps(std::nullopt, {.device = device, .sigmas = sigmas, .timesteps = timesteps});
    return scheduler->timesteps().size(0);
  }
  require<ConfigError>(num_inference_steps > 0, "num_inference_steps is {}, expected at least 1",
                       num_inference_steps);
  scheduler->set_timesteps(num_inference_steps, {.device = device});
  return num_inference_steps;
}

Tensor StableDiffusionParts::denoise(const PromptConditioning& conditioning, Tensor latents, int64_t start,
                                     int64_t num_inference_steps, const DenoisingOptions& options) {
  StepOptions step_options{.generator = options.generator};
  if (scheduler->takes_eta()) step_options.eta = options.eta;
  const Timesteps timesteps = scheduler->timesteps().slice(0, start);
  const int64_t total = timesteps.size(0);
  const int64_t order = scheduler->order();
  const int64_t num_warmup_steps = total - num_inference_steps * order;
  ProgressBar bar(progress_bar, num_inference_steps);
  int64_t done = 0;
  int64_t i = 0;
  for (const Tensor& t : timesteps) {
    const Tensor input = conditioning.is_guided ? at::cat({latents, latents}) : latents;
    Tensor output = unet->forward(scheduler->scale_model_input(input, t), t, conditioning.embeds,
                                  {.timestep_cond = conditioning.timestep_cond})
                        .sample;
    if (conditioning.is_guided) {
      const std::vector<Tensor> halves = output.chunk(2);
      // Ho and Salimans 2022, eq. 6, with w + 1 for the scale
      output = halves[0] + options.guidance_scale * (halves[1] - halves[0]);
      if (options.guidance_rescale > 0)
        output = rescaled_guidance(output, halves[1], options.guidance_rescale);
    }
    // x_t -> x_{t-1}
    latents = scheduler->step(output, t, latents, step_options).prev_sample;
    call_step_end(options.callback_on_step_end, i, t, latents);
    ++i;
    if (i == total || (i > num_warmup_steps && i % order == 0)) bar.update(++done);
  }
  return latents;
}

ImagePipelineOutput StableDiffusionParts::finish(const Tensor& latents, OutputType output_type) const {
  if (output_type == OutputType::kLatent) return {latents};
  const Tensor z = (latents / vae->config().scaling_factor).to(vae->parameters().front().options());
  const Tensor images = vae->decode(z).sample;
  return {(images * 0.5 + 0.5).clamp(0, 1)};
}

}  // namespace diffusers
