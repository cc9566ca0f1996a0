#include <algorithm>
#include <cmath>

#include <diffusers/pipelines/sampling_loop.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>

#include <ATen/ATen.h>

#include "pipelines/smooth_model.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

TEST(QuadraticTimesteps, AreThoseOfLatentDiffusion) {
  EXPECT_EQ(quadratic_timesteps(1000, 10),
            (std::vector<double>{801, 633, 484, 356, 247, 159, 89, 40, 10, 1}));
  EXPECT_EQ(quadratic_timesteps(7, 3), (std::vector<double>{6, 2, 1}));
  // The two smallest of 50 timesteps are both 1.
  const auto many = quadratic_timesteps(1000, 50);
  EXPECT_EQ(many.size(), 49U);
  EXPECT_EQ(many.front(), 801);
  EXPECT_EQ(std::vector<double>(many.end() - 4, many.end()), (std::vector<double>{6, 3, 2, 1}));
  EXPECT_EQ(quadratic_timesteps(1000, 1), std::vector<double>{1});
  expect_throws_with<ConfigError>([] { quadratic_timesteps(10, 11); }, "num_inference_steps is 11");
  expect_throws_with<ConfigError>([] { quadratic_timesteps(1, 1); }, "num_train_timesteps 1");
}

TEST(DDIMScheduler, TakesTimestepsOfAnySpacing) {
  DDIMScheduler even({.clip_sample = false});
  DDIMScheduler listed = even;
  even.set_timesteps(5);
  listed.set_timesteps(std::nullopt, {.timesteps = {800, 600, 400, 200, 0}});
  expect_equal(sampling_loop(listed, smooth_model, drawn(1)), sampling_loop(even, smooth_model, drawn(1)));
  expect_throws_with<TensorError>([&] { listed.step(drawn(0), 500, drawn(1)); }, "none of timesteps()");
  expect_throws_with<ConfigError>([&] { listed.set_timesteps(3, {.timesteps = {5, 1}}); }, "not both");
  // set_timesteps with a number of steps restores the even spacing.
  listed.set_timesteps(5);
  expect_equal(listed.step(drawn(0), 500, drawn(1)).prev_sample,
               even.step(drawn(0), 500, drawn(1)).prev_sample);
}

TEST(SamplingLoop, StopsBeforeTheEndStepAndContinuesFromIt) {
  DDIMScheduler ddim({.clip_sample = false});
  ddim.set_timesteps(7);
  const Tensor whole = sampling_loop(ddim, smooth_model, drawn(1));
  int64_t steps = 0;
  const Tensor half =
      sampling_loop(ddim, smooth_model, drawn(1),
                    {.callback = [&](int64_t, const Tensor&, SchedulerOutput&) { ++steps; }, .end_step = 3});
  EXPECT_EQ(steps, 3);
  expect_equal(sampling_loop(ddim, smooth_model, half, {.start_step = 3}), whole);
}

TEST(SamplingLoop, RunsAnySchedulerAsALoopByHandDoes) {
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  schedulers.push_back(std::make_unique<DDPMScheduler>());
  schedulers.push_back(std::make_unique<EulerDiscreteScheduler>());
  schedulers.push_back(std::make_unique<HeunDiscreteScheduler>());
  schedulers.push_back(std::make_unique<PNDMScheduler>());
  schedulers.push_back(std::make_unique<DPMSolverMultistepScheduler>());
  schedulers.push_back(std::make_unique<FlowMatchEulerDiscreteScheduler>());
  for (const auto& scheduler : schedulers) {
    SCOPED_TRACE(scheduler->class_name());
    scheduler->set_timesteps(7);
    const auto by_hand = scheduler->clone();
    const Tensor start = drawn(1) * scheduler->init_noise_sigma();
    const StepOptions options{.generator = make_generator(2)};
    Tensor x = start;
    for (const Tensor& t : by_hand->timesteps())
      x = by_hand->step(smooth_model(by_hand->scale_model_input(x, t), t), t, x, options).prev_sample;
    const Tensor out =
        sampling_loop(*scheduler, smooth_model, start, {.step = {.generator = make_generator(2)}});
    expect_equal(out, x);
  }
}

TEST(SamplingLoop, GivesTheConditioningToADenoiser) {
  DDIMScheduler scheduler = latent_ddim(false, 4);
  const Conditioning conditioning{.class_labels = at::tensor({3, 5})};
  int64_t calls = 0;
  const Denoiser denoiser = [&](const Tensor& x, const Tensor& t, const Conditioning& given) {
    ++calls;
    EXPECT_EQ(t.dim(), 0);
    EXPECT_TRUE(given.class_labels.is_same(conditioning.class_labels));
    return smooth_model(x, t);
  };
  expect_equal(sampling_loop(scheduler, denoiser, conditioning, drawn(1)),
               sampling_loop(scheduler, smooth_model, drawn(1)));
  EXPECT_EQ(calls, 4);
  expect_throws_with<ConfigError>([&] { sampling_loop(scheduler, Denoiser(), {}, drawn(1)); },
                                  "denoiser is an empty function");
}

TEST(SamplingLoop, GivesTheModelTheSampleAsItIsIfAsked) {
  EulerDiscreteScheduler scheduler;
  const Tensor start = drawn(1) * 10;
  for (const bool scale : {true, false}) {
    scheduler.set_timesteps(3);
    std::vector<Tensor> inputs;
    sampling_loop(scheduler,
                  [&](const Tensor& x, const Tensor&) {
                    inputs.push_back(x);
                    return x;
                  },
                  start, {.scale_model_input = scale});
    EXPECT_EQ(inputs.front().equal(start), !scale);
  }
}

/// DDIMSampler.ddim_sampling and p_sample_ddim of latent-diffusion, line by line.
struct LatentDiffusionArguments {
  std::vector<int64_t> ddim_timesteps = {};  // ascending
  double eta = 0;
  double temperature = 1;
  double noise_dropout = 0;
  Tensor mask = {};
  Tensor x0 = {};
  ScoreCorrector score_corrector = {};
};

Tensor latent_diffusion_loop(const Tensor& alphas_cumprod, Tensor img, const LatentDiffusionArguments& args,
                             Generator generator) {
  const Tensor alphas = alphas_cumprod.to(at::kDouble);
  const auto abar = [&](int64_t t) { return alphas[t].item<double>(); };
  const auto total = static_cast<int64_t>(args.ddim_timesteps.size());
  for (int64_t index = total - 1; index >= 0; --index) {
    const int64_t step = args.ddim_timesteps[static_cast<std::size_t>(index)];
    const Tensor ts = at::scalar_tensor(step, at::kLong);
    const double a_t = abar(step);
    const double a_prev =
        index > 0 ? abar(args.ddim_timesteps[static_cast<std::size_t>(index - 1)]) : abar(0);
    const double sigma_t = args.eta * std::sqrt((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev));
    if (args.mask.defined()) {
      const Tensor noise = at::randn(img.sizes(), generator);
      const Tensor img_orig = std::sqrt(a_t) * args.x0 + std::sqrt(1 - a_t) * noise;
      img = img_orig * args.mask + (1.0 - args.mask) * img;
    }
    Tensor e_t = smooth_model(img, ts);
    if (args.score_corrector) e_t = args.score_corrector(e_t, img, ts);
    const Tensor pred_x0 = (img - std::sqrt(1 - a_t) * e_t) / std::sqrt(a_t);
    const Tensor dir_xt = std::sqrt(1 - a_prev - sigma_t * sigma_t) * e_t;
    Tensor noise = sigma_t * at::randn(img.sizes(), generator) * args.temperature;
    if (args.noise_dropout > 0)
      noise = noise * at::empty_like(noise).bernoulli_(1 - args.noise_dropout, generator) /
              (1 - args.noise_dropout);
    img = std::sqrt(a_prev) * pred_x0 + dir_xt + noise;
  }
  return img;
}

TEST(SamplingLoop, DoesWhatTheSamplerOfLatentDiffusionDoes) {
  const Tensor mask = (drawn(5).slice(1, 0, 1) > 0).to(at::kFloat);
  const ScoreCorrector corrector = [](const Tensor& epsilon, const Tensor& x, const Tensor& t) {
    return epsilon + 0.1 * x.tanh() * (t.to(at::kFloat) / 1000);
  };
  for (const bool quadratic : {false, true}) {
    SCOPED_TRACE(quadratic);
    for (const LatentDiffusionArguments& args : {
             LatentDiffusionArguments{.eta = 1.0},
             LatentDiffusionArguments{.eta = 0.7, .temperature = 0.5},
             LatentDiffusionArguments{.eta = 1.0, .noise_dropout = 0.4},
             LatentDiffusionArguments{.eta = 0.3, .mask = mask, .x0 = drawn(6)},
             LatentDiffusionArguments{.eta = 0.9, .score_corrector = corrector},
             LatentDiffusionArguments{.eta = 0.8,
             .temperature = 1.3,
             .noise_dropout = 0.2,
             .mask = mask,
             .x0 = drawn(6),
             .score_corrector = corrector},
         }) {
      DDIMScheduler scheduler = latent_ddim(quadratic);
      LatentDiffusionArguments reference = args;
      for (const Tensor& t : scheduler.timesteps())
        reference.ddim_timesteps.insert(reference.ddim_timesteps.begin(), t.item<int64_t>());
      const Tensor out = sampling_loop(scheduler, smooth_model, drawn(1),
                                       {.step = {.eta = args.eta, .generator = make_generator(3)},
                                        .mask = args.mask,
                                        .x0 = args.x0,
                                        .temperature = args.temperature,
                                        .noise_dropout = args.noise_dropout,
                                        .score_corrector = args.score_corrector});
      expect_close(out,
                   latent_diffusion_loop(scheduler.alphas_cumprod(), drawn(1), reference, make_generator(3)));
    }
  }
}

TEST(SamplingLoop, AGuidedModelBeyondTheRangeStaysOnTheNoiseLevelOnlyWithTheClippedOutput) {
  const Tensor noise = drawn(1);
  for (const bool use_clipped_model_output : {true, false}) {
    SCOPED_TRACE(use_clipped_model_output);
    DDIMScheduler ddim({.beta_schedule = BetaSchedule::kSquaredcosCapV2});
    ddim.set_timesteps(10);
    double furthest_below = 0;
    // The guided prediction at scale 4, if the conditional prediction is 1 and the unconditional one is 0.
    const SamplingModel model = [&](const Tensor& x, const Tensor& t) {
      const double abar = ddim.alphas_cumprod()[t.item().toLong()].item<double>();
      const Tensor noise_of_one = (x - std::sqrt(abar)) / std::sqrt(1 - abar);
      // x lies between 1 and 2 in the last steps, where a float32 is a multiple of 2^-23.
      const double rounding = 0x1p-23 / std::sqrt(1 - abar);
      if (use_clipped_model_output) expect_close(noise_of_one, noise, 2e-5, std::max(1e-5, rounding));
      furthest_below = std::max(furthest_below, (noise - noise_of_one).max().item<double>());
      return (x - std::sqrt(abar) * 4) / std::sqrt(1 - abar);
    };
    const double abar = ddim.alphas_cumprod()[ddim.timesteps()[0].item().toLong()].item<double>();
    const Tensor out = sampling_loop(ddim, model, std::sqrt(abar) + std::sqrt(1 - abar) * noise,
                                     {.step = {.use_clipped_model_output = use_clipped_model_output}});
    expect_equal(out, at::ones_like(out));
    // Without use_clipped_model_output, each step moves away from 1, and the model corrects it in the next
    // step.
    EXPECT_EQ(furthest_below > 1, !use_clipped_model_output) << furthest_below;
  }
}

TEST(SamplingLoop, PutsTheKnownPartOnItsNoiseLevelForEverySchedulerFamily) {
  const Tensor x0 = drawn(6).clamp(-1, 1);
  const Tensor mask = at::ones({1, 1, 4, 4});
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  schedulers.push_back(std::make_unique<DDIMScheduler>());
  schedulers.push_back(std::make_unique<EulerDiscreteScheduler>());
  schedulers.push_back(std::make_unique<DPMSolverMultistepScheduler>());
  schedulers.push_back(std::make_unique<FlowMatchEulerDiscreteScheduler>());
  for (const auto& scheduler : schedulers) {
    SCOPED_TRACE(scheduler->class_name());
    scheduler->set_timesteps(8);
    const bool flow = scheduler->class_name().starts_with("FlowMatch");
    int64_t seen = 0;
    // If the mask is 1 everywhere, an exact model makes the loop end at x0.
    const SamplingModel model = [&](const Tensor& input, const Tensor& t) {
      ++seen;
      if (flow) {
        const double sigma = t.item<double>() / 1000;
        return (input - x0) / sigma;
      }
      const double abar = scheduler->alphas_cumprod()[t.item().toLong()].item<double>();
      Tensor noise = (input - std::sqrt(abar) * x0) / std::sqrt(1 - abar);
      EXPECT_LT(noise.abs().max().item<double>(), 6) << "at timestep " << t.item().toDouble();
      return noise;
    };
    scheduler->set_timesteps(8);
    // Timesteps between training timesteps have no alphas_cumprod.
    if (scheduler->class_name() == "EulerDiscreteScheduler")
      scheduler->set_timesteps(std::nullopt, {.timesteps = {980, 700, 500, 300, 200, 100, 50, 5}});
    const Tensor out = sampling_loop(*scheduler, model, drawn(1) * scheduler->init_noise_sigma(),
                                     {.step = {.generator = make_generator(4)}, .mask = mask, .x0 = x0});
    EXPECT_EQ(seen, 8);
    expect_close(out, x0, 1e-3, 1e-3);
  }
}

TEST(SamplingLoop, CallsBackAfterEveryStep) {
  DDIMScheduler scheduler = latent_ddim(false, 5);
  std::vector<int64_t> steps;
  std::vector<int64_t> timesteps;
  Tensor last;
  const Tensor out = sampling_loop(scheduler, smooth_model, drawn(1),
                                   {.callback = [&](int64_t step, const Tensor& t, SchedulerOutput& output) {
                                     steps.push_back(step);
                                     timesteps.push_back(t.item<int64_t>());
                                     EXPECT_TRUE(output.pred_original_sample.defined());
                                     if (step == 4) output.prev_sample = output.prev_sample + 1;
                                     last = output.prev_sample;
                                   }});
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(timesteps, (std::vector<int64_t>{800, 600, 400, 200, 0}));
  expect_equal(out, last);
  expect_close(out, sampling_loop(scheduler, smooth_model, drawn(1)) + 1);
}

TEST(SamplingLoop, RecordsNoGradients) {
  DDIMScheduler scheduler = latent_ddim(false, 2);
  const Tensor weight = at::ones({}).requires_grad_();
  const auto model = [&](const Tensor& x, const Tensor&) { return weight * x; };
  EXPECT_FALSE(sampling_loop(scheduler, model, drawn(1)).requires_grad());
}

TEST(SamplingLoop, NamesWhatCannotWork) {
  DDIMScheduler ddim = latent_ddim(false);
  const Tensor x = drawn(1);
  const auto run = [&](const SamplingLoopOptions& options) { sampling_loop(ddim, smooth_model, x, options); };
  expect_throws_with<ConfigError>([&] { run({.mask = at::ones({4, 4})}); }, "x0 is missing");
  expect_throws_with<ConfigError>([&] { run({.x0 = x}); }, "mask is missing");
  expect_throws_with<TensorError>([&] { run({.mask = at::ones({4, 4}), .x0 = at::ones({2, 3})}); }, "x0 is");
  expect_throws_with<TensorError>([&] { run({.mask = at::ones({5, 4}), .x0 = x}); }, "mask is");
  expect_throws_with<ConfigError>([&] { run({.temperature = -1.0}); }, "temperature is -1");
  expect_throws_with<ConfigError>([&] { run({.noise_dropout = 1.0}); }, "noise_dropout is 1");
  expect_throws_with<ConfigError>([&] { run({.start_step = 10}); }, "start_step is 10");
  expect_throws_with<ConfigError>([&] { run({.end_step = 11}); }, "end_step is 11, expected 1 to 10");
  expect_throws_with<ConfigError>([&] { run({.start_step = 3, .end_step = 3}); },
                                  "end_step is 3, expected 4 to 10");
  expect_throws_with<ConfigError>([&] { run({.step = {.variance_noise = x}, .temperature = 0.5}); },
                                  "variance_noise");
  expect_throws_with<TensorError>([&] { sampling_loop(ddim, smooth_model, {}); },
                                  "sample is an undefined tensor");
  expect_throws_with<ConfigError>([&] { sampling_loop(ddim, {}, x); }, "model is an empty function");
  expect_throws_with<TensorError>(
      [&] {
        run({.callback = [](int64_t, const Tensor&, SchedulerOutput& output) {
          output.prev_sample = Tensor();
        }});
      },
      "the callback left");
  HeunDiscreteScheduler heun;
  heun.set_timesteps(5);
  expect_throws_with<ConfigError>([&] { sampling_loop(heun, smooth_model, x, {.start_step = 3}); },
                                  "a multiple of 2");
  expect_throws_with<ConfigError>([&] { sampling_loop(heun, smooth_model, x, {.temperature = 0.5}); },
                                  "variance_noise");
  const DDIMScheduler v({.prediction_type = PredictionType::kVPrediction});
  DDIMScheduler v_run = v;
  v_run.set_timesteps(3);
  expect_throws_with<ConfigError>(
      [&] {
        sampling_loop(v_run, smooth_model, x,
                      {.score_corrector = [](const Tensor& e, const Tensor&, const Tensor&) { return e; }});
      },
      "v_prediction");
  PNDMScheduler fresh;
  expect_throws_with<Error>([&] { sampling_loop(fresh, smooth_model, x); }, "set_timesteps");
}

}  // namespace
}  // namespace diffusers::test
