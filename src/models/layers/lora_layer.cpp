#include "models/layers/lora_layer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/ops/add.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/nn/init.h>
#include <torch/types.h>

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kLoraA = "lora_A";
constexpr const char* kLoraB = "lora_B";
constexpr const char* kMagnitude = "lora_magnitude_vector";

/// Holds one tensor under the name of its adapter.
class LoraWeight : public torch::nn::Module {
 public:
  explicit LoraWeight(const Tensor& weight) { register_parameter("weight", weight); }
};

std::shared_ptr<torch::nn::Module> lora_child(torch::nn::Module& layer, const char* name) {
  const auto children = layer.named_children();
  if (const auto* child = children.find(name)) return *child;
  return layer.register_module(name, std::make_shared<torch::nn::Module>());
}

Tensor lora_parameter(torch::nn::Module& parent, const std::string& name, const Tensor& weight) {
  const auto module = std::make_shared<LoraWeight>(weight);
  parent.register_module(name, module);
  return module->parameters(/*recurse=*/false).front();
}

/// Norm of each row of a weight, `[out]` or `[1, out, 1, 1]`.
Tensor row_norms(const Tensor& weight) {
  if (weight.dim() == 2) return at::linalg_vector_norm(weight, 2, at::IntArrayRef({1}));
  return at::linalg_vector_norm(weight, 2, at::IntArrayRef({1, 2, 3}), /*keepdim=*/true).transpose(1, 0);
}

/// B A in the shape of the layer's weight.
Tensor lora_product(const LoraEntry& entry, const Tensor& weight) {
  auto a = entry.lora_A.flatten(1);
  auto b = entry.lora_B.flatten(1);
  const bool half = a.scalar_type() == at::kHalf || a.scalar_type() == at::kBFloat16;
  if (half && a.is_cpu()) return at::mm(b.to(at::kFloat), a.to(at::kFloat)).view(weight.sizes());
  return at::mm(b, a).view(weight.sizes());
}

/// Draws the weights as PEFT does: both layers initialise themselves, then the adapter does. A and B are
/// float32 on the CPU. While a SkipInitGuard exists, they stay uninitialised.
void draw_lora(const LoraEntry& entry, const Tensor& a, const Tensor& b) {
  if (layers::SkipInitGuard::active()) return;
  const double root = std::sqrt(5.0);
  torch::nn::init::kaiming_uniform_(a, root);
  torch::nn::init::kaiming_uniform_(b, root);
  const auto& init = entry.config->init_lora_weights;
  if (init == "false") return;
  if (init == "gaussian") {
    torch::nn::init::normal_(a, 0.0, 1.0 / static_cast<double>(entry.r));
  } else {
    torch::nn::init::kaiming_uniform_(a, root);
  }
  b.zero_();
}

}  // namespace

double LoraEntry::initial_scaling() const {
  const auto rank = static_cast<double>(r);
  return alpha / (config->use_rslora ? std::sqrt(rank) : rank);
}

std::shared_ptr<LoraLayer> LoraLayer::of(const torch::nn::Module& layer) {
  for (const auto& child : layer.children())
    if (auto adapters = std::dynamic_pointer_cast<LoraLayer>(child)) return adapters;
  return nullptr;
}

std::shared_ptr<LoraLayer> LoraLayer::make(torch::nn::Module& layer) {
  if (auto existing = of(layer)) return existing;
  auto made = std::make_shared<LoraLayer>();
  layer.register_module(kLoraA, made);
  return made;
}

void LoraLayer::insert(torch::nn::Module& layer, LoraEntry entry) {
  entry.lora_A = lora_parameter(*this, entry.name, entry.lora_A);
  entry.lora_B = lora_parameter(*lora_child(layer, kLoraB), entry.name, entry.lora_B);
  if (entry.magnitude.defined())
    entry.magnitude = lora_parameter(*lora_child(layer, kMagnitude), entry.name, entry.magnitude);
  entries_.push_back(std::move(entry));
  for (const auto& child : layer.children()) child->train(layer.is_training());
}

void LoraLayer::add(torch::nn::Module& layer, LoraEntry entry, const Tensor& weight) {
  const torch::NoGradGuard no_grad;
  auto shape_a = weight.sizes().vec();
  shape_a[0] = entry.r;
  std::vector<int64_t> shape_b = {weight.size(0), entry.r};
  shape_b.resize(weight.dim(), 1);
  const auto a = torch::empty(shape_a, at::kFloat);
  const auto b = torch::empty(shape_b, at::kFloat);
  draw_lora(entry, a, b);
  entry.scaling = entry.initial_scaling();
  entry.lora_A = a.to(weight.options());
  entry.lora_B = b.to(weight.options());
  if (entry.config->use_dora) {
    const auto base = weight.detach();
    const auto update = lora_product(entry, base).to(base.scalar_type());
    entry.magnitude = row_norms(at::add(base, update, entry.scaling)).contiguous();
  }
  insert(layer, std::move(entry));
}

void LoraLayer::copy_from(torch::nn::Module& layer, const LoraLayer& other) {
  const torch::NoGradGuard no_grad;
  for (auto entry : other.entries_) {
    entry.lora_A = torch::empty_like(entry.lora_A);
    entry.lora_B = torch::empty_like(entry.lora_B);
    if (entry.magnitude.defined()) entry.magnitude = torch::empty_like(entry.magnitude);
    insert(layer, std::move(entry));
  }
  active = other.active;
  enabled = other.enabled;
  merged = other.merged;
  if (other.original.defined()) original = other.original.clone();
}

void LoraLayer::remove(torch::nn::Module& layer, const std::string& name) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const LoraEntry& entry) { return entry.name == name; });
  if (found == entries_.end()) return;
  const bool dora = found->magnitude.defined();
  entries_.erase(found);
  const auto self = of(layer);  // keeps this object alive
  unregister_module(name);
  lora_child(layer, kLoraB)->unregister_module(name);
  if (dora) {
    const auto magnitudes = lora_child(layer, kMagnitude);
    magnitudes->unregister_module(name);
    if (magnitudes->children().empty()) layer.unregister_module(kMagnitude);
  }
  if (!entries_.empty()) return;
  layer.unregister_module(kLoraB);
  layer.unregister_module(kLoraA);
}

LoraEntry* LoraLayer::find(const std::string& name) {
  for (auto& entry : entries_)
    if (entry.name == name) return &entry;
  return nullptr;
}

const LoraEntry* LoraLayer::find(const std::string& name) const {
  for (const auto& entry : entries_)
    if (entry.name == name) return &entry;
  return nullptr;
}

Tensor LoraLayer::apply(const Tensor& input, const Tensor& base_result, const Tensor& weight,
                        const Tensor& bias, const layers::Conv2dOptions* conv) const {
  if (!enabled || !merged.empty()) return base_result;
  // A 1x1 convolution of tokens has matrices with two dimensions of length 1 at the end.
  const auto matrix_of = [](const Tensor& matrix) { return matrix.dim() > 2 ? matrix.flatten(1) : matrix; };
  const auto product = [&](const Tensor& x, const Tensor& matrix) {
    return conv == nullptr ? at::linear(x, matrix_of(matrix))
                           : at::conv2d(x, matrix, {}, conv->stride, conv->padding);
  };
  Tensor result = base_result;
  Tensor x = input;
  for (const auto& name : active) {
    const auto* entry = find(name);
    if (entry == nullptr) continue;
    x = x.to(entry->lora_A.scalar_type());
    const double p = entry->config->lora_dropout;
    const bool drops = p > 0 && is_training();
    const Tensor dropped = layers::dropout(x, p, drops);
    const auto low = product(dropped, entry->lora_A);
    const auto update = conv == nullptr ? product(low, entry->lora_B) : at::conv2d(low, entry->lora_B);
    if (!entry->magnitude.defined()) {
      result = at::add(result, update, entry->scaling);
      continue;
    }
    // DoRA, section 4.3: the norm of the changed weight counts as a constant in the backward pass.
    Tensor norms;
    {
      const torch::NoGradGuard no_grad;
      const auto base = weight.to(x.scalar_type());
      norms = row_norms(at::add(base, lora_product(*entry, base).to(base.scalar_type()), entry->scaling));
    }
    const auto ratio = (conv == nullptr ? entry->magnitude.flatten() : entry->magnitude) / norms;
    // The layer's result for the same input without its bias. As in PEFT, it contains the updates of the
    // adapters before this one.
    Tensor plain;
    if (drops) {
      plain = product(dropped, weight.to(x.scalar_type()));
    } else if (bias.defined()) {
      plain = result - (conv == nullptr ? bias : bias.view({1, -1, 1, 1}));
    } else {
      plain = result;
    }
    result = result + (ratio - 1) * plain + ratio * update * entry->scaling;
  }
  return result.to(base_result.scalar_type());
}

Tensor LoraLayer::fused(const Tensor& weight, const std::vector<std::string>& names, double scale) const {
  const torch::NoGradGuard no_grad;
  const auto base = weight.detach();
  Tensor sum = base.clone();
  for (const auto& name : names) {
    const auto* entry = find(name);
    if (entry == nullptr) continue;
    const auto update = lora_product(*entry, base) * (entry->scaling * scale);
    if (!entry->magnitude.defined()) {
      sum = sum + update.to(base.scalar_type());
      continue;
    }
    // The norm is that of the weight with this adapter alone, as in the forward pass.
    const auto factor = (entry->magnitude / row_norms(base + update)).flatten();
    std::vector<int64_t> shape(base.dim(), 1);
    shape[0] = -1;
    sum = (factor.view(shape) * (sum + update)).to(base.scalar_type());
  }
  return sum;
}

void LoraLayer::update_requires_grad() {
  for (auto& entry : entries_) {
    const bool trains = enabled && std::find(active.begin(), active.end(), entry.name) != active.end();
    entry.lora_A.requires_grad_(trains);
    entry.lora_B.requires_grad_(trains);
    if (entry.magnitude.defined()) entry.magnitude.requires_grad_(trains);
  }
}

bool LoraLayer::draws_random_numbers() const {
  return enabled && merged.empty() && is_training() &&
         std::any_of(active.begin(), active.end(), [&](const std::string& name) {
           const auto* entry = find(name);
           return entry != nullptr && entry->config->lora_dropout > 0;
         });
}

Tensor adaptable_weight(const torch::nn::Module& module) {
  if (const auto* linear = module.as<layers::LinearImpl>()) return linear->weight;
  if (const auto* conv = module.as<layers::Conv2dImpl>()) return conv->weight;
  return {};
}

std::vector<AdaptedLayer> adapted_layers(const torch::nn::Module& model) {
  std::vector<AdaptedLayer> found;
  for (const auto& item : model.named_modules("", /*include_self=*/false))
    if (LoraLayer::of(*item.value()) != nullptr)
      found.push_back({item.key(), item.value(), adaptable_weight(*item.value())});
  return found;
}

std::unordered_set<const c10::TensorImpl*> lora_tensors(const torch::nn::Module& model) {
  std::unordered_set<const c10::TensorImpl*> tensors;
  for (const auto& layer : adapted_layers(model)) {
    for (const auto& entry : LoraLayer::of(*layer.module)->entries())
      for (const auto& tensor : {entry.lora_A, entry.lora_B, entry.magnitude})
        if (tensor.defined()) tensors.insert(tensor.unsafeGetTensorImpl());
  }
  return tensors;
}

void copy_lora_adapters(const torch::nn::Module& from, torch::nn::Module& to) {
  const auto adapted = adapted_layers(from);
  if (adapted.empty()) return;
  const auto targets = to.named_modules("", /*include_self=*/false);
  for (const auto& layer : adapted) {
    const auto& target = targets[layer.path];
    LoraLayer::make(*target)->copy_from(*target, *LoraLayer::of(*layer.module));
  }
}

bool lora_draws_random_numbers(const torch::nn::Module& module) {
  for (const auto& item : module.named_modules("", /*include_self=*/false))
    if (const auto* adapters = item.value()->as<LoraLayer>())
      if (adapters->draws_random_numbers()) return true;
  return false;
}

}  // namespace internal
}  // namespace diffusers
