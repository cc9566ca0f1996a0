#pragma once

// Judges samples with a small classifier that is trained on the same dataset.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

/// Pictures of one channel to classes: two convolutions, 64 features, a linear layer.
struct ClassifierImpl : torch::nn::Module {
  explicit ClassifierImpl(int64_t num_classes);
  /// @param images `[B, 1, H, W]` in [-1, 1]
  torch::Tensor features(const torch::Tensor& images);  // [B, 64]
  torch::Tensor forward(const torch::Tensor& images) { return output(features(images)); }

  torch::nn::Conv2d conv1, conv2;
  torch::nn::Linear hidden, output;
};
TORCH_MODULE(Classifier);

struct Evaluation {
  double sure_share = 0;           ///< share of samples classified with a confidence over 0.9
  int64_t distinct_classes = 0;    ///< classes among those
  std::vector<int64_t> per_class;  ///< how many sure samples each class has
  double frechet_distance = 0;  ///< between the features of the samples and of the test set; lower is better
  double frechet_of_real = 0;   ///< the same for as many training images: what a perfect generator would get
  double classifier_accuracy = 0;     ///< on the test set
  std::optional<double> asked_share;  ///< share of samples classified as what was asked for
};

/// The classifier is read from `cache_file`; where there is none, or one of another number of classes, it is
/// trained (under a minute on two cores) and written.
/// @param samples `[N, 1, H, W]` in [0, 1], as a pipeline gives them
/// @param asked int64 `[N]`, the class that each sample was to be of; undefined where none was asked for
Evaluation evaluate_samples(const torch::Tensor& samples, const diffusers::Dataset& train,
                            const diffusers::Dataset& test, int64_t num_classes,
                            const std::string& cache_file, const torch::Tensor& asked = {});

/// Says it in a few lines.
void print_evaluation(const Evaluation& result, int64_t num_samples);

/// What guidance does: the evaluation of class-conditional samples at one guidance scale.
struct GuidanceResult {
  double guidance_scale = 1;
  Evaluation evaluation;
};
/// A table, a row for each guidance scale.
void print_guidance_results(const std::vector<GuidanceResult>& results, int64_t num_samples);
/// The same as an SVG chart: shares in percent over guidance scales.
void save_guidance_chart(const std::vector<GuidanceResult>& results, const std::string& path);
