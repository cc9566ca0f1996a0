#pragma once

#include <cstdint>
#include <vector>

#include "data/image_samples.h"

namespace diffusers {
inline namespace internal {

/// Returns the sizes of buckets, sorted: for each multiple of `step` as one side the largest other side whose
/// area is at most that of the square, and the square. Sides are between half and twice the resolution.
/// @param resolution side of the square
/// @param step sides are multiples of it, 1 to `resolution`
std::vector<BucketSize> make_bucket_sizes(int64_t resolution, int64_t step);

/// Returns the index of the bucket with the nearest aspect ratio (diffusers: `find_nearest_bucket`).
/// @param sizes one or more
int64_t nearest_bucket(int64_t height, int64_t width, const std::vector<BucketSize>& sizes);

/// @throws ConfigError for options of bucketing that are out of range or have no effect
void check_bucket_options(const ImageFolderOptions& options);

/// Reads the sizes of all images and sets their buckets.
/// @throws FileError naming an image that cannot be read
void sort_into_buckets(ImageSamples& samples, const ImageFolderOptions& options);

}  // namespace internal
}  // namespace diffusers
