#pragma once

// Classifier-free guidance of class-conditional samples.

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/sampling_loop.h>

#include <c10/core/Device.h>

/// Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) around a model whose last class,
/// num_class_embeds - 1, stands for "no class": one forward makes both predictions, which are combined as
/// uncond + scale (cond - uncond).
/// @param labels int64 `[B]`, the class that each sample is to be of; undefined for a model without classes
/// @param scale 1 or less: the conditional prediction alone, as in diffusers
diffusers::SamplingModel guided_model(const diffusers::UNet2DModel& unet, const diffusers::Tensor& labels,
                                      double scale);

/// 0, 1, ..., num_classes - 1, 0, 1, ...: a grid of num_classes columns then has one class a column.
diffusers::Tensor labels_by_column(int64_t count, int64_t num_classes, at::Device device);
