#pragma once

/// @file
/// Forward declarations of the models, for headers that only pass them on. The header of each model documents
/// it.

namespace diffusers {

/// A handle of a model. Copies share the weights. Defined in `<diffusers/models/model.h>`.
template <class Impl, class Config>
class ModelHolder;

class AutoencoderKLImpl;
struct AutoencoderKLConfig;
/// A handle of a model. Defined in `<diffusers/models/autoencoder_kl.h>`.
using AutoencoderKL = ModelHolder<AutoencoderKLImpl, AutoencoderKLConfig>;

class T2IAdapterImpl;
struct T2IAdapterConfig;
/// A handle of a model. Defined in `<diffusers/models/t2i_adapter.h>`.
using T2IAdapter = ModelHolder<T2IAdapterImpl, T2IAdapterConfig>;

class UNet2DModelImpl;
struct UNet2DModelConfig;
/// A handle of a model. Defined in `<diffusers/models/unet_2d.h>`.
using UNet2DModel = ModelHolder<UNet2DModelImpl, UNet2DModelConfig>;

class UNet2DConditionModelImpl;
struct UNet2DConditionModelConfig;
/// A handle of a model. Defined in `<diffusers/models/unet_2d_condition.h>`.
using UNet2DConditionModel = ModelHolder<UNet2DConditionModelImpl, UNet2DConditionModelConfig>;

/// A handle of a model. Defined in `<diffusers/models/controlnet.h>`.
class ControlNetModel;

class VQModelImpl;
struct VQModelConfig;
/// A handle of a model. Defined in `<diffusers/models/vq_model.h>`.
using VQModel = ModelHolder<VQModelImpl, VQModelConfig>;

}  // namespace diffusers
