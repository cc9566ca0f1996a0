#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/pipeline_component.h>
#include <diffusers/pipelines/pipeline_spec.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// Base of all pipelines (Python: `DiffusionPipeline`): a set of named components, and their loading, saving,
/// moving and sharing. A derived class adds the call.
///
/// The models are shared with the caller, not copied. The scheduler is copied. Pipelines can be moved, but
/// not copied.
class DiffusionPipeline {
 public:
  DiffusionPipeline(const DiffusionPipeline&) = delete;
  DiffusionPipeline& operator=(const DiffusionPipeline&) = delete;
  virtual ~DiffusionPipeline();

  /// Loads the pipeline of the class that `_class_name` of model_index.json names. `as<P>()` gives the
  /// pipeline as an object of its class:
  ///
  ///     auto pipeline = DiffusionPipeline::from_pretrained("folder");
  ///     auto images = pipeline->as<StableDiffusionPipeline>()({.prompt = "a cat"}).images;
  ///
  /// @throws FileError if the folder or a part of it is missing or malformed, or if `_class_name` is not a
  ///   class of the library or one that `register_pipeline` added; the message lists the known classes
  static std::unique_ptr<DiffusionPipeline> from_pretrained(const std::filesystem::path& folder,
                                                            const PipelineLoadOptions& options = {});
  /// Writes model_index.json and a subfolder for each component, as Python does. model_index.json is written
  /// last, so that a folder with it is complete.
  /// @param folder is created if it does not exist
  /// @throws FileError if a file cannot be written; ConfigError if a component's class cannot be saved
  void save_pretrained(const std::filesystem::path& folder) const;

  /// Python's name of the class, `_class_name` in model_index.json.
  const std::string& class_name() const { return spec_->class_name; }
  /// The components by name. A copy of the map shares the models:
  ///
  ///     StableDiffusionImg2ImgPipeline redraw(pipeline.components());   // Python: Class(**pipe.components)
  const PipelineComponents& components() const { return components_; }
  /// A component as an object of its type: `pipeline.component<AutoencoderKL>("vae")`.
  /// @throws ConfigError if the pipeline has no component of that name and type
  template <class T>
  T& component(const std::string& name) {
    return named_component(name).template get<T>();
  }
  /// The pipeline as an object of the class `Pipeline`.
  /// @throws ConfigError naming both classes if it is of another class
  template <class Pipeline>
  Pipeline& as() {
    auto* pipeline = dynamic_cast<Pipeline*>(this);
    if (pipeline == nullptr) refuse_cast(typeid(Pipeline));
    return *pipeline;
  }

  /// The scheduler of the pipeline, its own copy. `set_scheduler` replaces it.
  /// @throws ConfigError if the class has no component "scheduler"
  Scheduler& scheduler() { return component<Scheduler>("scheduler"); }
  /// Replaces the scheduler by a copy of another one (Python: `pipeline.scheduler = ...`), converted as the
  /// constructor converts it.
  /// @throws ConfigError if the class of the pipeline cannot take it; the old scheduler then stays
  void set_scheduler(const Scheduler& scheduler);

  /// Moves all models to a device, and converts their floating tensors to a dtype if one is given. Other
  /// pipelines with the same models see the change.
  /// @throws ConfigError if the dtype is not a floating type
  DiffusionPipeline& to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt);
  /// Converts the floating tensors of all models.
  /// @throws ConfigError if the dtype is not a floating type
  DiffusionPipeline& to(at::ScalarType dtype);
  /// Device of the models. If they are on several devices, the first one that is not the CPU.
  at::Device device() const;
  /// Dtype of the first model, in the order of the constructor's parameters; float32 without models.
  at::ScalarType dtype() const;

  /// Sets whether and how calls draw a progress bar.
  void set_progress_bar_config(const ProgressBarConfig& config) { progress_bar_ = config; }
  /// The settings of the progress bar.
  const ProgressBarConfig& progress_bar_config() const { return progress_bar_; }

 protected:
  /// Contents of a folder for a pipeline class.
  struct Folder {
    PipelineComponents components;                ///< for the constructor
    std::map<std::string, bool> settings;         ///< the class's, as the folder has them
    std::vector<std::string> ignored_components;  ///< that the folder has and the library does not run
    std::filesystem::path path;                   ///< of the folder, for messages
  };

  /// @param spec of the class; must outlive the pipeline
  /// @param components one for each that the class takes
  /// @throws ConfigError naming the component that is missing, empty, of another class or not taken
  DiffusionPipeline(const PipelineSpec& spec, PipelineComponents components);
  DiffusionPipeline(DiffusionPipeline&&) noexcept = default;
  DiffusionPipeline& operator=(DiffusionPipeline&&) noexcept = default;

  /// Takes over the settings of a folder from which the pipeline has just been made. A class overrides it if
  /// its settings depend on more than model_index.json.
  virtual void take_settings(const Folder& folder);
  /// Sets one of the class's settings.
  void set_setting(const std::string& name, bool value) { settings_[name] = value; }
  /// One of the class's settings.
  bool setting(const std::string& name) const { return settings_.at(name); }

  /// Loads the components of a class. @throws FileError, as `from_pretrained` of the class
  static Folder load_folder(const PipelineSpec& spec, const std::filesystem::path& folder,
                            const PipelineLoadOptions& options);
  /// Calls `take_settings` of a pipeline.
  static void finish_loading(DiffusionPipeline& pipeline, const Folder& folder) {
    pipeline.take_settings(folder);
  }
  /// The components for a class: `given`, and for the others those of a pipeline.
  /// @throws ConfigError naming the component that is missing or of another class
  static PipelineComponents shared_components(const PipelineSpec& spec, const DiffusionPipeline& pipeline,
                                              PipelineComponents given);
  /// Copies the settings that both classes have.
  static void copy_settings(const DiffusionPipeline& from, DiffusionPipeline& to);

 private:
  PipelineComponent& named_component(const std::string& name);
  [[noreturn]] void refuse_cast(const std::type_info& type) const;

  const PipelineSpec* spec_;
  PipelineComponents components_;
  std::map<std::string, bool> settings_;
  ProgressBarConfig progress_bar_;
};

/// Base of a pipeline class: the functions that return the class itself. A class `P` derives from
/// `TypedPipeline<P>` and has
///  - `static const PipelineSpec& spec()`;
///  - a constructor from `PipelineComponents`;
///  - `operator()`, the call.
///
/// register_pipeline.h shows a whole class.
/// @tparam Derived the class
/// @tparam Base DiffusionPipeline, or a class derived from it that several pipelines share
template <class Derived, class Base = DiffusionPipeline>
class TypedPipeline : public Base {
 public:
  /// Loads a folder that Python or `save_pretrained` wrote. The folder may be of another pipeline class with
  /// the same components.
  /// @throws FileError if the folder, its index or a component is missing, malformed or of another class,
  ///   naming it; ConfigError if a config cannot work
  static Derived from_pretrained(const std::filesystem::path& folder,
                                 const PipelineLoadOptions& options = {}) {
    auto loaded = Base::load_folder(Derived::spec(), folder, options);
    Derived pipeline(std::move(loaded.components));
    Base::finish_loading(pipeline, loaded);
    return pipeline;
  }
  /// Makes a pipeline of this class with the components of another one (Python: `Class.from_pipe`). Both
  /// share the models; the scheduler is copied. Unlike Python, the dtype of the models stays the same.
  /// @param pipeline has the components that `components` does not give; those not needed are left out
  /// @param components used in place of the other pipeline's: `{{"controlnet", controlnet}}`
  /// @throws ConfigError naming the component that is missing or of another class
  static Derived from_pipe(const DiffusionPipeline& pipeline, PipelineComponents components = {}) {
    Derived made(Base::shared_components(Derived::spec(), pipeline, std::move(components)));
    Base::copy_settings(pipeline, made);
    return made;
  }

  /// As DiffusionPipeline::to.
  Derived& to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt) & {
    Base::to(device, dtype);
    return static_cast<Derived&>(*this);
  }
  /// As DiffusionPipeline::to, for a new pipeline: `auto p = P::from_pretrained("folder").to(torch::kCUDA)`.
  Derived to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt) && {
    return std::move(this->to(device, dtype));
  }
  /// As DiffusionPipeline::to.
  Derived& to(at::ScalarType dtype) & {
    Base::to(dtype);
    return static_cast<Derived&>(*this);
  }
  /// As DiffusionPipeline::to, for a new pipeline.
  Derived to(at::ScalarType dtype) && { return std::move(this->to(dtype)); }

 protected:
  /// @throws ConfigError naming the component that is missing, empty, of another class or not taken
  explicit TypedPipeline(PipelineComponents components) : Base(Derived::spec(), std::move(components)) {}
};

}  // namespace diffusers
