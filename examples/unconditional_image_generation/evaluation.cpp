#include "evaluation.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include <diffusers/data/loader.h>
#include <diffusers/io/chart.h>
#include <diffusers/training/feature_statistics.h>

#include <torch/types.h>

using namespace diffusers;

namespace {

struct Seen {
  torch::Tensor features, labels;
};

/// Computes the features and labels of the first `count` images.
Seen look_at(Classifier& model, const Dataset& data, int64_t count) {
  DataLoader loader(data, {.batch_size = std::min<int64_t>(count, 500)});
  std::vector<torch::Tensor> features, labels;
  for (const Batch& batch : loader) {
    features.push_back(model->features(batch.images));
    labels.push_back(batch.class_labels);
    count -= batch.size();
    if (count <= 0) break;
  }
  return {torch::cat(features), torch::cat(labels)};
}

}  // namespace

Evaluation evaluate_samples(const torch::Tensor& samples, const Dataset& train, const Dataset& test,
                            int64_t num_classes, const std::string& cache_file, const torch::Tensor& asked) {
  Classifier model = trained_classifier(
      train, {.num_classes = num_classes, .cache_file = cache_file, .purpose = "that evaluates the samples"});
  const torch::NoGradGuard no_grad;
  const torch::Tensor images = samples.to(torch::kCPU, torch::kFloat) * 2 - 1;
  const torch::Tensor features = model->features(images);
  const auto [confidence, label] = model->output(features).softmax(1).max(1);
  const torch::Tensor counts = torch::bincount(label.masked_select(confidence > 0.9), {}, num_classes);
  const Seen real = look_at(model, test, test.size());
  const Seen like_samples = look_at(model, train, std::min(samples.size(0), train.size()));
  const torch::Tensor is_right = model->output(real.features).argmax(1).eq(real.labels);
  const FeatureStatistics of_test_set = feature_statistics(real.features);
  std::optional<double> asked_share;
  if (asked.defined()) asked_share = label.eq(asked.cpu()).to(torch::kDouble).mean().item<double>();
  return {.sure_share = (confidence > 0.9).to(torch::kDouble).mean().item<double>(),
          .distinct_classes = counts.gt(0).sum().item<int64_t>(),
          .per_class = {counts.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>() + counts.numel()},
          .frechet_distance = frechet_distance(feature_statistics(features), of_test_set),
          .frechet_of_real = frechet_distance(feature_statistics(like_samples.features), of_test_set),
          .classifier_accuracy = is_right.to(torch::kDouble).mean().item<double>(),
          .asked_share = asked_share};
}

void print_evaluation(const Evaluation& result, int64_t num_samples) {
  std::printf(
      "accuracy of the classifier on the test set: %.1f %%\n"
      "samples with a confidence over 0.9: %.1f %% of %lld, in %lld of %zu classes\n",
      100 * result.classifier_accuracy, 100 * result.sure_share, static_cast<long long>(num_samples),
      static_cast<long long>(result.distinct_classes), result.per_class.size());
  std::printf("samples with a confidence over 0.9 in each class:");
  for (const int64_t count : result.per_class) std::printf(" %lld", static_cast<long long>(count));
  std::printf(
      "\nFrechet distance of the classifier's features: %.1f (the same number of training images: %.1f)\n",
      result.frechet_distance, result.frechet_of_real);
}

void print_guidance_results(const std::vector<GuidanceResult>& results, int64_t num_samples) {
  std::printf("classification of %lld samples at each guidance scale:\n",
              static_cast<long long>(num_samples));
  std::printf("%8s  %15s  %19s  %16s\n", "guidance", "requested class", "confidence over 0.9",
              "Frechet distance");
  for (const GuidanceResult& result : results)
    std::printf("%8.1f  %13.1f %%  %17.1f %%  %16.1f\n", result.guidance_scale,
                100 * result.evaluation.asked_share.value_or(0), 100 * result.evaluation.sure_share,
                result.evaluation.frechet_distance);
  std::printf(
      "accuracy of the classifier on the test set: %.1f %%; Frechet distance of the same number of training "
      "images: %.1f\n",
      100 * results.front().evaluation.classifier_accuracy, results.front().evaluation.frechet_of_real);
}

void save_guidance_chart(const std::vector<GuidanceResult>& results, const std::string& path) {
  ChartSeries asked{.name = "of the asked class"};
  ChartSeries sure{.name = "classified with confidence over 0.9"};
  for (const GuidanceResult& result : results) {
    asked.y.push_back(100 * result.evaluation.asked_share.value_or(0));
    sure.y.push_back(100 * result.evaluation.sure_share);
    asked.x.push_back(result.guidance_scale);
  }
  sure.x = asked.x;
  save_line_chart(
      {asked, sure}, path,
      {.title = "Classifier-free guidance", .x_label = "guidance scale", .y_label = "samples, percent"});
}

void evaluate_guidance(const std::function<torch::Tensor(double)>& sample, const torch::Tensor& labels,
                       const Dataset& train, const Dataset& test, int64_t num_classes,
                       const std::string& folder) {
  std::vector<GuidanceResult> results;
  for (const double scale : {1.0, 2.0, 3.0, 4.0})
    results.push_back({scale, evaluate_samples(sample(scale), train, test, num_classes,
                                               folder + "classifier.safetensors", labels)});
  print_guidance_results(results, labels.size(0));
  save_guidance_chart(results, folder + "guidance.svg");
}
