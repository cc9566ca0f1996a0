#pragma once

// Evaluates samples with a small classifier that is trained on the same dataset.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/data/dataset.h>

#include "classifier.h"

struct Evaluation {
  double sure_share = 0;           ///< fraction of samples that are classified with a confidence over 0.9
  int64_t distinct_classes = 0;    ///< number of classes among these samples
  std::vector<int64_t> per_class;  ///< number of these samples in each class
  double frechet_distance = 0;  ///< between the features of the samples and of the test set; lower is better
  double frechet_of_real = 0;   ///< the same for as many training images, the value of a perfect generator
  double classifier_accuracy = 0;     ///< accuracy of the classifier on the test set
  std::optional<double> asked_share;  ///< fraction of samples that are classified as the requested class
};

/// Evaluates samples. The classifier is read from `cache_file`. If the file is missing or has another number
/// of classes, the classifier is trained and written.
/// @param samples `[N, 1, H, W]` in [0, 1], the output of a pipeline
/// @param asked int64 `[N]`, the requested class of each sample; undefined without class labels
Evaluation evaluate_samples(const torch::Tensor& samples, const diffusers::Dataset& train,
                            const diffusers::Dataset& test, int64_t num_classes,
                            const std::string& cache_file, const torch::Tensor& asked = {});

/// Prints the evaluation.
void print_evaluation(const Evaluation& result, int64_t num_samples);

/// The evaluation of class-conditional samples at one guidance scale.
struct GuidanceResult {
  double guidance_scale = 1;
  Evaluation evaluation;
};
/// Prints a table with a row for each guidance scale.
void print_guidance_results(const std::vector<GuidanceResult>& results, int64_t num_samples);
/// Writes the results as an SVG chart: percentages over guidance scales.
void save_guidance_chart(const std::vector<GuidanceResult>& results, const std::string& path);

/// Classifies samples at the guidance scales 1, 2, 3 and 4, prints the table, and writes guidance.svg and
/// classifier.safetensors.
/// @param sample draws an image for each label, at a guidance scale
/// @param labels int64 `[N]`, the requested class of each sample
/// @param folder ends with a slash
void evaluate_guidance(const std::function<torch::Tensor(double)>& sample, const torch::Tensor& labels,
                       const diffusers::Dataset& train, const diffusers::Dataset& test, int64_t num_classes,
                       const std::string& folder);
