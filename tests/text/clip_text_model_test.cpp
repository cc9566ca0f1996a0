#include <string>
#include <vector>

#include <diffusers/text/clip_text_model.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/lora_golden.h"
#include "text/clip_text_golden.h"

namespace diffusers::test {
namespace {

const Tensor& pooled_of(const BaseModelOutputWithPooling& output) { return output.pooler_output; }
const Tensor& pooled_of(const CLIPTextModelOutput& output) { return output.text_embeds; }

CLIPTextModelForwardOptions golden_options(const std::string& key) {
  const auto& golden = clip_text_golden();
  CLIPTextModelForwardOptions options;
  if (golden.contains(key + "attention_mask")) options.attention_mask = golden[key + "attention_mask"];
  if (golden.contains(key + "position_ids")) options.position_ids = golden[key + "position_ids"];
  options.output_hidden_states = golden.contains(key + "hidden_states/0");
  return options;
}

template <class Model>
void compare_text_model(const std::string& name, at::ScalarType dtype, bool checkpointing = false) {
  const auto& golden = clip_text_golden();
  const bool wide = dtype == at::kDouble;
  const auto key = (wide ? name + ".float64" : name) + "/";
  const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;
  auto model = make_text_model<Model>(name);
  perturb_text_model(model);
  model->to(dtype);
  model->train(checkpointing || clip_text_cases()["cases"].at(name)["run"].value("train", false));
  if (checkpointing) model->enable_gradient_checkpointing();
  torch::manual_seed(5);
  const auto options = golden_options(key);
  const auto output = model->forward(golden[key + "input_ids"], options);
  std::vector<std::pair<std::string, Tensor>> results{{"last_hidden_state", output.last_hidden_state},
                                                      {"pooled", pooled_of(output)}};
  for (std::size_t i = 0; i < output.hidden_states.size(); ++i)
    results.emplace_back(fmt::format("hidden_states/{}", i), output.hidden_states[i]);
  const int64_t hidden_states = options.output_hidden_states ? model->config().num_hidden_layers + 1 : 0;
  EXPECT_EQ(std::ssize(output.hidden_states), hidden_states);
  Tensor loss = torch::zeros({}, dtype);
  for (const auto& [part, result] : results) {
    expect_close_to_scale(result, golden[key + part], tolerance, name + " " + part);
    loss = loss + (result * pattern(result.sizes(), dtype)).sum();
  }
  loss.backward();
  expect_gradients(*model, golden, key, tolerance);
  if (model->is_training()) return;  // dropout would draw again
  const torch::NoGradGuard no_grad;
  expect_close_to_scale(model->forward(golden[key + "input_ids"], options).last_hidden_state,
                        golden[key + "last_hidden_state"], tolerance, name + " without gradients");
}

bool has_projection(const std::string& name) {
  return clip_text_cases()["cases"].at(name)["class"] == "CLIPTextModelWithProjection";
}

void compare_text_case(const std::string& name, at::ScalarType dtype, bool checkpointing = false) {
  if (has_projection(name)) {
    compare_text_model<CLIPTextModelWithProjection>(name, dtype, checkpointing);
  } else {
    compare_text_model<CLIPTextModel>(name, dtype, checkpointing);
  }
}

class CLIPTextModelGolden : public testing::TestWithParam<std::string> {};
class CLIPTextModelFloat64 : public testing::TestWithParam<std::string> {};

TEST_P(CLIPTextModelGolden, ForwardAndBackwardMatchTransformers) {
  compare_text_case(GetParam(), at::kFloat);
}
TEST_P(CLIPTextModelFloat64, ForwardAndBackwardMatchTransformers) {
  compare_text_case(GetParam(), at::kDouble);
}

TEST_P(CLIPTextModelFloat64, GradientCheckpointingChangesNothing) {
  compare_text_case(GetParam(), at::kDouble, /*checkpointing=*/true);
}

template <class Model>
void compare_initial_weights(const std::string& name) {
  const auto& entry = clip_text_cases()["cases"].at(name);
  const auto model = make_text_model<Model>(name);
  expect_initial_weights(model, entry);
  auto config = parse_json(model->config_json(), "config");
  config["transformers_version"] = "";
  EXPECT_EQ(dump_json(config), entry["config_text"].get<std::string>());
}

TEST_P(CLIPTextModelGolden, SameSeedGivesTheWeightsAndTheConfigOfTransformers) {
  if (has_projection(GetParam())) {
    compare_initial_weights<CLIPTextModelWithProjection>(GetParam());
  } else {
    compare_initial_weights<CLIPTextModel>(GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CLIPTextModelGolden, testing::ValuesIn(clip_text_case_names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, CLIPTextModelFloat64,
                         testing::ValuesIn(clip_text_case_names(/*float64_only=*/true)),
                         [](const auto& info) { return info.param; });

template <class Model>
void expect_folder(const std::string& name, const ModelLoadOptions& options = {}) {
  const auto& golden = clip_text_golden();
  const auto model = Model::from_pretrained(golden_path(name), options);
  EXPECT_FALSE(model->is_training());
  std::vector<std::string> names;
  for (const auto& item : model->named_parameters()) names.push_back(item.key());
  EXPECT_EQ(names, clip_text_cases()["folders"][name]["keys"].get<std::vector<std::string>>());
  const torch::NoGradGuard no_grad;
  const auto output = model->forward(golden["folders/input_ids"]).last_hidden_state;
  // The weights in half precision were rounded when they were saved.
  const double tolerance = options.variant == "fp16" ? 1e-2 : kFloat32Tolerance;
  expect_close_to_scale(output, golden[name + "/output"], tolerance, name);
}

TEST(CLIPTextModelFiles, NamesWithAndWithoutPrefixAreRead) {
  expect_folder<CLIPTextModel>("clip_text_plain");
  expect_folder<CLIPTextModel>("clip_text_old");
  const auto old = CLIPTextModel::from_pretrained(golden_path("clip_text_old"));
  EXPECT_TRUE(old->load_report().unexpected_keys.empty()) << old->load_report().to_string();
  EXPECT_EQ(old->load_report().num_loaded, old->named_parameters().size());
}

TEST(CLIPTextModelFiles, UseAttentionMaskIsReadFromTheConfigFile) {
  const std::string small =
      R"("vocab_size": 99, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1)";
  const auto reads_mask = [&](const std::string& key) {
    return CLIPTextModel::from_config("{" + small + key + "}")->use_attention_mask();
  };
  EXPECT_TRUE(reads_mask(R"(, "use_attention_mask": true)"));
  EXPECT_FALSE(reads_mask(R"(, "use_attention_mask": false)"));
  EXPECT_FALSE(reads_mask(R"(, "use_attention_mask": 1)"));
  EXPECT_FALSE(reads_mask(""));
  const CLIPTextModel made({.vocab_size = 99,
                            .hidden_size = 8,
                            .intermediate_size = 8,
                            .num_hidden_layers = 1,
                            .num_attention_heads = 2});
  EXPECT_FALSE(made->use_attention_mask());
}

TEST(CLIPTextModelFiles, ShardsOfAVariantAreRead) {
  const ModelLoadOptions options{.variant = "fp16"};
  const auto model =
      CLIPTextModelWithProjection::from_pretrained(golden_path("clip_text_projection_fp16"), options);
  EXPECT_EQ(model->get_input_embeddings().scalar_type(), at::kFloat);
  expect_folder<CLIPTextModelWithProjection>("clip_text_projection_fp16", options);
}

TEST(CLIPTextModelFiles, TheTextPartOfAWholeClipIsRead) {
  expect_folder<CLIPTextModelWithProjection>("clip_text_whole");
  const auto model = CLIPTextModelWithProjection::from_pretrained(golden_path("clip_text_whole"));
  EXPECT_EQ(model->load_report().unexpected_keys.size(), 2U);
  EXPECT_EQ(model->config().hidden_size, 16);
}

TEST(CLIPTextModelFiles, TensorsAreWrittenUnderTheNamesThatAllVersionsRead) {
  const TemporaryFolder folder;
  const auto model = CLIPTextModel::from_pretrained(golden_path("clip_text_old"));
  model->save_pretrained(folder.path());
  EXPECT_EQ(list_folder(folder.path()), (std::vector<std::string>{"config.json", "model.safetensors"}));
  const auto saved = load_safetensors(folder / "model.safetensors");
  EXPECT_EQ(saved.size(), model->named_parameters().size());
  EXPECT_TRUE(saved.contains("text_model.embeddings.token_embedding.weight"));
  const auto config = parse_json(read_text_file(folder / "config.json"), "config");
  EXPECT_EQ(config["dropout"], 0.0) << "unknown keys are kept";
  EXPECT_TRUE(config["initializer_factor"].is_number_integer()) << "as it was written";
  EXPECT_EQ(config["dtype"], "float32");
  EXPECT_FALSE(config.contains("torch_dtype"));
  const auto again = CLIPTextModel::from_pretrained(folder.path());
  const auto parameters = again->named_parameters();
  for (const auto& item : model->named_parameters())
    expect_equal(parameters[item.key()], item.value(), item.key());
}

TEST(CLIPTextModelFiles, HalfPrecisionIsSaidInTheConfig) {
  const TemporaryFolder folder;
  CLIPTextModelWithProjection model(small_text_config());
  model->to(torch::kHalf);
  model->save_pretrained(folder.path());
  EXPECT_EQ(parse_json(read_text_file(folder / "config.json"), "config")["dtype"], "float16");
  const auto saved = load_safetensors(folder / "model.safetensors");
  EXPECT_TRUE(saved.contains("text_projection.weight"));
  EXPECT_TRUE(saved.contains("text_model.final_layer_norm.bias"));
}

TEST(CLIPTextModel, ConfigsThatCannotWorkAreRefused) {
  const auto expect_refused = [](auto&& change, std::string_view part) {
    auto config = small_text_config();
    change(config);
    expect_throws_with<ConfigError>([&] { CLIPTextModelWithProjection{config}; }, part);
  };
  expect_refused([](auto& c) { c.vocab_size = 0; }, "vocab_size is 0");
  expect_refused([](auto& c) { c.hidden_size = -16; }, "hidden_size is -16");
  expect_refused([](auto& c) { c.intermediate_size = 0; }, "intermediate_size is 0");
  expect_refused([](auto& c) { c.num_hidden_layers = 0; }, "num_hidden_layers is 0");
  expect_refused([](auto& c) { c.num_attention_heads = 0; }, "num_attention_heads is 0");
  expect_refused([](auto& c) { c.num_attention_heads = 3; }, "multiple of num_attention_heads");
  expect_refused([](auto& c) { c.max_position_embeddings = 0; }, "max_position_embeddings is 0");
  expect_refused([](auto& c) { c.projection_dim = std::nullopt; }, "projection_dim is null");
  expect_refused([](auto& c) { c.hidden_act = "prelu"; }, "hidden_act is \"prelu\"");
  expect_refused([](auto& c) { c.layer_norm_eps = -1; }, "layer_norm_eps is -1");
  expect_refused([](auto& c) { c.attention_dropout = 1.5; }, "attention_dropout is 1.5");
  expect_refused([](auto& c) { c.initializer_factor = -1; }, "initializer_factor is -1");
  expect_refused([](auto& c) { c.eos_token_id = std::nullopt; }, "eos_token_id is null");
  expect_throws_with<ConfigError>([] { CLIPTextModel::from_config(R"({"eos_token_id": [1]})"); },
                                  "eos_token_id");
  expect_throws_with<ConfigError>([] { CLIPTextModel::from_config(R"({"text_config": 1})"); }, "text_config");
}

TEST(CLIPTextModel, InputsThatDoNotFitAreRefused) {
  const CLIPTextModel model(small_text_config());
  const auto ids = torch::tensor({{58, 1, 59}});
  const auto expect_refused = [&](const Tensor& input_ids, const CLIPTextModelForwardOptions& options,
                                  std::string_view part) {
    expect_throws_with<TensorError>([&] { model->forward(input_ids, options); }, part);
  };
  expect_refused({}, {}, "input_ids");
  expect_refused(torch::tensor({{0.5}}), {}, "integers");
  expect_refused(torch::tensor({{60}}), {}, "vocab_size = 60");
  expect_refused(torch::tensor({{-1}}), {}, "got -1");
  expect_refused(torch::zeros({1, 11}, torch::kLong), {}, "max_position_embeddings = 10");
  expect_refused(torch::zeros({1, 0}, torch::kLong), {}, "input_ids");
  expect_refused(ids, {.position_ids = torch::tensor({{0, 1}})}, "position_ids");
  expect_refused(ids, {.position_ids = torch::tensor({{0, 1, 10}})}, "max_position_embeddings = 10");
  expect_refused(ids, {.attention_mask = torch::ones({1, 2})}, "attention_mask");
  expect_refused(ids, {.attention_mask = torch::ones({1, 1, 3, 4})}, "attention_mask");
  expect_refused(ids, {.attention_mask = torch::ones({1, 1, 3, 3}, torch::kLong)}, "attention_mask");
  expect_throws_with<TensorError>([&] { model->final_layer_norm(torch::ones({1, 3, 15})); }, "[B, L, 16]");
  EXPECT_EQ(model->forward(torch::tensor({58, 59}, torch::kInt32)).last_hidden_state.sizes(),
            (at::IntArrayRef{1, 2, 16}))
      << "one sequence";
}

TEST(CLIPTextModel, HiddenStatesBecomeTheLastOneByTheFinalLayerNorm) {
  const CLIPTextModel model(small_text_config());
  const auto output = model->forward(torch::tensor({{58, 1, 59}}), {.output_hidden_states = true});
  expect_equal(model->final_layer_norm(output.hidden_states.back()), output.last_hidden_state);
  EXPECT_TRUE(model->forward(torch::tensor({{58, 1, 59}})).hidden_states.empty());
}

template <class Model>
void grow_and_clone() {
  Model model(small_text_config());
  model->enable_gradient_checkpointing();
  const auto before = model->get_input_embeddings().detach().clone();
  model->resize_token_embeddings(63);
  EXPECT_EQ(model->config().vocab_size, 63);
  EXPECT_EQ(parse_json(model->config_json(), "config")["vocab_size"], 63);
  expect_equal(model->get_input_embeddings().narrow(0, 0, 60), before);
  expect_close(model->get_input_embeddings()[62], before.mean(0));
  EXPECT_TRUE(model->get_input_embeddings().requires_grad());
  const auto copy = std::dynamic_pointer_cast<typename Model::ContainedType>(model->clone());
  EXPECT_TRUE(copy->is_gradient_checkpointing());
  const auto ids = torch::tensor({{58, 62, 59}});
  expect_equal(copy->forward(ids).last_hidden_state, model->forward(ids).last_hidden_state);
  model->resize_token_embeddings(60);
  expect_equal(model->get_input_embeddings(), before);
  expect_throws_with<ConfigError>([&] { model->resize_token_embeddings(0); }, "vocab_size is 0");
}

TEST(CLIPTextModel, AdaptersMatchPeft) {
  const auto ids = torch::tensor({{0, 3, 7, 11, 19}, {0, 5, 2, 19, 19}});
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const auto& name : lora_case_names(/*text=*/true)) {
      torch::manual_seed(kLoraSeed);
      auto model = CLIPTextModel::from_config(lora_cases().golden.metadata.at("text"));
      model->to(dtype);
      expect_lora_matches_peft(
          model, name, dtype, [&] { return model->forward(ids).last_hidden_state; },
          lora_pattern({2, 5, 8}, dtype));
    }
  }
}

TEST(CLIPTextModelWithProjection, HasAdapters) {
  CLIPTextModelWithProjection model(small_text_config());
  model->add_adapter({.r = 2, .init_lora_weights = "false", .target_modules = {"q_proj", "text_projection"}});
  const auto ids = torch::tensor({{58, 1, 59}});
  const auto adapted = model->forward(ids).text_embeds;
  model->disable_adapters();
  EXPECT_FALSE(torch::equal(model->forward(ids).text_embeds, adapted));
}

TEST(CLIPTextModel, GrowsWithTheTokenizerAndCanBeCloned) {
  grow_and_clone<CLIPTextModel>();
  grow_and_clone<CLIPTextModelWithProjection>();
}

}  // namespace
}  // namespace diffusers::test
