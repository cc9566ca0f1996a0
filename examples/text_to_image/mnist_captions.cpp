#include "mnist_captions.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include <diffusers/core/error.h>

using namespace diffusers;

namespace {

constexpr int64_t kDigits = 10;
constexpr std::array<std::string_view, kDigits> kNames = {"zero", "one", "two",   "three", "four",
                                                          "five", "six", "seven", "eight", "nine"};

/// A phrasing: the words before the digit, and whether the digit is written as a word.
struct Phrasing {
  std::string_view start;
  bool is_word = false;
};
constexpr std::array<Phrasing, 8> kPhrasings = {{{"a handwritten ", true},
                                                 {"the digit ", false},
                                                 {"number ", true},
                                                 {"a picture of a ", false},
                                                 {"the number ", false},
                                                 {"a drawing of the digit ", true},
                                                 {"", true},
                                                 {"handwritten digit ", false}}};

/// Mixes the bits of a number (SplitMix64, Steele et al. 2014).
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
  x = (x ^ x >> 27) * 0x94D049BB133111EBU;
  return x ^ x >> 31;
}

}  // namespace

int64_t phrasing_count() { return static_cast<int64_t>(kPhrasings.size()); }

std::string digit_caption(int64_t digit, int64_t phrasing) {
  const Phrasing& chosen = kPhrasings.at(static_cast<std::size_t>(phrasing));
  const std::string name(kNames.at(static_cast<std::size_t>(digit)));
  return std::string(chosen.start) + (chosen.is_word ? name : std::to_string(digit));
}

std::vector<std::string> all_captions() {
  std::vector<std::string> captions;
  for (int64_t phrasing = 0; phrasing < phrasing_count(); ++phrasing)
    for (int64_t digit = 0; digit < kDigits; ++digit) captions.push_back(digit_caption(digit, phrasing));
  return captions;
}

std::vector<DigitPrompt> prompts_by_column(int64_t count) {
  std::vector<DigitPrompt> prompts;
  for (int64_t i = 0; i < count; ++i)
    prompts.push_back({digit_caption(i % kDigits, i / kDigits % phrasing_count()), i % kDigits});
  return prompts;
}

CaptionedDigits::CaptionedDigits(std::shared_ptr<const MnistDataset> digits, uint64_t seed)
    : digits_(std::move(digits)), seed_(seed) {
  const Tensor& labels = digits_->labels();
  labels_.assign(labels.const_data_ptr<int64_t>(), labels.const_data_ptr<int64_t>() + labels.numel());
  const int64_t largest = *std::max_element(labels_.begin(), labels_.end());
  if (largest >= kDigits)
    throw ConfigError("the images have labels up to " + std::to_string(largest) +
                      ", expected digits from 0 to 9");
}

Batch CaptionedDigits::get_batch(std::span<const int64_t> indices, uint64_t augmentation_seed) const {
  Batch batch = digits_->get_batch(indices, augmentation_seed);
  // The model takes no class labels.
  batch.class_labels = Tensor();
  for (const int64_t index : indices) batch.captions.push_back(caption(index));
  return batch;
}

std::string CaptionedDigits::caption(int64_t index) const {
  const uint64_t phrasing = mix(mix(seed_) ^ static_cast<uint64_t>(index)) % kPhrasings.size();
  return digit_caption(labels_.at(static_cast<std::size_t>(index)), static_cast<int64_t>(phrasing));
}
