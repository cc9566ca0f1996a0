#include "examples/controlnet/edges.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/data/tensor_dataset.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace {

using diffusers::Batch;
using diffusers::Tensor;

/// A black image with a white rectangle.
Tensor rectangle(int64_t top, int64_t left, int64_t height, int64_t width) {
  Tensor image = at::full({1, 1, 12, 12}, -1.0);
  image.narrow(2, top, height).narrow(3, left, width).fill_(1);
  return image;
}

/// Marks the pixel (row, column).
Tensor mark(int64_t row, int64_t column) {
  Tensor marks = at::zeros({1, 1, 12, 12});
  marks[0][0][row][column] = 1;
  return marks;
}

TEST(EdgeMap, MarksBothSidesOfAStep) {
  const Tensor edges = edge_map(rectangle(4, 4, 5, 5));
  EXPECT_EQ(edges.sizes(), (std::vector<int64_t>{1, 1, 12, 12}));
  EXPECT_TRUE(edges.eq(0).logical_or(edges.eq(1)).all().item<bool>());
  EXPECT_EQ(edges[0][0][6].nonzero().flatten().numel(), 4);
  for (const int64_t column : {3, 4, 8, 9}) EXPECT_EQ(edges[0][0][6][column].item<double>(), 1) << column;
  EXPECT_EQ(edges[0][0][6][6].item<double>(), 0);
  EXPECT_TRUE(at::equal(edges, edges.transpose(2, 3)));
}

TEST(EdgeMap, IsZeroForFlatImagesAndWeakSteps) {
  EXPECT_EQ(edge_map(at::full({1, 1, 12, 12}, -1.0)).sum().item<double>(), 0);
  // A step of 0.4 of the range. One from black at the border is part of the image.
  EXPECT_EQ(edge_map(rectangle(4, 4, 5, 5) * 0.4 - 0.6).sum().item<double>(), 0);
  EXPECT_GT(edge_map(at::full({1, 1, 12, 12}, 1.0)).sum().item<double>(), 0);
}

TEST(EdgeMap, DoesNotDependOnTheBatch) {
  const Tensor images = at::rand({5, 1, 12, 12}) * 2 - 1;
  const Tensor edges = edge_map(images);
  for (int64_t i = 0; i < 5; ++i)
    EXPECT_TRUE(at::equal(edges.narrow(0, i, 1), edge_map(images.narrow(0, i, 1))));
}

TEST(EdgeFScore, ToleratesOnePixel) {
  EXPECT_EQ(edge_f_score(mark(5, 5), mark(5, 5)), 1);
  EXPECT_EQ(edge_f_score(mark(6, 4), mark(5, 5)), 1);
  EXPECT_EQ(edge_f_score(mark(5, 7), mark(5, 5)), 0);
}

TEST(EdgeFScore, IsTheHarmonicMeanOfPrecisionAndRecall) {
  // All found pixels are right, and half of the wanted pixels are found.
  EXPECT_NEAR(edge_f_score(mark(5, 5), mark(5, 5) + mark(9, 9)), 2 * 0.5 / 1.5, 1e-12);
  EXPECT_NEAR(edge_f_score(mark(5, 5) + mark(9, 9), mark(5, 5)), 2 * 0.5 / 1.5, 1e-12);
}

TEST(EdgeFScore, OfImagesWithoutEdges) {
  const Tensor none = at::zeros({1, 1, 12, 12});
  EXPECT_EQ(edge_f_score(none, mark(5, 5)), 0);
  EXPECT_EQ(edge_f_score(mark(5, 5), none), 0);
  EXPECT_EQ(edge_f_score(none, none), 1);
  // The score of a batch is the mean.
  EXPECT_EQ(edge_f_score(at::cat({none, mark(5, 5)}), at::cat({mark(5, 5), mark(5, 5)})), 0.5);
}

TEST(WithEdges, AddsThreeEqualChannels) {
  const Tensor images = at::cat({rectangle(4, 4, 5, 5), rectangle(2, 3, 4, 6)}).to(at::kFloat);
  const WithEdges data(
      std::make_shared<diffusers::TensorDataset>(Batch{.images = images, .captions = {"a", "b"}}));
  EXPECT_EQ(data.size(), 2);
  const Batch batch = data.get_batch(std::vector<int64_t>{1, 0});
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(batch.conditioning_images.sizes(), (std::vector<int64_t>{2, 3, 12, 12}));
  for (int64_t channel = 0; channel < 3; ++channel)
    EXPECT_TRUE(at::equal(batch.conditioning_images.narrow(1, channel, 1), edge_map(batch.images)));
}

}  // namespace
