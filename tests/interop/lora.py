#!/usr/bin/env python3
"""The Python side of the exchange of LoRA files and textual inversions for the pipelines of tests/golden.

    lora.py save DIR     saves files, and what the pipelines draw with them
    lora.py check DIR    loads what lora.cpp saved, and compares what the pipelines draw
"""
import pathlib
import sys

import torch
import transformers.integrations.peft
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

# transformers 5.24 asks for PEFT 0.22, which is not released; its calls work with 0.21.
transformers.integrations.peft.check_peft_version = lambda **_: None

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
KINDS = {"sd": (StableDiffusionPipeline, "tiny_stable_diffusion"), "xl": (StableDiffusionXLPipeline, "tiny_stable_diffusion_xl")}
FILE = "pytorch_lora_weights.safetensors"
PEFT_ADAPTERS = {}
UNET_LORA = {
    "sd": {"r": 2, "lora_alpha": 3, "target_modules": ["to_v", "to_out.0", "conv2", "proj_out"], "use_dora": True,
           "rank_pattern": {"to_v": 1}, "alpha_pattern": {"conv2": 0.5}},
    "xl": {"r": 4, "target_modules": ["to_q", "conv1"], "use_rslora": True},
}  # fmt: skip


def pipeline_of(name):
    kind, folder = KINDS[name]
    pipeline = kind.from_pretrained(GOLDEN / folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline, prompt="a red cat"):
    return pipeline(prompt, num_inference_steps=3, output_type="pt",
                    generator=torch.Generator().manual_seed(3)).images.contiguous()  # fmt: skip


def save(folder):
    torch.manual_seed(0)
    images = {}
    for name in KINDS:
        pipeline = pipeline_of(name)
        options = {}
        for part in ("unet", "text_encoder", *(["text_encoder_2"] if name == "xl" else [])):
            lora = UNET_LORA[name] if part == "unet" else {"r": 3, "target_modules": ["q_proj", "out_proj", "fc2"]}
            config = LoraConfig(**lora, init_lora_weights=False)
            inject_adapter_in_model(config, getattr(pipeline, part))
            options[f"{part}_lora_layers"] = get_peft_model_state_dict(getattr(pipeline, part))
            options[f"{part}_lora_adapter_metadata"] = config.to_dict()
            if name == "sd":
                PEFT_ADAPTERS[part] = {"config": LoraConfig(**lora), "tensors": options[f"{part}_lora_layers"]}
        pipeline.save_lora_weights(folder / name, **options)
        images[name] = drawn(pipeline)
        if name == "xl":
            # Python's function writes the rank as alpha: what diffusers draws with such a file is the reference.
            layers = {f"{part.removesuffix('_lora_layers')}.{key}": value for part, tensors in options.items()
                      if part.endswith("layers") for key, value in tensors.items()}  # fmt: skip
            (folder / "xl_kohya").mkdir(exist_ok=True)
            save_file(convert_state_dict_to_kohya(layers), folder / "xl_kohya" / FILE)
            other = pipeline_of(name)
            other.load_lora_weights(folder / "xl_kohya")
            images["xl_kohya"] = drawn(other)
    pipeline = pipeline_of("sd")
    for part in ("unet", "text_encoder"):
        # The adapters of sd, as PEFT saves them.
        path = folder / "sd_peft" / part
        path.mkdir(parents=True, exist_ok=True)
        adapter = PEFT_ADAPTERS[part]
        get_peft_model(getattr(pipeline, part), adapter["config"]).save_pretrained(path)
        save_file({f"base_model.model.{key}": value.contiguous() for key, value in adapter["tensors"].items()},
                  path / "adapter_model.safetensors")  # fmt: skip
    # The embeddings of two vectors, in the layouts of diffusers and of AUTOMATIC1111's web UI.
    for name, key in (("inversion", "<two>"), ("webui", "emb_params")):
        pipeline = pipeline_of("sd")
        vectors = torch.randn(2, pipeline.text_encoder.config.hidden_size) * 0.1
        save_file({key: vectors}, folder / f"{name}.safetensors")
        pipeline.load_textual_inversion(folder / f"{name}.safetensors", token=None if name == "inversion" else "webui")
        images[name] = drawn(pipeline, "a <two> cat" if name == "inversion" else "a webui cat")
    save_file(images, folder / "images.safetensors")


def check_inversion(folder, images):
    pipeline = pipeline_of("sd")
    pipeline.load_textual_inversion(folder / "inversion")
    torch.testing.assert_close(drawn(pipeline, "a <two> cat"), images["inversion"], rtol=1e-4, atol=1e-4)
    # The whole folder with the tokens opens, too.
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "inverted")
    pipeline.set_progress_bar_config(disable=True)
    torch.testing.assert_close(drawn(pipeline, "a <two> cat"), images["inversion"], rtol=1e-4, atol=1e-4)


def check(folder):
    images = load_file(folder / "images.safetensors")
    for file, name in (("sd", "sd"), ("xl", "xl"), ("xl_kohya", "xl"), ("sd_peft", "sd")):
        pipeline = pipeline_of(name)
        plain = drawn(pipeline)
        if file == "sd_peft":
            # PEFT puts the adapters into the models.
            for part in ("unet", "text_encoder"):
                PeftModel.from_pretrained(getattr(pipeline, part), folder / file / part)
        else:
            pipeline.load_lora_weights(folder / file)
        found = drawn(pipeline)
        assert not torch.equal(found, plain), f"{file}: the adapter has no effect"
        torch.testing.assert_close(found, images[name], rtol=1e-4, atol=1e-4, msg=lambda m: f"{file}: {m}")
    check_inversion(folder, images)


if __name__ == "__main__":
    action, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"save": save, "check": check}[action](folder)
