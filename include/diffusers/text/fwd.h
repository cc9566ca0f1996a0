#pragma once

// Names of the text encoders, for headers that only pass them on.

namespace diffusers {

template <class Impl, class Config>
class ModelHolder;

class CLIPTextModelImpl;
struct CLIPTextConfig;
using CLIPTextModel = ModelHolder<CLIPTextModelImpl, CLIPTextConfig>;

}  // namespace diffusers
