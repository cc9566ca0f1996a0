#include "data/image_buckets.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <tuple>

#include "core/require.h"
#include "io/image_size.h"
#include "io/open_model_file.h"

namespace diffusers {
inline namespace internal {

std::vector<BucketSize> make_bucket_sizes(int64_t resolution, int64_t step) {
  const auto whole = [&](int64_t side) { return side / step * step; };
  const int64_t square = whole(resolution);
  const int64_t least = std::max(whole(resolution / 2), step);
  const int64_t most = whole(resolution * 2);
  std::vector<BucketSize> sizes{{square, square}};
  for (int64_t side = least; side <= most; side += step) {
    const int64_t other = std::min(most, whole(resolution * resolution / side));
    if (other < least) continue;
    sizes.push_back({side, other});
    sizes.push_back({other, side});
  }
  const auto order = [](const BucketSize& size) { return std::tuple(size.height, size.width); };
  std::sort(sizes.begin(), sizes.end(),
            [&](const BucketSize& a, const BucketSize& b) { return order(a) < order(b); });
  sizes.erase(std::unique(sizes.begin(), sizes.end(),
                          [&](const BucketSize& a, const BucketSize& b) { return order(a) == order(b); }),
              sizes.end());
  return sizes;
}

int64_t nearest_bucket(int64_t height, int64_t width, const std::vector<BucketSize>& sizes) {
  int64_t best = 0;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const int64_t product = height * sizes[i].width - width * sizes[i].height;
    const int64_t distance = product < 0 ? -product : product;
    if (distance <= least) best = static_cast<int64_t>(i);
    least = std::min(least, distance);
  }
  return best;
}

void check_bucket_options(const ImageFolderOptions& options) {
  require<ConfigError>(options.enable_bucketing || options.bucket_step == ImageFolderOptions().bucket_step,
                       "bucket_step is {}, but has an effect only with enable_bucketing",
                       options.bucket_step);
  require<ConfigError>(
      !options.enable_bucketing || (options.bucket_step >= 1 && options.bucket_step <= options.resolution),
      "bucket_step is {}, expected 1 to {}, the resolution", options.bucket_step, options.resolution);
  require<ConfigError>(
      !options.enable_bucketing || !options.resize_to_square,
      "enable_bucketing and resize_to_square are both true, but buckets keep the aspect ratio "
      "of an image; expected at most one of them");
}

void sort_into_buckets(ImageSamples& samples, const ImageFolderOptions& options) {
  samples.bucket_sizes = make_bucket_sizes(options.resolution, options.bucket_step);
  for (const std::string& path : samples.files) {
    StoredImageSize size;
    if (samples.has_metadata) {
      const std::string_view inside = std::string_view(path).substr(samples.root.size());
      size = read_image_size(open_file_inside(samples.root, inside.substr(inside.find_first_not_of('/'))));
    } else {
      size = read_image_size(InputFile(path));
    }
    samples.buckets.push_back(nearest_bucket(size.height, size.width, samples.bucket_sizes));
  }
}

}  // namespace internal
}  // namespace diffusers
