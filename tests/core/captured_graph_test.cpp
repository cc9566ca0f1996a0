#include "core/captured_graph.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/log_capture.h"

namespace diffusers {
namespace {

/// Counts of a backend that keeps the function and calls it to replay.
struct BackendCounts {
  int observed = 0, captured = 0, replayed = 0;
};

class RecordingBackend : public GraphBackend {
 public:
  RecordingBackend(std::shared_ptr<BackendCounts> counts, std::string obstacle, bool captures)
      : counts_(std::move(counts)), obstacle_(std::move(obstacle)), captures_(captures) {}

  std::string run_and_observe(const std::function<void()>& body) override {
    ++counts_->observed;
    body();
    return obstacle_;
  }
  void capture(const std::function<void()>& body, const std::vector<Generator>& /*generators*/) override {
    if (!captures_) throw Error("operation not permitted when stream is capturing");
    ++counts_->captured;
    body_ = body;
    body_();
  }
  void replay() override {
    ++counts_->replayed;
    body_();
  }

 private:
  std::shared_ptr<BackendCounts> counts_;
  std::string obstacle_;
  bool captures_;
  std::function<void()> body_;
};

struct GraphUnderTest {
  std::shared_ptr<BackendCounts> counts = std::make_shared<BackendCounts>();
  CapturedGraph graph;
  int executed = 0;
  std::map<int64_t, Tensor> results;

  explicit GraphUnderTest(const std::string& obstacle = "", bool captures = true)
      : graph("the test", std::make_unique<RecordingBackend>(counts, obstacle, captures), {}) {}

  /// Computes 2 x, with x filled with a value. The results of equal size have the same memory.
  double run(double value, int64_t size = 3) {
    const auto twice = [this](const std::vector<Tensor>& inputs) {
      ++executed;
      Tensor& result = results[inputs[0].numel()];
      if (!result.defined()) result = at::empty_like(inputs[0]);
      at::mul_out(result, inputs[0], at::scalar_tensor(2));
      return std::vector<Tensor>{result};
    };
    return graph.run({at::full({size}, value), Tensor()}, twice)[0][0].item<double>();
  }
};

TEST(CapturedGraph, ReplaysFromTheThirdRunOn) {
  GraphUnderTest test;
  EXPECT_EQ(test.run(1), 2);
  EXPECT_EQ(test.run(2), 4);
  EXPECT_FALSE(test.graph.was_replayed());
  EXPECT_EQ(test.counts->captured, 0);
  EXPECT_EQ(test.run(3), 6);
  EXPECT_TRUE(test.graph.was_replayed());
  EXPECT_EQ(test.run(4), 8);
  EXPECT_EQ(test.counts->observed, 1);
  EXPECT_EQ(test.counts->captured, 1);
  EXPECT_EQ(test.counts->replayed, 2);
}

TEST(CapturedGraph, ExecutesInputsOfAnotherShape) {
  GraphUnderTest test;
  for (int i = 0; i < 3; ++i) test.run(i);
  EXPECT_EQ(test.run(5, 4), 10);
  EXPECT_FALSE(test.graph.was_replayed());
  EXPECT_EQ(test.run(6), 12);
  EXPECT_TRUE(test.graph.was_replayed());
  EXPECT_EQ(test.counts->captured, 1);
}

TEST(CapturedGraph, WaitsForAShapeThatRepeats) {
  GraphUnderTest test;
  for (const int64_t size : {3, 4, 5, 6}) test.run(1, size);
  EXPECT_EQ(test.counts->observed, 0);
  test.run(1, 6);
  EXPECT_EQ(test.run(7, 6), 14);
  EXPECT_TRUE(test.graph.was_replayed());
}

TEST(CapturedGraph, FallsBackWithAWarningThatSaysWhy) {
  const test::LogCapture log;
  GraphUnderTest waits("called a synchronizing CUDA operation");
  GraphUnderTest fails("", /*captures=*/false);
  CapturedGraph without_cuda("the step", nullptr, {});
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(waits.run(i), 2 * i);
    EXPECT_EQ(fails.run(i), 2 * i);
    EXPECT_FALSE(waits.graph.was_replayed() || fails.graph.was_replayed());
  }
  EXPECT_EQ(waits.executed, 5);
  EXPECT_EQ(waits.counts->captured + fails.counts->captured, 0);
  EXPECT_EQ(log.messages().size(), 3U);
  EXPECT_TRUE(log.contains("the test is not captured as a CUDA graph, and runs without one: called a sync"));
  EXPECT_TRUE(log.contains("operation not permitted when stream is capturing"));
  EXPECT_TRUE(
      log.contains("the step is not captured as a CUDA graph, and runs without one: the library was"));
  const std::vector<Tensor> outputs =
      without_cuda.run({at::ones({2})}, [](const std::vector<Tensor>& inputs) { return inputs; });
  EXPECT_EQ(outputs.size(), 1U);
}

}  // namespace
}  // namespace diffusers
