// Samples one model with every suitable scheduler, from the same noise, with several numbers of steps. The
// result is one table of images: a row for each scheduler, a group of columns for each number of steps.
//
// The schedulers of DDPM's family are made from the model's own scheduler config. Those of other families
// (EDM, flow matching, IPNDM) expect models that were trained in other coordinates. For them the program
// wraps the model, which is possible because x_0 at a noise level is sufficient.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/diffusers.h>

#include "../flags.h"
#include "../program.h"

using namespace diffusers;

namespace {

/// A model of DDPM's family at any noise level sigma = sigma_t / alpha_t, also between training timesteps.
class TrainedModel {
 public:
  TrainedModel(UNet2DModel unet, const Scheduler& training)
      : unet_(std::move(unet)), prediction_(training.prediction_type_name()) {
    const Tensor abar = training.alphas_cumprod().to(at::kDouble).clamp(1e-8, 1 - 1e-8);
    const Tensor logs = ((1 - abar) / abar).log() / 2;
    log_sigmas_.assign(logs.const_data_ptr<double>(), logs.const_data_ptr<double>() + logs.numel());
  }

  Tensor operator()(const Tensor& x, const Tensor& timestep) const {
    return unet_->forward(x, timestep).sample;
  }

  /// Predicts E[x_0 | x] for x = (x_0 + sigma eps) / sqrt(1 + sigma^2).
  Tensor x0(const Tensor& x, double sigma) const {
    const double log_sigma = std::clamp(std::log(sigma), log_sigmas_.front(), log_sigmas_.back());
    const auto above = std::upper_bound(log_sigmas_.begin() + 1, log_sigmas_.end() - 1, log_sigma);
    const auto low = static_cast<double>(above - log_sigmas_.begin() - 1);
    const double timestep = low + (log_sigma - *(above - 1)) / (*above - *(above - 1));
    const Tensor output = (*this)(x, torch::tensor(timestep, torch::kFloat));
    const double alpha = 1 / std::hypot(1, std::exp(log_sigma));
    const double s = std::exp(log_sigma) * alpha;
    if (prediction_ == "epsilon") return (x - s * output) / alpha;
    return prediction_ == "v_prediction" ? alpha * x - s * output : output;
  }

  /// Acts as the network of an EDM model with the inputs c_in x and log(sigma) / 4 (Karras et al. 2022, table
  /// 1).
  Tensor as_edm(const Tensor& input, const Tensor& timestep) const {
    const double sigma = std::exp(4 * timestep.item<double>());
    const double scale = std::hypot(sigma, 0.5);
    const Tensor x = input * scale;
    return (x0(x / std::hypot(1, sigma), sigma) - 0.25 / (scale * scale) * x) / (sigma * 0.5 / scale);
  }

  /// Acts as a model of the straight path x = (1 - s) x_0 + s eps, which predicts eps - x_0.
  Tensor as_flow(const Tensor& x, const Tensor& timestep) const {
    const double s = timestep.item<double>() / 1000;
    const Tensor clean = x0(x / std::hypot(1 - s, s), s / std::max(1 - s, 1e-6));
    return (x - clean) / s;
  }

  /// Acts as a model of v on the circle x = cos(a) x_0 + sin(a) eps.
  Tensor as_v(const Tensor& x, const Tensor& timestep) const {
    const double angle = timestep.item<double>() * M_PI / 2;
    const Tensor clean = x0(x, std::tan(std::min(angle, M_PI / 2 - 1e-6)));
    return (std::cos(angle) * x - clean) / std::sin(angle);
  }

 private:
  mutable UNet2DModel unet_;
  std::string prediction_;
  std::vector<double> log_sigmas_;
};

constexpr double kBackground = 0.3;

enum class Coordinates { kTraining, kEdm, kFlow, kCircle };

struct Row {
  std::string label;
  std::function<std::unique_ptr<Scheduler>(const std::string& config)> make;
  Coordinates coordinates = Coordinates::kTraining;
  double eta = 0;
};

/// A scheduler that is made from the model's config, with some overrides.
template <class S>
Row row(const std::string& label, const std::string& overrides = "{}", double eta = 0) {
  return {.label = label,
          .make =
              [overrides](const std::string& config) {
                return std::make_unique<S>(S::from_config(config, overrides));
              },
          .eta = eta};
}

/// A scheduler that is made without the model's config, because it has other coordinates.
template <class S>
Row foreign_row(const std::string& label, Coordinates coordinates) {
  return {.label = label,
          .make = [](const std::string&) { return std::make_unique<S>(); },
          .coordinates = coordinates};
}

std::vector<Row> rows() {
  return {
      row<DDPMScheduler>("DDPM"),
      row<DDIMScheduler>("DDIM"),
      row<DDIMScheduler>("DDIM, eta = 1", "{}", 1.0),
      row<PNDMScheduler>("PNDM"),
      foreign_row<IPNDMScheduler>("IPNDM", Coordinates::kCircle),
      row<LMSDiscreteScheduler>("LMS"),
      row<EulerDiscreteScheduler>("Euler"),
      row<EulerDiscreteScheduler>("Euler, Karras sigmas", R"({"use_karras_sigmas": true})"),
      row<EulerAncestralDiscreteScheduler>("Euler ancestral"),
      row<HeunDiscreteScheduler>("Heun (2n - 1 evaluations)"),
      row<KDPM2DiscreteScheduler>("KDPM2 (2n - 1)"),
      row<KDPM2AncestralDiscreteScheduler>("KDPM2 ancestral (2n - 1)"),
      row<DPMSolverMultistepScheduler>("DPM-Solver++ 2M", R"({"lambda_min_clipped": -5.1})"),
      row<DPMSolverMultistepScheduler>("DPM-Solver++ 3M",
                                       R"({"lambda_min_clipped": -5.1, "solver_order": 3})"),
      row<DPMSolverMultistepScheduler>(
          "SDE DPM-Solver++ 2M", R"({"lambda_min_clipped": -5.1, "algorithm_type": "sde-dpmsolver++"})"),
      row<DPMSolverSinglestepScheduler>("DPM-Solver++ 2S", R"({"lambda_min_clipped": -5.1})"),
      row<DPMSolverSDEScheduler>("DPM-Solver SDE (2n - 1)", R"({"noise_sampler_seed": 0})"),
      row<DEISMultistepScheduler>("DEIS"),
      row<UniPCMultistepScheduler>("UniPC"),
      row<SASolverScheduler>("SA-Solver", R"({"lambda_min_clipped": -5.1})"),
      foreign_row<EDMEulerScheduler>("EDM Euler", Coordinates::kEdm),
      foreign_row<EDMDPMSolverMultistepScheduler>("EDM DPM-Solver++ 2M", Coordinates::kEdm),
      foreign_row<FlowMatchEulerDiscreteScheduler>("Flow matching Euler", Coordinates::kFlow),
      foreign_row<FlowMatchHeunDiscreteScheduler>("Flow matching Heun (2n - 1)", Coordinates::kFlow),
  };
}

/// Samples images `[B, C, H, W]` in [0, 1].
Tensor sample(const Row& row, const TrainedModel& trained, const std::string& config, const Tensor& noise,
              int64_t steps, uint64_t seed) {
  const auto scheduler = row.make(config);
  scheduler->set_timesteps(steps);
  SamplingLoopOptions options{.step = {.generator = make_generator(seed)}};
  if (row.eta > 0) options.step.eta = row.eta;
  const auto model = [&](const Tensor& x, const Tensor& t) {
    switch (row.coordinates) {
      case Coordinates::kEdm:
        return trained.as_edm(x, t);
      case Coordinates::kFlow:
        return trained.as_flow(x, t);
      case Coordinates::kCircle:
        return trained.as_v(x, t);
      case Coordinates::kTraining:
        break;
    }
    return trained(x, t);
  };
  const Tensor x = sampling_loop(*scheduler, model, noise * scheduler->init_noise_sigma(), options);
  if (!x.isfinite().all().item<bool>()) throw Error("the samples are not finite");
  return (x / 2 + 0.5).clamp(0, 1);
}

std::string base64(const std::string& bytes) {
  static const char* const kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k)
      word = word << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    for (std::size_t k = 0; k < 4; ++k)
      text += i + k <= bytes.size() ? kDigits[word >> (18 - 6 * k) & 63U] : '=';
  }
  return text;
}

/// Returns an SVG drawing of the PNG grid with labels around it.
std::string labelled(const std::string& png, int64_t width, int64_t height,
                     const std::vector<std::string>& labels, const std::vector<int64_t>& steps) {
  constexpr int64_t kLeft = 190;
  constexpr int64_t kTop = 24;
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + std::to_string(kLeft + width) +
                    "\" height=\"" + std::to_string(kTop + height) +
                    "\" font-family=\"sans-serif\" font-size=\"12\">\n"
                    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  const auto text = [&](double x, double y, const char* anchor, const std::string& content) {
    svg += "<text x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\" text-anchor=\"" + anchor +
           "\">" + content + "</text>\n";
  };
  for (std::size_t i = 0; i < labels.size(); ++i)
    text(kLeft - 8,
         kTop +
             (static_cast<double>(i) + 0.5) * static_cast<double>(height) /
                 static_cast<double>(labels.size()) +
             4,
         "end", labels[i]);
  for (std::size_t i = 0; i < steps.size(); ++i)
    text(kLeft +
             (static_cast<double>(i) + 0.5) * static_cast<double>(width) / static_cast<double>(steps.size()),
         16, "middle", std::to_string(steps[i]) + " steps");
  return svg + "<image x=\"" + std::to_string(kLeft) + "\" y=\"" + std::to_string(kTop) + "\" width=\"" +
         std::to_string(width) + "\" height=\"" + std::to_string(height) +
         "\" href=\"data:image/png;base64," + base64(read_text_file(png)) + "\"/>\n</svg>\n";
}

struct Settings {
  std::string model;
  std::vector<int64_t> steps{5, 10, 20, 50};
  int64_t num_images = 4;
  std::string timestep_spacing = "leading";
  uint64_t seed = 0;
  std::string output = "schedulers.svg";
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Flags",
       {{"--model", &Settings::model, "Folder of an unconditional pipeline.", {.required = true}},
        {"--steps",
         &Settings::steps,
         "Numbers of denoising steps. Each makes a group of columns.",
         {.check = at_least(1)}},
        {"--num_images", &Settings::num_images, "Number of images in a group.", {.check = at_least(1)}},
        {"--timestep_spacing",
         &Settings::timestep_spacing,
         "Spacing of the timesteps.",
         {.check = CLI::IsMember({"linspace", "leading", "trailing"})}},
        {"--seed", &Settings::seed, "Seed of the noise."},
        {"--output", &Settings::output,
         "SVG file to write. The grid without labels goes to the same name with .png."}}},
  };
  return table;
}

int run(int argc, char** argv) {
  const Settings settings = parse_flags(
      flags(), "Samples one model with every scheduler that can, from the same noise", argc, argv);
  const auto& [folder, steps, num_images, spacing, seed, output] = settings;

  const auto training = Scheduler::from_pretrained(folder, {.subfolder = "scheduler"});
  // Any class can read the config, which is independent of the class that wrote it.
  const std::string config =
      DDPMScheduler::from_config(training->config_json(), R"({"timestep_spacing": ")" + spacing + "\"}")
          .config_json();
  auto unet = UNet2DModel::from_pretrained(folder, {.subfolder = "unet"});
  unet->eval();
  const auto size = unet->config().sample_size.values();
  const int64_t height = size.empty() ? 32 : size.front();
  const int64_t width = size.empty() ? 32 : size.back();
  const Tensor noise =
      randn_tensor({num_images, unet->config().in_channels, height, width}, make_generator(seed));
  const TrainedModel trained(unet, *training);

  std::vector<Tensor> pictures;
  std::vector<std::string> labels;
  for (const Row& row : rows()) {
    labels.push_back(row.label);
    for (const int64_t n : steps) {
      Tensor drawn = torch::full_like(noise, kBackground);  // an empty cell
      try {
        drawn = sample(row, trained, config, noise, n, seed + 1);
      } catch (const Error& error) {
        std::fprintf(stderr, "%s, %lld steps: %s\n", row.label.c_str(), static_cast<long long>(n),
                     error.what());
      }
      pictures.push_back(drawn);
    }
    std::printf("%s\n", row.label.c_str());
    std::fflush(stdout);
  }
  const std::string png = output.substr(0, output.rfind('.')) + ".png";
  const auto columns = static_cast<int64_t>(steps.size()) * num_images;
  const Tensor grid =
      make_grid(torch::cat(pictures), {.columns = columns, .padding = 2, .pad_value = kBackground});
  save_image(grid, png);
  write_file(labelled(png, grid.size(2), grid.size(1), labels, steps), output);
  std::printf("%s\n", output.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("compare_schedulers", run, argc, argv); }
