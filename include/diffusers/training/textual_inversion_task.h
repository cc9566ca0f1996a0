#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/training/stable_diffusion_task.h>

namespace diffusers {

/// Options of a TextualInversionTask that are no fields of TrainingConfig.
struct TextualInversionTaskOptions {
  std::string placeholder_token = {};  ///< the new token, such as "<cat>"; the tokenizer must not have it
  std::string initializer_token = {};  ///< a word of one token whose embedding the new tokens start with
  /// Number of vectors of the concept, 1 or more. The tokens of the others are `placeholder_token` with _1,
  /// _2, ...
  int64_t num_vectors = 1;
  /// Also writes the pipeline folder at the end. False: only the embeddings.
  bool save_as_full_pipeline = true;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty.
  DiffusionTaskOptions diffusion = {};
};

/// Trains the embeddings of new tokens on images of a concept, as diffusers' `textual_inversion.py` and
/// `textual_inversion_sdxl.py` do (Gal et al. 2022, arXiv 2208.01618). All other weights are frozen and stay
/// as they are, bit for bit: the trained vectors are the only parameters of the optimizer. For Stable
/// Diffusion XL the vectors are those of the first text encoder, as in the script.
///
/// The captions of the dataset contain `placeholder()`; TextualInversionDataset makes such captions. The
/// training writes `learned_embeds.safetensors`, which Python's `load_textual_inversion` reads, into
/// `output_dir`, and into `textual_inversion/` of each checkpoint. Checkpoints thus have a few kilobytes.
/// @code
/// auto task = std::make_shared<TextualInversionTask>(
///     TextToImageModels::from_pretrained("stable-diffusion-v1-5"),
///     TextualInversionTaskOptions{.placeholder_token = "<cat-toy>", .initializer_token = "toy"});
/// auto pictures = std::make_shared<ImageFolder>("toys", ImageFolderOptions{.resolution = 512, .random_flip =
/// true}); Trainer(task, {.output_dir = "toy", .learning_rate = 5e-4, .max_grad_norm = 0})
///     .train(TextualInversionDataset(pictures, {.placeholder = task->placeholder()}));
/// @endcode
class TextualInversionTask : public StableDiffusionTask {
 public:
  /// Adds the tokens to a copy of the tokenizer, and rows to the text encoder. `models()` has both.
  /// @param models are shared, not copied, apart from the tokenizer
  /// @param options see TextualInversionTaskOptions
  /// @throws ConfigError as TextToImageTask; for a placeholder that the tokenizer already has; for an
  ///   initializer that is no token, or several, naming them. No model has changed then
  explicit TextualInversionTask(const TextToImageModels& models, const TextualInversionTaskOptions& options);

  /// @return the options as given
  const TextualInversionTaskOptions& inversion_options() const { return inversion_options_; }
  /// @return the text that captions contain: the tokens of all vectors with spaces between them
  const std::string& placeholder() const { return placeholder_; }
  /// @return the vectors, `[num_vectors, hidden_size]`: the trained parameter, which shares the memory of the
  ///   text encoder's rows
  const Tensor& learned_embeds() const { return learned_; }
  /// Writes the vectors as they are now.
  /// @param path of the file, such as "learned_embeds-steps-500.safetensors"
  /// @throws FileError if the file cannot be written
  void save_learned_embeds(const std::filesystem::path& path) const;

  /// @return the vectors as "textual_inversion". There are no EMA weights, as in the script: `use_ema` is
  /// refused
  const std::vector<NamedModule>& trained() const override { return all_trained_; }
  /// @return the text encoders, the VAE and the UNet
  std::vector<NamedModule> frozen() const override;
  /// Checks a batch as TextToImageTask does, and that each caption contains `placeholder()`.
  /// @param batch as the dataset gave it
  /// @throws ConfigError naming the caption that does not; or as TextToImageTask
  void check_batch(const Batch& batch) override;
  /// Writes `learned_embeds.safetensors`, `scheduler/`, and the other parts of the pipeline folder unless
  /// `save_as_full_pipeline` is false.
  /// @param output_dir existing folder
  void save_extras(const std::filesystem::path& output_dir) const override;
  std::string config_json() const override;

 protected:
  Conditioning conditioning(const Batch& batch) override;

 private:
  struct Prepared;
  TextualInversionTask(const Prepared& prepared, TextualInversionTaskOptions options);
  static Prepared prepare(const TextToImageModels& models, const TextualInversionTaskOptions& options);

  TextualInversionTaskOptions inversion_options_;
  std::string placeholder_;
  int64_t first_token_ = 0;
  Tensor learned_;
  std::vector<NamedModule> all_trained_;
};

}  // namespace diffusers
