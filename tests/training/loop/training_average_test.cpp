// The EMA weights of a training: with and without warm-up, latent-diffusion's EMA, and frozen parameters.

#include "training/loop/training_average.h"

#include <functional>
#include <optional>
#include <vector>

#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_equal;
using test::quiet_config;
using test::resumable_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;
using test::train_until;

TEST(TrainingAverage, IsThatOfAnEMAModelWithTheSameOptions) {
  for (const bool use_warmup : {false, true}) {
    const TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.use_ema = true;
    config.use_ema_warmup = use_warmup;
    config.ema_update_after_step = 1;
    TinyNet model = seeded_net();
    Trainer trainer(model, DDPMScheduler(), config);
    EMAModel by_hand(model->parameters(),
                     {.update_after_step = 1, .use_ema_warmup = use_warmup, .power = 0.75});
    trainer.on_step([&](int64_t step) {
      by_hand.step(model->parameters());
      // Python's decay without warm-up is (1 + n) / (10 + n).
      const auto n = static_cast<double>(step - 2);
      if (n > 0 && !use_warmup) {
        EXPECT_DOUBLE_EQ(trainer.ema()->cur_decay_value(), (1 + n) / (10 + n));
      }
    });
    trainer.train(TinyImages(40));
    ASSERT_NE(trainer.ema(), nullptr);
    EXPECT_EQ(trainer.lit_ema(), nullptr);
    for (std::size_t i = 0; i < by_hand.shadow_params().size(); ++i) {
      expect_equal(trainer.ema()->shadow_params()[i], by_hand.shadow_params()[i]);
      expect_equal(model->parameters()[i].detach(), by_hand.shadow_params()[i]);
    }
  }
}

TEST(TrainingAverage, AStepOfTheCallerIsCountedAsItsOwn) {
  const Tensor trained = at::ones({3}).set_requires_grad(true);
  const Tensor frozen = at::ones({2});
  TrainingConfig config;
  config.use_ema = true;
  TrainingAverage own({{"frozen", frozen}, {"trained", trained}}, config);
  TrainingAverage moved({{"frozen", frozen}, {"trained", trained}}, config);
  for (int step = 0; step < 4; ++step) {
    trained.detach().add_(1);
    own.step();
    const std::optional<FusedAverage> average = moved.begin_fused_step();
    ASSERT_TRUE(average.has_value());
    ASSERT_EQ(average->parameters.size(), 1U);
    EXPECT_TRUE(average->parameters[0].is_same(trained));
    average->averages[0].lerp_(trained.detach(), average->weight);
    EXPECT_EQ(moved.optimization_step(), own.optimization_step());
    EXPECT_EQ(moved.ema_model()->cur_decay_value(), own.ema_model()->cur_decay_value());
    expect_equal(moved.tensors()[1], own.tensors()[1]);
  }
  config.ema_type = EMAType::kLitEma;
  EXPECT_FALSE(TrainingAverage({{"trained", trained}}, config).begin_fused_step().has_value());
  config.ema_type = EMAType::kEmaModel;
  const Tensor half = at::ones({2}, at::kBFloat16).set_requires_grad(true);
  TrainingAverage other({{"half", half}, {"trained", trained}}, config);
  EXPECT_FALSE(other.begin_fused_step().has_value());
  EXPECT_EQ(other.optimization_step(), 0);
}

TEST(TrainingAverage, OfShardsAveragesTheOwnParametersAlone) {
  for (const EMAType type : {EMAType::kEmaModel, EMAType::kLitEma}) {
    const Tensor own = at::ones({3}).set_requires_grad(true);
    const Tensor other = at::ones({4}).set_requires_grad(true);  // the largest one is that of process 0
    const Tensor frozen = at::ones({2});
    const TensorMap parameters{{"own", own}, {"frozen", frozen}, {"other", other}};
    TrainingConfig config;
    config.use_ema = true;
    config.ema_type = type;
    const ParameterShards shards({own, other}, 2, 1);
    TrainingAverage whole(parameters, config);
    TrainingAverage average(parameters, config, &shards);
    for (int step = 0; step < 4; ++step) {
      own.detach().add_(1);
      other.detach().add_(2);
      whole.step();
      average.step();
    }
    expect_equal(average.tensors()[0], whole.tensors()[0]);
    EXPECT_TRUE(average.tensors()[2].is_alias_of(other));
    EXPECT_EQ(average.optimization_step(), whole.optimization_step());

    average.hold_whole();
    const Tensor place = average.tensors()[2];
    EXPECT_FALSE(place.is_alias_of(other));
    expect_equal(place, other.detach());
    average.release_whole();
    EXPECT_TRUE(average.tensors()[2].is_alias_of(other));
    average.hold_whole(whole.tensors());
    expect_equal(average.tensors()[2], whole.tensors()[2]);
    average.release_whole();

    average.copy_to_parameters();
    expect_equal(own.detach(), whole.tensors()[0]);
    EXPECT_TRUE(other.detach().equal(at::full({4}, 9.0)));
  }
}

TEST(TrainingAverage, IsThatOfALitEmaWithTheSameOptions) {
  for (const bool use_num_updates : {false, true}) {
    const TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.use_ema = true;
    config.ema_type = "lit_ema";
    config.use_ema_warmup = use_num_updates;
    config.ema_max_decay = 0.5;
    config.freeze = {"time.*"};
    TinyNet model = seeded_net();
    Trainer trainer(model, DDPMScheduler(), config);
    for (Tensor& parameter : model->time->parameters()) parameter.requires_grad_(false);
    LitEma by_hand(model->named_parameters(), {.decay = 0.5, .use_num_updates = use_num_updates});
    trainer.on_step([&](int64_t) { by_hand.step(model->named_parameters()); });
    trainer.train(TinyImages(40));
    EXPECT_EQ(trainer.ema(), nullptr);
    ASSERT_NE(trainer.lit_ema(), nullptr);
    EXPECT_EQ(trainer.lit_ema()->num_updates(), use_num_updates ? 10 : -1);
    EXPECT_EQ(trainer.lit_ema()->shadow_params().keys(), by_hand.shadow_params().keys());
    for (const auto& [name, average] : by_hand.shadow_params()) {
      expect_equal(trainer.lit_ema()->shadow_params().at(name), average, name);
      expect_equal(model->named_parameters()[name].detach(), average, name);
    }
  }
}

TEST(TrainingAverage, ContinuesInAResumedTraining) {
  const std::vector<std::function<void(TrainingConfig&)>> changes{
      [](TrainingConfig& c) { c.use_ema_warmup = false; },
      [](TrainingConfig& c) { c.ema_type = EMAType::kLitEma; },
      [](TrainingConfig& c) {
        c.ema_type = EMAType::kLitEma;
        c.use_ema_warmup = false;
      },
      [](TrainingConfig& c) { c.freeze = {"conv_in.*"}; },
      [](TrainingConfig& c) {
        c.ema_type = EMAType::kLitEma;
        c.train_only = {"time.*"};
      },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    SCOPED_TRACE(i);
    const TemporaryFolder whole;
    TrainingConfig config = resumable_config(whole.path());
    changes[i](config);
    train_until(config, -1);
    const TemporaryFolder folder;
    config.output_dir = folder.path();
    train_until(config, 4, /*previews=*/true);
    config.resume_from_checkpoint = "latest";
    train_until(config, -1);
    test::expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
    EXPECT_EQ(read_text_file(folder / "unet/diffusion_pytorch_model.safetensors"),
              read_text_file(whole / "unet/diffusion_pytorch_model.safetensors"));
  }
}

TEST(TrainingAverage, HoldsNoCopyOfFrozenParameters) {
  for (const char* type : {"ema_model", "lit_ema"}) {
    const TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.use_ema = true;
    config.ema_type = type;
    config.freeze = {"conv_in.*"};
    config.checkpointing_steps = 5;
    TinyNet model = seeded_net();
    const std::vector<Tensor> start = copies(model->parameters());
    Trainer trainer(model, DDPMScheduler(), config);
    trainer.train(TinyImages(20));
    for (std::size_t i = 0; trainer.ema() != nullptr && i < start.size(); ++i)
      EXPECT_EQ(trainer.ema()->shadow_params()[i].is_alias_of(model->parameters()[i]),
                model->named_parameters()[i].key().starts_with("conv_in."));
    // The folder of the EMA weights is a complete model folder.
    const TensorMap saved =
        load_safetensors(folder / "checkpoint-5/unet_ema/diffusion_pytorch_model.safetensors");
    const TensorMap parameters(model->named_parameters());
    EXPECT_EQ(saved.size(), parameters.size());
    for (const auto& [name, parameter] : parameters) expect_equal(saved.at(name), parameter.detach(), name);
    expect_equal(model->conv_in->weight.detach(), start[0]);
    EXPECT_FALSE(at::equal(saved.at("conv_out.weight"),
                           load_safetensors(folder / "checkpoint-5/unet/diffusion_pytorch_model.safetensors")
                               .at("conv_out.weight")));
  }
}

TEST(TrainingAverage, OfAParameterThatIsNotAveragedIsTheParameter) {
  const Tensor trained = at::ones({2}).requires_grad_();
  const Tensor frozen = at::ones({3});
  for (const char* type : {"ema_model", "lit_ema"}) {
    TrainingAverage average({{"trained", trained}, {"frozen", frozen}}, {.use_ema = true, .ema_type = type});
    average.step();
    const std::vector<Tensor> tensors = average.tensors();
    ASSERT_EQ(tensors.size(), 2U);
    EXPECT_FALSE(tensors[0].is_alias_of(trained));
    EXPECT_TRUE(tensors[1].is_alias_of(frozen));
    EXPECT_EQ(average.optimization_step(), 1);
    average.set_optimization_step(7);
    EXPECT_EQ(average.optimization_step(), 7);
  }
}

}  // namespace
}  // namespace diffusers
