#pragma once

/// @file
/// Names of the models, for headers that only pass them on. Each model's own header says what it takes, gives
/// and throws.

namespace diffusers {

/// A handle of a model, whose copies share the weights. Defined in models/model.h.
template <class Impl, class Config>
class ModelHolder;

class AutoencoderKLImpl;
struct AutoencoderKLConfig;
/// Defined in models/autoencoder_kl.h.
using AutoencoderKL = ModelHolder<AutoencoderKLImpl, AutoencoderKLConfig>;

class T2IAdapterImpl;
struct T2IAdapterConfig;
/// Defined in models/t2i_adapter.h.
using T2IAdapter = ModelHolder<T2IAdapterImpl, T2IAdapterConfig>;

class UNet2DModelImpl;
struct UNet2DModelConfig;
/// Defined in models/unet_2d.h.
using UNet2DModel = ModelHolder<UNet2DModelImpl, UNet2DModelConfig>;

class UNet2DConditionModelImpl;
struct UNet2DConditionModelConfig;
/// Defined in models/unet_2d_condition.h.
using UNet2DConditionModel = ModelHolder<UNet2DConditionModelImpl, UNet2DConditionModelConfig>;

/// Defined in models/controlnet.h.
class ControlNetModel;

class VQModelImpl;
struct VQModelConfig;
/// Defined in models/vq_model.h.
using VQModel = ModelHolder<VQModelImpl, VQModelConfig>;

}  // namespace diffusers
