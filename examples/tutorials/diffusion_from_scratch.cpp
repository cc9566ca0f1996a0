// "Diffusion models from scratch" (unit 1 of the Hugging Face diffusion course), in C++. The program corrupts
// digits by mixing them with noise and trains a small network to remove the noise. Then it starts from pure
// noise and denoises step by step.

#include <cstdio>
#include <functional>

#include <diffusers/diffusers.h>

#include "../flags.h"
#include "../program.h"

using namespace diffusers;

// Three 5x5 convolutions down, three up, with skip connections and without a timestep: 309,057 parameters.
struct BasicUNetImpl : torch::nn::Module {
  BasicUNetImpl() {
    const auto conv = [](int64_t in, int64_t out) {
      return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 5).padding(2));
    };
    down = register_module("down_layers", torch::nn::ModuleList(conv(1, 32), conv(32, 64), conv(64, 64)));
    up = register_module("up_layers", torch::nn::ModuleList(conv(64, 64), conv(64, 32), conv(32, 1)));
  }

  torch::Tensor forward(torch::Tensor x) {
    const torch::Tensor h0 = layer(down, 0, x);
    const torch::Tensor h1 = layer(down, 1, torch::max_pool2d(h0, 2));
    x = layer(down, 2, torch::max_pool2d(h1, 2));
    x = layer(up, 0, x);
    x = layer(up, 1, upscale(x) + h1);
    return layer(up, 2, upscale(x) + h0);
  }

  static torch::Tensor layer(torch::nn::ModuleList& layers, std::size_t i, const torch::Tensor& x) {
    return torch::silu(layers[i]->as<torch::nn::Conv2d>()->forward(x));
  }
  static torch::Tensor upscale(const torch::Tensor& x) {
    return torch::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
  }

  torch::nn::ModuleList down{nullptr}, up{nullptr};
};
TORCH_MODULE(BasicUNet);

// amount 0 returns x, amount 1 returns pure noise.
torch::Tensor corrupt(const torch::Tensor& x, const torch::Tensor& amount) {
  const torch::Tensor a = amount.view({-1, 1, 1, 1});
  return x * (1 - a) + torch::rand_like(x) * a;
}

namespace {

struct Options {
  std::string model = "basic";
  std::string data_dir = "examples/data/mnist";
  std::string output_dir = "out/scratch";
  int64_t train_batch_size = 128;
  int64_t num_epochs = 3;
  int64_t max_train_steps = 0;
  int64_t num_inference_steps = 40;
  uint64_t seed = 0;
  std::string device = torch::cuda::is_available() ? "cuda" : "cpu";
};

const FlagTable<Options>& flags() {
  static const FlagTable<Options> table{
      {"Flags",
       {{"--model",
         &Options::model,
         "basic: 309,057 parameters; unet2d: UNet2DModel with 1,707,009 parameters.",
         {.check = CLI::IsMember({"basic", "unet2d"})}},
        {"--data_dir", &Options::data_dir, "Folder of the four IDX files of MNIST."},
        {"--output_dir", &Options::output_dir, "Folder that the images are written to."},
        {"--train_batch_size",
         &Options::train_batch_size,
         "Number of samples in a batch.",
         {.check = at_least(1)}},
        {"--num_epochs",
         &Options::num_epochs,
         "Number of passes through the dataset.",
         {.check = at_least(1)}},
        {"--max_train_steps",
         &Options::max_train_steps,
         "Number of optimizer steps. 0 trains for --num_epochs.",
         {.check = at_least(0)}},
        {"--num_inference_steps",
         &Options::num_inference_steps,
         "Number of denoising steps of the samples.",
         {.check = at_least(1)}},
        {"--seed", &Options::seed, "Seed of the weights, the data order and the noise."},
        {"--device",
         &Options::device,
         "Device of the training: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
  };
  return table;
}

int run(int argc, char** argv) {
  const Options options =
      parse_flags(flags(), "The lesson \"Diffusion models from scratch\" on MNIST", argc, argv);

  const torch::Device device(options.device);
  torch::manual_seed(options.seed);
  create_folders(options.output_dir);

  const MnistDataset data(options.data_dir);
  DataLoader loader(data, {.batch_size = options.train_batch_size, .shuffle = true, .seed = options.seed});
  // The dataset has values in [-1, 1]; the lesson uses [0, 1].
  const auto pictures = [&](const Batch& batch) { return (batch.images.to(device) + 1) / 2; };

  std::function<torch::Tensor(const torch::Tensor&)> predict;
  std::vector<torch::Tensor> parameters;
  std::vector<double> published;
  if (options.model == "basic") {
    BasicUNet net;
    net->to(device);
    predict = [net](const torch::Tensor& x) mutable { return net(x); };
    parameters = net->parameters();
    published = {0.0267, 0.0207, 0.0189};
  } else {
    UNet2DModel net({.sample_size = 28,
                     .in_channels = 1,
                     .out_channels = 1,
                     .down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                     .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                     .block_out_channels = {32, 64, 64},
                     .layers_per_block = 2});
    net->to(device);
    predict = [net](const torch::Tensor& x) mutable { return net->forward(x, 0).sample; };
    parameters = net->parameters();
    published = {0.0189, 0.0128, 0.0117};
  }
  int64_t count = 0;
  for (const auto& parameter : parameters) count += parameter.numel();
  std::printf("%s: %lld parameters on %s\n", options.model.c_str(), static_cast<long long>(count),
              device.str().c_str());

  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-3));
  int64_t step = 0;
  for (int64_t epoch = 0; epoch < options.num_epochs; ++epoch) {
    torch::Tensor sum = torch::zeros({}, device);
    int64_t batches = 0;
    for (const Batch& batch : loader) {
      const torch::Tensor x = pictures(batch);
      const torch::Tensor amount = torch::rand({x.size(0)}, device);
      const torch::Tensor loss = torch::mse_loss(predict(corrupt(x, amount)), x);
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
      sum += loss.detach();
      ++batches;
      if (++step % 100 == 0)
        std::printf("step %lld: loss %.4f\n", static_cast<long long>(step), loss.item<double>());
      if (step == options.max_train_steps) break;
    }
    std::printf("epoch %lld: mean loss %.4f", static_cast<long long>(epoch) + 1,
                sum.item<double>() / batches);
    const auto e = static_cast<std::size_t>(epoch);
    if (e < published.size()) std::printf(" (published: %.4f)", published[e]);
    std::printf("\n");
    std::fflush(stdout);
    if (step == options.max_train_steps) break;
  }

  const torch::NoGradGuard no_grad;
  // Three rows: digits, digits with increasing noise, and the predictions of the network.
  const torch::Tensor x = pictures(data.get_batch(std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  const torch::Tensor noised = corrupt(x, torch::linspace(0, 1, 8, device));
  save_image_grid(torch::cat({x, noised, predict(noised).clamp(0, 1)}),
                  options.output_dir + "/prediction.png", {.columns = 8});

  // Start from noise. Each step moves 1 / (remaining steps) of the way to the prediction.
  torch::Tensor sample = torch::rand({64, 1, 28, 28}, device);
  for (int64_t i = 0; i < options.num_inference_steps; ++i) {
    const double mix = 1.0 / static_cast<double>(options.num_inference_steps - i);
    sample = sample * (1 - mix) + predict(sample) * mix;
  }
  save_image_grid(sample.clamp(0, 1), options.output_dir + "/samples.png", {.columns = 8});
  std::printf("%s/prediction.png: digits, with noise, denoised; %s/samples.png: made from noise\n",
              options.output_dir.c_str(), options.output_dir.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("diffusion_from_scratch", run, argc, argv); }
