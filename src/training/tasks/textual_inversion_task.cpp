#include <algorithm>
#include <memory>
#include <utility>

#include <diffusers/io/files.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/text/textual_inversion.h>
#include <diffusers/training/textual_inversion_task.h>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "core/json.h"
#include "core/require.h"
#include "text/learned_tokens.h"
#include "training/tasks/text_to_image_folder.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kInversionTask = "TextualInversionTask";
constexpr const char* kLearnedEmbedsFile = "learned_embeds.safetensors";

/// A module with the trained vectors as its only parameter.
class LearnedEmbeds : public torch::nn::Module {
 public:
  explicit LearnedEmbeds(const Tensor& vectors) : torch::nn::Module("TextualInversion") {
    register_parameter("weight", vectors);
  }
};

/// Saves the vectors in the file that Python reads.
class SavedEmbeds : public SavedModule {
 public:
  SavedEmbeds(const Tensor& vectors, std::string token)
      : module_(std::make_shared<LearnedEmbeds>(vectors)), vectors_(vectors), token_(std::move(token)) {}

  torch::nn::Module& module() override { return *module_; }
  void save(const std::filesystem::path& folder) override {
    create_folders(folder);
    save_textual_inversion(folder / kLearnedEmbedsFile, token_, vectors_);
  }
  void load(const std::filesystem::path& folder) override {
    const TextualInversionFile file = read_textual_inversion(folder / kLearnedEmbedsFile);
    require<FileError>(
        file.token == token_ && file.embeddings.defined() && file.embeddings.sizes() == vectors_.sizes() &&
            file.embeddings.scalar_type() == vectors_.scalar_type(),
        "{}: the file has \"{}\", {}, expected \"{}\", {}", (folder / kLearnedEmbedsFile).string(),
        file.token, describe(file.embeddings), token_, describe(vectors_));
    const at::NoGradGuard no_grad;
    vectors_.copy_(file.embeddings);
  }
  SnapshotWriter snapshot() override {
    return [token = token_, vectors = vectors_.detach().to(at::kCPU, /*non_blocking=*/false, /*copy=*/true)](
               const std::filesystem::path& folder) {
      create_folders(folder);
      save_textual_inversion(folder / kLearnedEmbedsFile, token, vectors);
    };
  }
  // StableDiffusionTask enables it for the UNet and the text encoders.
  void enable_gradient_checkpointing() override {}

 private:
  std::shared_ptr<LearnedEmbeds> module_;
  Tensor vectors_;
  std::string token_;
};

/// The id of a word of one token.
int64_t initializer_id(const CLIPTokenizer& tokenizer, const std::string& word) {
  require<ConfigError>(!word.empty(), "initializer_token is empty, expected a word");
  const std::vector<int64_t> ids = tokenizer.encode(word, /*add_special_tokens=*/false);
  require<ConfigError>(!ids.empty(), "initializer_token is \"{}\", which has no tokens; expected a word",
                       word);
  require<ConfigError>(ids.size() == 1,
                       "initializer_token is \"{}\", which has {} tokens, [{}]; expected a word of one token",
                       word, ids.size(), fmt::join(tokenizer.tokenize(word), ", "));
  return ids.front();
}

TrainableDenoiser trainable_embeds(const UNet2DConditionModel& unet, const Tensor& vectors,
                                   const std::string& token) {
  DenoiserInfo info = denoiser_info(unet);
  info.dropout = 0.0;  // the UNet is in eval mode
  TrainableDenoiser model(std::make_shared<SavedEmbeds>(vectors, token), make_denoiser(unet),
                          std::move(info));
  model.is_thread_safe = true;
  return model;
}

}  // namespace

/// The models with the new tokens.
struct TextualInversionTask::Prepared {
  TextToImageModels models;
  std::vector<std::string> tokens;
  int64_t first_token;
  Tensor learned;
};

TextualInversionTask::Prepared TextualInversionTask::prepare(const TextToImageModels& given,
                                                             const TextualInversionTaskOptions& options) {
  Prepared made{
      .models = complete_models(given, kInversionTask), .tokens = {}, .first_token = 0, .learned = {}};
  TextToImageModels& models = made.models;
  // Everything is checked before the text encoder changes.
  const TextToImageParts checked(models, /*trains_text_encoders=*/true, /*proportion_empty_prompts=*/0.0);
  require<ConfigError>(!options.placeholder_token.empty(), "placeholder_token is empty, expected a token");
  made.tokens =
      add_textual_inversion_tokens(models.tokenizer, options.placeholder_token, options.num_vectors);
  const int64_t initializer = initializer_id(given.tokenizer, options.initializer_token);
  made.first_token = models.tokenizer.convert_tokens_to_ids(made.tokens.front());

  if (models.tokenizer.size() > models.text_encoder->config().vocab_size)
    models.text_encoder->resize_token_embeddings(models.tokenizer.size());
  const at::NoGradGuard no_grad;
  const Tensor table = models.text_encoder->get_input_embeddings();
  // The parameter shares the memory of the rows: pipelines and saved models have its values at any time.
  made.learned = table.narrow(0, made.first_token, options.num_vectors).detach();
  made.learned.copy_(table[initializer].unsqueeze(0));
  made.learned.requires_grad_(true);
  return made;
}

TextualInversionTask::TextualInversionTask(const TextToImageModels& models,
                                           const TextualInversionTaskOptions& options)
    : TextualInversionTask(prepare(models, options), options) {}

TextualInversionTask::TextualInversionTask(const Prepared& prepared, TextualInversionTaskOptions options)
    : StableDiffusionTask(kInversionTask, prepared.models,
                          trainable_embeds(prepared.models.unet, prepared.learned, options.placeholder_token),
                          *training_scheduler(prepared.models, kInversionTask),
                          {.train_text_encoder = true, .diffusion = options.diffusion}, "textual_inversion"),
      inversion_options_(std::move(options)),
      placeholder_(fmt::format("{}", fmt::join(prepared.tokens, " "))),
      first_token_(prepared.first_token),
      learned_(prepared.learned),
      all_trained_(StableDiffusionTask::trained()) {
  // The Trainer gives averaged parameters other memory while they are used, and the text encoder would not
  // see it.
  all_trained_.front().is_averaged = false;
}

void TextualInversionTask::save_learned_embeds(const std::filesystem::path& path) const {
  save_textual_inversion(path, inversion_options_.placeholder_token, learned_);
}

std::vector<NamedModule> TextualInversionTask::frozen() const {
  std::vector<NamedModule> modules = text_encoders();
  for (NamedModule& module : StableDiffusionTask::frozen()) modules.push_back(std::move(module));
  return modules;
}

void TextualInversionTask::check_batch(const Batch& batch) {
  StableDiffusionTask::check_batch(batch);
  for (const std::string& caption : batch.captions)
    require<ConfigError>(caption.find(placeholder_) != std::string::npos,
                         "a caption is \"{}\", which does not contain \"{}\", the tokens that are trained; "
                         "TextualInversionDataset makes captions with them",
                         caption, placeholder_);
}

Conditioning TextualInversionTask::conditioning(const Batch& batch) {
  const LearnedTokens learned(models().text_encoder, first_token_, learned_);
  return StableDiffusionTask::conditioning(batch);
}

void TextualInversionTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  save_learned_embeds(output_dir / kLearnedEmbedsFile);
  if (!inversion_options_.save_as_full_pipeline) return;
  models().unet->save_pretrained(output_dir / "unet");
  save_text_encoders(models(), output_dir);
  save_beside_text_to_image(models(), output_dir);
}

std::string TextualInversionTask::config_json() const {
  Json json = parse_json(StableDiffusionTask::config_json(), "the config of the StableDiffusionTask");
  json["placeholder_token"] = inversion_options_.placeholder_token;
  json["initializer_token"] = inversion_options_.initializer_token;
  json["num_vectors"] = inversion_options_.num_vectors;
  return dump_json(json);
}

}  // namespace diffusers
