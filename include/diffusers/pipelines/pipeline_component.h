#pragma once

#include <concepts>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/schedulers/scheduler.h>

namespace torch::nn {
class Module;
}

namespace diffusers {
namespace detail {

/// A handle of a torch::nn::Module, such as UNet2DModel. Its copies share the module.
template <class T>
concept ModuleHandle = requires(const T& handle) {
  { handle.is_empty() } -> std::convertible_to<bool>;
  { handle.ptr() } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
};

/// A value that can be saved into a folder, such as CLIPTokenizer.
template <class T>
concept SavedValue = requires(const T& value, const std::filesystem::path& folder) {
  value.save_pretrained(folder);
  { T::class_name() } -> std::convertible_to<std::string>;
};

/// The operations of a component, whatever its type.
class ComponentInterface {
 public:
  virtual ~ComponentInterface() = default;
  /// Returns a copy, which shares the module if the component is a model.
  virtual std::unique_ptr<ComponentInterface> copy() const = 0;
  /// Returns Python's name of the class.
  virtual std::string class_name() const = 0;
  /// Writes the component into a folder. @throws ConfigError if its class cannot be saved, FileError
  virtual void save(const std::filesystem::path& folder) const = 0;
  /// Returns the model; null if the component is not a model.
  virtual std::shared_ptr<torch::nn::Module> module() const = 0;
  /// Returns false for an empty handle.
  virtual bool has_value() const = 0;
  /// Returns the C++ type of the object at `value()`.
  virtual const std::type_info& type() const = 0;
  /// Returns the handle, scheduler or value.
  virtual void* value() = 0;
};

/// A component that is a handle of a model or a value.
template <class T>
class ComponentOf final : public ComponentInterface {
 public:
  /// Keeps a copy of the handle or value.
  explicit ComponentOf(T value) : value_(std::move(value)) {}
  std::unique_ptr<ComponentInterface> copy() const override { return std::make_unique<ComponentOf>(value_); }
  std::string class_name() const override {
    if constexpr (!ModuleHandle<T>) {
      return T::class_name();
    } else if constexpr (requires {
                           { value_->class_name() } -> std::convertible_to<std::string>;
                         }) {
      return value_->class_name();
    } else {
      return value_->name();
    }
  }
  void save(const std::filesystem::path& folder) const override {
    if constexpr (!ModuleHandle<T>) {
      value_.save_pretrained(folder);
    } else if constexpr (requires { value_->save_pretrained(folder); }) {
      value_->save_pretrained(folder);
    } else {
      throw ConfigError(folder.string() + ": a " + class_name() +
                        " cannot be saved, because its class has no save_pretrained(folder)");
    }
  }
  std::shared_ptr<torch::nn::Module> module() const override {
    if constexpr (ModuleHandle<T>) {
      if (!value_.is_empty()) return value_.ptr();
    }
    return nullptr;
  }
  bool has_value() const override {
    if constexpr (ModuleHandle<T>) {
      return !value_.is_empty();
    } else {
      return true;
    }
  }
  const std::type_info& type() const override { return typeid(T); }
  void* value() override { return &value_; }

 private:
  T value_;
};

}  // namespace detail

/// A component of a pipeline: a model, a scheduler, a tokenizer, or absent (Python's None). Copies share a
/// model and copy a scheduler or tokenizer.
class PipelineComponent {
 public:
  /// Makes an absent component.
  PipelineComponent() = default;
  // NOLINTBEGIN(google-explicit-constructor): a model converts to a component.
  /// Holds a copy of a scheduler.
  /// @param scheduler the scheduler
  PipelineComponent(const Scheduler& scheduler);
  /// Takes ownership of a scheduler.
  /// @param scheduler the scheduler; null: an absent component
  PipelineComponent(std::unique_ptr<Scheduler> scheduler);
  /// Holds a model or a value. The header of its class must be included.
  /// @param value a handle of a torch::nn::Module (shared, not copied), or a value with
  ///   `static class_name()` and `save_pretrained(folder)` (copied)
  template <class T>
  requires(!std::is_same_v<T, PipelineComponent> && !std::is_base_of_v<Scheduler, T> &&
           (detail::ModuleHandle<T> || detail::SavedValue<T>)) PipelineComponent(const T& value)
      : held_(std::make_unique<detail::ComponentOf<T>>(value)) {}
  // NOLINTEND(google-explicit-constructor)
  /// Shares a model and copies anything else.
  /// @param other the component
  PipelineComponent(const PipelineComponent& other);
  PipelineComponent(PipelineComponent&&) noexcept = default;
  /// Shares a model and copies anything else.
  /// @param other the component
  /// @return this component
  PipelineComponent& operator=(const PipelineComponent& other);
  PipelineComponent& operator=(PipelineComponent&&) noexcept = default;
  ~PipelineComponent() = default;

  /// @return false for an absent component and for an empty handle
  bool has_value() const { return held_ != nullptr && held_->has_value(); }
  /// @return Python's name of the class, such as "UNet2DModel"; empty for an absent component
  std::string class_name() const;
  /// @return the model, shared; null if the component is not a model
  std::shared_ptr<torch::nn::Module> module() const;
  /// Returns the component as an object of its type: `get<UNet2DModel>()`. The type of every scheduler is
  /// `Scheduler`.
  /// @tparam T the type of the component
  /// @return the object
  /// @throws ConfigError naming both types if the component is of another type or absent
  template <class T>
  T& get() {
    return *static_cast<T*>(value_of(typeid(T)));
  }
  /// Returns the component as a const object of its type.
  /// @tparam T the type of the component
  /// @return the object
  /// @throws ConfigError naming both types if the component is of another type or absent
  template <class T>
  const T& get() const {
    return *static_cast<const T*>(value_of(typeid(T)));
  }
  /// Writes the files of the component: config and weights of a model, scheduler_config.json, or the files of
  /// a tokenizer.
  /// @param folder is created if it does not exist
  /// @throws ConfigError if the component is absent or its class cannot be saved
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder) const;

 private:
  void* value_of(const std::type_info& type) const;

  std::unique_ptr<detail::ComponentInterface> held_;  // null: absent
};

/// The components of a pipeline by name, such as "unet" and "scheduler" (Python: `pipeline.components`).
using PipelineComponents = std::map<std::string, PipelineComponent>;

}  // namespace diffusers
