#pragma once

// A second style of MNIST's digits, and a classifier that tells the styles and the digits apart.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>

#include "../unconditional_image_generation/classifier.h"
#include "mnist_flags.h"

/// Slants images to the right and makes their strokes two pixels wider.
/// @param images `[N, 1, H, W]` float32 in [-1, 1], black outside of the digits
/// @return shape of images
diffusers::Tensor bold_slanted(const diffusers::Tensor& images);

/// Returns the positions of the first images of a digit.
/// @param labels `[N]` int64
/// @param count 0 or more
/// @throws diffusers::ConfigError naming `--num_images` if there are fewer images
std::vector<int64_t> first_of_digit(const diffusers::Tensor& labels, int64_t digit, int64_t count);

/// Returns the positions of the first images of all digits, in turns: a 0, a 1, ..., a 9, a 0, ...
/// @param labels `[N]` int64
/// @param count 0 or more
/// @throws diffusers::ConfigError as `first_of_digit`
std::vector<int64_t> first_of_each_digit(const diffusers::Tensor& labels, int64_t count);

/// The verdict of a `StyleJudge`: shares of the samples, in percent.
struct JudgedSamples {
  double styled = 0;        ///< bold and slanted
  double styled_digit = 0;  ///< bold and slanted, and the digit of the prompt
  double plain_digit = 0;   ///< as in MNIST, and the digit of the prompt
};

/// A classifier of digits and styles.
class StyleJudge {
 public:
  /// Trains the classifier on training images in both styles, and prints its accuracy on test images.
  /// @param settings data, and the output folder, where classifier.safetensors is kept
  explicit StyleJudge(const DigitSettings& settings);

  /// Classifies samples.
  /// @param images `[N, 1, H, W]` float32 in [0, 1]
  /// @param digits the digits of the prompts, N of them
  JudgedSamples judge(const diffusers::Tensor& images, const std::vector<int64_t>& digits);
  /// Returns the share of the samples that show a digit in any style, in percent.
  /// @param images `[N, 1, H, W]` float32 in [0, 1]
  double share_of_digit(const diffusers::Tensor& images, int64_t digit);

 private:
  diffusers::Tensor classes(const diffusers::Tensor& images);

  Classifier classifier_;
};
