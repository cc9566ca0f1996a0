#include "support.h"

namespace diffusers::test {
namespace {

const Golden& loops_golden() {
  static const Golden golden = load_golden("schedulers_loops.safetensors");
  return golden;
}

const Json& cases() {
  static const Json cases = parse_json(loops_golden().metadata.at("cases"), "cases");
  return cases;
}

std::vector<std::string> class_names() {
  std::vector<std::string> names;
  for (const auto& loop : cases())
    if (names.empty() || names.back() != loop["class"]) names.push_back(loop["class"]);
  return names;
}

class SchedulerLoops : public testing::TestWithParam<std::string> {};

TEST_P(SchedulerLoops, MatchDiffusersAtEveryStep) {
  for (const auto& loop : cases())
    if (loop["class"] == GetParam()) replay_loop(loop, loops_golden());
}

TEST_P(SchedulerLoops, CopiesRunOnTheirOwn) {
  const auto loop = std::find_if(cases().begin(), cases().end(), [](const Json& each) {
    return each["class"] == GetParam() && !each["n"].is_null() && each["width"] == 1 &&
           each["dtype"] == "float32";
  });
  ASSERT_NE(loop, cases().end());
  auto scheduler = Scheduler::from_config(dump_json((*loop)["json"]));
  scheduler->set_timesteps((*loop)["n"].get<int64_t>(), set_timesteps_options((*loop)["set_timesteps"]));
  const Tensor x = seeded(0, {2, 3, 2, 2});
  const Tensor output = seeded(1, {2, 3, 2, 2});
  const Timesteps timesteps = scheduler->timesteps();
  const auto run = [&](Scheduler& each) {
    each.scale_model_input(x, timesteps[0]);
    Tensor y = each.step(output, timesteps[0], x, step_options(Json::object())).prev_sample;
    return each.step(output, timesteps[1], y, step_options(Json::object())).prev_sample;
  };
  const auto copy = scheduler->clone();
  const Tensor first = run(*scheduler);
  expect_equal(run(*copy), first);
  EXPECT_EQ(copy->config_json(), scheduler->config_json());
}

TEST_P(SchedulerLoops, ConfigSurvivesSaveAndLoad) {
  const TemporaryFolder folder;
  for (const auto& loop : cases()) {
    if (loop["class"] != GetParam()) continue;
    const auto scheduler = Scheduler::from_config(dump_json(loop["json"]));
    scheduler->save_pretrained(folder / "scheduler");
    const std::string text = read_text_file(folder / "scheduler/scheduler_config.json");
    EXPECT_EQ(text, dump_json(loop["json"]));
    const auto again = Scheduler::from_pretrained(folder.path(), {.subfolder = "scheduler"});
    EXPECT_EQ(again->config_json(), text);
    EXPECT_EQ(again->class_name(), GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(All, SchedulerLoops, testing::ValuesIn(class_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace diffusers::test
