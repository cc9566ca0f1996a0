#include "examples/text_to_image/mnist_captions.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

namespace {

using diffusers::Batch;
using diffusers::MnistDataset;

std::shared_ptr<const MnistDataset> digits(int64_t count) {
  return std::make_shared<const MnistDataset>(DIFFUSERS_TEST_MNIST,
                                              diffusers::MnistDatasetOptions{.max_samples = count});
}

std::vector<int64_t> positions(int64_t count) {
  std::vector<int64_t> indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

TEST(MnistCaptions, CaptionsDiffer) {
  const std::vector<std::string> captions = all_captions();
  EXPECT_EQ(static_cast<int64_t>(captions.size()), 10 * phrasing_count());
  EXPECT_EQ(std::set<std::string>(captions.begin(), captions.end()).size(), captions.size());
  EXPECT_EQ(digit_caption(3, 0), "a handwritten three");
  EXPECT_EQ(digit_caption(3, 1), "the digit 3");
  EXPECT_EQ(digit_caption(3, 2), "number three");
}

TEST(MnistCaptions, PromptsHaveADigitInEachColumn) {
  const std::vector<DigitPrompt> prompts = prompts_by_column(10 * phrasing_count() + 1);
  EXPECT_EQ(prompts[3].text, digit_caption(3, 0));
  EXPECT_EQ(prompts[14].text, digit_caption(4, 1));
  EXPECT_EQ(prompts[14].digit, 4);
  EXPECT_EQ(prompts.back().text, digit_caption(0, 0));
}

TEST(CaptionedDigits, CaptionsDependOnSeedAndPosition) {
  const auto images = digits(500);
  const CaptionedDigits data(images, 0), same(images, 0), other(images, 1);
  const std::vector<int64_t> all = positions(500);
  const Batch batch = data.get_batch(all, /*augmentation_seed=*/7);
  EXPECT_EQ(batch.captions, same.get_batch(all).captions);
  EXPECT_NE(batch.captions, other.get_batch(all).captions);
  EXPECT_EQ(data.get_batch(std::vector<int64_t>{400, 3}).captions,
            (std::vector<std::string>{batch.captions[400], batch.captions[3]}));
  EXPECT_FALSE(batch.class_labels.defined());

  // Each caption names the digit, and all phrasings occur.
  std::set<int64_t> found;
  for (int64_t i = 0; i < 500; ++i) {
    const auto label = images->labels()[i].item<int64_t>();
    for (int64_t phrasing = 0; phrasing < phrasing_count(); ++phrasing)
      if (data.caption(i) == digit_caption(label, phrasing)) found.insert(phrasing);
  }
  EXPECT_EQ(static_cast<int64_t>(found.size()), phrasing_count());
}

TEST(CaptionedDigits, RefusesLabelsThatAreNoDigits) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / "captioned_digits_with_letters";
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
  };
  write("train-images-idx3-ubyte", std::string("\0\0\x08\x03\0\0\0\x01\0\0\0\x01\0\0\0\x01\x05", 17));
  write("train-labels-idx1-ubyte", std::string("\0\0\x08\x01\0\0\0\x01\x0B", 9));
  const auto letters = std::make_shared<const MnistDataset>(folder);
  EXPECT_THROW(CaptionedDigits(letters, 0), diffusers::ConfigError);
  std::filesystem::remove_all(folder);
}

}  // namespace
