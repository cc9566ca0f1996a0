#pragma once

/// @file
/// Forward declarations of the text encoders, for headers that only pass them on.

namespace diffusers {

template <class Impl, class Config>
class ModelHolder;

class CLIPTextModelImpl;
class CLIPTextModelWithProjectionImpl;
struct CLIPTextConfig;
/// A handle of a text encoder. Defined in `<diffusers/text/clip_text_model.h>`.
using CLIPTextModel = ModelHolder<CLIPTextModelImpl, CLIPTextConfig>;
using CLIPTextModelWithProjection = ModelHolder<CLIPTextModelWithProjectionImpl, CLIPTextConfig>;

}  // namespace diffusers
