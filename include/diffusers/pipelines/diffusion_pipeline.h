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

/// Base of all pipelines (Python: `DiffusionPipeline`). It holds the named components, and loads, saves,
/// moves and shares them. A derived class adds the call.
///
/// The models are shared with the caller, not copied. The scheduler is copied. Pipelines are movable, but not
/// copyable.
class DiffusionPipeline {
 public:
  DiffusionPipeline(const DiffusionPipeline&) = delete;
  DiffusionPipeline& operator=(const DiffusionPipeline&) = delete;
  /// Releases the components.
  virtual ~DiffusionPipeline();

  /// Loads a pipeline of the class that `_class_name` of model_index.json names. `as<P>()` returns it as an
  /// object of that class:
  ///
  ///     auto pipeline = DiffusionPipeline::from_pretrained("folder");
  ///     auto images = pipeline->as<StableDiffusionPipeline>()({.prompt = "a cat"}).images;
  ///
  /// @param folder a pipeline folder
  /// @param options variant, dtype and device
  /// @return the pipeline
  /// @throws FileError if the folder or a part of it is missing or malformed, or if `_class_name` is not a
  ///   class of the library or a registered class (`register_pipeline`), listing the known classes
  /// @throws ConfigError if a config is not valid
  static std::unique_ptr<DiffusionPipeline> from_pretrained(const std::filesystem::path& folder,
                                                            const PipelineLoadOptions& options = {});
  /// Writes model_index.json and a subfolder for each component, as Python does. model_index.json is written
  /// last, so a folder that has it is complete.
  /// @param folder is created if it does not exist
  /// @throws FileError if a file cannot be written
  /// @throws ConfigError if a component's class cannot be saved
  void save_pretrained(const std::filesystem::path& folder) const;

  /// @return Python's name of the class, `_class_name` in model_index.json
  const std::string& class_name() const { return spec_->class_name; }
  /// Returns the components by name. A copy of the map shares the models:
  ///
  ///     StableDiffusionImg2ImgPipeline redraw(pipeline.components());   // Python: Class(**pipe.components)
  ///
  /// @return the components
  const PipelineComponents& components() const { return components_; }
  /// Returns a component as an object of its type: `pipeline.component<AutoencoderKL>("vae")`.
  /// @tparam T the type of the component
  /// @param name name of the component
  /// @return the component
  /// @throws ConfigError if the pipeline has no component of that name and type
  template <class T>
  T& component(const std::string& name) {
    return named_component(name).template get<T>();
  }
  /// Returns the pipeline as an object of its class.
  /// @tparam Pipeline the class
  /// @return this pipeline
  /// @throws ConfigError naming both classes if it is of another class
  template <class Pipeline>
  Pipeline& as() {
    auto* pipeline = dynamic_cast<Pipeline*>(this);
    if (pipeline == nullptr) refuse_cast(typeid(Pipeline));
    return *pipeline;
  }

  /// Returns the scheduler, a copy that belongs to the pipeline. `set_scheduler` replaces it.
  /// @return the scheduler
  /// @throws ConfigError if the class has no component "scheduler"
  Scheduler& scheduler() { return component<Scheduler>("scheduler"); }
  /// Replaces the scheduler by a copy of another one, with the conversion of the constructor (Python:
  /// `pipeline.scheduler = ...`).
  /// @param scheduler the new scheduler
  /// @throws ConfigError if the pipeline does not support the scheduler; the old scheduler is kept
  void set_scheduler(const Scheduler& scheduler);

  /// Moves all models to a device, and converts their floating tensors to a dtype if one is given. The models
  /// of other pipelines that share them change, too.
  /// @param device the device
  /// @param dtype floating dtype; nullopt: not changed
  /// @return this pipeline
  /// @throws ConfigError if the dtype is not a floating type
  DiffusionPipeline& to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt);
  /// Converts the floating tensors of all models.
  /// @param dtype floating dtype
  /// @return this pipeline
  /// @throws ConfigError if the dtype is not a floating type
  DiffusionPipeline& to(at::ScalarType dtype);
  /// @return device of the models; if they are on several devices, the first one that is not the CPU
  at::Device device() const;
  /// @return dtype of the first model, in the order of the constructor's parameters; float32 without models
  at::ScalarType dtype() const;

  /// Configures the progress bar of calls.
  /// @param config the settings
  void set_progress_bar_config(const ProgressBarConfig& config) { progress_bar_ = config; }
  /// @return the settings of the progress bar
  const ProgressBarConfig& progress_bar_config() const { return progress_bar_; }

 protected:
  /// The loaded contents of a pipeline folder.
  struct Folder {
    PipelineComponents components;                ///< arguments of the constructor
    std::map<std::string, bool> settings;         ///< settings of the class in model_index.json
    std::vector<std::string> ignored_components;  ///< components that are not loaded
    std::filesystem::path path;                   ///< path of the folder, for messages
  };

  /// Makes a pipeline from its components.
  /// @param spec the pipeline class; must outlive the pipeline
  /// @param components one for each component of the class; optional ones may be left out
  /// @throws ConfigError naming the component that is missing, empty, of another class or not taken
  DiffusionPipeline(const PipelineSpec& spec, PipelineComponents components);
  DiffusionPipeline(DiffusionPipeline&&) noexcept = default;
  DiffusionPipeline& operator=(DiffusionPipeline&&) noexcept = default;

  /// Takes over the settings of the folder from which the pipeline was loaded. Override it if settings depend
  /// on more than model_index.json.
  /// @param folder the folder that was loaded
  virtual void take_settings(const Folder& folder);
  /// Sets a setting of the class.
  /// @param name name of the setting
  /// @param value the new value
  void set_setting(const std::string& name, bool value) { settings_[name] = value; }
  /// One of the class's settings.
  bool setting(const std::string& name) const { return settings_.at(name); }

  /// Loads the components of a pipeline class.
  /// @param spec the pipeline class
  /// @param folder a pipeline folder
  /// @param options variant, dtype and device
  /// @return the contents of the folder
  /// @throws FileError as `from_pretrained`
  /// @throws ConfigError as `from_pretrained`
  static Folder load_folder(const PipelineSpec& spec, const std::filesystem::path& folder,
                            const PipelineLoadOptions& options);
  /// Calls `take_settings` of a pipeline.
  /// @param pipeline the pipeline that was loaded
  /// @param folder the folder that was loaded
  static void finish_loading(DiffusionPipeline& pipeline, const Folder& folder) {
    pipeline.take_settings(folder);
  }
  /// Selects the components for a pipeline class: those of `given`, and the others from a pipeline.
  /// @param spec the pipeline class
  /// @param pipeline has the other components
  /// @param given components that replace those of the pipeline
  /// @return the components
  /// @throws ConfigError naming the component that is missing or of another class
  static PipelineComponents shared_components(const PipelineSpec& spec, const DiffusionPipeline& pipeline,
                                              PipelineComponents given);
  /// Copies the settings that both classes have.
  /// @param from the source
  /// @param to the destination
  static void copy_settings(const DiffusionPipeline& from, DiffusionPipeline& to);

 private:
  PipelineComponent& named_component(const std::string& name);
  [[noreturn]] void refuse_cast(const std::type_info& type) const;

  const PipelineSpec* spec_;
  PipelineComponents components_;
  std::map<std::string, bool> settings_;
  ProgressBarConfig progress_bar_;
};

/// Base of a pipeline class with the functions that return the class itself. A class `P` derives from
/// `TypedPipeline<P>` and has
///  - `static const PipelineSpec& spec()`;
///  - a constructor from `PipelineComponents`;
///  - `operator()`, the call.
///
/// register_pipeline.h has an example.
/// @tparam Derived the pipeline class
/// @tparam Base DiffusionPipeline, or a class derived from it that several pipelines share
template <class Derived, class Base = DiffusionPipeline>
class TypedPipeline : public Base {
 public:
  /// Loads a pipeline from a folder that Python or `save_pretrained` wrote. The folder may be that of another
  /// pipeline class with the same components.
  /// @param folder a pipeline folder
  /// @param options variant, dtype and device
  /// @return the pipeline
  /// @throws FileError naming the folder, index or component that is missing, malformed or of another class
  /// @throws ConfigError if a config is not valid
  static Derived from_pretrained(const std::filesystem::path& folder,
                                 const PipelineLoadOptions& options = {}) {
    auto loaded = Base::load_folder(Derived::spec(), folder, options);
    Derived pipeline(std::move(loaded.components));
    Base::finish_loading(pipeline, loaded);
    return pipeline;
  }
  /// Makes a pipeline of this class with the components of another pipeline (Python: `Class.from_pipe`). The
  /// pipelines share the models; the scheduler is copied. Unlike Python, the dtype of the models stays the
  /// same.
  /// @param pipeline the other pipeline; components that this class does not have are left out
  /// @param components additional components, or replacements: `{{"controlnet", controlnet}}`
  /// @return the pipeline
  /// @throws ConfigError naming the component that is missing or of another class
  static Derived from_pipe(const DiffusionPipeline& pipeline, PipelineComponents components = {}) {
    Derived made(Base::shared_components(Derived::spec(), pipeline, std::move(components)));
    Base::copy_settings(pipeline, made);
    return made;
  }

  /// Moves and converts all models, as `DiffusionPipeline::to`.
  /// @param device the device
  /// @param dtype floating dtype; nullopt: not changed
  /// @return this pipeline
  /// @throws ConfigError if the dtype is not a floating type
  Derived& to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt) & {
    Base::to(device, dtype);
    return static_cast<Derived&>(*this);
  }
  /// Moves and converts all models of a temporary: `auto p = P::from_pretrained("folder").to(torch::kCUDA)`.
  /// @param device the device
  /// @param dtype floating dtype; nullopt: not changed
  /// @return the pipeline
  /// @throws ConfigError if the dtype is not a floating type
  Derived to(at::Device device, std::optional<at::ScalarType> dtype = std::nullopt) && {
    return std::move(this->to(device, dtype));
  }
  /// Converts the floating tensors of all models, as `DiffusionPipeline::to`.
  /// @param dtype floating dtype
  /// @return this pipeline
  /// @throws ConfigError if the dtype is not a floating type
  Derived& to(at::ScalarType dtype) & {
    Base::to(dtype);
    return static_cast<Derived&>(*this);
  }
  /// Converts the floating tensors of all models of a temporary.
  /// @param dtype floating dtype
  /// @return the pipeline
  /// @throws ConfigError if the dtype is not a floating type
  Derived to(at::ScalarType dtype) && { return std::move(this->to(dtype)); }

 protected:
  /// Makes a pipeline from its components.
  /// @param components one for each component of the class; optional ones may be left out
  /// @throws ConfigError naming the component that is missing, empty, of another class or not taken
  explicit TypedPipeline(PipelineComponents components) : Base(Derived::spec(), std::move(components)) {}
};

}  // namespace diffusers
