#include "support/gradients.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/unet_2d.h>

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"

namespace diffusers::test {
namespace {

/// Returns the message of the comparison of a gradient with Python's; empty if they are equal.
std::string verdict_on(const Tensor& gradient, const ExpectedGradient& expected, double tolerance) {
  testing::TestPartResultArray results;
  {
    const testing::ScopedFakeTestPartResultReporter reporter(
        testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    expect_gradient(gradient, expected, tolerance, "gradient");
  }
  EXPECT_LE(results.size(), 1);
  return results.size() == 0 ? "" : results.GetTestPartResult(0).message();
}

/// Returns a flat copy with two elements exchanged.
Tensor with_swap(const Tensor& gradient, int64_t i, int64_t j) {
  Tensor changed = gradient.clone();
  Tensor flat = changed.view(-1);
  flat[i] = gradient.view(-1)[j];
  flat[j] = gradient.view(-1)[i];
  return changed;
}

/// A gradient with its name and the form that Python stored.
struct Compared {
  std::string name;
  Tensor gradient;
  ExpectedGradient expected;
};

/// Returns the gradients of a case, except those that are exactly zero.
std::vector<Compared> gradients_of_case(const std::string& name) {
  const auto& golden = unet_2d_golden();
  auto model = make_case(name);
  perturb(model);
  const auto sample = golden[name + "/sample"];
  const auto output = model->forward(sample, golden[name + "/timesteps"]).sample;
  output.backward(pattern(output.sizes()));
  const auto parameters = model->named_parameters();
  const auto expected = read_gradients(golden, name + "/");
  EXPECT_EQ(parameters.size(), expected.size());
  std::vector<Compared> all;
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (expected[i].exists && !is_key_bias(parameters[i].key(), parameters))
      all.push_back({parameters[i].key(), parameters[i].value().grad().contiguous(), expected[i]});
  return all;
}

TEST(Gradients, DirectionsHaveThePythonBits) {
  expect_equal(random_direction(1000, 3), unet_2d_golden()["direction"]);
  EXPECT_NEAR(random_direction(1000, 3).norm().item<double>(), 1, 0.05);
}

/// Changes that keep the sum and the sum of absolute values.
class WrongGradients : public testing::TestWithParam<std::string> {};

TEST_P(WrongGradients, TwoSwappedElementsAreReported) {
  int64_t small = 0;
  int64_t large = 0;
  for (const auto& [name, gradient, expected] : gradients_of_case(GetParam())) {
    SCOPED_TRACE(name);
    EXPECT_EQ(verdict_on(gradient, expected, kFloat32Tolerance), "");
    const Tensor flat = gradient.view(-1);
    // Exchanges the largest and the smallest element, and five pairs that differ by at least the root mean
    // square.
    std::vector<std::pair<int64_t, int64_t>> pairs{
        {flat.argmin().item<int64_t>(), flat.argmax().item<int64_t>()}};
    const double usual = flat.norm().item<double>() / std::sqrt(static_cast<double>(flat.numel()));
    for (int64_t i = 0; i < flat.numel() && pairs.size() < 6; ++i) {
      const int64_t j = (i * 31 + 7) % flat.numel();
      if ((flat[i] - flat[j]).abs().item<double>() >= usual) pairs.emplace_back(i, j);
    }
    for (const auto& [i, j] : pairs) {
      const double difference = (flat[i] - flat[j]).abs().item<double>();
      // Elements that differ by less than the rounding error cannot be distinguished.
      if (difference <= 4 * kFloat32Tolerance * flat.abs().max().item<double>()) continue;
      EXPECT_NE(verdict_on(with_swap(gradient, i, j), expected, kFloat32Tolerance), "")
          << "elements " << i << " and " << j << ", which differ by " << difference;
      ++(expected.elements.defined() ? small : large);
    }
  }
  EXPECT_GT(small, 100);
  EXPECT_GT(large, 100);
  RecordProperty("swaps_in_small_gradients", static_cast<int>(small));
  RecordProperty("swaps_in_large_gradients", static_cast<int>(large));
}

TEST_P(WrongGradients, PermutedTensorsAreReported) {
  int64_t transposed = 0;
  int64_t reversed = 0;
  for (const auto& [name, gradient, expected] : gradients_of_case(GetParam())) {
    SCOPED_TRACE(name);
    if (gradient.numel() < 2) continue;
    EXPECT_NE(verdict_on(gradient.view(-1).flip(0).view(gradient.sizes()), expected, kFloat32Tolerance), "");
    EXPECT_NE(verdict_on(gradient.view(-1).roll(1).view(gradient.sizes()), expected, kFloat32Tolerance), "");
    ++reversed;
    if (gradient.dim() < 2 || gradient.size(0) == 1 || gradient.size(1) == 1) continue;
    // The elements are reordered, and the shape stays the same.
    const Tensor across = gradient.transpose(0, 1).contiguous().view(gradient.sizes());
    EXPECT_NE(verdict_on(across, expected, kFloat32Tolerance), "");
    ++transposed;
  }
  EXPECT_GT(transposed, 20);
  EXPECT_GT(reversed, 40);
}

INSTANTIATE_TEST_SUITE_P(Cases, WrongGradients, testing::Values("plain", "attention_skip"),
                         [](const auto& info) { return info.param; });

TEST(Gradients, EveryElementOfEveryGradientCounts) {
  // The sign of one element is changed: of each element in turn, or of every 97th element of a large
  // gradient.
  int64_t changes = 0;
  for (const auto& [name, gradient, expected] : gradients_of_case("google_ddpm")) {
    SCOPED_TRACE(name);
    const Tensor flat = gradient.view(-1);
    const double usual = flat.norm().item<double>() / std::sqrt(static_cast<double>(flat.numel()));
    const int64_t stride = expected.elements.defined() ? 1 : 97;
    for (int64_t i = 0; i < flat.numel(); i += stride) {
      if (std::abs(flat[i].item<double>()) < 0.1 * usual) continue;
      Tensor changed = gradient.clone();
      changed.view(-1)[i].neg_();
      EXPECT_NE(verdict_on(changed, expected, kFloat32Tolerance), "") << "element " << i;
      ++changes;
    }
  }
  EXPECT_GT(changes, 1000);
  RecordProperty("changed_elements", static_cast<int>(changes));
}

TEST(Gradients, AFailureNamesTheGradient) {
  const auto parts = gradients_of_case("plain");
  const auto find = [&](bool small) {
    return *std::find_if(parts.begin(), parts.end(), [&](const Compared& part) {
      return part.expected.elements.defined() == small && part.gradient.numel() > 8;
    });
  };
  const Compared small = find(true);
  const Compared large = find(false);
  EXPECT_NONFATAL_FAILURE(expect_gradient(small.gradient.view(-1).flip(0).view(small.gradient.sizes()),
                                          small.expected, 1e-4, "of a"),
                          "of a: ");
  EXPECT_NONFATAL_FAILURE(expect_gradient(large.gradient.view(-1).flip(0).view(large.gradient.sizes()),
                                          large.expected, 1e-4, "of b"),
                          "of b: elements differ or stand in another order");
  EXPECT_NONFATAL_FAILURE(expect_gradient(large.gradient * 1.01, large.expected, 1e-4, "of b"), "the norm");
  EXPECT_NONFATAL_FAILURE(expect_gradient(large.gradient * NAN, large.expected, 1e-4, "of b"), "the norm");
  EXPECT_NONFATAL_FAILURE(expect_gradient({}, large.expected, 1e-4, "of b"), "got an undefined tensor");
  EXPECT_NONFATAL_FAILURE(expect_gradient(large.gradient, {}, 1e-4, "of c"), "expected no gradient");
}

TEST(Gradients, AKeyBiasThatIsNotZeroIsReported) {
  const auto& golden = unet_2d_golden();
  const std::string name = "plain";
  auto model = make_case(name);
  perturb(model);
  const auto output = model->forward(golden[name + "/sample"], golden[name + "/timesteps"]).sample;
  output.backward(pattern(output.sizes()));
  expect_gradients(*model, golden, name + "/", kFloat32Tolerance);
  const std::string attention = "mid_block.attentions.0.to_k.";
  const auto scale = model->named_parameters()[attention + "weight"].grad().abs().max();
  model->named_parameters()[attention + "bias"].mutable_grad()[0] += 1e-3 * scale;
  EXPECT_NONFATAL_FAILURE(expect_gradients(*model, golden, name + "/", kFloat32Tolerance),
                          attention + "bias");
}

}  // namespace
}  // namespace diffusers::test
