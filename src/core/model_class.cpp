#include "core/model_class.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <set>
#include <string>

#include <diffusers/core/logging.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

// clang-format off
/// The model classes of Python diffusers 0.42.1, and one class of this library.
constexpr std::array<std::string_view, 153> kDiffusersClasses{
    "AceStepTransformer1DModel", "AllegroTransformer3DModel", "AnimaTextConditioner",
    "AnyFlowFARTransformer3DModel", "AnyFlowTransformer3DModel", "AsymmetricAutoencoderKL",
    "AuraFlowTransformer2DModel", "AutoencoderDC", "AutoencoderKL", "AutoencoderKLAllegro",
    "AutoencoderKLCogVideoX", "AutoencoderKLCosmos", "AutoencoderKLFlux2", "AutoencoderKLHunyuanImage",
    "AutoencoderKLHunyuanImageRefiner", "AutoencoderKLHunyuanVideo", "AutoencoderKLHunyuanVideo15",
    "AutoencoderKLKVAE", "AutoencoderKLKVAEAudio", "AutoencoderKLKVAEVideo", "AutoencoderKLLTX2Audio",
    "AutoencoderKLLTX2Video", "AutoencoderKLLTXVideo", "AutoencoderKLMagvit", "AutoencoderKLMiniMaxH3",
    "AutoencoderKLMiniMaxH3Audio", "AutoencoderKLMochi", "AutoencoderKLQwenImage",
    "AutoencoderKLQwenImage21", "AutoencoderKLTemporalDecoder", "AutoencoderKLWan",
    "AutoencoderOobleck", "AutoencoderRAE", "AutoencoderSAME", "AutoencoderTiny", "AutoencoderVidTok",
    "BriaFibo2Transformer2DModel", "BriaFiboTransformer2DModel", "BriaTransformer2DModel",
    "ChromaTransformer2DModel", "ChronoEditTransformer3DModel", "CogVideoXTransformer3DModel",
    "CogView3PlusTransformer2DModel", "CogView4Transformer2DModel", "ConsisIDTransformer3DModel",
    "ConsistencyDecoderVAE", "ControlNetModel", "ControlNetUnionModel", "ControlNetXSAdapter",
    "Cosmos3AVAEAudioTokenizer", "Cosmos3OmniTransformer", "CosmosControlNetModel",
    "CosmosTransformer3DModel", "DiTTransformer2DModel", "DreamLiteTransformer2DModel",
    "DreamLiteUNetModel", "DualTransformer2DModel", "EasyAnimateTransformer3DModel",
    "ErnieImageTransformer2DModel", "Flux2Transformer2DModel", "Flux3Transformer2DModel",
    "FluxControlNetModel", "FluxMultiControlNetModel", "FluxTransformer2DModel",
    "GlmImageTransformer2DModel", "HeliosTransformer3DModel", "HiDreamImageTransformer2DModel",
    "HunyuanDiT2DControlNetModel", "HunyuanDiT2DModel", "HunyuanDiT2DMultiControlNetModel",
    "HunyuanImageTransformer2DModel", "HunyuanVideo15Transformer3DModel",
    "HunyuanVideoFramepackTransformer3DModel", "HunyuanVideoTransformer3DModel", "I2VGenXLUNet",
    "Ideogram4Transformer2DModel", "ImageProjection", "JoyImageEditPlusTransformer3DModel",
    "JoyImageEditTransformer3DModel", "Kandinsky3UNet", "Kandinsky5Transformer3DModel",
    "Kandinsky6SRLatentUpscalerBank", "Kandinsky6SRTransformer3DModel", "Kandinsky6SRVAE",
    "Kandinsky6Transformer3DModel", "Krea2Transformer2DModel", "LTX2VideoDiffusionDecoderModel",
    "LTX2VideoTransformer3DModel", "LTXVideoTransformer3DModel", "LatteTransformer3DModel",
    "LearnedLogVariance", "LongCatAudioDiTTransformer", "LongCatAudioDiTVae",
    "LongCatImageTransformer2DModel", "Lumina2Transformer2DModel", "LuminaNextDiT2DModel", "MMAudioVAE",
    "MMAudioVocoder", "MiniMaxH3Transformer3DModel", "MiniMaxMusic3ConditionEncoder",
    "MiniMaxMusic3RVQDepthDecoder", "MiniMaxMusic3Transformer1DModel", "MiniMaxMusic3Vocoder",
    "MochiTransformer3DModel", "MotifVideoTransformer3DModel", "MotionAdapter", "MultiAdapter",
    "MultiControlNetModel", "MultiControlNetUnionModel", "NucleusMoEImageTransformer2DModel",
    "OmniGenTransformer2DModel", "OvisImageTransformer2DModel", "PRXTransformer2DModel",
    "PixArtTransformer2DModel", "PriorTransformer", "QwenImage21Transformer2DModel",
    "QwenImageControlNetModel", "QwenImageMultiControlNetModel", "QwenImageTransformer2DModel",
    "RFD4ProteinaAutoencoder", "RFD4ProteinaTransformer", "SD3ControlNetModel",
    "SD3MultiControlNetModel", "SD3Transformer2DModel", "SanaControlNetModel", "SanaTransformer2DModel",
    "SanaVideoTransformer3DModel", "SanaWMLTX2RefinerTransformer3DModel", "SanaWMTransformer3DModel",
    "SkyReelsV2Transformer3DModel", "SparseControlNetModel", "StableAudio3DiTModel",
    "StableAudioDiTModel", "StableCascadeUNet", "T2IAdapter", "T5FilmDecoder", "Transformer2DModel",
    "TransformerTemporalModel", "UNet1DModel", "UNet2DConditionModel", "UNet2DModel",
    "UNet3DConditionModel", "UNetControlNetXSModel", "UNetMotionModel",
    "UNetSpatioTemporalConditionModel", "UVit2DModel", "VQModel", "WanAnimate2Transformer3DModel",
    "WanAnimateTransformer3DModel", "WanTransformer3DModel", "WanVACETransformer3DModel",
    "ZImageControlNetModel", "ZImageTransformer2DModel"};

/// Classes of transformers that are components of pipelines.
constexpr std::array<std::string_view, 34> kTransformersClasses{
    "BertModel", "Blip2QFormerModel", "CLIPModel", "CLIPSegForImageSegmentation", "CLIPTextModel",
    "CLIPTextModelWithProjection", "CLIPVisionModel", "CLIPVisionModelWithProjection",
    "ChineseCLIPModel", "ChineseCLIPTextModel", "ClapModel", "DPTForDepthEstimation", "GPT2LMHeadModel",
    "Gemma2Model", "GemmaModel", "LDMBertModel", "LlamaForCausalLM", "LlamaModel", "MT5EncoderModel",
    "MultilingualCLIP", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
    "RobertaModel", "RobertaSeriesModelWithTransformation", "SiglipModel", "SiglipTextModel",
    "SiglipVisionModel", "SpeechT5HifiGan", "StableDiffusionSafetyChecker", "T5EncoderModel",
    "T5ForConditionalGeneration", "T5Model", "UMT5EncoderModel", "XLMRobertaModel"};
// clang-format on

template <std::size_t size>
bool is_in(const std::array<std::string_view, size>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The names that add_model_class() has added.
class AddedClasses {
 public:
  static AddedClasses& get() {
    static AddedClasses classes;
    return classes;
  }
  void add(std::string_view name) {
    const std::lock_guard lock(mutex_);
    names_.emplace(name);
  }
  bool contains(std::string_view name) {
    const std::lock_guard lock(mutex_);
    return names_.contains(name);
  }

 private:
  std::mutex mutex_;
  std::set<std::string, std::less<>> names_;
};

bool is_known(std::string_view name) {
  return is_model_class(name) || name.ends_with("Scheduler") || name.ends_with("Pipeline");
}

/// Returns the first element of `architectures`, the key in which transformers writes the class.
std::string architecture_of(const Json& config) {
  const auto found = config.find("architectures");
  const bool is_list = found != config.end() && found->is_array() && !found->empty();
  return is_list && found->front().is_string() ? found->front().get<std::string>() : std::string();
}

}  // namespace

bool is_model_class(std::string_view name) {
  return is_in(kDiffusersClasses, name) || is_in(kTransformersClasses, name) ||
         AddedClasses::get().contains(name);
}

void add_model_class(std::string_view name) { AddedClasses::get().add(name); }

std::string config_class(const Json& config, std::string_view where, std::string_view expected) {
  const auto name = config.find("_class_name");
  if (name == config.end()) return architecture_of(config);
  require<ConfigError>(name->is_string(), "{}: _class_name is {}, expected the name of a class, \"{}\"",
                       where, json_excerpt(*name), expected);
  return name->get<std::string>();
}

void check_config_class(const Json& config, std::string_view where, std::string_view expected,
                        std::initializer_list<std::string_view> compatible) {
  const std::string found = config_class(config, where, expected);
  if (found.empty() || found == expected) return;
  if (std::find(compatible.begin(), compatible.end(), found) != compatible.end()) return;
  require<ConfigError>(!is_known(found), "{}: this is the config of a {}, expected that of a {}", where,
                       found, expected);
  warn_once(fmt::format("{}: written for {}, loaded as {}", where, json_excerpt(Json(found)), expected));
}

}  // namespace internal
}  // namespace diffusers
