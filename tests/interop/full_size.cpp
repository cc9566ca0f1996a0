// The C++ side of the interop test of models of their real size.
//     interop_full_size unet|vae|text_encoder DIR COUNT
// opens DIR/model, which has COUNT parameters, compares its outputs for the inputs in
// DIR/tensors.safetensors, and saves it to DIR/saved.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/text/clip_text_model.h>

#include <torch/types.h>

namespace {

using namespace diffusers;

bool is_close(const char* name, const Tensor& found, const Tensor& expected) {
  const double scale = expected.abs().max().item<double>();
  const double difference = (found - expected).abs().max().item<double>();
  std::printf("%s: differs by %g, largest element %g\n", name, difference, scale);
  return found.sizes() == expected.sizes() && difference <= 1e-4 * scale;
}

template <class Model, class Check>
bool exchange(const std::filesystem::path& folder, int64_t count, const Check& check) {
  const Model model = Model::from_pretrained(folder / "model");
  const LoadReport& report = model->load_report();
  std::printf("%s\n", report.to_string().c_str());
  if (model->num_parameters() != count || !report.unexpected_keys.empty()) {
    std::fprintf(stderr, "%lld parameters, expected %lld; %zu unexpected tensors\n",
                 static_cast<long long>(model->num_parameters()), static_cast<long long>(count),
                 report.unexpected_keys.size());
    return false;
  }
  const TensorMap tensors = load_safetensors((folder / "tensors.safetensors").string());
  const torch::NoGradGuard no_grad;
  const bool same = check(*model, tensors);
  model->save_pretrained(folder / "saved");
  return same;
}

bool exchange_component(const std::string& name, const std::filesystem::path& folder, int64_t count) {
  if (name == "unet")
    return exchange<UNet2DConditionModel>(folder, count, [](const auto& unet, const TensorMap& tensors) {
      const Tensor sample =
          unet.forward(tensors.at("sample"), tensors.at("timestep"), tensors.at("encoder_hidden_states"))
              .sample;
      return is_close("sample", sample, tensors.at("output"));
    });
  if (name == "vae")
    return exchange<AutoencoderKL>(folder, count, [](const auto& vae, const TensorMap& tensors) {
      const Tensor mean = vae.encode(tensors.at("image")).latent_dist.mode();
      const bool same = is_close("mean", mean, tensors.at("mean"));
      return is_close("decoded", vae.decode(tensors.at("mean")).sample, tensors.at("decoded")) && same;
    });
  if (name == "text_encoder")
    return exchange<CLIPTextModel>(folder, count, [](const auto& text, const TensorMap& tensors) {
      const auto output = text.forward(tensors.at("ids"));
      const bool same =
          is_close("last_hidden_state", output.last_hidden_state, tensors.at("last_hidden_state"));
      return is_close("pooler_output", output.pooler_output, tensors.at("pooler_output")) && same;
    });
  throw Error("unknown component " + name);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4) return exchange_component(argv[1], argv[2], std::stoll(argv[3])) ? 0 : 1;
    std::fprintf(stderr, "usage: interop_full_size unet|vae|text_encoder DIR COUNT\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
