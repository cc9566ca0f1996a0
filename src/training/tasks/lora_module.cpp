#include "training/tasks/lora_module.h"

#include <utility>
#include <vector>

#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>

#include "core/host_copy.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "models/layers/lora_file.h"
#include "models/layers/lora_layer.h"

namespace diffusers {
inline namespace internal {
namespace {

/// A tree of modules with the names of the model's, down to the adapters, which it shares with the model.
class LoraParameters : public torch::nn::Module {
 public:
  explicit LoraParameters(std::shared_ptr<torch::nn::Module> model)
      : torch::nn::Module(model->name()), model_(std::move(model)) {
    for (const auto& layer : adapted_layers(*model_)) {
      torch::nn::Module* place = this;
      for (std::size_t begin = 0; begin < layer.path.size();) {
        const auto end = std::min(layer.path.find('.', begin), layer.path.size());
        place = &child(*place, layer.path.substr(begin, end - begin));
        begin = end + 1;
      }
      for (const auto& part : layer.module->named_children())
        place->register_module(part.key(), part.value());
    }
  }
  void train(bool on = true) override {
    torch::nn::Module::train(on);
    model_->train(on);
  }
  /// Takes over the mode of the model, which its owner may have changed.
  void follow_model() {
    if (is_training() != model_->is_training()) torch::nn::Module::train(model_->is_training());
  }
  const torch::nn::Module& model() const { return *model_; }
  torch::nn::Module& model() { return *model_; }

 private:
  static torch::nn::Module& child(torch::nn::Module& parent, const std::string& name) {
    const auto children = parent.named_children();
    if (const auto* found = children.find(name)) return **found;
    return *parent.register_module(name, std::make_shared<torch::nn::Module>());
  }
  std::shared_ptr<torch::nn::Module> model_;
};

class SavedLora : public SavedModule {
 public:
  SavedLora(std::shared_ptr<torch::nn::Module> model, std::string prefix, SaveLoraWeightsOptions saved,
            std::function<void()> checkpointing)
      : parameters_(std::make_shared<LoraParameters>(std::move(model))),
        prefix_(std::move(prefix)),
        saved_(std::move(saved)),
        checkpointing_(std::move(checkpointing)) {}

  torch::nn::Module& module() override {
    parameters_->follow_model();
    return *parameters_;
  }
  void save(const std::filesystem::path& folder) override {
    write_lora_file(lora_file(saved_), folder, kLoraFileName);
  }
  void load(const std::filesystem::path& folder) override {
    const SafetensorsFile file(open_model_file(folder.string(), kLoraFileName));
    TensorMap tensors;
    for (const auto& name : file.names()) {
      require<FileError>(name.starts_with(prefix_ + "."), "{}: expected tensors of {}, found {}", file.path(),
                         prefix_, name);
      auto tensor = file.get(name);
      require<FileError>(tensor.isfinite().all().item<bool>(),
                         "\"{}\" in {} holds values that are not finite", name, file.path());
      tensors.insert(name.substr(prefix_.size() + 1), std::move(tensor));
    }
    auto& model = parameters_->model();
    set_peft_model_state_dict(model, tensors, detail::lora_names(model).front());
  }
  SnapshotWriter snapshot() override {
    auto content = lora_file(saved_);
    content.tensors = host_copy(content.tensors);
    return [content = std::move(content)](const std::filesystem::path& folder) {
      write_lora_file(content, folder, kLoraFileName);
    };
  }
  void enable_gradient_checkpointing() override { checkpointing_(); }

 private:
  std::shared_ptr<LoraParameters> parameters_;
  std::string prefix_;
  SaveLoraWeightsOptions saved_;
  std::function<void()> checkpointing_;
};

/// Converts adapters of a model in half precision to float32 (Python: `cast_training_params`).
void upcast_adapters(const torch::nn::Module& model) {
  const at::NoGradGuard no_grad;
  const auto adapters = lora_tensors(model);
  for (const Tensor& parameter : model.parameters()) {
    const bool is_half = parameter.scalar_type() == at::kHalf || parameter.scalar_type() == at::kBFloat16;
    if (is_half && adapters.contains(parameter.unsafeGetTensorImpl()))
      parameter.set_data(parameter.to(at::kFloat));
  }
}

}  // namespace

void ensure_adapter(torch::nn::Module& model, const LoraConfig& config, const char* name) {
  const auto adapters = detail::lora_names(model);
  if (adapters.empty()) {
    detail::lora_add(model, config, "default");
    upcast_adapters(model);
    return;
  }
  require<ConfigError>(
      adapters.size() == 1,
      "{} has the adapters {}, expected one that is trained; fuse the others and unload them", name,
      adapters);
  require<ConfigError>(!detail::lora_is_fused(model), "the adapter of {} is fused, call unfuse_lora first",
                       name);
  const auto parameters = lora_tensors(model);
  for (const auto& parameter : model.parameters())
    if (parameters.contains(parameter.unsafeGetTensorImpl()))
      require<ConfigError>(parameter.requires_grad(),
                           "the adapter \"{}\" of {} is disabled or not active, call enable_adapters and "
                           "set_adapters first",
                           adapters.front(), name);
  upcast_adapters(model);
}

void require_no_adapter(const torch::nn::Module& model, const char* name) {
  const auto adapters = detail::lora_names(model);
  require<ConfigError>(
      adapters.empty(),
      "{} has the adapters {}, which are not saved with it; train them with a TextToImageLoraTask, or call "
      "fuse_lora and unload_lora first",
      name, adapters);
}

bool is_lora_module(const SavedModule& module) { return dynamic_cast<const SavedLora*>(&module) != nullptr; }

std::shared_ptr<SavedModule> make_lora_module(std::shared_ptr<torch::nn::Module> model, const char* prefix,
                                              const SaveLoraWeightsOptions& saved,
                                              std::function<void()> checkpointing) {
  return std::make_shared<SavedLora>(std::move(model), prefix, saved, std::move(checkpointing));
}

}  // namespace internal
}  // namespace diffusers
