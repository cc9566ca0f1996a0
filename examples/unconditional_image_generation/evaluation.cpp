#include "evaluation.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include <diffusers/diffusers.h>

using namespace diffusers;
namespace F = torch::nn::functional;

namespace {

constexpr int64_t kEpochs = 2;

void train_classifier(Classifier& model, const Dataset& data) {
  DataLoader loader(data, {.batch_size = 100, .shuffle = true});
  const int64_t steps = kEpochs * loader.size();
  Optimizer optimizer(model->parameters(), {.lr = 2e-3});
  const LRSchedule lr =
      get_scheduler("cosine", {.num_warmup_steps = steps / 20, .num_training_steps = steps});
  std::printf("training the classifier that evaluates the samples: %lld steps\n",
              static_cast<long long>(steps));
  int64_t step = 0;
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    for (const Batch& batch : loader) {
      optimizer.zero_grad();
      F::cross_entropy(model(batch.images), batch.class_labels).backward();
      optimizer.step(lr(step++));
    }
  }
}

/// Loads the classifier from a file.
/// @return false if there is no file, or if it has another number of classes
bool load_classifier(Classifier& model, const std::string& path) {
  if (!file_exists(path)) return false;
  const torch::NoGradGuard no_grad;
  const TensorMap saved = load_safetensors(path);
  for (const auto& item : model->named_parameters())
    if (!saved.contains(item.key()) || saved.at(item.key()).sizes() != item.value().sizes()) return false;
  for (auto& item : model->named_parameters()) item.value().copy_(saved.at(item.key()));
  return true;
}

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

ClassifierImpl::ClassifierImpl(int64_t num_classes)
    : conv1(torch::nn::Conv2dOptions(1, 16, 3).padding(1)),
      conv2(torch::nn::Conv2dOptions(16, 32, 3).padding(1)),
      hidden(32 * 7 * 7, 64),
      output(64, num_classes) {
  register_module("conv1", conv1);
  register_module("conv2", conv2);
  register_module("hidden", hidden);
  register_module("output", output);
}

torch::Tensor ClassifierImpl::features(const torch::Tensor& images) {
  torch::Tensor x = torch::max_pool2d(torch::relu(conv1(images)), 2);
  x = torch::adaptive_avg_pool2d(torch::max_pool2d(torch::relu(conv2(x)), 2), {7, 7});
  return torch::relu(hidden(x.flatten(1)));
}

Evaluation evaluate_samples(const torch::Tensor& samples, const Dataset& train, const Dataset& test,
                            int64_t num_classes, const std::string& cache_file, const torch::Tensor& asked) {
  torch::manual_seed(0);  // the same classifier for any random state
  Classifier model(num_classes);
  if (!load_classifier(model, cache_file)) {
    train_classifier(model, train);
    save_safetensors(model->named_parameters(), cache_file);
  }

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
