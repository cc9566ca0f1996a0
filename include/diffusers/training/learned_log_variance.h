#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/model.h>

namespace diffusers {

/// What the logarithm u of the loss' variance depends on: nothing, there is none; a discrete timestep, by a
/// table (LDM's learn_logvar); a continuous noise level, by Fourier features (EDM2).
enum class LogVarianceType { kNone, kTable, kFourier };

template <>
struct EnumNames<LogVarianceType> {
  static constexpr std::string_view kKey = "learned_log_variance";
  static constexpr std::array<std::pair<LogVarianceType, std::string_view>, 3> kTable{{
      {LogVarianceType::kNone, "none"},
      {LogVarianceType::kTable, "table"},
      {LogVarianceType::kFourier, "fourier"},
  }};
};

struct LearnedLogVarianceConfig {
  EnumChoice<LogVarianceType> type = LogVarianceType::kFourier;  ///< `none` makes no module
  int64_t num_train_timesteps = 1000;                            ///< rows of the table
  double logvar_init = 0.0;                                      ///< what the table holds at first
  int64_t channels = 128;                                        ///< Fourier features
};

void read_model_config(std::string_view json, std::string_view where, LearnedLogVarianceConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const LearnedLogVarianceConfig& config, std::string_view source);

/// u of each sample of a batch, where the loss is L / exp(u) + u: at its least where u is the logarithm of
/// the mean of L, so that every noise level counts alike, whatever its loss is.
///
///  - table: the parameter "logvar" `[T]` (Rombach et al. 2022, latent diffusion's learn_logvar);
///  - fourier: w . sqrt(2) cos(x f + p), with f 2 pi times a normal number and p uniform in [0, 2 pi), drawn
///    once, the buffers "freqs" and "phases" `[channels]`, and the parameter "weight" `[channels]`, zero at
///    first (Karras et al. 2023, arXiv 2312.02696, where the weight is also normalised, and u not 0 at
///    first).
class LearnedLogVarianceImpl : public ModelImpl<LearnedLogVarianceImpl, LearnedLogVarianceConfig> {
 public:
  static constexpr std::string_view kClassName = "LearnedLogVariance";

  explicit LearnedLogVarianceImpl(LearnedLogVarianceConfig config = {});
  /// @throws ConfigError naming the key and the value that cannot work
  void reset() override;

  /// @param timesteps_or_c_noise `[B]`: timesteps of an integral dtype in [0, num_train_timesteps) for the
  /// table; for Fourier features of any dtype, EDM's c_noise = log(sigma) / 4
  /// @return u, `[B]`, of the parameters' dtype, in a scope of autocast as well
  /// @throws TensorError for another shape or dtype
  Tensor forward(const Tensor& timesteps_or_c_noise) const;

 private:
  Tensor logvar_;                   // of the table
  Tensor freqs_, phases_, weight_;  // of the Fourier features
};

/// Also loads what the Trainer saved: `LearnedLogVariance::from_pretrained("out/log_variance")`.
using LearnedLogVariance = ModelHolder<LearnedLogVarianceImpl, LearnedLogVarianceConfig>;

}  // namespace diffusers
