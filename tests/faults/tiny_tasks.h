#pragma once

// The tasks and the data of the driver's trainings.

#include <memory>

#include <diffusers/data/dataset.h>
#include <diffusers/training/task.h>

#include "faults/request.h"

namespace diffusers::faults {

/// Stops the process until the observing script lets it continue.
void wait_at_gate();

/// Creates the data of the key `task`, 18 samples: an epoch has 6 batches.
/// @param request `deadly_batch=N`: reading batch N ends the process
std::unique_ptr<Dataset> make_dataset(const Request& request);

/// Creates the task of the key `task`: "denoiser" (the default), "autoencoder", "latent_diffusion",
/// "text_to_image", "lora", "controlnet", "t2i_adapter", "textual_inversion" or "instruct_pix2pix". Initial
/// weights are drawn with the global generator, or read from tests/golden.
/// @param request `deadly_loss=N`: call N of `Task::loss` ends the process. Latent diffusion builds a cache
/// in
///   `latents` of the output folder: `cache_gate=1` waits before that, and `other_vae=1` changes the weights
///   of the autoencoder
std::shared_ptr<Task> make_task(const Request& request);

}  // namespace diffusers::faults
