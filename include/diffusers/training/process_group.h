#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

namespace diffusers {

inline namespace internal {
class ProcessGroupState;
}  // namespace internal

/// Format in which gradients travel between the processes.
enum class GradientCompression {
  kNone,  ///< the dtype of the gradients
  kBf16,  ///< bfloat16: half of the bytes, and rounded sums
};

/// The names of `GradientCompression`.
template <>
struct EnumNames<GradientCompression> {
  /// Enumerators and their names.
  static constexpr std::array<std::pair<GradientCompression, std::string_view>, 2> kTable{{
      {GradientCompression::kNone, "none"},
      {GradientCompression::kBf16, "bf16"},
  }};
};

/// Options of `ProcessGroup::from_environment`. Except for the timeout, they belong to the exchange of
/// gradients, and have no effect in a group of one process that no launcher made.
struct ProcessGroupOptions {
  /// Seconds that a process waits for the others: for all of them to start, and in each exchange later. The
  /// default is that of Python's Gloo backend. Validation, previews and checkpoints of rank 0 must take less.
  double timeout_seconds = 1800.0;
  /// Looks in each step for the trained parameters that the loss does not use. The default assumes that the
  /// loss uses all of them, which is faster; a loss that does not is an error.
  bool find_unused_parameters = false;
  /// Megabytes (2^20 bytes) of gradients that are exchanged at once, above 0. The first bucket has 1 at most,
  /// so that the exchange begins early in the backward pass.
  double bucket_cap_mb = 25.0;
  /// Format in which gradients travel.
  GradientCompression gradient_compression = GradientCompression::kNone;
  /// The part of the training's state that the processes divide (ZeRO, arXiv 1910.02054). Each trained
  /// parameter has an owner.
  ///  - 0: nothing. Each process has the gradients, the optimizer's state and the averages of all parameters.
  ///  - 1: the optimizer's state and the average of `use_ema`. A process has those of the parameters that
  ///    it owns, steps these parameters, and sends them to the others.
  ///  - 2: the gradients, too. Within the backward pass, a process has those of other owners in buckets.
  ///
  /// The results are those of stage 0, up to the rounding of sums with 2. Checkpoints are those of stage 0.
  int64_t zero_stage = 0;
};

/// The processes of a training: one process, or several that train together over c10d. Gloo connects them on
/// CPUs, NCCL on CUDA devices; flags and texts are always exchanged by Gloo.
///
/// A ProcessGroup is a handle: copies refer to the same connections. One thread at a time may use it. All
/// processes must call the functions that exchange something, in the same order.
/// @code
/// auto group = ProcessGroup::from_environment();
/// Trainer trainer(task, config, group);
/// @endcode
class ProcessGroup {
 public:
  /// Makes a group of one process, which exchanges nothing.
  ProcessGroup() = default;

  /// Joins the group that the environment describes, and waits until all of its processes have joined. It
  /// reads, in this order,
  ///  - torchrun's variables: RANK, WORLD_SIZE and LOCAL_RANK;
  ///  - mpirun's: OMPI_COMM_WORLD_RANK, _SIZE and _LOCAL_RANK (Open MPI), or PMI_RANK, PMI_SIZE and
  ///    MPI_LOCALRANKID (MPICH, Intel MPI);
  ///  - srun's: SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID.
  ///
  /// MASTER_ADDR and MASTER_PORT give the address of rank 0, which all launchers but torchrun leave to the
  /// user. Without any of these variables the result is a group of one process, as for a launcher's group of
  /// one process without MASTER_ADDR. Where there are CUDA devices, the device of the local rank becomes the
  /// current one, so that "cuda" means it.
  /// @param options timeout
  /// @return the group
  /// @throws ConfigError naming an option that is out of range; naming the variable if one is missing,
  /// malformed or contradicts another one, and if
  ///         the library was built without Gloo, or without NCCL while there is a CUDA device
  /// @throws Error naming MASTER_ADDR and MASTER_PORT if the processes do not meet within the timeout
  static ProcessGroup from_environment(const ProcessGroupOptions& options = {});

  /// Returns the number of this process, in [0, world_size()). Rank 0 writes checkpoints, logs and metrics.
  int64_t rank() const;
  /// Returns the number of processes.
  int64_t world_size() const;
  /// Returns the number of this process on its machine, which is the index of its CUDA device.
  int64_t local_rank() const;
  /// Returns true if this process is rank 0.
  bool is_main() const { return rank() == 0; }
  /// Returns true if the group was made by a launcher, so that gradients are exchanged.
  bool is_connected() const { return state_ != nullptr; }
  /// Returns the options with which the process joined the group; the defaults for a group of one process
  /// that no launcher made.
  const ProcessGroupOptions& options() const;
  /// Returns the device for the modules of this process: CUDA device `local_rank()` where there is one, else
  /// the CPU.
  at::Device device() const;

  /// Replaces a tensor on every process by that of one process.
  /// @param tensor tensor of any shape and dtype, the same on all processes, on the CPU or a CUDA device
  /// @param root rank of the process whose values are copied
  /// @throws Error if a process has ended or does not answer within the timeout
  void broadcast(const Tensor& tensor, int64_t root = 0) const;
  /// Replaces a tensor on every process by the sum over the processes. All get the same bits.
  /// @param tensor floating or int64 tensor of the same shape on all processes
  /// @throws Error if a process has ended or does not answer within the timeout
  void all_reduce(const Tensor& tensor) const;
  /// Returns the text that one process gives, on every process.
  /// @param text the text; that of the other processes is ignored
  /// @param root rank of the process whose text is returned
  /// @return the text of `root`
  /// @throws Error if a process has ended or does not answer within the timeout
  std::string broadcast(std::string_view text, int64_t root = 0) const;
  /// Returns tensors of one process on every process.
  /// @param tensors tensors on any device; those of the other processes are ignored
  /// @param root rank of the process whose tensors are returned
  /// @return `tensors` itself on `root`; on the CPU on the other processes
  /// @throws Error if a process has ended or does not answer within the timeout
  TensorMap broadcast(const TensorMap& tensors, int64_t root = 0) const;
  /// Returns the texts of all processes.
  /// @param text text of this process
  /// @return one text for each rank
  /// @throws Error if a process has ended or does not answer within the timeout
  std::vector<std::string> all_gather(std::string_view text) const;
  /// Waits until all processes have called it.
  /// @throws Error if a process has ended or does not answer within the timeout
  void barrier() const;

  /// Tells the other processes the reason why this one stops, and closes its connections. The exchanges of
  /// the others then throw an Error with this reason. The Trainer calls it for its own errors.
  /// @param reason message for the other processes
  void abort(std::string_view reason) const noexcept;

  /// Returns the connections, for the library itself; null for a group of one process.
  const std::shared_ptr<internal::ProcessGroupState>& state() const { return state_; }

 private:
  explicit ProcessGroup(std::shared_ptr<internal::ProcessGroupState> state);

  std::shared_ptr<internal::ProcessGroupState> state_;
};

}  // namespace diffusers
