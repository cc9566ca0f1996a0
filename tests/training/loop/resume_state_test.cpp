// Checkpoints of another device, of an older version, and with a valid manifest but invalid content.

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <diffusers/io/model_file.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "io/sha256.h"
#include "support/killed_process.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LogCapture;
using test::resumable_config;
using test::TemporaryFolder;
using test::train_until;
using test::write_bytes;

/// Changes a file of a checkpoint and its entry in the manifest.
void replace_in_checkpoint(const std::string& checkpoint, const std::string& name, const std::string& bytes) {
  write_bytes(join_path(checkpoint, name), bytes);
  const std::string path = join_path(checkpoint, "manifest.json");
  Json manifest = parse_json(read_text_file(path), path);
  Sha256 sha;
  sha.update(bytes);
  manifest["files"][name] = {{"size", bytes.size()}, {"sha256", sha.hex_digest()}};
  write_bytes(path, dump_json(manifest));
}

void change_state(const std::string& checkpoint, const std::function<void(Json&)>& change) {
  const std::string path = join_path(checkpoint, "trainer_state.json");
  Json state = parse_json(read_text_file(path), path);
  change(state);
  replace_in_checkpoint(checkpoint, "trainer_state.json", dump_json(state));
}

void change_tensors(const std::string& checkpoint, const std::string& name,
                    const std::function<void(TensorMap&)>& change) {
  TensorMap tensors = load_safetensors(join_path(checkpoint, name));
  change(tensors);
  const TemporaryFolder folder;
  save_safetensors(tensors, folder / "file");
  replace_in_checkpoint(checkpoint, name, read_text_file(folder / "file"));
}

/// A stopped training and the function that resumes it.
struct Stopped {
  TemporaryFolder folder;
  TrainingConfig config;
  DiffusionTaskOptions options;

  explicit Stopped(
      const std::function<void(TrainingConfig&)>& change = [](TrainingConfig&) {},
      DiffusionTaskOptions task_options = {})
      : options(std::move(task_options)) {
    config = resumable_config(folder.path());
    change(config);
    train_until(config, 3, options);
    config.resume_from_checkpoint = "latest";
  }
  std::string checkpoint() const { return folder / "checkpoint-3"; }
  TrainingResult resume() const { return train_until(config, -1, options); }
};

TEST(Resume, GoesOnOnTheCpuAfterACudaDevice) {
  Stopped stopped;
  change_state(stopped.checkpoint(), [](Json& state) { state["device"] = "cuda:0"; });
  change_tensors(stopped.checkpoint(), "trainer_state.safetensors", [](TensorMap& tensors) {
    // The state of a CUDA generator: its seed and its offset.
    tensors.insert("noise_generator", at::zeros({16}, at::kByte));
    tensors.insert("random.cuda:0", at::zeros({16}, at::kByte));
  });
  const LogCapture log;
  EXPECT_TRUE(stopped.resume().is_complete);
  EXPECT_TRUE(log.contains("trained on \"cuda:0\", and the training goes on on cpu"));
}

TEST(Resume, GoesOnOnADeviceAfterTheCpuAndBack) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  Stopped stopped;
  const LogCapture log;
  EXPECT_FALSE(train_until(stopped.config, 5, false, at::kCUDA).is_complete);
  EXPECT_TRUE(log.contains("trained on \"cpu\", and the training goes on on cuda:0"));
  EXPECT_TRUE(stopped.resume().is_complete);
  EXPECT_TRUE(log.contains("trained on \"cuda:0\", and the training goes on on cpu"));
}

TEST(Resume, RefusesANumberOfPartsThatCannotBe) {
  const LogCapture log;
  for (const Json& parts : {Json(-1), Json(1.5), Json("2"), Json(int64_t{1} << 40)}) {
    const Stopped stopped;
    change_state(stopped.checkpoint(), [&](Json& state) { state["cpu_data_parallel"] = parts; });
    expect_throws_with<FileError>(
        [&] {
          TrainingConfig config = stopped.config;
          config.resume_from_checkpoint = "checkpoint-3";
          train_until(config, -1, stopped.options);
        },
        "\"cpu_data_parallel\" is");
  }
}

TEST(Resume, TakesCheckpointsOfAnOlderVersion) {
  const TemporaryFolder whole;
  train_until(resumable_config(whole.path()), -1);
  const Stopped stopped;
  change_state(stopped.checkpoint(), [](Json& state) {
    state.erase("task");
    state.erase("dtype");
    state.erase("training_config");
  });
  EXPECT_TRUE(stopped.resume().is_complete);
  test::expect_same_checkpoint(stopped.folder / "checkpoint-9", whole / "checkpoint-9");
}

using TensorChange = std::function<at::Tensor(const at::Tensor&)>;

/// Changes that make a tensor invalid. An undefined result removes the tensor.
const std::vector<std::pair<const char*, TensorChange>>& hostile_changes() {
  static const std::vector<std::pair<const char*, TensorChange>> kChanges{
      {"missing", [](const at::Tensor&) { return at::Tensor(); }},
      {"empty", [](const at::Tensor& t) { return at::zeros({0}, t.options()); }},
      {"one too many", [](const at::Tensor& t) { return at::zeros({t.numel() + 1}, t.options()); }},
      {"another rank", [](const at::Tensor& t) { return at::zeros_like(t).unsqueeze(0); }},
      {"bool", [](const at::Tensor& t) { return at::zeros(t.sizes(), at::kBool); }},
      {"complex", [](const at::Tensor& t) { return at::zeros(t.sizes(), at::kComplexFloat); }},
      {"NaN",
       [](const at::Tensor& t) {
         return at::full(t.sizes(), std::numeric_limits<double>::quiet_NaN(), at::kFloat);
       }},
      {"huge", [](const at::Tensor& t) { return at::full(t.sizes(), 1e30, at::kFloat); }},
      {"negative", [](const at::Tensor& t) { return at::full(t.sizes(), -1, at::kLong); }},
  };
  return kChanges;
}

/// Checks that each change of each tensor of a file either throws an error that names file and tensor, or has
/// no effect.
/// @return number of changes that throw
int expect_named_errors(const Stopped& stopped, const std::string& file) {
  const std::string good = read_text_file(join_path(stopped.checkpoint(), file));
  const TensorMap tensors = load_safetensors(join_path(stopped.checkpoint(), file));
  int refused = 0;
  for (const auto& [name, tensor] : tensors)
    for (const auto& [what, change] : hostile_changes()) {
      SCOPED_TRACE(file + ": " + name + ": " + what);
      const std::string key = name;
      const bool is_huge = std::string_view(what) == "huge";
      // The shapes are valid, and only the values are bad.
      if (is_huge && (key.starts_with("post_hoc_ema.") || key.starts_with("scaler."))) continue;
      const bool is_number_of_optimizer = file == "optimizer.safetensors" && (is_huge || what[0] == 'n');
      const at::Tensor changed = change(tensor);
      change_tensors(stopped.checkpoint(), file, [&](TensorMap& all) {
        if (changed.defined()) {
          all.insert(key, changed);
        } else {
          all.erase(key);
        }
      });
      try {
        stopped.resume();
        remove_folder(stopped.folder / "checkpoint-9");
      } catch (const FileError& error) {
        ++refused;
        const std::string_view message = error.what();
        EXPECT_NE(message.find(base_name(file)), std::string_view::npos) << message;
        const bool is_counted = message.find("tensors of the state belong to no parameter") != message.npos;
        EXPECT_TRUE(is_counted || message.find(key.substr(key.rfind('.') + 1)) != message.npos) << message;
      } catch (const ConfigError& error) {
        EXPECT_TRUE(key.ends_with("sigma_rels")) << error.what();
      } catch (const Error& error) {
        EXPECT_TRUE(is_number_of_optimizer) << error.what();
      } catch (const std::exception& error) {
        ADD_FAILURE() << "another kind of error: " << error.what();
      }
      replace_in_checkpoint(stopped.checkpoint(), file, good);
    }
  return refused;
}

TEST(Resume, NamesTheTensorThatDoesNotFit) {
  const test::MemoryScope memory;
  const LogCapture log;
  const Stopped plain(
      [](TrainingConfig& config) {
        config.post_hoc_ema_sigma_rels = {0.1};
        config.max_train_steps = 4;
        config.report = config.tensorboard = false;
      },
      {.timestep_sampling = TimestepSampling::kLossSecondMoment});
  EXPECT_GT(expect_named_errors(plain, "trainer_state.safetensors"), 80);
  EXPECT_GT(expect_named_errors(plain, "optimizer.safetensors"), 60);
  const Stopped half([](TrainingConfig& config) {
    config.mixed_precision = MixedPrecision::kFp16;
    config.max_train_steps = 4;
    config.report = config.tensorboard = false;
  });
  EXPECT_GT(expect_named_errors(half, "trainer_state.safetensors"), 50);
}

TEST(Resume, NamesTheWeightThatDoesNotFit) {
  const Stopped stopped;
  const std::string file = "unet/diffusion_pytorch_model.safetensors";
  for (const auto& [what, change] : hostile_changes()) {
    SCOPED_TRACE(what);
    const std::string good = read_text_file(join_path(stopped.checkpoint(), file));
    const at::Tensor changed = change(at::zeros({4, 1}));
    if (std::string_view(what) == "huge") continue;  // the shape is valid
    change_tensors(stopped.checkpoint(), file, [&](TensorMap& all) {
      if (changed.defined()) {
        all.insert("time.weight", changed);
      } else {
        all.erase("time.weight");
      }
    });
    expect_throws_with<FileError>([&] { stopped.resume(); }, "\"time.weight\"");
    expect_throws_with<FileError>([&] { stopped.resume(); }, "checkpoint-3/unet");
    replace_in_checkpoint(stopped.checkpoint(), file, good);
  }
}

TEST(Resume, NamesTheEntryThatDoesNotFit) {
  const test::MemoryScope memory;
  const Stopped stopped;
  const std::string good = read_text_file(join_path(stopped.checkpoint(), "trainer_state.json"));
  const std::vector<Json> wrong{Json(),
                                "x",
                                -1,
                                1.5,
                                true,
                                Json::array(),
                                Json::object(),
                                1e300,
                                std::numeric_limits<uint64_t>::max(),
                                std::nan("")};
  // The keys that the training reads. Another number in "total_steps" means a longer training.
  for (const char* key : {"version", "global_step", "total_steps", "epoch", "loader", "seed", "dataset_size",
                          "train_batch_size", "optimizer", "device", "last_loss", "use_ema",
                          "training_config", "ema_optimization_step"}) {
    for (const Json& value : wrong) {
      SCOPED_TRACE(std::string(key) + " is " + value.dump());
      const bool is_number = std::string_view(key) == "last_loss" && value.is_number();
      const bool is_text = std::string_view(key) == "device" && value.is_string();
      const bool is_object = std::string_view(key) == "training_config" && value.is_object();
      if (is_number || is_text || is_object || (value == true && std::string_view(key) == "use_ema"))
        continue;
      change_state(stopped.checkpoint(), [&](Json& state) { state[key] = value; });
      try {
        stopped.resume();
        ADD_FAILURE() << "nothing was said";
      } catch (const Error& error) {
        EXPECT_NE(std::string_view(error.what()).find("trainer_state.json"), std::string_view::npos)
            << error.what();
      } catch (const std::exception& error) {
        ADD_FAILURE() << "another kind of error: " << error.what();
      }
      replace_in_checkpoint(stopped.checkpoint(), "trainer_state.json", good);
    }
    change_state(stopped.checkpoint(), [&](Json& state) { state.erase(key); });
    if (std::string_view(key) != "training_config")
      expect_throws_with<FileError>([&] { stopped.resume(); }, key);
    replace_in_checkpoint(stopped.checkpoint(), "trainer_state.json", good);
  }
  for (const char* text : {"[]", "{}", "null", "3", "\"x\"", "{", ""}) {
    replace_in_checkpoint(stopped.checkpoint(), "trainer_state.json", text);
    expect_throws_with<FileError>([&] { stopped.resume(); }, "trainer_state.json");
  }
}

/// A model whose forward returns wrong results after some steps.
struct FailingNetImpl : test::TinyNetImpl {
  Tensor forward(const Tensor& sample, const Tensor& timesteps) {
    if (++calls > 2) return sample.matmul(at::ones({99, 99}));
    return test::TinyNetImpl::forward(sample, timesteps);
  }
  int calls = 0;
};
TORCH_MODULE(FailingNet);

TEST(Trainer, ShowsErrorsOfLibTorchWithoutTheirStackTrace) {
  const TemporaryFolder folder;
  Trainer trainer(FailingNet(), DDPMScheduler(), test::quiet_config(folder.path()));
  try {
    trainer.train(test::resumable_images());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("99"), std::string_view::npos) << error.what();
    EXPECT_EQ(std::string_view(error.what()).find("frame #"), std::string_view::npos) << error.what();
  }
}

}  // namespace
}  // namespace diffusers
