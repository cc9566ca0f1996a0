#include <array>
#include <utility>

#include <diffusers/data/textual_inversion_dataset.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "data/transforms.h"

namespace diffusers {
namespace {

/// Arbitrary number that makes the choice of a caption independent of the crop and the flip.
constexpr uint64_t kTemplateStream = 0x74656d706c617465;
constexpr std::string_view kPlace = "{}";

const std::vector<std::string>& object_templates() {
  static const std::vector<std::string> templates = {
      "a photo of a {}",           "a rendering of a {}",
      "a cropped photo of the {}", "the photo of a {}",
      "a photo of a clean {}",     "a photo of a dirty {}",
      "a dark photo of the {}",    "a photo of my {}",
      "a photo of the cool {}",    "a close-up photo of a {}",
      "a bright photo of the {}",  "a cropped photo of a {}",
      "a photo of the {}",         "a good photo of the {}",
      "a photo of one {}",         "a close-up photo of the {}",
      "a rendition of the {}",     "a photo of the clean {}",
      "a rendition of a {}",       "a photo of a nice {}",
      "a good photo of a {}",      "a photo of the nice {}",
      "a photo of the small {}",   "a photo of the weird {}",
      "a photo of the large {}",   "a photo of a cool {}",
      "a photo of a small {}"};
  return templates;
}

/// Captions of a style differ in these words before "in the style of {}".
const std::vector<std::string>& style_templates() {
  static const std::vector<std::string> templates = [] {
    std::vector<std::string> made;
    for (const char* work :
         {"a painting", "a rendering", "a cropped painting", "the painting", "a clean painting",
          "a dirty painting", "a dark painting", "a picture", "a cool painting", "a close-up painting",
          "a bright painting", "a cropped painting", "a good painting", "a close-up painting", "a rendition",
          "a nice painting", "a small painting", "a weird painting", "a large painting"})
      made.push_back(std::string(work) + " in the style of {}");
    return made;
  }();
  return templates;
}

}  // namespace

const std::vector<std::string>& textual_inversion_templates(const std::string& learnable_property) {
  require<ConfigError>(learnable_property == "object" || learnable_property == "style",
                       "learnable_property is \"{}\", expected \"object\" or \"style\"", learnable_property);
  return learnable_property == "object" ? object_templates() : style_templates();
}

TextualInversionDataset::TextualInversionDataset(std::shared_ptr<const Dataset> images,
                                                 TextualInversionDatasetOptions options)
    : images_(std::move(images)), options_(std::move(options)) {
  require<ConfigError>(images_ != nullptr && images_->size() > 0,
                       "TextualInversionDataset: there are no images");
  require<ConfigError>(!options_.placeholder.empty(), "placeholder is empty, expected a token");
  require<ConfigError>(options_.repeats >= 1, "repeats is {}, expected at least 1", options_.repeats);
  textual_inversion_templates(options_.learnable_property);
}

int64_t TextualInversionDataset::size() const { return images_->size() * options_.repeats; }

std::vector<int64_t> TextualInversionDataset::buckets() const {
  const std::vector<int64_t> of_images = images_->buckets();
  std::vector<int64_t> buckets;
  if (of_images.empty()) return buckets;
  for (int64_t i = 0; i < options_.repeats; ++i)
    buckets.insert(buckets.end(), of_images.begin(), of_images.end());
  return buckets;
}

std::string TextualInversionDataset::caption(int64_t index, uint64_t augmentation_seed) const {
  const std::vector<std::string>& templates = textual_inversion_templates(options_.learnable_property);
  ExampleRandom random(ExampleRandom::mix(augmentation_seed) ^ kTemplateStream, index);
  std::string text =
      templates[static_cast<std::size_t>(random.below(static_cast<int64_t>(templates.size())))];
  return text.replace(text.find(kPlace), kPlace.size(), options_.placeholder);
}

Batch TextualInversionDataset::get_augmented(int64_t index, uint64_t augmentation_seed) const {
  require<TensorError>(index >= 0 && index < size(), "index {} is out of range, expected 0 to {}", index,
                       size() - 1);
  const std::array<int64_t, 1> image = {index % images_->size()};
  // Each repetition has its own crop and flip. 0, the seed outside of training, stays 0.
  const auto repetition = static_cast<uint64_t>(index / images_->size());
  Batch sample = images_->get_batch(
      image, augmentation_seed == 0 ? 0 : ExampleRandom::mix(augmentation_seed + repetition) | 1U);
  sample.captions = {caption(index, augmentation_seed)};
  sample.class_labels = Tensor();
  sample.indices = Tensor();
  return sample;
}

}  // namespace diffusers
