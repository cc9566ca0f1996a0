#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include <diffusers/models/denoiser.h>
#include <diffusers/training/saved_module.h>

namespace diffusers {

/// A model that predicts and is trained: its Denoiser, its facts, and the SavedModule that the Trainer saves.
/// Every holder of a DenoisingModel converts to it.
struct TrainableDenoiser {
  std::shared_ptr<SavedModule> saved;
  Denoiser denoise;
  DenoiserInfo info = {};

  TrainableDenoiser(std::shared_ptr<SavedModule> saved_module, Denoiser denoiser, DenoiserInfo facts = {})
      : saved(std::move(saved_module)), denoise(std::move(denoiser)), info(std::move(facts)) {}
  /// @param model shared, not copied
  /// @throws ConfigError for an empty holder or a null pointer
  template <DenoisingModel Model>
  TrainableDenoiser(Model model)  // NOLINT(google-explicit-constructor): UNet2DModel stands for its denoiser
      : saved(make_saved_module(model)), denoise(make_denoiser(model)), info(denoiser_info(model)) {}
};

/// Makes a TrainableDenoiser of a holder, as its constructor does.
template <DenoisingModel Model>
TrainableDenoiser make_trainable(Model model) {
  return TrainableDenoiser(std::move(model));
}

}  // namespace diffusers
