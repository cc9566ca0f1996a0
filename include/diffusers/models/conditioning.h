#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {

/// Additional embeddings that some models take besides encoder_hidden_states (`added_cond_kwargs` of
/// diffusers' `UNet2DConditionModel.forward`).
struct AddedCondKwargs {
  Tensor text_embeds = {};   ///< `[B, D]`, pooled text embeddings; for "text_time" and "text_image"
  Tensor time_ids = {};      ///< `[B, n]`, original size, crop and target size; for "text_time"
  Tensor image_embeds = {};  ///< `[B, D]`, for "text_image", "image", "image_hint" and the image projections
  Tensor hint = {};          ///< `[B, 3, 8 H, 8 W]`, for "image_hint"
};

/// The inputs of a denoiser besides the noisy sample and its timestep. Training and sampling share this type.
/// An undefined tensor or an empty vector means that the input is not given.
struct Conditioning {
  /// `[B]` int64 classes; floating `[B]` or `[B, D]` for the models that embed or project them.
  Tensor class_labels = {};
  Tensor encoder_hidden_states = {};       ///< `[B, L, D]`, such as the text encoder's last hidden state
  Tensor encoder_attention_mask = {};      ///< `[B, L]`, 0 (or false) excludes a token from attention
  AddedCondKwargs added_cond_kwargs = {};  ///< additional embeddings
  Tensor timestep_cond = {};   ///< `[B, time_cond_proj_dim]`, such as the embedded guidance scale of an LCM
  Tensor attention_mask = {};  ///< `[B, L]`, as in `UNet2DConditionModelForwardOptions`
  /// `[B, C', H, W]`, concatenated after the channels of the sample: mask and masked image latents of an
  /// inpainting UNet, image latents of instruct-pix2pix, low-resolution images of an upscaler.
  Tensor extra_channels = {};
  std::vector<Tensor> down_block_additional_residuals = {};       ///< each `[B, ...]`, of a ControlNet
  Tensor mid_block_additional_residual = {};                      ///< `[B, ...]`, of a ControlNet
  std::vector<Tensor> down_intrablock_additional_residuals = {};  ///< each `[B, ...]`, of a T2I-Adapter

  /// Slices the rows of every field that is given.
  /// @param begin first row
  /// @param end the row after the last one
  /// @return views of the rows
  Conditioning slice(int64_t begin, int64_t end) const;
  /// Moves every field that is given to a device. Copies do not block the host.
  /// @param device the device
  /// @return the moved fields; a field that is already on the device is shared
  Conditioning to(at::Device device) const;
};

/// A function that predicts from a noisy sample `[B, C, H, W]`, its timesteps (`[B]` or 0-dim) and the
/// conditioning. It returns the prediction, usually of the sample's shape. `make_denoiser` makes one from a
/// model.
using Denoiser =
    std::function<Tensor(const Tensor& noisy, const Tensor& timesteps, const Conditioning& conditioning)>;

}  // namespace diffusers
