#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include <diffusers/models/denoiser.h>
#include <diffusers/training/saved_module.h>

namespace diffusers {

namespace detail {
/// Returns true for a class of this library, whose `forward` changes nothing in the model.
bool is_model_of_library(const torch::nn::Module& model);
}  // namespace detail

/// A denoiser that can be trained and saved. Every holder of a DenoisingModel converts to it.
struct TrainableDenoiser {
  std::shared_ptr<SavedModule> saved;  ///< the module that the Trainer trains and saves
  Denoiser denoise;                    ///< function that computes the prediction with this module
  DenoiserInfo info = {};              ///< facts of the model
  /// True if several threads may call `denoise` at once, each with some rows of a batch. The Trainer then may
  /// choose the number of parts (`TrainingConfig::cpu_data_parallel` 0). The models of the library allow it.
  bool is_thread_safe = false;

  /// Creates a TrainableDenoiser from its parts.
  /// @param saved_module module that the Trainer trains and saves
  /// @param denoiser function that computes the prediction with this module
  /// @param facts facts of the model
  TrainableDenoiser(std::shared_ptr<SavedModule> saved_module, Denoiser denoiser, DenoiserInfo facts = {})
      : saved(std::move(saved_module)), denoise(std::move(denoiser)), info(std::move(facts)) {}
  /// Creates a TrainableDenoiser of a model.
  /// @param model holder or pointer; the module is shared, not copied
  /// @throws ConfigError for an empty holder or a null pointer
  template <DenoisingModel Model>
  TrainableDenoiser(Model model)  // NOLINT(google-explicit-constructor): UNet2DModel stands for its denoiser
      : saved(make_saved_module(model)),
        denoise(make_denoiser(model)),
        info(denoiser_info(model)),
        is_thread_safe(detail::is_model_of_library(*model.operator->())) {}
};

/// Creates a TrainableDenoiser of a model, as its constructor does.
/// @param model holder or pointer; the module is shared, not copied
/// @return the TrainableDenoiser
/// @throws ConfigError for an empty holder or a null pointer
template <DenoisingModel Model>
TrainableDenoiser make_trainable(Model model) {
  return TrainableDenoiser(std::move(model));
}

}  // namespace diffusers
