#pragma once

// Small models for text to image on MNIST.

#include <cstdint>

#include <diffusers/data/dataset.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/training/text_to_image_models.h>
#include <diffusers/training/trainer.h>
#include <diffusers/training/training_config.h>

#include <c10/core/Device.h>

/// Makes new models: an autoencoder that turns an image of a digit into 4 x R/4 x R/4 latents, a UNet, a text
/// encoder, a tokenizer with the words of the captions, and a DDIM scheduler with v-prediction.
/// @param resolution side R of the images, a multiple of 8
/// @param seed seed of the weights
/// @param device device of the models
diffusers::TextToImageModels make_digit_models(int64_t resolution, uint64_t seed, at::Device device);

/// Returns the configuration of the autoencoder's training, with the folder, the seed and the logs of the
/// whole training.
/// @param training configuration of the whole training; the autoencoder is written to
///   `output_dir`/autoencoder
/// @param steps number of steps
diffusers::TrainingConfig autoencoder_config(const diffusers::TrainingConfig& training, int64_t steps);

/// Trains an autoencoder with an L1 and a KL loss, and logs reconstructions at the end.
/// @param vae the model; it has the trained weights afterwards
diffusers::TrainingResult train_digit_autoencoder(const diffusers::AutoencoderKL& vae,
                                                  const diffusers::TrainingConfig& config,
                                                  const diffusers::Dataset& digits);

/// Returns a copy of an autoencoder whose `scaling_factor` gives the latents of the first images the standard
/// deviation 1.
diffusers::AutoencoderKL with_measured_scale(const diffusers::AutoencoderKL& vae,
                                             const diffusers::Dataset& digits, uint64_t seed);
