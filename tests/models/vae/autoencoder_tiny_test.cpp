#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_tiny.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/model_golden.h"
#include "support/log_capture.h"

namespace diffusers::test {
namespace {

const Golden& tiny_golden() {
  static const Golden golden = load_golden("autoencoder_tiny.safetensors");
  return golden;
}

const Json& tiny_cases() {
  static const Json json =
      parse_json(read_text_file(golden_path("autoencoder_tiny.json")), "autoencoder_tiny.json");
  return json;
}

std::vector<std::string> tiny_case_names(bool float64_only = false) {
  std::vector<std::string> names;
  for (const auto& item : tiny_cases()["cases"].items())
    if (!float64_only || item.value()["run"].value("float64", false)) names.push_back(item.key());
  return names;
}

AutoencoderTiny make_tiny(const std::string& name) {
  const auto& entry = tiny_cases()["cases"].at(name);
  torch::manual_seed(entry["seed"].get<uint64_t>());
  const LogCapture log;  // a case has a field that gives a warning
  return AutoencoderTiny::from_config(entry["config"].dump());
}

class AutoencoderTinyGolden : public testing::TestWithParam<std::string> {};
class AutoencoderTinyFloat64 : public testing::TestWithParam<std::string> {};

void compare_tiny_with_python(const std::string& name, at::ScalarType dtype) {
  const auto& golden = tiny_golden();
  const bool wide = dtype == at::kDouble;
  const std::string key = (wide ? name + ".float64" : name) + "/";
  const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;
  auto model = make_tiny(name);
  model->to(dtype);
  if (tiny_cases()["cases"].at(name)["run"].value("slicing", false)) model->enable_slicing();

  auto image = golden[key + "image"].clone().requires_grad_(true);
  const auto latents = model->encode(image).latents;
  const auto decoded = model->decode(4 * latents).sample;
  decoded.backward(pattern(decoded.sizes(), dtype));
  expect_close_to_scale(latents, golden[key + "latents"], tolerance, key + "latents");
  expect_close_to_scale(decoded, golden[key + "decoded"], tolerance, key + "decoded");
  expect_close_to_scale(image.grad(), golden[key + "grad_image"], tolerance, key + "grad_image");
  expect_gradients(*model, golden, key, tolerance);

  const auto scaled = model->scale_latents(20 * golden[key + "latents"]);
  expect_equal(scaled, golden[key + "scaled"], key + "scaled");
  expect_equal(model->unscale_latents(scaled), golden[key + "unscaled"], key + "unscaled");
  const torch::NoGradGuard no_grad;
  // Rounding maps nearly all latents of both languages to the same bytes; these inputs have no others.
  if (!wide)
    expect_close_to_scale(model->forward(image).sample, golden[key + "output"], tolerance, key + "output");
}

TEST_P(AutoencoderTinyGolden, ForwardAndBackwardMatchDiffusers) {
  compare_tiny_with_python(GetParam(), at::kFloat);
}

TEST_P(AutoencoderTinyFloat64, ForwardAndBackwardMatchDiffusers) {
  compare_tiny_with_python(GetParam(), at::kDouble);
}

TEST_P(AutoencoderTinyGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(make_tiny(GetParam()), tiny_cases()["cases"].at(GetParam()));
}

TEST_P(AutoencoderTinyGolden, ConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(make_tiny(GetParam())->config_json(),
            tiny_cases()["cases"].at(GetParam())["config_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Cases, AutoencoderTinyGolden, testing::ValuesIn(tiny_case_names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, AutoencoderTinyFloat64,
                         testing::ValuesIn(tiny_case_names(/*float64_only=*/true)),
                         [](const auto& info) { return info.param; });

TEST(AutoencoderTiny, TilesMatchDiffusers) {
  const auto& golden = tiny_golden();
  const std::string name = "four_stages";
  auto model = make_tiny(name);
  EXPECT_EQ(model->tile_sample_min_size, 512);
  EXPECT_EQ(model->tile_latent_min_size, 64);
  EXPECT_EQ(model->tile_overlap_factor, 0.125);
  model->enable_tiling();
  for (const std::string tiles : {"default", "small"}) {
    const auto key = name + "/" + tiles + "_tiles/";
    if (tiles == "small") {
      model->tile_sample_min_size = 32;
      model->tile_latent_min_size = 4;
      model->tile_overlap_factor = 0.5;
    }
    auto image = golden[key + "image"].clone().requires_grad_(true);
    const auto latents = model->encode(image).latents;
    latents.backward(pattern(latents.sizes()));
    auto inputs = golden[key + "latents"].clone().requires_grad_(true);
    const auto decoded = model->decode(inputs).sample;
    decoded.backward(pattern(decoded.sizes()));
    expect_close_to_scale(latents, golden[key + "latents"], kFloat32Tolerance, key + "latents");
    expect_close_to_scale(image.grad(), golden[key + "grad_image"], kFloat32Tolerance, key + "grad_image");
    expect_close_to_scale(decoded, golden[key + "decoded"], kFloat32Tolerance, key + "decoded");
    expect_close_to_scale(inputs.grad(), golden[key + "grad_latents"], kFloat32Tolerance,
                          key + "grad_latents");
  }
}

AutoencoderTinyConfig small_tiny_config() {
  return {.encoder_block_out_channels = {6, 6},
          .decoder_block_out_channels = {6, 6},
          .num_encoder_blocks = {1, 2},
          .num_decoder_blocks = {2, 1}};
}

TEST(AutoencoderTiny, TilesKeepSizeAndDtype) {
  AutoencoderTiny model(small_tiny_config());
  const torch::NoGradGuard no_grad;
  model->enable_tiling();
  model->tile_sample_min_size = 8;
  model->tile_latent_min_size = 4;
  // Sizes that tiles and stages do not divide.
  const auto image = torch::rand({1, 3, 13, 11});
  for (const double overlap : {0.0, 0.25, 0.5}) {
    model->tile_overlap_factor = overlap;
    for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
      model->to(dtype);
      const auto latents = model->encode(image.to(dtype)).latents;
      EXPECT_EQ(latents.sizes(), at::IntArrayRef({1, 4, 7, 6}));
      EXPECT_EQ(latents.scalar_type(), dtype);
      const auto decoded = model->decode(latents).sample;
      EXPECT_EQ(decoded.sizes(), at::IntArrayRef({1, 3, 14, 12}));
      EXPECT_EQ(decoded.scalar_type(), dtype);
      EXPECT_TRUE(torch::isfinite(decoded).all().item<bool>());
      // Nothing of the first tile is blended outside of its overlaps.
      const auto tile = model->encoder->forward(image.to(dtype).slice(2, 0, 8).slice(3, 0, 8));
      expect_equal(latents.slice(2, 0, 2).slice(3, 0, 2), tile.slice(2, 0, 2).slice(3, 0, 2), "first tile");
    }
  }
}

TEST(AutoencoderTiny, TilesThatDoNotFitAreRefused) {
  AutoencoderTiny model(small_tiny_config());
  const torch::NoGradGuard no_grad;
  const auto image = torch::rand({1, 3, 16, 16});
  model->enable_tiling();
  model->tile_overlap_factor = 1;
  expect_throws_with<ConfigError>([&] { model->encode(image); }, "tile_overlap_factor is 1");
  model->tile_overlap_factor = 0;
  model->tile_sample_min_size = 0;
  expect_throws_with<ConfigError>([&] { model->encode(image); }, "tile_sample_min_size is 0");
  model->tile_sample_min_size = 7;
  expect_throws_with<ConfigError>([&] { model->encode(image); }, "expected multiples of 2");
  model->tile_latent_min_size = -1;
  expect_throws_with<ConfigError>(
      [&] {
        model->decode(torch::rand({1, 4, 8, 8}));
      },
      "tile_latent_min_size is -1");
}

TEST(AutoencoderTiny, TheDefaultConfigIsWrittenAsInDiffusers) {
  const layers::SkipInitGuard skip_init;
  EXPECT_EQ(AutoencoderTiny()->config_json(), tiny_cases()["default"].get<std::string>());
}

TEST(AutoencoderTiny, LoadsAndSavesFoldersOfDiffusers) {
  const std::string name = "autoencoder_tiny";
  const LogCapture log;
  const auto model = AutoencoderTiny::from_pretrained(golden_path(name));
  EXPECT_FALSE(model->is_training());
  EXPECT_TRUE(model->load_report().unknown_config_keys.empty());
  EXPECT_TRUE(log.messages().empty());
  std::vector<std::string> keys;
  for (const auto& item : model->named_parameters()) keys.push_back(item.key());
  EXPECT_EQ(keys, tiny_cases()["folder"]["keys"].get<std::vector<std::string>>());
  const torch::NoGradGuard no_grad;
  expect_close_to_scale(model->forward(tiny_golden()[name + "/image"]).sample,
                        tiny_golden()[name + "/output"], kFloat32Tolerance, name);
  const TemporaryFolder folder;
  model->save_pretrained(folder.path());
  for (const auto& file : list_folder(golden_path(name)))
    EXPECT_TRUE(read_text_file(folder / file) == read_text_file(join_path(golden_path(name), file)))
        << file << " differs from Python's";
}

TEST(AutoencoderTiny, KeepsTheFieldsThatPythonSets) {
  const LogCapture log;
  auto config = small_tiny_config();
  config.force_upcast = true;
  const AutoencoderTiny model(config);
  EXPECT_FALSE(model->config().force_upcast);
  EXPECT_EQ(model->config().block_out_channels, (std::vector<int64_t>{6, 6}));
  ASSERT_FALSE(log.messages().empty());
  EXPECT_NE(log.messages()[0].find("force_upcast"), std::string::npos);
  // As in Python, a file's block_out_channels are kept.
  const auto loaded = AutoencoderTiny::from_config(R"({"block_out_channels": [1, 2], "force_upcast": true})");
  EXPECT_EQ(loaded->config().block_out_channels, (std::vector<int64_t>{1, 2}));
  const Json written = parse_json(loaded->config_json(), "config");
  EXPECT_EQ(written["block_out_channels"], Json({1, 2}));
  EXPECT_EQ(written["force_upcast"], Json(false));
}

TEST(AutoencoderTiny, GradientCheckpointingGivesTheSameGradients) {
  auto model = make_tiny("four_stages");
  std::vector<std::vector<Tensor>> gradients;
  for (const bool checkpointing : {false, true}) {
    checkpointing ? model->enable_gradient_checkpointing() : model->disable_gradient_checkpointing();
    EXPECT_EQ(model->is_gradient_checkpointing(), checkpointing);
    model->zero_grad();
    auto image = tiny_golden()["four_stages/image"].clone().requires_grad_(true);
    const auto decoded = model->decode(model->encode(image).latents).sample;
    torch::mse_loss(decoded, image.detach()).backward();
    gradients.push_back({decoded.detach(), image.grad()});
    for (const auto& parameter : model->parameters()) gradients.back().push_back(parameter.grad().clone());
  }
  ASSERT_EQ(gradients[1].size(), gradients[0].size());
  for (std::size_t i = 0; i < gradients[0].size(); ++i)
    expect_equal(gradients[1][i], gradients[0][i], std::to_string(i));
}

TEST(AutoencoderTiny, ForwardGivesNoGradientToTheEncoder) {
  const AutoencoderTiny model(small_tiny_config());
  const auto output = model->forward(torch::rand({1, 3, 8, 8})).sample;
  output.sum().backward();
  for (const auto& parameter : model->encoder->parameters()) EXPECT_FALSE(parameter.grad().defined());
  for (const auto& parameter : model->decoder->parameters()) EXPECT_TRUE(parameter.grad().defined());
}

TEST(AutoencoderTiny, ForwardTakesEachDtype) {
  AutoencoderTiny model(small_tiny_config());
  const torch::NoGradGuard no_grad;
  for (const auto dtype : {at::kDouble, at::kBFloat16}) {
    model->to(dtype);
    EXPECT_EQ(model->forward(torch::rand({1, 3, 8, 8}, dtype)).sample.scalar_type(), dtype);
  }
}

TEST(AutoencoderTiny, AnEmptyBatchGivesAnEmptyOutput) {
  AutoencoderTiny model(small_tiny_config());
  for (const bool tiling : {false, true}) {
    model->use_tiling = tiling;
    EXPECT_EQ(model->forward(torch::zeros({0, 3, 8, 8})).sample.sizes(), (std::vector<int64_t>{0, 3, 8, 8}));
  }
}

TEST(AutoencoderTiny, SlicingAndClonesGiveTheSame) {
  AutoencoderTiny model(small_tiny_config());
  const torch::NoGradGuard no_grad;
  const auto images = torch::rand({3, 3, 8, 8});
  const auto expected = model->encode(images).latents;
  model->enable_slicing();
  model->enable_tiling();
  model->tile_overlap_factor = 0.5;
  expect_close_to_scale(model->encode(images).latents, expected, 1e-5, "slices");
  const AutoencoderTiny copy(std::dynamic_pointer_cast<AutoencoderTinyImpl>(model->clone()));
  EXPECT_TRUE(copy->use_slicing);
  EXPECT_TRUE(copy->use_tiling);
  EXPECT_EQ(copy->tile_overlap_factor, 0.5);
  expect_equal(copy->encode(images).latents, model->encode(images).latents, "clone");
  model->disable_slicing();
  model->disable_tiling();
  expect_equal(model->encode(images).latents, expected, "switched off");
}

TEST(AutoencoderTiny, ImpossibleConfigsAndInputsAreRefused) {
  const auto refuse = [&](const std::function<void(AutoencoderTinyConfig&)>& change,
                          const std::string& part) {
    auto config = small_tiny_config();
    change(config);
    expect_throws_with<ConfigError>([&] { AutoencoderTiny model(config); }, part);
  };
  refuse([](auto& c) { c.in_channels = 0; }, "in_channels is 0");
  refuse([](auto& c) { c.out_channels = -1; }, "out_channels is -1");
  refuse([](auto& c) { c.latent_channels = 0; }, "latent_channels is 0");
  refuse(
      [](auto& c) {
        c.encoder_block_out_channels = {6, 8};
      },
      "encoder_block_out_channels is [6, 8], expected equal numbers");
  refuse([](auto& c) { c.decoder_block_out_channels = {0, 0}; }, "decoder_block_out_channels is [0, 0]");
  refuse([](auto& c) { c.encoder_block_out_channels = {6}; },
         "encoder_block_out_channels has 1 and num_encoder_blocks 2 elements");
  refuse([](auto& c) { c.num_decoder_blocks = {}; }, "num_decoder_blocks has 0 elements");
  refuse([](auto& c) { c.num_decoder_blocks = std::vector<int64_t>(11, 1); },
         "num_decoder_blocks has 11 elements");
  refuse([](auto& c) { c.num_encoder_blocks = {1, -1}; }, "num_encoder_blocks is [1, -1]");
  refuse([](auto& c) { c.upsampling_scaling_factor = 0; }, "upsampling_scaling_factor is 0");
  refuse([](auto& c) { c.act_fn = "tanh"; }, "act_fn is \"tanh\"");
  refuse([](auto& c) { c.latent_magnitude = 0; }, "latent_magnitude is 0");
  refuse([](auto& c) { c.latent_shift = NAN; }, "latent_shift is nan");
  refuse([](auto& c) { c.scaling_factor = 0; }, "scaling_factor is 0");
  refuse([](auto& c) { c.shift_factor = INFINITY; }, "shift_factor is inf");
  refuse([](auto& c) { c.block_out_channels = {0}; }, "block_out_channels is 0");
  expect_throws_with<ConfigError>([] { AutoencoderTiny::from_config(R"({"upsample_fn": "linear"})"); },
                                  "upsample_fn is \"linear\"");

  const AutoencoderTiny model(small_tiny_config());
  const auto refuse_input = [](const std::function<void()>& call, const std::string& part) {
    expect_throws_with<TensorError>(call, part);
  };
  refuse_input([&] { model->encode({}); }, "x: expected [B, 3, H, W], got an undefined tensor");
  refuse_input(
      [&] {
        model->encode(torch::rand({1, 3, 8, 8}, at::kDouble));
      },
      "x is float64, the model float32");
  refuse_input([&] { model->decode(torch::rand({1, 3, 8, 8})); }, "x: expected [B, 4, H, W]");
  refuse_input([&] { model->forward(torch::rand({1, 3, 0, 8})); }, "must be positive");
}

}  // namespace
}  // namespace diffusers::test
