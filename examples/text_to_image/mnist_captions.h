#pragma once

// Captions for the digits of MNIST.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>
#include <diffusers/data/mnist.h>

/// Returns the number of phrasings of a caption.
int64_t phrasing_count();

/// Returns the caption of a digit in one phrasing, such as "a handwritten three" or "the digit 3".
/// @param digit 0 to 9
/// @param phrasing 0 to `phrasing_count() - 1`
std::string digit_caption(int64_t digit, int64_t phrasing);

/// Returns the captions of all digits in all phrasings.
std::vector<std::string> all_captions();

/// A caption and its digit.
struct DigitPrompt {
  std::string text;
  int64_t digit = 0;
};

/// Returns prompts for samples. The digits are 0, 1, ..., 9, 0, ...; every ten prompts have the next
/// phrasing. A grid with ten columns thus has one digit in each column and one phrasing in each row.
std::vector<DigitPrompt> prompts_by_column(int64_t count);

/// Images of digits with captions. The phrasing of a sample depends only on the seed and the sample's
/// position.
class CaptionedDigits : public diffusers::Dataset {
 public:
  /// @param digits images with labels 0 to 9
  /// @throws diffusers::ConfigError naming a label that is not a digit
  CaptionedDigits(std::shared_ptr<const diffusers::MnistDataset> digits, uint64_t seed);

  int64_t size() const override { return digits_->size(); }
  /// Reads samples.
  /// @return images `[B, 1, H, W]` in [-1, 1], captions and indices
  diffusers::Batch get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed = 0) const override;

  /// Returns the caption of a sample.
  std::string caption(int64_t index) const;

 private:
  std::shared_ptr<const diffusers::MnistDataset> digits_;
  std::vector<int64_t> labels_;
  uint64_t seed_ = 0;
};
