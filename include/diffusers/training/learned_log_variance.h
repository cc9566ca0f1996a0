#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/model.h>

namespace diffusers {

/// Parametrisation of the learned log variance u of the loss.
///
/// | name      | u                                                                        |
/// |-----------|--------------------------------------------------------------------------|
/// | `none`    | no u is learned                                                          |
/// | `table`   | a number for each discrete timestep (latent diffusion's `learn_logvar`)  |
/// | `fourier` | a function of the continuous noise level, by Fourier features (EDM2)     |
enum class LogVarianceType { kNone, kTable, kFourier };

/// The Python strings of `LogVarianceType`.
template <>
struct EnumNames<LogVarianceType> {
  static constexpr std::string_view kKey = "learned_log_variance";
  static constexpr std::array<std::pair<LogVarianceType, std::string_view>, 3> kTable{{
      {LogVarianceType::kNone, "none"},
      {LogVarianceType::kTable, "table"},
      {LogVarianceType::kFourier, "fourier"},
  }};
};

/// Config of a LearnedLogVariance.
struct LearnedLogVarianceConfig {
  LogVarianceType type = LogVarianceType::kFourier;  ///< `table` or `fourier`
  int64_t num_train_timesteps = 1000;                ///< number of rows of the table, 1 or more
  double logvar_init = 0.0;                          ///< initial value of each row of the table, finite
  int64_t channels = 128;                            ///< number of Fourier features, 1 or more
};

/// Reads `config.json` of a LearnedLogVariance.
/// @param json text of the file
/// @param where name of the text in error messages
/// @param config receives the fields
/// @param source receives the text that `write_model_config` needs to write unknown keys back
/// @param report receives the unknown keys
/// @throws FileError if the text is not JSON; ConfigError naming an invalid field
void read_model_config(std::string_view json, std::string_view where, LearnedLogVarianceConfig& config,
                       std::string& source, LoadReport& report);
/// Writes `config.json` of a LearnedLogVariance.
/// @param config the fields
/// @param source text that `read_model_config` returned; empty for a new model
/// @return text of the file
std::string write_model_config(const LearnedLogVarianceConfig& config, std::string_view source);

/// Learns the log variance u of the loss at each noise level. The loss L of a sample becomes L / exp(u) + u.
/// This expression is smallest if u is the logarithm of the mean of L. All noise levels then have the same
/// influence on the training.
///
///  - `table`: u is the row of the timestep in the parameter "logvar" `[T]` (Rombach et al. 2022, latent
///    diffusion's `learn_logvar`).
///  - `fourier`: u is the sum over the features of w sqrt(2) cos(x f + p). The parameter w is "weight"
///    `[channels]`, initialised to zero. The buffers f, "freqs" `[channels]`, and p, "phases" `[channels]`,
///    are drawn once: f from N(0, (2 pi)^2), p uniformly from [0, 2 pi). EDM2 (Karras et al. 2023, arXiv
///    2312.02696) also normalises the weight, and its u does not start at 0.
class LearnedLogVarianceImpl : public ModelImpl<LearnedLogVarianceImpl, LearnedLogVarianceConfig> {
 public:
  /// Name of the class in `config.json`.
  static constexpr std::string_view kClassName = "LearnedLogVariance";

  /// Creates the module.
  /// @param config parametrisation and size
  /// @throws ConfigError naming the field and its value
  explicit LearnedLogVarianceImpl(LearnedLogVarianceConfig config = {});
  /// Initialises the parameters and buffers again.
  /// @throws ConfigError naming the field and its value
  void reset() override;

  /// Computes u.
  /// @param timesteps_or_c_noise `[B]`. `table`: timesteps of an integral dtype in [0, num_train_timesteps).
  ///        `fourier`: noise levels of any dtype, such as EDM's c_noise = log(sigma) / 4
  /// @return u `[B]`, in the dtype of the parameters, also under autocast
  /// @throws TensorError for another shape or dtype
  Tensor forward(const Tensor& timesteps_or_c_noise) const;

 private:
  Tensor logvar_;                   // of the table
  Tensor freqs_, phases_, weight_;  // of the Fourier features
};

/// Holder of a LearnedLogVarianceImpl. `LearnedLogVariance::from_pretrained("out/log_variance")` loads one
/// that the Trainer saved.
using LearnedLogVariance = ModelHolder<LearnedLogVarianceImpl, LearnedLogVarianceConfig>;

}  // namespace diffusers
