#include "digit_styles.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <numeric>

#include <diffusers/core/error.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>

#include <ATen/ATen.h>

using namespace diffusers;

namespace {

constexpr int64_t kDigits = 10;
constexpr double kSlant = 0.5;            // shift of a row, in parts of its distance from the middle row
constexpr int64_t kTrainImages = 20'000;  // of each style, for the classifier
constexpr int64_t kTestImages = 2'000;    // of each style

/// The first images of a split in both styles. The label of a bold, slanted digit is `kDigits` larger.
TensorDataset in_both_styles(const DigitSettings& settings, Split split, int64_t count) {
  const auto digits = open_padded_digits(settings, split);
  std::vector<int64_t> positions(static_cast<std::size_t>(std::min(count, digits->size())));
  std::iota(positions.begin(), positions.end(), 0);
  const Batch batch = digits->get_batch(positions);
  return TensorDataset(at::cat({batch.images, bold_slanted(batch.images)}),
                       at::cat({batch.class_labels, batch.class_labels + kDigits}));
}

double percent(const Tensor& is_true) { return 100 * is_true.to(at::kDouble).mean().item<double>(); }

}  // namespace

Tensor bold_slanted(const Tensor& images) {
  const Tensor shear = at::tensor({1.0, kSlant, 0.0, 0.0, 1.0, 0.0}).to(at::kFloat).view({1, 2, 3});
  const Tensor grid = at::affine_grid_generator(shear.expand({images.size(0), 2, 3}), images.sizes(),
                                                /*align_corners=*/false);
  // Black is 0 for the sampler, which reads zeros outside of the image.
  const Tensor slanted = at::grid_sampler_2d(images + 1, grid, /*interpolation_mode=bilinear*/ 0,
                                             /*padding_mode=zeros*/ 0, /*align_corners=*/false);
  return at::max_pool2d(slanted, 3, /*stride=*/1, /*padding=*/1) - 1;
}

std::vector<int64_t> first_of_digit(const Tensor& labels, int64_t digit, int64_t count) {
  const Tensor found = labels.eq(digit).nonzero().flatten();
  if (found.size(0) < count)
    throw ConfigError("--num_images needs " + std::to_string(count) + " images of the digit " +
                      std::to_string(digit) + ", but there are " + std::to_string(found.size(0)));
  const auto* first = found.const_data_ptr<int64_t>();
  return {first, first + count};
}

std::vector<int64_t> first_of_each_digit(const Tensor& labels, int64_t count) {
  std::vector<int64_t> positions(static_cast<std::size_t>(count));
  for (int64_t digit = 0; digit < kDigits; ++digit) {
    const std::vector<int64_t> of_digit =
        first_of_digit(labels, digit, (count - digit + kDigits - 1) / kDigits);
    for (std::size_t i = 0; i < of_digit.size(); ++i)
      positions[i * static_cast<std::size_t>(kDigits) + static_cast<std::size_t>(digit)] = of_digit[i];
  }
  return positions;
}

StyleJudge::StyleJudge(const DigitSettings& settings)
    : classifier_(
          trained_classifier(in_both_styles(settings, Split::kTrain, kTrainImages),
                             {.num_classes = 2 * kDigits,
                              .cache_file = join_path(settings.training.output_dir, "classifier.safetensors"),
                              .purpose = "of digits in both styles"})) {
  const Batch test = in_both_styles(settings, Split::kTest, kTestImages).samples();
  std::printf("it finds digit and style of %.1f %% of %lld test images\n",
              percent(classes(test.images / 2 + 0.5).eq(test.class_labels)),
              static_cast<long long>(test.size()));
}

Tensor StyleJudge::classes(const Tensor& images) {
  const at::NoGradGuard no_grad;
  return classifier_(images * 2 - 1).argmax(1);
}

JudgedSamples StyleJudge::judge(const Tensor& images, const std::vector<int64_t>& digits) {
  const Tensor found = classes(images);
  const Tensor asked = at::tensor(digits, at::kLong);
  return {.styled = percent(found.ge(kDigits)),
          .styled_digit = percent(found.eq(asked + kDigits)),
          .plain_digit = percent(found.eq(asked))};
}

double StyleJudge::share_of_digit(const Tensor& images, int64_t digit) {
  return percent(classes(images).remainder(kDigits).eq(digit));
}
