#include "dreambooth_flags.h"

#include <diffusers/core/error.h>

#include "../training_group.h"
#include "class_images.h"

using namespace diffusers;

const FlagTable<DreamBoothSettings>& dreambooth_flags() {
  using Settings = DreamBoothSettings;
  static const FlagTable<Settings> table{
      {"Images",
       {{"--instance_data_dir",
         &Settings::instance_data_dir,
         "Folder of PNG and JPEG files of the instance.",
         {.required = true}},
        {"--instance_prompt",
         &Settings::instance_prompt,
         "Caption of the instance images, with a rare word for the instance.",
         {.required = true}},
        {"--repeats",
         &Settings::repeats,
         "Number of times that each instance image is used in an epoch.",
         {.check = at_least(1)}},
        {"--center_crop", &Settings::center_crop,
         "Crop the centre of each picture. Without it the crop is random."},
        {"--random_flip", &Settings::random_flip, "Flip half of the images horizontally."},
        {"--image_interpolation_mode", &Settings::image_interpolation_mode,
         "Filter with which pictures are resized."}}},
      {"Class images",
       {{"--with_prior_preservation", &Settings::with_prior_preservation,
         "Also train on images of the class, so that the model does not forget it."},
        {"--class_data_dir", &Settings::class_data_dir,
         "Folder of the class images. Missing images are generated there."},
        {"--class_prompt", &Settings::class_prompt, "Caption of the class images."},
        {"--prior_loss_weight",
         &Settings::prior_loss_weight,
         "Weight of the loss of the class images.",
         {.check = at_least(0)}},
        {"--num_class_images",
         &Settings::num_class_images,
         "Number of class images. Images beyond it are not used.",
         {.check = at_least(1)}},
        {"--sample_batch_size",
         &Settings::sample_batch_size,
         "Number of class images that are generated at once.",
         {.check = at_least(1)}},
        {"--prior_generation_precision",
         &Settings::prior_generation_precision,
         "Dtype in which class images are generated: fp32, fp16 or bf16. no: fp16 on CUDA devices, else "
         "fp32.",
         {.check = CLI::IsMember({"no", "fp32", "fp16", "bf16"})}}}},
      {"Text",
       {{"--train_text_encoder", &Settings::train_text_encoder, "Also train the text encoders."},
        {"--pre_compute_text_embeddings", &Settings::pre_compute_text_embeddings,
         "Encode each prompt once. Not with --train_text_encoder."},
        {"--tokenizer_name",
         &Settings::tokenizer_name,
         "Folder of another tokenizer.",
         {.default_text = "that of the pipeline folder"}}}},
      {"Validation",
       {{"--validation_prompt,--validation_prompts", &Settings::validation_prompts,
         "Prompts that pictures are drawn for during the training."},
        {"--num_validation_images",
         &Settings::num_validation_images,
         "Number of pictures of each prompt.",
         {.check = at_least(1)}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused_dreambooth_flags() {
  std::vector<RefusedFlag> flags = refused_stable_diffusion_flags();
  const std::string floyd = "it is for DeepFloyd IF, which the program does not train";
  flags.push_back({"--class_labels_conditioning", floyd});
  flags.push_back({"--tokenizer_max_length", floyd + "; prompts have the tokenizer's model_max_length"});
  flags.push_back({"--validation_images", floyd});
  flags.push_back(
      {"--text_encoder_use_attention_mask", "use_attention_mask in the config of the text encoder says it"});
  return flags;
}

void set_dreambooth_defaults(TrainingConfig& training) {
  training.train_batch_size = 4;
  training.num_epochs = 1;
}

void check_dreambooth_flags(const CLI::App& app, const DreamBoothSettings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  const auto refuse_if = [](bool is_wrong, const std::string& message) {
    if (is_wrong) throw ConfigError(message);
  };
  refuse_if(settings.instance_prompt.empty(),
            "--instance_prompt is empty, expected a caption such as \"a photo of sks dog\"");
  if (settings.with_prior_preservation) {
    refuse_if(settings.class_data_dir.empty(),
              "--with_prior_preservation needs --class_data_dir, the folder of the class images");
    refuse_if(settings.class_prompt.empty(),
              "--with_prior_preservation needs --class_prompt, the caption of the class images");
  } else {
    for (const char* flag : {"--class_data_dir", "--class_prompt", "--prior_loss_weight",
                             "--num_class_images", "--sample_batch_size", "--prior_generation_precision"})
      refuse_if(is_given(flag), std::string(flag) + " needs --with_prior_preservation");
  }
  refuse_if(settings.train_text_encoder && settings.pre_compute_text_embeddings,
            "--train_text_encoder and --pre_compute_text_embeddings exclude each other; found both");
  if (settings.validation_prompts.empty())
    for (const char* flag : {"--validation_steps", "--num_validation_images"})
      refuse_if(is_given(flag), std::string(flag) + " needs --validation_prompt");
}

TextToImageModels load_dreambooth_models(const DreamBoothSettings& settings,
                                         const StableDiffusionSettings& shared, at::ScalarType dtype) {
  TextToImageModels models = load_stable_diffusion(shared, dtype);
  if (models.is_inpainting())
    throw ConfigError("the UNet is one for inpainting, expected a UNet that takes latents only");
  require_trained_prediction(models);
  if (!settings.tokenizer_name.empty())
    models.tokenizer = CLIPTokenizer::from_pretrained(settings.tokenizer_name);
  return models;
}

DreamBoothDataset open_dreambooth_data(const DreamBoothSettings& settings,
                                       const StableDiffusionSettings& shared,
                                       const TextToImageModels& models) {
  DreamBoothDatasetOptions options{.instance_prompt = settings.instance_prompt,
                                   .repeats = settings.repeats,
                                   .resolution = *shared.training.resolution,
                                   .center_crop = settings.center_crop,
                                   .random_flip = settings.random_flip,
                                   .image_interpolation_mode = settings.image_interpolation_mode};
  DreamBoothDataset instances(settings.instance_data_dir, options);
  if (!settings.with_prior_preservation) return instances;
  in_turn([&] { make_class_images(settings, shared, models); });
  options.class_data_dir = settings.class_data_dir;
  options.class_prompt = settings.class_prompt;
  options.num_class_images = settings.num_class_images;
  return DreamBoothDataset(settings.instance_data_dir, options);
}
