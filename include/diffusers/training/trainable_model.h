#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>

#include <torch/nn/module.h>

namespace diffusers {

/// What a prediction may depend on besides the sample and its timestep; undefined where there is none.
struct Conditioning {
  Tensor class_labels;  ///< `[B]` int64
};

/// Writes what `save_pretrained` would have written at some moment before into a folder.
using SnapshotWriter = std::function<void(const std::string& folder)>;

/// A model as the training sees it: it predicts, it has parameters, and it can be saved.
class TrainableModel {
 public:
  virtual ~TrainableModel() = default;

  /// @param sample `[B, C, H, W]`, timesteps `[B]`
  /// @return what the objective compares with its target, usually of the shape of the sample
  virtual Tensor predict(const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning) = 0;
  virtual torch::nn::Module& module() = 0;
  virtual bool takes_class_labels() const = 0;
  /// @throws ConfigError if the model cannot
  virtual void enable_gradient_checkpointing() = 0;
  /// `config.json` of the model; empty if it has none.
  virtual std::string config_json() const = 0;
  /// Writes `config.json` and `diffusion_pytorch_model.safetensors` into a folder.
  virtual void save_pretrained(const std::string& folder) = 0;
  /// Takes a copy of the weights, on the CPU, and returns what writes it, the same bytes as `save_pretrained`
  /// now; another thread may call it while the model is trained on. Empty if the model cannot do so: then the
  /// training waits for `save_pretrained`.
  virtual SnapshotWriter snapshot() { return {}; }

 protected:
  // Copying and assigning through the base would slice.
  TrainableModel() = default;
  TrainableModel(const TrainableModel&) = default;
  TrainableModel(TrainableModel&&) noexcept = default;
  TrainableModel& operator=(const TrainableModel&) = default;
  TrainableModel& operator=(TrainableModel&&) noexcept = default;
};

namespace training_detail {

/// True if `config.json` says that the model has class embeddings.
bool config_has_class_embedding(const std::string& config_json);
/// True if `config.json` has a field for class embeddings, whatever its value.
bool config_mentions_class_embedding(const std::string& config_json);
/// Parameters and buffers, and an empty config, for models that cannot save themselves.
void save_module(const torch::nn::Module& module, const std::string& folder);
/// Writes later what `save_module` writes now.
SnapshotWriter module_snapshot(const torch::nn::Module& module);
/// The same for a model with a config of its own.
/// @param basename of the weights file
/// @param name_in_file of a tensor, from its name in the model; null: the same
SnapshotWriter module_snapshot(const torch::nn::Module& module, std::string config_json, std::string basename,
                               std::string (*name_in_file)(const std::string&));

template <class Output>
Tensor prediction_of(Output&& output) {
  if constexpr (requires { output.sample; }) {
    return output.sample;
  } else {
    return std::forward<Output>(output);
  }
}

}  // namespace training_detail

/// A pointer or holder of a torch::nn::Module with `forward(sample, timesteps)`. It returns a tensor, or a
/// struct with a tensor `sample`. To receive class labels, `forward` takes a third argument: a struct,
/// `forward(sample, timesteps, {.class_labels = ...})`, or a tensor,
/// `forward(sample, timesteps, const Tensor& class_labels = {})`.
template <class Model>
concept DenoisingModel = requires(Model model, const Tensor& tensor) {
  { *model.operator->() } -> std::convertible_to<torch::nn::Module&>;
  model->forward(tensor, tensor);
};

/// Makes a `TrainableModel` of any `DenoisingModel`.
template <DenoisingModel Model>
class ModelAdapter : public TrainableModel {
 public:
  /// @throws ConfigError for an empty holder or a null pointer
  explicit ModelAdapter(Model model) : model_(std::move(model)) {
    bool is_empty = false;
    if constexpr (requires { model_.is_empty(); }) {
      is_empty = model_.is_empty();
    } else if constexpr (requires { model_ == nullptr; }) {
      is_empty = model_ == nullptr;
    }
    if (is_empty)
      throw ConfigError("the model to train is an empty holder (nullptr); expected a constructed model");
  }

  Tensor predict(const Tensor& sample, const Tensor& timesteps, const Conditioning& conditioning) override {
    if constexpr (kForwardTakesLabelStruct) {
      if (conditioning.class_labels.defined())
        return training_detail::prediction_of(
            model_->forward(sample, timesteps, {.class_labels = conditioning.class_labels}));
    } else if constexpr (kForwardTakesLabelTensor) {
      if (conditioning.class_labels.defined())
        return training_detail::prediction_of(model_->forward(sample, timesteps, conditioning.class_labels));
    }
    if (conditioning.class_labels.defined())
      throw ConfigError("class_conditional is true, but the model takes no labels");
    return training_detail::prediction_of(model_->forward(sample, timesteps));
  }

  torch::nn::Module& module() override { return *model_.operator->(); }

  bool takes_class_labels() const override {
    if constexpr (kForwardTakesLabelStruct) {
      const std::string config = config_json();
      return config.empty() || training_detail::config_has_class_embedding(config);
    } else if constexpr (kForwardTakesLabelTensor) {
      // A model of the user's need not have a config field for what its forward takes.
      const std::string config = config_json();
      return config.empty() || !training_detail::config_mentions_class_embedding(config) ||
             training_detail::config_has_class_embedding(config);
    } else {
      return false;
    }
  }

  void enable_gradient_checkpointing() override {
    if constexpr (requires(Model model) { model->enable_gradient_checkpointing(); }) {
      model_->enable_gradient_checkpointing();
    } else {
      throw ConfigError(
          "gradient_checkpointing is true, but the model has no enable_gradient_checkpointing()");
    }
  }

  std::string config_json() const override {
    // Non-const, because torch's holders give non-const access only from non-const objects.
    if constexpr (requires(Model model) { std::string(model->config_json()); }) {
      Model model = model_;
      return std::string(model->config_json());
    } else {
      return {};
    }
  }

  void save_pretrained(const std::string& folder) override {
    if constexpr (requires(Model model) { model->save_pretrained(folder); }) {
      model_->save_pretrained(folder);
    } else {
      training_detail::save_module(module(), folder);
    }
  }

  SnapshotWriter snapshot() override {
    if constexpr (requires(Model model) { model->weights_format().name_in_file; }) {
      const auto format = model_->weights_format();
      return training_detail::module_snapshot(module(), config_json(), format.basename, format.name_in_file);
    } else if constexpr (requires(Model model, std::string folder) { model->save_pretrained(folder); }) {
      return {};  // nobody knows what it writes
    } else {
      return training_detail::module_snapshot(module());
    }
  }

 private:
  static constexpr bool kForwardTakesLabelStruct = requires(Model model, const Tensor& tensor) {
    model->forward(tensor, tensor, {.class_labels = tensor});
  };
  static constexpr bool kForwardTakesLabelTensor = requires(Model model, const Tensor& tensor) {
    model->forward(tensor, tensor, tensor);
  };

  Model model_;
};

template <DenoisingModel Model>
std::shared_ptr<TrainableModel> make_trainable(Model model) {
  return std::make_shared<ModelAdapter<Model>>(std::move(model));
}

}  // namespace diffusers
