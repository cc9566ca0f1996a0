#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/latent_source.h>

namespace diffusers {

/// The way in which a latent diffusion model receives its conditioning (`conditioning_key` of
/// latent-diffusion).
enum class ConditioningKey {
  kNone,       ///< no conditioning
  kCrossattn,  ///< cross-attention to hidden states, such as those of a text encoder
  kConcat,     ///< channels behind the latents
  kHybrid,     ///< both: cross-attention and channels
  kAdm,        ///< class labels, embedded and added to the time embedding
};
/// Latent-diffusion's strings.
template <>
struct EnumNames<ConditioningKey> {
  static constexpr std::string_view kKey = "conditioning_key";
  static constexpr std::array<std::pair<ConditioningKey, std::string_view>, 5> kTable{{
      {ConditioningKey::kNone, "none"},
      {ConditioningKey::kCrossattn, "crossattn"},
      {ConditioningKey::kConcat, "concat"},
      {ConditioningKey::kHybrid, "hybrid"},
      {ConditioningKey::kAdm, "adm"},
  }};
};

/// Content of the channels behind the latents.
enum class ConcatInput {
  kConditioningImages,  ///< `conditioning_images`, averaged down to the size of the latents, in [-1, 1]
  kEncodedImages,       ///< the mean of the latents of `conditioning_images`, scaled as the latents
  kInpainting,          ///< the mask, resized, then the latents of the image without the masked part
};
/// The strings of flags and files.
template <>
struct EnumNames<ConcatInput> {
  static constexpr std::string_view kKey = "concat_input";
  static constexpr std::array<std::pair<ConcatInput, std::string_view>, 3> kTable{{
      {ConcatInput::kConditioningImages, "conditioning_images"},
      {ConcatInput::kEncodedImages, "encoded_images"},
      {ConcatInput::kInpainting, "inpainting"},
  }};
};

/// Options of a LatentDiffusionTask. An option that has no effect with the conditioning key is refused.
struct LatentDiffusionTaskOptions {
  EnumChoice<ConditioningKey> conditioning_key = ConditioningKey::kNone;  ///< see ConditioningKey
  /// For `concat` and `hybrid`: see ConcatInput. A `diffusion.conditioning` that sets `extra_channels`
  /// replaces it.
  EnumChoice<ConcatInput> concat_input = ConcatInput::kConditioningImages;
  /// For `crossattn` and `hybrid`: with `text_encoder`, embeds the captions of the dataset, padded and
  /// truncated to the most tokens that both take.
  std::optional<CLIPTokenizer> tokenizer = std::nullopt;
  CLIPTextModel text_encoder{nullptr};  ///< frozen; its last hidden state is the conditioning
  /// Hidden states `[L, D]` or `[1, L, D]` that stand for "no conditioning", for a `diffusion.conditioning`
  /// with dropout. With a text encoder they are those of the empty text.
  Tensor unconditional_hidden_states = {};
  /// Probability, 0 to less than 1, that the conditioning of a sample is dropped, for classifier-free
  /// guidance: hidden states are replaced by the unconditional ones, channels by zeros. For `adm` see
  /// `diffusion.class_dropout_prob`.
  double conditioning_dropout_prob = 0.0;
  /// Latents of the training's dataset. Null: each batch is encoded.
  std::shared_ptr<const LatentCache> cache = nullptr;
  /// Options of the objective. Its `conditioning` function may give the hidden states and the extra channels
  /// in place of a text encoder and of `concat_input`; its `class_conditional` follows from the conditioning
  /// key and stays unset.
  DiffusionTaskOptions diffusion = {};
};

/// Trains a diffusion model on the latents of a frozen autoencoder (Rombach et al. 2022, arXiv 2112.10752).
/// Each step draws, for all of its samples at once: the posterior noise of the images, that of the masked
/// images (`inpainting`), then as DiffusionTask, and last the dropped conditioning.
///
/// `output_dir` becomes a pipeline folder:
/// | conditioning key | class                                | components                                  |
/// |------------------|--------------------------------------|---------------------------------------------|
/// | `none`           | `LDMPipeline`, as Python's           | `vqvae/`, `unet/`, `scheduler/`             |
/// | `crossattn` with a text encoder | `StableDiffusionPipeline`, as Python's | `vae/`, `unet/`,
/// `scheduler/`, `text_encoder/`, `tokenizer/` | | others           | `LatentDiffusionPipeline`            |
/// `vae/`, `unet/`, `scheduler/`, and those of the text |
/// @code
/// Trainer trainer(std::make_shared<LatentDiffusionTask>(unet, ddpm, LatentEncoder(vae),
///                                                       LatentDiffusionTaskOptions{.conditioning_key =
///                                                       "adm"}),
///                 config);
/// @endcode
class LatentDiffusionTask : public DiffusionTask {
 public:
  /// @param unet is shared, not copied; its channels are those of the latents and of the conditioning
  /// @param scheduler is copied
  /// @param encoder shares its autoencoder, which stays frozen
  /// @param options see LatentDiffusionTaskOptions
  /// @param name folder of the model in `output_dir`
  /// @throws ConfigError naming the option, or both values where the model does not fit the latents or the
  ///   conditioning
  LatentDiffusionTask(TrainableDenoiser unet, const Scheduler& scheduler, LatentEncoder encoder,
                      LatentDiffusionTaskOptions options = {}, std::string name = "unet");

  /// @return the options as given
  const LatentDiffusionTaskOptions& latent_options() const { return options_; }
  /// @return the encoder; with `scale_by_std` it has the measured factor after the first step
  const LatentEncoder& encoder() const { return source_.encoder(); }

  /// @return the autoencoder, and the text encoder if there is one
  std::vector<NamedModule> frozen() const override;
  /// @return as for a DiffusionTask, with the factor of the VAE
  BatchSplit batch_split() const override;
  std::string process_obstacle() const override;
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  /// @return the state of DiffusionTask and, with `scale_by_std`, the measured factor
  TensorMap state() const override;
  void load_state(const TensorMap& state) override;
  /// @return the config of the scheduler, the options and the SHA-256 of the autoencoder
  std::string config_json() const override;

 protected:
  Tensor encode(const Batch& batch) override;
  Tensor encode_for_validation(const Batch& batch, const Generator& generator) override;
  Conditioning conditioning(const Batch& batch) override;
  Draw draw(const Tensor& x0) override;
  void save_pipeline_files(const std::filesystem::path& output_dir) const override;

 private:
  bool attends() const;
  bool concatenates() const;
  bool inpaints() const;
  void check_options() const;
  void check_model() const;
  Conditioning given_conditioning(const Batch& batch);
  Tensor embed(const std::vector<std::string>& captions, const Tensor& like) const;
  Tensor concat_channels(const Batch& batch) const;
  Conditioning drop(Conditioning conditioning, const Tensor& is_dropped) const;
  std::string pipeline_class() const;

  LatentDiffusionTaskOptions options_;
  LatentSource source_;
  std::string fingerprint_;  // of the autoencoder
  Tensor unconditional_;     // [1, L, D] on the device of the training; undefined until it is used

  StepRows dropout_rows_;
  Tensor step_dropped_;      // [samples of the step] bool
  Tensor dropped_;           // of the batch whose loss is computed; undefined: none
  Tensor latents_, masked_;  // of that batch
};

}  // namespace diffusers
