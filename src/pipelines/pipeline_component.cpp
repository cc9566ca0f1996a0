#include <memory>
#include <utility>

#include <diffusers/pipelines/pipeline_component.h>

#include <c10/util/Type.h>
#include <torch/nn/module.h>

#include "core/require.h"

namespace diffusers {
namespace {

/// A component that holds a scheduler of any class.
class SchedulerComponent final : public detail::ComponentInterface {
 public:
  explicit SchedulerComponent(std::unique_ptr<Scheduler> scheduler) : scheduler_(std::move(scheduler)) {}
  std::unique_ptr<ComponentInterface> copy() const override {
    return std::make_unique<SchedulerComponent>(scheduler_->clone());
  }
  std::string class_name() const override { return scheduler_->class_name(); }
  void save(const std::filesystem::path& folder) const override { scheduler_->save_pretrained(folder); }
  std::shared_ptr<torch::nn::Module> module() const override { return nullptr; }
  bool has_value() const override { return true; }
  const std::type_info& type() const override { return typeid(Scheduler); }
  void* value() override { return scheduler_.get(); }

 private:
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace

PipelineComponent::PipelineComponent(const Scheduler& scheduler) : PipelineComponent(scheduler.clone()) {}

PipelineComponent::PipelineComponent(std::unique_ptr<Scheduler> scheduler) {
  if (scheduler != nullptr) held_ = std::make_unique<SchedulerComponent>(std::move(scheduler));
}

PipelineComponent::PipelineComponent(const PipelineComponent& other)
    : held_(other.held_ != nullptr ? other.held_->copy() : nullptr) {}

PipelineComponent& PipelineComponent::operator=(const PipelineComponent& other) {
  if (this != &other) held_ = other.held_ != nullptr ? other.held_->copy() : nullptr;
  return *this;
}

std::string PipelineComponent::class_name() const {
  return has_value() ? held_->class_name() : std::string();
}

std::shared_ptr<torch::nn::Module> PipelineComponent::module() const {
  return held_ != nullptr ? held_->module() : nullptr;
}

void PipelineComponent::save_pretrained(const std::filesystem::path& folder) const {
  require<ConfigError>(has_value(), "{}: an absent component cannot be saved", folder.string());
  held_->save(folder);
}

void* PipelineComponent::value_of(const std::type_info& type) const {
  require<ConfigError>(held_ != nullptr, "the component is absent, expected a {}",
                       c10::demangle(type.name()));
  require<ConfigError>(held_->type() == type, "the component is a {}, expected a {}",
                       c10::demangle(held_->type().name()), c10::demangle(type.name()));
  return held_->value();
}

}  // namespace diffusers
