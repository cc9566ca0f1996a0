"""Trains the tiny model with Python's DistributedDataParallel, with the model, the data and the draws of the driver.

    torchrun --nproc-per-node N ddp.py FILE
"""
import json
import os
import pathlib
import sys

import torch
import torch.distributed
from safetensors.torch import load_file

SIDE = 8
SAMPLES = 64


class TinyNet(torch.nn.Module):
    """test::TinyNet of tests/training/tiny_model.h."""

    def __init__(self):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.time = torch.nn.Linear(1, 4)
        self.conv_out = torch.nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, sample, timesteps):
        embedding = self.time((timesteps.to(sample.dtype) / 1000).unsqueeze(1))
        return self.conv_out(torch.nn.functional.silu(self.conv_in(sample) + embedding.unsqueeze(2).unsqueeze(3)))


def main():
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    config, folder = request["config"], pathlib.Path(request["folder"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = TinyNet()
    model.load_state_dict(load_file(folder / "initial.safetensors"))
    model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["learning_rate"],
                                  betas=(config["adam_beta1"], config["adam_beta2"]), eps=config["adam_epsilon"],
                                  weight_decay=config["adam_weight_decay"])
    images = torch.linspace(-1, 1, SAMPLES * SIDE * SIDE).mul(37.0).sin().view(SAMPLES, 1, SIDE, SIDE)
    alphas = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float32), 0)
    generator = torch.Generator().manual_seed(config["seed"])
    batches = [[int(index) for index in line.split()] for line in (folder / "order.txt").read_text().splitlines()]
    losses = []
    for batch in batches[:request["steps"]]:
        noise = torch.randn(len(batch), 1, SIDE, SIDE, generator=generator)
        timesteps = torch.randint(0, 1000, (len(batch),), generator=generator)
        rows = slice(len(batch) * rank // size, len(batch) * (rank + 1) // size)
        x0, noise, timesteps = images[batch][rows], noise[rows], timesteps[rows]
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        loss = torch.nn.functional.mse_loss(model(alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, timesteps), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        losses.append(total.item() / size)
    if rank == 0:
        (folder / "ddp-losses.json").write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # A thread of Gloo that frees a tensor while the interpreter shuts down aborts the process (PyTorch's pull request
    # 179291). All results are written, so the process ends here.
    os._exit(0)
