#!/usr/bin/env python3
"""The Python side of the interop test of models of their real size: Stable Diffusion 1.5 with random weights.

    full_size.py save unet|vae|text_encoder DIR COUNT     writes DIR/model and its outputs for some inputs
    full_size.py check unet|vae|text_encoder DIR COUNT    opens DIR/saved, which C++ wrote: same tensors, same output
"""
import math
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel


def unet():
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)  # fmt: skip


def text_encoder():
    return CLIPTextModel(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12,
        num_attention_heads=12))  # fmt: skip


MODELS = {"unet": (unet, UNet2DConditionModel), "vae": (vae, AutoencoderKL),
          "text_encoder": (text_encoder, CLIPTextModel)}  # fmt: skip


def random_model(name):
    make = MODELS[name][0]
    torch.manual_seed(0)
    if name == "text_encoder":  # it has buffers, which an empty model does not initialise
        return make().eval()
    # The default initialisation of 860 million numbers takes longer than the rest of the test.
    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-0.1, 0.1)
            else:
                bound = 1 / math.sqrt(parameter[0].numel())
                parameter.uniform_(-bound, bound)
        for module in model.modules():
            if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
                module.weight.add_(1)
    return model.eval()


@torch.no_grad()
def outputs(name, model, tensors):
    if name == "unet":
        output = model(tensors["sample"], tensors["timestep"], tensors["encoder_hidden_states"]).sample
        return {"output": output}
    if name == "vae":
        mean = model.encode(tensors["image"]).latent_dist.mode()
        return {"mean": mean, "decoded": model.decode(tensors.get("mean", mean)).sample}
    output = model(tensors["ids"])
    return {"last_hidden_state": output.last_hidden_state, "pooler_output": output.pooler_output}


def inputs(name):
    torch.manual_seed(1)
    if name == "unet":
        return {"sample": torch.randn(1, 4, 16, 16), "timestep": torch.tensor([621]),
                "encoder_hidden_states": torch.randn(1, 8, 768)}  # fmt: skip
    if name == "vae":
        return {"image": torch.rand(1, 3, 64, 64) * 2 - 1}
    return {"ids": torch.tensor([[49406, 320, 1125, 539, 320, 2368, 49407, 49407]])}


def save(name, folder, count):
    model = random_model(name)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == count, f"{name} has {found} parameters, expected {count}"
    model.save_pretrained(folder / "model")
    tensors = inputs(name)
    tensors.update({key: value.contiguous() for key, value in outputs(name, model, tensors).items()})
    save_file(tensors, folder / "tensors.safetensors")


def check(name, folder, count):
    # The tensors are exactly those that Python wrote.
    ours, theirs = (load_file(path) for path in (weights(folder / "saved"), weights(folder / "model")))
    prefix = "text_model."
    ours, theirs = ({key.removeprefix(prefix): value for key, value in tensors.items()} for tensors in (ours, theirs))
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    for key in list(theirs):
        assert torch.equal(ours[key], theirs[key]), key
    assert sum(value.numel() for value in ours.values()) == count
    del theirs

    cls = MODELS[name][1]
    if name == "text_encoder":
        model, report = cls.from_pretrained(folder / "saved", output_loading_info=True)
        assert not any(report.values()), report
    else:
        with torch.device("meta"):
            model = cls.from_config(cls.load_config(folder / "saved"))
        model.load_state_dict(ours, strict=True, assign=True)
    tensors = load_file(folder / "tensors.safetensors")
    for key, found in outputs(name, model.eval(), tensors).items():
        torch.testing.assert_close(found, tensors[key], rtol=0, atol=1e-4 * tensors[key].abs().max().item())


def weights(folder):
    (file,) = folder.glob("*.safetensors")
    return file


if __name__ == "__main__":
    action, name, folder, count = sys.argv[1:]
    {"save": save, "check": check}[action](name, pathlib.Path(folder), int(count))
