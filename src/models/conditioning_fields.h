#pragma once

// The list of the fields of a Conditioning. All code that handles every field uses it.

#include <diffusers/models/conditioning.h>

namespace diffusers {
inline namespace internal {

/// Calls `visit(name, tensor)` for every tensor, including undefined ones, and for each tensor of the
/// vectors.
template <class C, class Visitor>
void for_each_conditioning_tensor(C& conditioning, Visitor&& visit) {
  visit("class_labels", conditioning.class_labels);
  visit("encoder_hidden_states", conditioning.encoder_hidden_states);
  visit("encoder_attention_mask", conditioning.encoder_attention_mask);
  visit("added_cond_kwargs.text_embeds", conditioning.added_cond_kwargs.text_embeds);
  visit("added_cond_kwargs.time_ids", conditioning.added_cond_kwargs.time_ids);
  visit("added_cond_kwargs.image_embeds", conditioning.added_cond_kwargs.image_embeds);
  visit("added_cond_kwargs.hint", conditioning.added_cond_kwargs.hint);
  visit("timestep_cond", conditioning.timestep_cond);
  visit("attention_mask", conditioning.attention_mask);
  visit("extra_channels", conditioning.extra_channels);
  for (auto& residual : conditioning.down_block_additional_residuals)
    visit("down_block_additional_residuals", residual);
  visit("mid_block_additional_residual", conditioning.mid_block_additional_residual);
  for (auto& residual : conditioning.down_intrablock_additional_residuals)
    visit("down_intrablock_additional_residuals", residual);
}

}  // namespace internal
}  // namespace diffusers
