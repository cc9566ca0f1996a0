#pragma once

// Classifier-free guidance of class-conditional samples.

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/sampling_loop.h>

#include <c10/core/Device.h>

/// Wraps a model with classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598). The model's last
/// class, num_class_embeds - 1, must stand for "no class". One forward pass makes both predictions, which are
/// combined as uncond + scale (cond - uncond).
/// @param labels int64 `[B]`, the class of each sample; undefined for a model without classes
/// @param scale guidance scale; 1 or less uses the conditional prediction only, as in diffusers
diffusers::SamplingModel guided_model(const diffusers::UNet2DModel& unet, const diffusers::Tensor& labels,
                                      double scale);

/// Returns the labels 0, 1, ..., num_classes - 1, 0, 1, ..., so that a grid of num_classes columns has one
/// class in each column.
diffusers::Tensor labels_by_column(int64_t count, int64_t num_classes, at::Device device);
