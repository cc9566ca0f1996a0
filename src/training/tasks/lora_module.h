#pragma once

#include <functional>
#include <memory>
#include <string>

#include <diffusers/models/lora.h>
#include <diffusers/models/lora_weights.h>
#include <diffusers/training/saved_module.h>

namespace diffusers {
inline namespace internal {

/// Adds an adapter to a model that has none, and checks the adapter of one that has. The adapter of a model
/// in half precision becomes float32.
/// @param name name of the model, for messages
/// @throws ConfigError if the config is not supported, or the model has several adapters, or one that is not
///   active or that is fused
void ensure_adapter(torch::nn::Module& model, const LoraConfig& config, const char* name);

/// Checks that a model that is saved as a whole has no adapter, which its files would lack.
/// @param name name of the model, for messages
/// @throws ConfigError naming the adapters
void require_no_adapter(const torch::nn::Module& model, const char* name);

/// Returns true for a module of `make_lora_module`, which saves the adapter.
bool is_lora_module(const SavedModule& module);

/// The adapter of a model, for a training: its module has the adapter's parameters only. Its train() and
/// eval() set the mode of the whole model. It is saved as `pytorch_lora_weights.safetensors`.
/// @param prefix "unet", "text_encoder" or "text_encoder_2"
/// @param checkpointing enables gradient checkpointing of the model
std::shared_ptr<SavedModule> make_lora_module(std::shared_ptr<torch::nn::Module> model, const char* prefix,
                                              const SaveLoraWeightsOptions& saved,
                                              std::function<void()> checkpointing);

}  // namespace internal
}  // namespace diffusers
