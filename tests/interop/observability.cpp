// Writes the logs of a training for observability.py: TensorBoard's event files, metrics and a report.
//     interop_observability FOLDER
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>

#include <diffusers/core/random.h>
#include <diffusers/io/image.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/training/report.h>
#include <diffusers/training/tensorboard.h>

#include <ATen/ATen.h>

namespace {

using namespace diffusers;

constexpr int64_t kTotalSteps = 1000;

TrainingProgress progress_at(int64_t step) {
  const auto time = static_cast<double>(step);
  // A typical loss curve with the noise of small batches.
  const double noise = 0.12 * std::sin(time * 0.9) + 0.08 * std::sin(time * 0.37);
  TrainingProgress progress;
  progress.step = step;
  progress.total_steps = kTotalSteps;
  progress.epoch = step / 250;
  progress.loss = (0.03 + 0.9 * std::exp(-time / 90)) * (1 + noise);
  progress.lr = 1e-3 * 0.5 * (1 + std::cos(M_PI * time / kTotalSteps));
  progress.grad_norm = 0.2 + 2 * std::exp(-time / 150) * (1 + 2 * noise);
  progress.images_per_second = 80 + 20 * noise;
  progress.elapsed_seconds = time * 0.8;
  progress.data_wait_share = 0.02;
  progress.memory_bytes = peak_memory_bytes();
  return progress;
}

ValidationResult validation_at(int64_t step) {
  ValidationResult result;
  result.step = step;
  for (int bin = 0; bin < 10; ++bin) {
    const double floor = 0.2 * std::exp(-0.5 * bin) + 0.004;
    result.bin_losses.push_back(floor * (1 + 6 * std::exp(-static_cast<double>(step) / 120)));
    result.loss += result.bin_losses.back() / 10;
  }
  return result;
}

/// Logs steps as the Trainer does.
void log_steps(const std::string& folder, TensorBoardWriter& writer, MetricsLog& metrics, int64_t first,
               int64_t last) {
  for (int64_t step = first; step <= last; step += 10) {
    const TrainingProgress progress = progress_at(step);
    metrics.append(progress);
    writer.add_scalar("train/loss", progress.loss, step);
    writer.add_scalar("train/lr", progress.lr, step);
    if (step % 100 != 0) continue;
    const ValidationResult validation = validation_at(step);
    metrics.append_validation(validation);
    writer.add_scalar("validation/loss", validation.loss, step);
    const Generator generator = make_generator(static_cast<uint64_t>(step));
    writer.add_histogram("weights/conv_in", randn_tensor({16, 3, 3, 3}, generator), step);
    // Images that change from noise to stripes.
    const Tensor noise = at::rand({16, 3, 28, 28}, generator, at::TensorOptions(at::kFloat));
    const Tensor stripes =
        (at::arange(28, at::kFloat).view({1, 1, 1, 28}) / 4).floor().remainder(2).expand_as(noise);
    const double share = static_cast<double>(step) / kTotalSteps;
    const Tensor grid = make_grid(noise * (1 - share) + stripes * share, {.columns = 4});
    writer.add_image("samples", grid, step);
    save_image(grid, folder + "/samples-" + std::to_string(step) + ".png");
  }
}

void write_everything(const std::string& folder) {
  const std::string logs = folder + "/logs";
  {
    TensorBoardWriter writer(logs);
    MetricsLog metrics(folder, 0);
    writer.add_text("configuration", "| key | value |\n|---|---|\n| learning_rate | 1e-3 (**größte**) |", 0);
    log_steps(folder, writer, metrics, 10, 600);
    writer.add_scalar("train/interrupted", 1, 600);
    writer.add_image("gray", at::linspace(0, 1, 20, at::kDouble).view({1, 4, 5}), 3);
  }
  // The training is killed at step 600 and resumed from the checkpoint of step 500.
  TensorBoardWriter writer(logs, 501);
  MetricsLog metrics(folder, 500);
  log_steps(folder, writer, metrics, 510, kTotalSteps);
  writer.flush();

  TrainingReport report;
  report.title = "UNet2DModel <28 x 28> & friends";
  report.figures = {{"Device", "cpu"}, {"Parameters", "1,707,009"}};
  report.rows = metrics.rows();
  report.validations = metrics.validations();
  report.grids = find_report_grids(folder, kTotalSteps);
  report.config_json = R"({"learning_rate": 0.001, "lr_scheduler": "cosine", "train_batch_size": 64,
    "snr_gamma": null, "ema": {"use_ema": true, "power": 0.75}, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"]})";
  save_training_report(report, folder + "/report.html");
  save_safetensors({{"conv_in", randn_tensor({16, 3, 3, 3}, make_generator(1000))}},
                   folder + "/histogram.safetensors");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: interop_observability FOLDER\n");
    return 2;
  }
  try {
    write_everything(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
