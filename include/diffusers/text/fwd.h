#pragma once

// Names of the text encoders, for headers that only pass them on.

namespace diffusers {

template <class Impl, class Config>
class ModelHolder;

class CLIPTextModelImpl;
class CLIPTextModelWithProjectionImpl;
struct CLIPTextConfig;
using CLIPTextModel = ModelHolder<CLIPTextModelImpl, CLIPTextConfig>;
using CLIPTextModelWithProjection = ModelHolder<CLIPTextModelWithProjectionImpl, CLIPTextConfig>;

}  // namespace diffusers
