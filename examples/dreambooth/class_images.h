#pragma once

#include "dreambooth_flags.h"

/// Generates the class images that `--class_data_dir` lacks up to `--num_class_images`, with the pipeline of
/// the models and `--class_prompt`. The files have the names of Python's scripts: NUMBER-SHA1.jpg. A seed
/// gives the images of Python's scripts. Nothing is drawn if there are enough images.
/// @param models their weights are used as they are, or are read again if `--prior_generation_precision` is
///   another dtype
/// @throws diffusers::FileError if a file cannot be written, or if a metadata file names the class images
void make_class_images(const DreamBoothSettings& settings, const StableDiffusionSettings& shared,
                       const diffusers::TextToImageModels& models);
