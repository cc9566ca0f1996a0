#pragma once

// What all pipelines do with their components.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>

#include <torch/nn/module.h>

namespace diffusers {

/// Puts a model into eval mode, and each of its modules back into the mode it had.
class EvalGuard {
 public:
  explicit EvalGuard(torch::nn::Module& model) : modules_(model.modules()) {
    was_training_.reserve(modules_.size());
    for (const auto& module : modules_) was_training_.push_back(module->is_training());
    model.eval();
  }
  EvalGuard(const EvalGuard&) = delete;
  EvalGuard& operator=(const EvalGuard&) = delete;
  ~EvalGuard() {
    // train() reaches all modules below, and parents stand before their children.
    for (std::size_t i = 0; i < modules_.size(); ++i)
      if (modules_[i]->is_training() != was_training_[i]) modules_[i]->train(was_training_[i]);
  }

 private:
  std::vector<std::shared_ptr<torch::nn::Module>> modules_;
  std::vector<bool> was_training_;
};

/// Reads FOLDER/scheduler/scheduler_config.json as a scheduler of the class that the pipeline's index names,
/// whatever class wrote it.
/// @throws FileError if it is missing or malformed
std::unique_ptr<Scheduler> load_pipeline_scheduler(const std::filesystem::path& folder,
                                                   const std::string& class_name);

/// Calls the callback, if there is one, and checks that the sample it leaves can go on.
/// @throws TensorError if it cannot
void call_step_end(const StepEndCallback& callback, int64_t step, const Tensor& timestep, Tensor& sample);

}  // namespace diffusers
