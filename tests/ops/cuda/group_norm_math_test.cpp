// The arithmetic and the division of work of the CUDA kernels of group norm, run on the host.

#include "ops/cuda/group_norm_math.h"

#include <algorithm>
#include <string>
#include <vector>

#include <diffusers/core/random.h>

#include <torch/autograd.h>

#include "ops/cuda/simulated_device.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using cuda::ChannelNorm;
using cuda::GradientSums;
using cuda::GroupNormShape;
using cuda::kMostThreads;
using cuda::Layout;
using cuda::Moments;
using cuda::RowGrid;
using cuda::WorkSplit;
using testing::combine_over_threads;
using testing::Coverage;
using testing::floats_of;

constexpr double kEps = 1e-5;

/// x `[batch, channels, spatial]` with its parameters; arrays in the order of the layout.
struct NormCase {
  GroupNormShape shape;
  Layout layout = Layout::kPlanar;
  int vector = 1;
  bool silu = true;
  bool is_per_image = false;
  double offset = 0;

  std::string name() const {
    return std::string(layout == Layout::kPlanar ? "planar " : "channels-last ") +
           std::to_string(shape.batch) + "x" + std::to_string(shape.channels()) + "x" +
           std::to_string(shape.spatial) + " vector " + std::to_string(vector);
  }
  std::vector<float> in_memory(const at::Tensor& tensor) const {
    return floats_of(layout == Layout::kPlanar ? tensor : tensor.transpose(1, 2));
  }
  at::Tensor from_memory(std::vector<float>& values) const {
    const auto whole = [&](int64_t a, int64_t b) {
      return at::from_blob(values.data(), {shape.batch, a, b}, at::kFloat).clone();
    };
    return layout == Layout::kPlanar ? whole(shape.channels(), shape.spatial)
                                     : whole(shape.spatial, shape.channels()).transpose(1, 2);
  }
};

/// The kernels of one case.
class SimulatedNorm {
 public:
  SimulatedNorm(const NormCase& test, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias)
      : test_(test),
        shape_(test.shape),
        x_(test.in_memory(x)),
        weight_(floats_of(weight)),
        bias_(floats_of(bias)),
        mean_(static_cast<std::size_t>(shape_.batch * shape_.groups)),
        rstd_(mean_.size()) {}

  at::Tensor forward() {
    test_.vector == 1 ? statistics<1>() : test_.vector == 4 ? statistics<4>() : statistics<8>();
    std::vector<float> y(x_.size());
    map([&](int64_t at, const ChannelNorm& norm, int64_t /*item*/) {
      y[static_cast<std::size_t>(at)] = norm.output(x_[static_cast<std::size_t>(at)]);
    });
    return test_.from_memory(y);
  }

  /// @return gradients of x, weight and bias
  std::vector<at::Tensor> backward(const at::Tensor& grad_y) {
    const std::vector<float> grads = test_.in_memory(grad_y);
    test_.vector == 1 ? sums<1>(grads) : test_.vector == 4 ? sums<4>(grads) : sums<8>(grads);
    std::vector<float> grad_x(x_.size());
    map([&](int64_t at, const ChannelNorm& norm, int64_t item) {
      const auto i = static_cast<std::size_t>(at);
      grad_x[i] = norm.grad_x(grads[i], x_[i], group_means_[static_cast<std::size_t>(item)]);
    });
    at::Tensor sums = at::from_blob(channel_sums_.data(), {shape_.batch, shape_.channels(), 2}).clone();
    if (!test_.is_per_image) sums = sums.sum(0);
    return {test_.from_memory(grad_x), sums.select(-1, 0), sums.select(-1, 1)};
  }

 private:
  ChannelNorm channel(int64_t image, int64_t c) const {
    const auto item = static_cast<std::size_t>(image * shape_.groups + c / shape_.group_channels);
    const auto at = static_cast<std::size_t>((test_.is_per_image ? image * shape_.channels() : 0) + c);
    return {mean_[item], rstd_[item], weight_[at], bias_[at], test_.silu};
  }

  int threads(const WorkSplit& split) const {
    return test_.layout == Layout::kChannelsLast ? kMostThreads
                                                 : cuda::threads_for(split.part_length / test_.vector);
  }

  template <int kVector>
  void read(const std::vector<float>& from, int64_t at, float (&values)[kVector]) const {
    for (int k = 0; k < kVector; ++k) values[k] = from.at(static_cast<std::size_t>(at + k));
  }

  template <int kVector>
  void statistics() {
    const WorkSplit split = cuda::forward_split(test_.layout, shape_, kVector);
    const int64_t channels = shape_.channels();
    const bool is_planar = test_.layout == Layout::kPlanar;
    std::vector<Moments> partial(
        static_cast<std::size_t>(is_planar ? split.blocks() : split.blocks() * channels));
    Coverage written(static_cast<int64_t>(partial.size()));
    const int count = threads(split);
    for (int64_t block = 0; block < split.blocks(); ++block) {
      const int64_t start = split.line(block) * split.length * (is_planar ? 1 : channels);
      if (is_planar) {
        std::vector<Moments> own;
        for (int t = 0; t < count; ++t)
          own.push_back(cuda::thread_moments<kVector>(
              split, block, t, count,
              [&](int64_t i, float(&values)[kVector]) { read(x_, start + i, values); }));
        partial[static_cast<std::size_t>(block)] = combine_over_threads(own);
        written.add(block);
        continue;
      }
      const RowGrid grid(static_cast<int>(channels / kVector), count);
      for (int first = 0; first < grid.columns; first += grid.width)
        for (int t = 0; t < count; ++t) {
          if (!grid.works(t, first)) continue;
          const int64_t offset = int64_t{first + grid.column(t)} * kVector;
          float mean[kVector];
          float squares[kVector];
          cuda::lane_moments<kVector>(
              split, grid, block, grid.lane(t),
              [&](int64_t row, float(&values)[kVector]) {
                read(x_, start + row * channels + offset, values);
              },
              mean, squares);
          // The lanes of a channel are merged in order, as threads are visited here.
          const auto rows =
              static_cast<float>(grid.rows_of_lane(split.end(block) - split.begin(block), grid.lane(t)));
          for (int k = 0; k < kVector; ++k) {
            Moments& sum = partial[static_cast<std::size_t>(block * channels + offset + k)];
            sum = merge(sum, {rows, mean[k], squares[k]});
            if (grid.lane(t) == 0) written.add(block * channels + offset + k);
          }
        }
    }
    EXPECT_TRUE(written.is_complete());
    Coverage read_once(static_cast<int64_t>(partial.size()));
    for (int64_t item = 0; item < shape_.batch * shape_.groups; ++item) {
      const int64_t parts = cuda::moments_parts(test_.layout, shape_, split);
      std::vector<Moments> own(static_cast<std::size_t>(cuda::threads_for(parts)));
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t at = cuda::moments_index(test_.layout, shape_, split, item, part);
        read_once.add(at);
        const Moments& from = partial[static_cast<std::size_t>(at)];
        const auto number = static_cast<float>(cuda::moments_count(test_.layout, shape_, split, part));
        EXPECT_EQ(number, from.count);
        Moments& to = own[static_cast<std::size_t>(part) % own.size()];
        to = merge(to, {number, from.mean, from.squares});
      }
      const Moments moments = combine_over_threads(own);
      EXPECT_EQ(moments.count, static_cast<float>(shape_.group_size()));
      mean_[static_cast<std::size_t>(item)] = moments.mean;
      rstd_[static_cast<std::size_t>(item)] = cuda::reciprocal_deviation(moments, static_cast<float>(kEps));
    }
    EXPECT_TRUE(read_once.is_complete());
  }

  template <int kVector>
  void sums(const std::vector<float>& grads) {
    const WorkSplit split = cuda::backward_split(test_.layout, shape_, kVector);
    const int64_t channels = shape_.channels();
    std::vector<GradientSums> partial(static_cast<std::size_t>(split.splits * shape_.batch * channels));
    const int count = threads(split);
    for (int64_t block = 0; block < split.blocks(); ++block) {
      const int64_t line = split.line(block);
      if (test_.layout == Layout::kPlanar) {
        std::vector<GradientSums> own;
        for (int t = 0; t < count; ++t)
          own.push_back(
              cuda::thread_sums<kVector>(split, channel(line / channels, line % channels), block, t, count,
                                         [&](int64_t i, float(&grad)[kVector], float(&values)[kVector]) {
                                           read(grads, line * split.length + i, grad);
                                           read(x_, line * split.length + i, values);
                                         }));
        partial[static_cast<std::size_t>(block)] = combine_over_threads(own);
        continue;
      }
      const RowGrid grid(static_cast<int>(channels / kVector), count);
      for (int first = 0; first < grid.columns; first += grid.width)
        for (int t = 0; t < count; ++t) {
          if (!grid.works(t, first)) continue;
          const int64_t offset = int64_t{first + grid.column(t)} * kVector;
          ChannelNorm norms[kVector];
          for (int k = 0; k < kVector; ++k) norms[k] = channel(line, offset + k);
          float product[kVector];
          float grad[kVector];
          cuda::lane_sums<kVector>(
              split, grid, norms, block, grid.lane(t),
              [&](int64_t row, float(&row_grads)[kVector], float(&values)[kVector]) {
                const int64_t at = (line * split.length + row) * channels + offset;
                read(grads, at, row_grads);
                read(x_, at, values);
              },
              product, grad);
          for (int k = 0; k < kVector; ++k) {
            GradientSums& sum = partial[static_cast<std::size_t>(block * channels + offset + k)];
            sum = merge(sum, {product[k], grad[k]});
          }
        }
    }
    Coverage read_once(static_cast<int64_t>(partial.size()));
    channel_sums_.assign(static_cast<std::size_t>(shape_.batch * channels), {});
    group_means_.assign(mean_.size(), {});
    for (int64_t image = 0; image < shape_.batch; ++image)
      for (int64_t c = 0; c < channels; ++c) {
        GradientSums& sum = channel_sums_[static_cast<std::size_t>(image * channels + c)];
        for (int64_t part = 0; part < split.splits; ++part) {
          const int64_t at = cuda::sums_index(test_.layout, shape_, split, image, c, part);
          read_once.add(at);
          sum = merge(sum, partial[static_cast<std::size_t>(at)]);
        }
        const float share = channel(image, c).weight / static_cast<float>(shape_.group_size());
        GradientSums& mean =
            group_means_[static_cast<std::size_t>(image * shape_.groups + c / shape_.group_channels)];
        mean = merge(mean, {share * sum.product, share * sum.grad});
      }
    EXPECT_TRUE(read_once.is_complete());
  }

  /// Calls run(place, norm, group) for each element, in the order of the kernels that write x's shape.
  template <class Run>
  void map(const Run& run) const {
    test_.vector == 1 ? map<1>(run) : test_.vector == 4 ? map<4>(run) : map<8>(run);
  }
  template <int kVector, class Run>
  void map(const Run& run) const {
    const WorkSplit split = cuda::backward_split(test_.layout, shape_, kVector);
    const int64_t channels = shape_.channels();
    Coverage written(static_cast<int64_t>(x_.size()));
    const int count = threads(split);
    const auto element = [&](int64_t at, int64_t image, int64_t c) {
      written.add(at, kVector);
      for (int k = 0; k < kVector; ++k) {
        const int64_t own = test_.layout == Layout::kPlanar ? c : c + k;
        run(at + k, channel(image, own), image * shape_.groups + own / shape_.group_channels);
      }
    };
    for (int64_t block = 0; block < split.blocks(); ++block) {
      const int64_t line = split.line(block);
      for (int t = 0; t < count; ++t) {
        if (test_.layout == Layout::kPlanar) {
          cuda::for_each_vector<kVector>(split, block, t, count, [&](int64_t i) {
            element(line * split.length + i, line / channels, line % channels);
          });
          continue;
        }
        const RowGrid grid(static_cast<int>(channels / kVector), count);
        for (int first = 0; first < grid.columns; first += grid.width) {
          if (!grid.works(t, first)) continue;
          const int64_t offset = int64_t{first + grid.column(t)} * kVector;
          cuda::for_each_row(split, grid, block, grid.lane(t), [&](int64_t row) {
            element((line * split.length + row) * channels + offset, line, offset);
          });
        }
      }
    }
    EXPECT_TRUE(written.is_complete());
  }

  NormCase test_;
  GroupNormShape shape_;
  std::vector<float> x_, weight_, bias_, mean_, rstd_;
  std::vector<GradientSums> channel_sums_, group_means_;
};

std::vector<NormCase> norm_cases() {
  std::vector<NormCase> cases;
  const std::vector<GroupNormShape> shapes{{2, 8, 4, 784}, {1, 2, 2, 16384}, {3, 3, 2, 49}, {1, 1, 5, 33},
                                           {2, 32, 40, 4}, {1, 2, 3, 1},     {2, 4, 4, 1}};
  for (const GroupNormShape& shape : shapes)
    for (const Layout layout : {Layout::kPlanar, Layout::kChannelsLast})
      for (const int vector : {1, 4, 8}) {
        const int64_t run = layout == Layout::kPlanar ? shape.spatial : shape.channels();
        if (run % vector != 0) continue;
        cases.push_back({shape, layout, vector, true, shape.batch == 2});
      }
  cases.push_back({{2, 4, 2, 64}, Layout::kPlanar, 4, false});
  cases.push_back({{2, 4, 2, 64}, Layout::kChannelsLast, 8, false});
  cases.push_back({{1, 2, 2, 5000}, Layout::kPlanar, 4, true, false, 100});
  cases.push_back({{1, 2, 2, 5000}, Layout::kChannelsLast, 4, true, false, 100});
  return cases;
}

TEST(CudaGroupNormMath, SimulatedKernelsMatchFloat64) {
  for (const NormCase& test : norm_cases()) {
    SCOPED_TRACE(test.name());
    manual_seed(1);
    const GroupNormShape& shape = test.shape;
    const at::Tensor x = testing::normal({shape.batch, shape.channels(), shape.spatial}) + test.offset;
    const std::vector<int64_t> parameter_shape = test.is_per_image
                                                     ? std::vector<int64_t>{shape.batch, shape.channels()}
                                                     : std::vector<int64_t>{shape.channels()};
    const at::Tensor weight = testing::normal(parameter_shape);
    const at::Tensor bias = testing::normal(parameter_shape);
    const at::Tensor grad_y = testing::normal(x.sizes());

    const std::vector<at::Tensor> inputs{testing::leaf(x, at::kDouble), testing::leaf(weight, at::kDouble),
                                         testing::leaf(bias, at::kDouble)};
    const auto over_spatial = [](const at::Tensor& values) {
      return values.dim() == 2 ? values.unsqueeze(2) : values.view({1, -1, 1});
    };
    at::Tensor expected = at::group_norm(inputs[0], shape.groups, {}, {}, kEps) * over_spatial(inputs[1]) +
                          over_spatial(inputs[2]);
    if (test.silu) expected = at::silu(expected);
    const auto gradients = torch::autograd::grad({expected}, inputs, {grad_y.to(at::kDouble)});

    SimulatedNorm kernels(test, x, weight, bias);
    const double tolerance = 1e-6 * (2 + test.offset);
    testing::expect_close(kernels.forward(), expected.detach(), tolerance, "y");
    const auto actual = kernels.backward(grad_y);
    const char* const names[] = {"grad x", "grad weight", "grad bias"};
    for (std::size_t k = 0; k < 3; ++k)
      testing::expect_close(actual[k], gradients[k], 2 * tolerance, names[k]);
  }
}

TEST(CudaGroupNormMath, SmallBatchesAreSplitIntoSeveralBlocks) {
  // A VAE's norm: 32 groups of 4 channels of 512 x 512.
  const WorkSplit image = cuda::forward_split(Layout::kPlanar, {1, 32, 4, 512 * 512}, 4);
  EXPECT_GE(image.blocks(), cuda::kWantedBlocks);
  EXPECT_EQ(image.part_length % 4, 0);
  EXPECT_GE(cuda::forward_split(Layout::kChannelsLast, {1, 32, 4, 512 * 512}, 8).blocks(),
            cuda::kWantedBlocks - 1);
  // A batch that occupies the device is not split.
  EXPECT_EQ(cuda::forward_split(Layout::kPlanar, {64, 32, 1, 784}, 4).splits, 1);
}

TEST(CudaGroupNormMath, MergedMomentsAreThoseOfAllNumbers) {
  manual_seed(3);
  const at::Tensor numbers = testing::normal({1000}) + 50;
  Moments all;
  for (const float value : floats_of(numbers)) {
    const float one[1] = {value};
    all = merge(all, cuda::moments_of(one));
  }
  const at::Tensor exact = numbers.to(at::kDouble);
  EXPECT_EQ(all.count, 1000);
  EXPECT_NEAR(all.mean, exact.mean().item<double>(), 1e-4);
  EXPECT_NEAR(all.squares, exact.var(false).item<double>() * 1000, 0.01);
  const Moments same = merge(all, Moments());
  EXPECT_EQ(same.mean, all.mean);
  EXPECT_EQ(same.squares, all.squares);
}

}  // namespace
}  // namespace diffusers
