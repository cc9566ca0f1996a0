#include <functional>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/vq_model.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/vae/autoencoder_golden.h"

namespace diffusers::test {
namespace {

class VQModelGolden : public testing::TestWithParam<std::string> {};
class VQModelFloat64 : public testing::TestWithParam<std::string> {};

VQModel make_moved_vq(const std::string& name) {
  auto model = make_autoencoder<VQModel>(name);
  perturb(model);
  const torch::NoGradGuard no_grad;
  auto& codebook = model->quantize->embedding->weight;
  codebook += 0.5 * pattern(codebook.sizes());
  return model;
}

void compare_vq_with_python(const std::string& name, at::ScalarType dtype) {
  const auto& golden = autoencoder_golden();
  const auto& run = autoencoder_case(name)["run"];
  const bool wide = dtype == at::kDouble;
  const std::string key = (wide ? name + ".float64" : name) + "/";
  const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;

  auto model = make_moved_vq(name);
  model->to(dtype);
  auto sample = golden[key + "sample"].clone().requires_grad_(true);
  const auto h = model->encode(sample).latents;
  expect_close_to_scale(h, golden[key + "latents"], tolerance, key + "latents");
  const auto quantization = model->quantize->forward(h);
  expect_equal(quantization.indices, golden[key + "indices"], key + "indices");
  expect_close_to_scale(quantization.quantized, golden[key + "quantized"], tolerance, key + "quantized");

  const auto output = run.value("force_not_quantize", false) ? model->decode(h, {.force_not_quantize = true})
                                                             : model->forward(sample);
  expect_close_to_scale(output.sample, golden[key + "output"], tolerance, key + "output");
  expect_close_to_scale(output.commit_loss, golden[key + "commit_loss"], tolerance, key + "commit_loss");
  ((output.sample * pattern(output.sample.sizes(), dtype)).sum() + 3 * output.commit_loss.sum()).backward();
  expect_close_to_scale(sample.grad(), golden[key + "grad_sample"], tolerance, key + "grad_sample");
  expect_gradients(*model, golden, key, tolerance);

  if (!run.value("lookup", false)) return;
  const torch::NoGradGuard no_grad;
  const auto looked_up =
      model->decode(quantization.indices,
                    {.force_not_quantize = true, .shape = {h.size(0), h.size(2), h.size(3), h.size(1)}});
  expect_close_to_scale(looked_up.sample, golden[key + "lookup"], tolerance, key + "lookup");
  expect_equal(looked_up.commit_loss, golden[key + "lookup_loss"], key + "lookup_loss");
}

TEST_P(VQModelGolden, ForwardAndBackwardMatchDiffusers) { compare_vq_with_python(GetParam(), at::kFloat); }

TEST_P(VQModelFloat64, ForwardAndBackwardMatchDiffusers) { compare_vq_with_python(GetParam(), at::kDouble); }

TEST_P(VQModelGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(make_autoencoder<VQModel>(GetParam()), autoencoder_case(GetParam()));
}

TEST_P(VQModelGolden, ConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(make_autoencoder<VQModel>(GetParam())->config_json(),
            autoencoder_case(GetParam())["config_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Cases, VQModelGolden, testing::ValuesIn(autoencoder_case_names("VQModel")),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, VQModelFloat64,
                         testing::ValuesIn(autoencoder_case_names("VQModel", "float64")),
                         [](const auto& info) { return info.param; });

TEST(VectorQuantizer, MatchesDiffusers) {
  const auto& golden = autoencoder_golden();
  for (const bool legacy : {true, false}) {
    const std::string key = legacy ? "quantizer_legacy/" : "quantizer_repaired/";
    torch::manual_seed(31);
    VectorQuantizer quantizer(30, 3, 0.4,
                              VectorQuantizerOptions{.sane_index_shape = !legacy, .legacy = legacy});
    auto& codebook = quantizer->embedding->weight;
    expect_equal(codebook, golden[key + "initial"], key + "initial");
    {
      const torch::NoGradGuard no_grad;
      codebook += 0.5 * pattern(codebook.sizes());
    }
    const auto z = golden[key + "z"].clone().requires_grad_(true);
    const auto [quantized, loss, indices] = quantizer->forward(z);
    expect_close(quantized, golden[key + "quantized"], 1e-6, 1e-6, key + "quantized");
    expect_close(loss, golden[key + "loss"], 1e-6, 1e-6, key + "loss");
    expect_equal(indices, golden[key + "indices"], key + "indices");
    ((quantized * pattern(quantized.sizes())).sum() + 7 * loss).backward();
    expect_close(z.grad(), golden[key + "grad_z"], 1e-5, 1e-6, key + "gradient of z");
    expect_close(codebook.grad(), golden[key + "grad_codebook"], 1e-5, 1e-6,
                 key + "gradient of the codebook");
    expect_equal(quantizer->get_codebook_entry(indices.view(-1), {2, 4, 5, 3}), golden[key + "entry"],
                 key + "entry");
    expect_equal(quantizer->get_codebook_entry(indices), golden[key + "plain_entry"], key + "plain entry");
  }
}

TEST(VectorQuantizer, WrongArgumentsAreRefused) {
  EXPECT_THROW(VectorQuantizer(0, 3, 0.25), ConfigError);
  EXPECT_THROW(VectorQuantizer(4, 0, 0.25), ConfigError);
  const VectorQuantizer quantizer(4, 3, 0.25);
  const auto refuse = [](const std::function<void()>& call, const std::string& part) {
    expect_throws_with<TensorError>(call, part);
  };
  refuse([&] { quantizer->forward(torch::zeros({2, 4, 2, 2})); }, "expected floating [B, 3, H, W]");
  refuse([&] { quantizer->get_codebook_entry(torch::tensor({0, 4})); }, "[0, 4), got 4");
  refuse([&] { quantizer->get_codebook_entry(torch::tensor({-1})); }, "got -1");
  refuse([&] { quantizer->get_codebook_entry(torch::tensor({0.5})); }, "expected integers");
  refuse(
      [&] {
        quantizer->get_codebook_entry(torch::tensor({0, 1}), {1, 2, 2, 3});
      },
      "shape is [1, 2, 2, 3]");
}

TEST(VQModel, TheDefaultConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(VQModel()->config_json(), autoencoder_cases()["defaults"]["VQModel"].get<std::string>());
}

TEST(VQModel, LoadsAndSavesFoldersOfDiffusers) {
  const std::string name = "vq_model_plain";
  const auto model = VQModel::from_pretrained(golden_path(name));
  const torch::NoGradGuard no_grad;
  expect_close_to_scale(model->forward(autoencoder_golden()[name + "/sample"]).sample,
                        autoencoder_golden()[name + "/output"], kFloat32Tolerance, name);
  const TemporaryFolder folder;
  model->save_pretrained(folder.path());
  for (const auto& file : list_folder(golden_path(name)))
    EXPECT_TRUE(read_text_file(folder / file) == read_text_file(join_path(golden_path(name), file)))
        << file << " differs from Python's";
}

TEST(VQModel, GradientCheckpointingGivesTheSameGradients) {
  auto model = make_moved_vq("vq_spatial");
  std::vector<std::vector<Tensor>> gradients;
  for (const bool checkpointing : {false, true}) {
    checkpointing ? model->enable_gradient_checkpointing() : model->disable_gradient_checkpointing();
    model->zero_grad();
    const auto output = model->forward(autoencoder_golden()["vq_spatial/sample"]);
    (output.sample.square().mean() + output.commit_loss).backward();
    gradients.emplace_back();
    for (const auto& parameter : model->parameters()) gradients.back().push_back(parameter.grad().clone());
  }
  const auto parameters = model->named_parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& label = parameters[i].key();
    const Tensor scale =
        is_key_bias(label, parameters) ? weight_of_key_bias(label, parameters).grad() : gradients[0][i];
    expect_close(gradients[1][i], gradients[0][i], 1e-5, 1e-5 * scale.abs().max().item<double>(), label);
  }
}

TEST(VQModel, ImpossibleConfigsAndInputsAreRefused) {
  const VQModelConfig good{.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
                           .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
                           .block_out_channels = {8, 16},
                           .num_vq_embeddings = 8,
                           .norm_num_groups = 4};
  const auto refuse = [&](const std::function<void(VQModelConfig&)>& change, const std::string& part) {
    auto config = good;
    change(config);
    expect_throws_with<ConfigError>([&] { VQModel model(config); }, part);
  };
  refuse([](auto& c) { c.num_vq_embeddings = 0; }, "num_vq_embeddings is 0");
  refuse([](auto& c) { c.vq_embed_dim = 0; }, "vq_embed_dim is 0");
  refuse([](auto& c) { c.norm_type = "spatial"; }, "16 channels cannot be split into 32 groups");
  refuse(
      [](auto& c) {
        c.norm_type = VaeNormType::kSpatial;
        c.vq_embed_dim = 5;
      },
      "vq_embed_dim is 5 and latent_channels 3");
  refuse([](auto& c) { c.up_block_types.pop_back(); }, "up_block_types has 1");
  expect_throws_with<ConfigError>([] { VQModel::from_config(R"({"norm_type": "batch"})"); },
                                  "norm_type is \"batch\"");

  auto config = good;
  config.lookup_from_codebook = true;
  const VQModel model(config);
  const auto indices = torch::tensor({0, 1, 2, 3});
  expect_throws_with<TensorError>(
      [&] {
        model->encode(torch::zeros({1, 1, 8, 8}));
      },
      "x: expected [B, 3, H, W]");
  expect_throws_with<TensorError>(
      [&] {
        model->decode(torch::zeros({1, 4, 8, 8}));
      },
      "h: expected [B, 3, H, W]");
  expect_throws_with<TensorError>([&] { model->decode(indices); }, "h: expected [B, 3, H, W]");
  expect_throws_with<TensorError>([&] { model->decode(indices, {.force_not_quantize = true}); },
                                  "shape: expected");
}

}  // namespace
}  // namespace diffusers::test
