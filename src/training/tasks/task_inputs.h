#pragma once

// What tasks that train a denoiser of images share: what they take from a batch and from the flags.

#include <cstdint>
#include <optional>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/data/dataset.h>
#include <diffusers/training/trainable_denoiser.h>
#include <diffusers/training/training_config.h>

namespace diffusers {

/// @throws ConfigError if the model draws random numbers, which threads draw in another order each time
void require_no_dropout(const TrainableDenoiser& model, int64_t cpu_data_parallel);

/// @param timesteps whose they are, for the message. They are log(sigma) / 4: other embeddings than the
/// sinusoidal one take positive or whole numbers only
/// @throws ConfigError unless the model's time_embedding_type is "positional", or it does not tell
void require_positional_embedding(const TrainableDenoiser& model, std::string_view timesteps);

/// @return the images of a batch, `[B, C, H, W]`
/// @throws TensorError if they are anything else, ConfigError if they are not of `resolution`
const Tensor& images_of(const Batch& batch, const std::optional<int64_t>& resolution);

/// Checks `class_conditional` and `class_dropout_prob` against the model.
/// @return what a dropped label becomes; 0 where none is dropped
/// @throws ConfigError if the model cannot serve them
int64_t null_label(const TrainingConfig& config, const TrainableDenoiser& model);

/// The labels of a batch, if the model is given labels.
/// @param class_conditional of the TrainingConfig. @throws ConfigError if true and the batch has none
Conditioning label_conditioning(const Batch& batch, const TrainableDenoiser& model,
                                const std::optional<bool>& class_conditional);

/// @param is_unconditional `[B]` bool, whose label becomes `null_label`; undefined: nobody's
Conditioning drop_labels(Conditioning conditioning, const Tensor& is_unconditional, int64_t null_label);

}  // namespace diffusers
