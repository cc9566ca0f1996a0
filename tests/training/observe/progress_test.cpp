// The output of a running training in the terminal, and the files that it writes.

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/progress.h>

#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

std::vector<std::string> lines_of(const std::string& path) {
  std::istringstream text(read_text_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

TrainingProgress progress_at(int64_t step) {
  return {.step = step,
          .total_steps = 1000,
          .epoch = 1,
          .loss = 1.0 / static_cast<double>(step),
          .lr = 1e-4,
          .grad_norm = 0.25,
          .images_per_second = 81.2,
          .elapsed_seconds = 2.5,
          .eta_seconds = 100,
          .skipped_steps = 0,
          .data_wait_share = 0.031,
          .memory_bytes = int64_t{820} << 20};
}

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(7.4), "0:07");
  EXPECT_EQ(format_duration(187), "3:07");
  EXPECT_EQ(format_duration(3765), "1:02:45");
  EXPECT_EQ(format_duration(std::nan("")), "?");
}

TEST(Progress, FormatsMemory) {
  EXPECT_EQ(format_memory(int64_t{820} << 20), "820 MiB");
  EXPECT_EQ(format_memory(int64_t{1536} << 20), "1.5 GiB");
  EXPECT_EQ(format_memory((int64_t{1} << 30) - 1), "1.0 GiB");
}

TEST(Progress, PeakMemoryGrowsWithWhatIsTouched) {
  const int64_t before = peak_memory_bytes();
  constexpr int64_t kMore = 64 << 20;
  const std::vector<char> touched(static_cast<std::size_t>(before + kMore), 1);
  EXPECT_GE(peak_memory_bytes(), before + kMore) << touched.back();
#if defined(__SANITIZE_THREAD__)
  constexpr int64_t kMost = 15;  // the sanitizer uses four more bytes for each byte
#else
  constexpr int64_t kMost = 3;
#endif
  EXPECT_LT(peak_memory_bytes(), kMost * (before + kMore));
}

TEST(Progress, ALineHoldsTheFigures) {
  EXPECT_EQ(progress_line(progress_at(50)),
            "step 50/1000, epoch 1: loss 0.0200, lr 1.00e-04, 81.2 images/s, ETA 1:40, data 3%, 820 MiB");
  TrainingProgress skipped = progress_at(50);
  skipped.skipped_steps = 2;
  skipped.memory_bytes = 0;
  EXPECT_EQ(
      progress_line(skipped),
      "step 50/1000, epoch 1: loss 0.0200, lr 1.00e-04, 81.2 images/s, ETA 1:40, 2 steps skipped, data 3%");
}

TEST(Progress, ABarShowsAsManyFiguresAsThereIsRoomFor) {
  EXPECT_EQ(progress_bar({}, 0, 1000, 79), "  0% [" + std::string(40, '.') + "] 0/1000");
  EXPECT_EQ(progress_bar(progress_at(100), 120, 1000, 120),
            " 12% [####" + std::string(30, '.') +
                "] 120/1000 | loss 0.0100, lr 1.00e-04, 81.2 images/s, ETA 1:40, data 3%, 820 MiB");
  EXPECT_EQ(progress_bar(progress_at(100), 1000, 1000, 79),
            "100% [##########] 1000/1000 | loss 0.0100, lr 1.00e-04, 81.2 images/s, ETA 1:40");
  EXPECT_EQ(progress_bar(progress_at(100), 1000, 1000, 76),
            "100% [#################] 1000/1000 | loss 0.0100, lr 1.00e-04, 81.2 images/s");
  for (std::size_t columns = 1; columns < 140; ++columns)
    EXPECT_LE(progress_bar(progress_at(100), 120, 1000, columns).size(), columns);
}

TEST(MetricsLog, ContinuesFromTheResumedStep) {
  const test::TemporaryFolder folder;
  {
    MetricsLog log(folder.path(), 0);
    for (int64_t step = 10; step <= 50; step += 10) {
      log.append(progress_at(step));
      if (step % 20 == 0) log.append_validation({step, 0.5, {0.7, 0.3}});
    }
  }
  MetricsLog log(folder.path(), 30);
  EXPECT_EQ(log.steps(), (std::vector<double>{10, 20, 30}));
  ASSERT_EQ(log.validations().size(), 1U);
  EXPECT_EQ(log.validations()[0].step, 20);
  EXPECT_EQ(log.validations()[0].bin_losses, (std::vector<double>{0.7, 0.3}));
  log.append({.step = 40, .loss = 0.5});
  EXPECT_EQ(log.losses().back(), 0.5);
  EXPECT_EQ(lines_of(folder / "metrics.csv").size(), 5U);
  EXPECT_EQ(lines_of(folder / "metrics.jsonl").size(), 5U);
  log.save_loss_chart(folder / "loss.svg");
  EXPECT_TRUE(file_exists(folder / "loss.svg"));
}

TEST(MetricsLog, KeepsWhatAReportNeeds) {
  const test::TemporaryFolder folder;
  MetricsLog(folder.path(), 0).append(progress_at(50));
  const MetricsLog log(folder.path(), 50);
  ASSERT_EQ(log.rows().size(), 1U);
  const TrainingProgress& row = log.rows()[0];
  EXPECT_EQ(row.step, 50);
  EXPECT_EQ(row.epoch, 1);
  EXPECT_EQ(row.loss, 0.02);
  EXPECT_EQ(row.lr, 1e-4);
  EXPECT_EQ(row.grad_norm, 0.25);
  EXPECT_EQ(row.images_per_second, 81.2);
  EXPECT_EQ(row.elapsed_seconds, 2.5);
  EXPECT_EQ(row.data_wait_share, 0.031);
  EXPECT_EQ(row.memory_bytes, int64_t{820} << 20);
}

TEST(MetricsLog, WritesAJsonObjectALine) {
  const test::TemporaryFolder folder;
  MetricsLog log(folder.path(), 0);
  TrainingProgress progress = progress_at(50);
  progress.grad_norm = std::numeric_limits<double>::infinity();
  log.append(progress);
  log.append_validation({50, 0.25, {0.5, std::nan("")}});
  const std::vector<std::string> lines = lines_of(folder / "metrics.jsonl");
  ASSERT_EQ(lines.size(), 2U);
  // The library's parser is not used here, since it accepts NaN, which is not JSON.
  const Json row = Json::parse(lines[0]);
  EXPECT_EQ(row["step"], 50);
  EXPECT_EQ(row["loss"], 0.02);
  EXPECT_TRUE(row["grad_norm"].is_null());
  const Json validation = Json::parse(lines[1]);
  EXPECT_EQ(validation["validation_loss"], 0.25);
  EXPECT_EQ(validation["validation_bin_losses"][0], 0.5);
  EXPECT_TRUE(validation["validation_bin_losses"][1].is_null());
  const MetricsLog again(folder.path(), 50);
  EXPECT_TRUE(std::isnan(again.rows()[0].grad_norm));
  EXPECT_TRUE(std::isnan(again.validations()[0].bin_losses[1]));
}

TEST(MetricsLog, WritesTheNamedValuesOfAValidation) {
  const test::TemporaryFolder folder;
  {
    MetricsLog log(folder.path(), 0);
    log.append({.step = 10, .values = {{"psnr", 20.0}}});
    log.append_validation({10, 0.5, {}, {{"psnr", 19.5}}});
    log.append_validation({15, 0.25, {}, {{"psnr", 21.0}, {"lpips", std::nan("")}}});
    log.append({.step = 20, .values = {{"psnr", 22.0}}});
    log.append_validation({30, 0.125, {}});
  }
  const auto expect_rows = [&] {
    const std::vector<std::string> lines = lines_of(folder / "metrics.csv");
    ASSERT_EQ(lines.size(), 4U);
    EXPECT_TRUE(lines[0].ends_with(",memory_bytes,psnr,validation/psnr,validation/lpips")) << lines[0];
    EXPECT_TRUE(lines[1].starts_with("10,0,0,") && lines[1].ends_with(",20,19.5,")) << lines[1];
    EXPECT_EQ(lines[2], "15,,,,,,,,,,,21,nan");
    EXPECT_TRUE(lines[3].starts_with("20,0,0,") && lines[3].ends_with(",22,,")) << lines[3];
  };
  expect_rows();
  const MetricsLog log(folder.path(), 30);
  expect_rows();
  ASSERT_EQ(log.validations().size(), 3U);
  EXPECT_EQ(log.validations()[0].values, (std::vector<std::pair<std::string, double>>{{"psnr", 19.5}}));
  // In the order of the names.
  EXPECT_TRUE(std::isnan(log.validations()[1].values[0].second));
  EXPECT_EQ(log.validations()[1].values[1].second, 21.0);
  EXPECT_TRUE(log.validations()[2].values.empty());

  MetricsLog other(folder.path(), 0);
  for (const char* name : {"", "a,b", "loss"})
    test::expect_throws_with<ConfigError>(
        [&] {
          other.append_validation({10, 0.5, {}, {{name, 1.0}}});
        },
        "a value of the loss has the name");
}

TEST(MetricsLog, KeepsTheOrderOfTheColumns) {
  const test::TemporaryFolder folder;
  const auto header = [&] { return lines_of(folder / "metrics.csv")[0]; };
  {
    MetricsLog log(folder.path(), 0);
    log.append({.step = 10, .values = {{"rec_loss", 1.0}, {"kl_loss", 2.0}}});
    log.append_validation({10, 0.5, {}, {{"psnr", 19.5}, {"lpips", 0.5}}});
    log.append({.step = 20, .values = {{"rec_loss", 1.0}, {"kl_loss", 2.0}, {"disc_loss", 3.0}}});
  }
  const std::string whole = header();
  EXPECT_TRUE(whole.ends_with(",rec_loss,kl_loss,disc_loss,validation/psnr,validation/lpips")) << whole;
  { const MetricsLog log(folder.path(), 20); }
  EXPECT_EQ(header(), whole);
  EXPECT_TRUE(lines_of(folder / "metrics.csv")[1].ends_with(",1,2,,19.5,0.5"));

  // The columns of removed rows are removed, and the training appends them again.
  MetricsLog log(folder.path(), 10);
  const std::string kept = header();
  EXPECT_TRUE(kept.ends_with(",memory_bytes,rec_loss,kl_loss,validation/psnr,validation/lpips")) << kept;
  log.append({.step = 20, .values = {{"a_new_loss", 1.0}, {"kl_loss", 2.0}}});
  EXPECT_TRUE(header().ends_with(",rec_loss,kl_loss,a_new_loss,validation/psnr,validation/lpips"))
      << header();
}

TEST(MetricsLog, DropsWhatACrashCutShort) {
  const test::TemporaryFolder folder;
  MetricsLog(folder.path(), 0).append(progress_at(10));
  const std::string whole = read_text_file(folder / "metrics.jsonl");
  // The last text is a complete object, but without the end of the line it may be truncated.
  for (const std::string& torn :
       {std::string("{\"step\":20,\"lo"), std::string(64, '\0'), std::string("{\"step\":20,\"loss\":0.5}")}) {
    test::write_bytes(folder / "metrics.jsonl", whole + torn);
    EXPECT_EQ(MetricsLog(folder.path(), 100).steps(), (std::vector<double>{10}));
    EXPECT_EQ(read_text_file(folder / "metrics.jsonl"), whole);
    EXPECT_EQ(lines_of(folder / "metrics.csv").size(), 2U);
  }
}

TEST(MetricsLog, GoesOnWithATableThatHasNoJsonBesideIt) {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "metrics.csv",
                    "step,epoch,loss,lr,grad_norm,images_per_second,elapsed_seconds,skipped_steps\n"
                    "10,0,0.5,0.001,nan,90.5,3.25,1\n20,1,0.25,0.001,2,90.5,6.5,1\n30,1,0.125,0.0");
  const MetricsLog log(folder.path(), 100);
  EXPECT_EQ(log.losses(), (std::vector<double>{0.5, 0.25}));
  EXPECT_TRUE(std::isnan(log.rows()[0].grad_norm));
  EXPECT_EQ(log.rows()[1].skipped_steps, 1);
  EXPECT_EQ(lines_of(folder / "metrics.jsonl").size(), 2U);
  EXPECT_EQ(lines_of(folder / "metrics.csv")[1], "10,0,0.5,0.001,nan,90.50,3.25,1,0.0000,0");
}

TEST(MetricsLog, SaysWhichFileCannotBeWritten) {
  const test::TemporaryFolder folder;
  test::expect_throws_with<FileError>([&] { MetricsLog(folder / "missing", 0); }, "missing/metrics.csv");
}

}  // namespace
}  // namespace diffusers
