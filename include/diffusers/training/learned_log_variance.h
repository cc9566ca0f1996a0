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

/// What the logarithm u of the variance of the loss depends on.
///
/// | name      | u depends on                                                                        |
/// |-----------|-------------------------------------------------------------------------------------|
/// | `none`    | there is no u                                                                       |
/// | `table`   | a discrete timestep, by a table (latent diffusion's `learn_logvar`)                 |
/// | `fourier` | a continuous noise level, by Fourier features (EDM2)                                |
enum class LogVarianceType { kNone, kTable, kFourier };

/// Names of the kinds of log variance.
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
  int64_t num_train_timesteps = 1000;                ///< rows of the table
  double logvar_init = 0.0;                          ///< initial value of the table
  int64_t channels = 128;                            ///< number of Fourier features
};

/// Reads `config.json` of a LearnedLogVariance.
/// @param json its text
/// @param where what the text is, for messages
/// @param config receives the fields
/// @param source receives what is needed to write the file again
/// @param report receives unknown keys
void read_model_config(std::string_view json, std::string_view where, LearnedLogVarianceConfig& config,
                       std::string& source, LoadReport& report);
/// Writes `config.json` of a LearnedLogVariance.
/// @param config the fields
/// @param source what `read_model_config` gave; empty for a new model
/// @return its text
std::string write_model_config(const LearnedLogVarianceConfig& config, std::string_view source);

/// A learned u for each sample of a batch, with which the loss L becomes L / exp(u) + u. This is least where
/// u is the logarithm of the mean of L, so that every noise level has the same influence, whatever the size
/// of its loss.
///
///  - `table`: the parameter "logvar" `[T]` (Rombach et al. 2022, latent diffusion's `learn_logvar`);
///  - `fourier`: u = sum of w sqrt(2) cos(x f + p), with f a normal number times 2 pi and p uniform in
///    [0, 2 pi), both drawn once: the buffers "freqs" and "phases" `[channels]`, and the parameter "weight"
///    `[channels]`, which starts at zero (Karras et al. 2023, arXiv 2312.02696, where the weight is
///    normalised and u does not start at 0).
class LearnedLogVarianceImpl : public ModelImpl<LearnedLogVarianceImpl, LearnedLogVarianceConfig> {
 public:
  /// Name of the class in `config.json`.
  static constexpr std::string_view kClassName = "LearnedLogVariance";

  /// @param config kind and size
  /// @throws ConfigError naming the field and its value
  explicit LearnedLogVarianceImpl(LearnedLogVarianceConfig config = {});
  /// Makes the parameters anew.
  /// @throws ConfigError naming the field and its value
  void reset() override;

  /// Computes u.
  /// @param timesteps_or_c_noise `[B]`: for the table timesteps of an integral dtype in
  /// [0, num_train_timesteps); for Fourier features any dtype, such as EDM's c_noise = log(sigma) / 4
  /// @return u `[B]`, of the parameters' dtype, also under autocast
  /// @throws TensorError for another shape or dtype
  Tensor forward(const Tensor& timesteps_or_c_noise) const;

 private:
  Tensor logvar_;                   // of the table
  Tensor freqs_, phases_, weight_;  // of the Fourier features
};

/// Holder of a LearnedLogVarianceImpl. It also loads what the Trainer saved:
/// `LearnedLogVariance::from_pretrained("out/log_variance")`.
using LearnedLogVariance = ModelHolder<LearnedLogVarianceImpl, LearnedLogVarianceConfig>;

}  // namespace diffusers
