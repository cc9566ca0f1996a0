// Forward and backward of a model neither read from its device nor copy anything to it.

#include <string>

#include <diffusers/models/autoencoder_tiny.h>

#include <gtest/gtest.h>

#include "models/unet/condition_golden.h"
#include "models/unet/unet_2d_golden.h"
#include "support/counting_device.h"

namespace diffusers::test {
namespace {

/// Returns the traffic of a second forward and backward pass. The first one may copy constants.
template <class Work>
void expect_no_traffic(const Work& work, const std::string& label) {
  SCOPED_TRACE(label);
  work();
  const TrafficCounter counter;
  work();
  EXPECT_EQ(counter.traffic(), DeviceTraffic{});
}

Tensor device_copy(const Tensor& tensor) {
  return tensor.defined() ? tensor.detach().to(counting_device()) : tensor;
}

TEST(ModelTraffic, OfAUNet2DModelIsNone) {
  for (const std::string& name : unet_2d_case_names()) {
    auto model = make_case(name);
    const auto& config = model->config();
    move_to_counting_device(*model);
    const at::TensorOptions options = at::TensorOptions().device(counting_device());
    const Tensor sample = torch::rand({2, config.in_channels, 16, 16}, options);
    const Tensor timesteps = torch::full({2}, 7, options.dtype(at::kLong));
    const bool has_classes = config.num_class_embeds || config.class_embed_type;
    Tensor labels;
    if (has_classes) labels = torch::zeros({2}, options.dtype(at::kLong));
    if (config.class_embed_type && config.class_embed_type->name() == "identity")
      labels =
          torch::zeros({2, config.time_embedding_dim.value_or(4 * config.block_out_channels[0])}, options);
    expect_no_traffic(
        [&] { model->forward(sample, timesteps, {.class_labels = labels}).sample.sum().backward(); }, name);
  }
}

TEST(ModelTraffic, OfAUNet2DConditionModelIsNone) {
  const ConditionCases cases("unet_2d_condition");
  for (const std::string& name : cases.names()) {
    auto model = cases.make<UNet2DConditionModel>(name);
    move_to_counting_device(*model);
    const ConditionInputs inputs(cases, name);
    auto options = inputs.unet_options();
    for (Tensor* tensor : {&options.class_labels, &options.timestep_cond, &options.attention_mask,
                           &options.added_cond_kwargs.text_embeds, &options.added_cond_kwargs.time_ids,
                           &options.added_cond_kwargs.image_embeds, &options.added_cond_kwargs.hint,
                           &options.mid_block_additional_residual, &options.encoder_attention_mask})
      *tensor = device_copy(*tensor);
    for (auto* list :
         {&options.down_block_additional_residuals, &options.down_intrablock_additional_residuals})
      for (Tensor& tensor : *list) tensor = device_copy(tensor);
    const Tensor sample = device_copy(inputs["sample"]);
    const Tensor timesteps = device_copy(inputs["timesteps"]);
    const Tensor states = device_copy(inputs["encoder_hidden_states"]);
    expect_no_traffic([&] { model->forward(sample, timesteps, states, options).sample.sum().backward(); },
                      name);
  }
}

TEST(ModelTraffic, OfAnAutoencoderTinyIsNone) {
  AutoencoderTiny model({.encoder_block_out_channels = {4, 4},
                         .decoder_block_out_channels = {4, 4},
                         .num_encoder_blocks = {1, 1},
                         .num_decoder_blocks = {1, 1}});
  move_to_counting_device(*model);
  const Tensor image = torch::rand({2, 3, 8, 8}, at::TensorOptions().device(counting_device()));
  expect_no_traffic([&] { model->decode(model->encode(image).latents).sample.sum().backward(); },
                    "encode and decode");
  expect_no_traffic([&] { model->forward(image).sample.sum().backward(); }, "forward");
  model->enable_tiling();
  model->tile_sample_min_size = 4;
  model->tile_latent_min_size = 2;
  model->tile_overlap_factor = 0.5;
  expect_no_traffic([&] { model->decode(model->encode(image).latents).sample.sum().backward(); }, "tiles");
}

}  // namespace
}  // namespace diffusers::test
