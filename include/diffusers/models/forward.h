#pragma once

// Names of the models, for headers that only pass them on.

namespace diffusers {

template <class Impl, class Config>
class ModelHolder;

class AutoencoderKLImpl;
struct AutoencoderKLConfig;
using AutoencoderKL = ModelHolder<AutoencoderKLImpl, AutoencoderKLConfig>;

class T2IAdapterImpl;
struct T2IAdapterConfig;
using T2IAdapter = ModelHolder<T2IAdapterImpl, T2IAdapterConfig>;

class UNet2DModelImpl;
struct UNet2DModelConfig;
using UNet2DModel = ModelHolder<UNet2DModelImpl, UNet2DModelConfig>;

class UNet2DConditionModelImpl;
struct UNet2DConditionModelConfig;
using UNet2DConditionModel = ModelHolder<UNet2DConditionModelImpl, UNet2DConditionModelConfig>;

class ControlNetModel;

class VQModelImpl;
struct VQModelConfig;
using VQModel = ModelHolder<VQModelImpl, VQModelConfig>;

}  // namespace diffusers
