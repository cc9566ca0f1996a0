// The C++ side of the exchange of LoRA files and textual inversions for the pipelines of tests/golden.
//     interop_lora save DIR     saves files, and what the pipelines draw with them
//     interop_lora check DIR    loads what lora.py saved, and compares what the pipelines draw
#include <filesystem>
#include <string>
#include <utility>

#include <diffusers/core/random.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/lora_weights.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/textual_inversion.h>

#include <ATen/ATen.h>

#include "exchange.h"

using namespace diffusers;

namespace {

template <class Pipeline>
Pipeline pipeline_of(const char* folder) {
  auto pipeline = Pipeline::from_pretrained(std::filesystem::path(DIFFUSERS_TEST_GOLDEN) / folder);
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}
StableDiffusionPipeline stable() { return pipeline_of<StableDiffusionPipeline>("tiny_stable_diffusion"); }
StableDiffusionXLPipeline xl() { return pipeline_of<StableDiffusionXLPipeline>("tiny_stable_diffusion_xl"); }

template <class Pipeline>
Tensor drawn(Pipeline& pipeline, const char* prompt = "a red cat") {
  return pipeline({.prompt = prompt, .num_inference_steps = 3, .generator = make_generator(3)})
      .images.contiguous();
}

LoraConfig text_lora() {
  return {.r = 3, .init_lora_weights = "false", .target_modules = {"q_proj", "out_proj", "fc2"}};
}

void save(const std::filesystem::path& folder) {
  manual_seed(0);
  TensorMap images;
  auto first = stable();
  first.unet()->add_adapter({.r = 2,
                             .lora_alpha = 3,
                             .init_lora_weights = "false",
                             .target_modules = {"to_k", "to_out.0", "conv1", "proj_in"},
                             .use_dora = true,
                             .rank_pattern = {{"to_k", 1}},
                             .alpha_pattern = {{"conv1", 0.5}}});
  first.text_encoder()->add_adapter(text_lora());
  StableDiffusionPipeline::save_lora_weights(folder / "sd",
                                             {.unet = first.unet(), .text_encoder = first.text_encoder()});
  save_lora_weights(folder / "sd_peft",
                    {.unet = first.unet(), .text_encoder = first.text_encoder(), .format = "peft"});
  images.insert("sd", drawn(first));

  auto second = xl();
  second.unet()->add_adapter(
      {.init_lora_weights = "false", .target_modules = {"to_q", "conv2"}, .use_rslora = true});
  second.text_encoder()->add_adapter(text_lora());
  second.text_encoder_2()->add_adapter(text_lora());
  StableDiffusionXLPipeline::save_lora_weights(folder / "xl", {.unet = second.unet(),
                                                               .text_encoder = second.text_encoder(),
                                                               .text_encoder_2 = second.text_encoder_2()});
  save_lora_weights(folder / "xl_kohya", {.unet = second.unet(),
                                          .text_encoder = second.text_encoder(),
                                          .text_encoder_2 = second.text_encoder_2(),
                                          .format = "kohya"});
  images.insert("xl", drawn(second));

  auto third = stable();
  const Tensor vectors = at::randn({2, third.text_encoder()->config().hidden_size}) * 0.1;
  std::filesystem::create_directories(folder / "inversion");
  save_textual_inversion(folder / "inversion" / "learned_embeds.safetensors", "<two>", vectors);
  third.load_textual_inversion(folder / "inversion");
  third.save_pretrained(folder / "inverted");
  images.insert("inversion", drawn(third, "a <two> cat"));
  save_safetensors(images, folder / "images.safetensors");
}

bool check(const std::filesystem::path& folder) {
  const TensorMap images = load_safetensors(folder / "images.safetensors");
  auto first = stable();
  first.load_lora_weights(folder / "sd");
  auto second = xl();
  second.load_lora_weights(folder / "xl");
  bool same = test::close("sd", drawn(first), images.at("sd"), 1e-4);
  same = test::close("xl", drawn(second), images.at("xl"), 1e-4) && same;
  for (const auto& [name, prompt] :
       {std::pair("inversion", "a <two> cat"), std::pair("webui", "a webui cat")}) {
    auto inverted = stable();
    inverted.load_textual_inversion(folder / (std::string(name) + ".safetensors"));
    same = test::close(name, drawn(inverted, prompt), images.at(name), 1e-4) && same;
  }
  auto third = stable();
  load_lora_weights(folder / "sd_peft/unet", {.unet = third.unet()});
  load_lora_weights(folder / "sd_peft/text_encoder", {.text_encoder = third.text_encoder()});
  same = test::close("sd, PEFT", drawn(third), images.at("sd"), 1e-4) && same;
  auto fourth = xl();
  fourth.load_lora_weights(folder / "xl_kohya");
  return test::close("xl, kohya-ss", drawn(fourth), images.at("xl_kohya"), 1e-4) && same;
}

}  // namespace

int main(int argc, char** argv) { return test::save_or_check(argc, argv, "interop_lora", save, check); }
