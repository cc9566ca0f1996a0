#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor_map.h>

namespace diffusers {

class Optimizer;

/// Options of `get_scheduler`: the arguments of `diffusers.optimization.get_scheduler`.
struct LRSchedulerOptions {
  /// piecewise_constant: factors, and the steps at which they end. "1:10,0.1:20,0.01:30,0.005" means factor 1
  /// before step 10, 0.1 before step 20, 0.01 before step 30, and 0.005 from then on.
  std::string step_rules = {};
  /// Number of steps in which the factor rises from 0 to 1, 0 or more. All schedules except constant and
  /// piecewise_constant need it.
  std::optional<int64_t> num_warmup_steps = std::nullopt;
  /// Number of steps of the training. linear, cosine, cosine_with_restarts and polynomial need it.
  std::optional<int64_t> num_training_steps = std::nullopt;
  int64_t num_cycles = 1;  ///< cosine_with_restarts: number of cycles, 1 or more
  double power = 1.0;      ///< polynomial: exponent of the decay
  /// polynomial: initial learning rate, which the factors are relative to. The schedule ends at a learning
  /// rate of 1e-7. None: the learning rate of the optimizer, or 1e-3 without an optimizer.
  std::optional<double> lr_init = std::nullopt;
};

/// Function from a step, counted from 0, to the factor on the learning rate.
using LRSchedule = std::function<double(int64_t)>;

/// Creates a learning rate schedule as a function (`diffusers.optimization.get_scheduler`).
///
/// @code
/// auto lr = get_scheduler("cosine", {.num_warmup_steps = 100, .num_training_steps = 1000});
/// optimizer.step(lr(step));
/// @endcode
/// @param name constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial or
///        piecewise_constant
/// @param options warm-up, length and shape
/// @return function from a step to the factor
/// @throws ConfigError for an unknown name, for a missing option that the schedule needs, and for an option
/// out
///         of range
LRSchedule get_scheduler(std::string_view name, const LRSchedulerOptions& options = {});

/// Sets the learning rates of an optimizer in each step (`torch.optim.lr_scheduler.LambdaLR`).
///
/// The learning rate of each parameter group is its base learning rate times the factor of the current step.
/// Call `step` after `Optimizer::step`. Call `Optimizer::step` without a factor.
class LRScheduler {
 public:
  /// Takes the optimizer's learning rates as base learning rates and sets those of step 0.
  /// @param optimizer must outlive the scheduler, at the same address
  /// @param schedule function from a step to the factor
  /// @throws ConfigError if the schedule is empty or gives a learning rate that is negative or not finite
  LRScheduler(Optimizer& optimizer, LRSchedule schedule);

  /// Advances to the next step and sets its learning rates.
  /// @throws ConfigError if the schedule gives a learning rate that is negative or not finite
  void step();
  /// Returns the learning rates that were set last, one for each parameter group.
  std::vector<double> get_last_lr() const { return last_lr_; }
  /// Returns the number of calls of `step` (Python's `last_epoch`).
  int64_t last_epoch() const { return last_epoch_; }

  /// Returns the state: "last_epoch" (int64, 0-dim) and "base_lrs" (float64, one for each group).
  TensorMap state_dict() const;
  /// Restores a state and sets the learning rates of its step.
  /// @param state result of `state_dict`
  /// @throws TensorError naming the entry that is missing, of another shape or dtype, or out of range
  void load_state_dict(const TensorMap& state);

 private:
  void set_learning_rates();

  Optimizer* optimizer_;
  LRSchedule schedule_;
  std::vector<double> base_lrs_;
  std::vector<double> last_lr_;
  int64_t last_epoch_ = 0;
};

/// Creates a learning rate scheduler for an optimizer (`diffusers.optimization.get_scheduler`).
///
/// @code
/// auto lr_scheduler = get_scheduler("linear", optimizer, {.num_warmup_steps = 9, .num_training_steps = 99});
/// optimizer.step();
/// lr_scheduler.step();
/// @endcode
/// @param name name of the schedule, as above
/// @param optimizer must outlive the scheduler, at the same address
/// @param options options as above; `lr_init` is the optimizer's `config().lr`
/// @return the scheduler at step 0; the optimizer has the learning rates of that step
/// @throws ConfigError as above, and for an `lr_init` that differs from the optimizer's learning rate
LRScheduler get_scheduler(std::string_view name, Optimizer& optimizer,
                          const LRSchedulerOptions& options = {});

}  // namespace diffusers
