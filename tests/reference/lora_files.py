"""Golden LoRA files of Python's pipelines, and the images that they draw with them.

    python tests/reference/lora_files.py --out tests/golden

reads tests/golden/tiny_stable_diffusion/ and tiny_stable_diffusion_xl/, and makes lora_files/NAME.safetensors and
lora_images.safetensors. The files are in the formats of `save_lora_weights` with metadata, of the training scripts without
metadata, and of kohya-ss with the layer names of Stable Diffusion XL's original UNet.
"""

import argparse
from pathlib import Path

import torch
import transformers.integrations.peft
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

# transformers 5.24 asks for PEFT 0.22, which is not released; its calls work with 0.21.
transformers.integrations.peft.check_peft_version = lambda **_: None

GOLDEN = Path(__file__).parent.parent / "golden"
UNET_TARGETS = ["to_k", "to_out.0", "conv1", "proj_in", "downsamplers.0.conv"]
TEXT_TARGETS = ["q_proj", "out_proj", "fc1"]
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
TEXT_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
# Name in the file and layer of diffusers.
KOHYA_XL = {
    "lora_unet_input_blocks_1_0_in_layers_2": "unet.down_blocks.0.resnets.0.conv1",
    "lora_unet_input_blocks_1_0_emb_layers_1": "unet.down_blocks.0.resnets.0.time_emb_proj",
    "lora_unet_input_blocks_2_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_input_blocks_3_0_skip_connection": "unet.down_blocks.1.resnets.0.conv_shortcut",
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q":
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "lora_unet_middle_block_1_transformer_blocks_0_ff_net_0_proj":
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "lora_unet_middle_block_2_out_layers_3": "unet.mid_block.resnets.1.conv2",
    "lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_out_0":
        "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "lora_unet_output_blocks_1_2_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": "text_encoder.encoder.layers.0.self_attn.out_proj",
    "lora_te1_text_model_encoder_layers_0_mlp_fc2": "text_encoder.encoder.layers.0.mlp.fc2",
    "lora_te2_text_model_encoder_layers_0_self_attn_out_proj": "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj",
}  # fmt: skip


def config(targets, **options):
    return LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": targets, "init_lora_weights": False, **options})


def tensors_of(pipeline, unet_config, text_config):
    inject_adapter_in_model(unet_config, pipeline.unet)
    inject_adapter_in_model(text_config, pipeline.text_encoder)
    return get_peft_model_state_dict(pipeline.unet), get_peft_model_state_dict(pipeline.text_encoder)


def metadata(config):
    """The order of a set of strings is not the same in each run."""
    return {**config.to_dict(), "target_modules": sorted(config.target_modules)}


def sd(out):
    """save_lora_weights with metadata: DoRA, rsLoRA and patterns."""
    pipeline = StableDiffusionPipeline.from_pretrained(GOLDEN / "tiny_stable_diffusion")
    unet_config = config(UNET_TARGETS, use_dora=True, rank_pattern={"to_k": 1}, alpha_pattern={"conv1": 0.5})
    text_config = config(TEXT_TARGETS, use_rslora=True)
    unet, text = tensors_of(pipeline, unet_config, text_config)
    pipeline.save_lora_weights(
        out, unet, text, weight_name="sd.safetensors", unet_lora_adapter_metadata=metadata(unet_config),
        text_encoder_lora_adapter_metadata=metadata(text_config))  # fmt: skip


def script(out):
    """The training scripts' files, whose alpha is the rank."""
    pipeline = StableDiffusionPipeline.from_pretrained(GOLDEN / "tiny_stable_diffusion")
    parts = tensors_of(pipeline, config(ATTENTION, lora_alpha=2), config(TEXT_ATTENTION, lora_alpha=2))
    unet, text = (convert_state_dict_to_diffusers(part) for part in parts)
    pipeline.save_lora_weights(out, unet, text, weight_name="script.safetensors")


def kohya(out):
    pipeline = StableDiffusionXLPipeline.from_pretrained(GOLDEN / "tiny_stable_diffusion_xl")
    tensors = {}
    for index, (name, path) in enumerate(KOHYA_XL.items()):
        component, _, inner = path.partition(".")
        weight = getattr(pipeline, component).get_submodule(inner).weight
        rank = 1 + index % 2
        tensors[name + ".lora_down.weight"] = 0.3 * torch.randn(rank, *weight.shape[1:])
        tensors[name + ".lora_up.weight"] = 0.3 * torch.randn(weight.shape[0], rank, *[1] * (weight.dim() - 2))
        tensors[name + ".alpha"] = torch.tensor(1.5)
    save_file(tensors, out / "kohya_xl.safetensors")


def images(folder):
    result = {}
    for name in ("sd", "script", "kohya_xl"):
        kind = StableDiffusionXLPipeline if name.endswith("xl") else StableDiffusionPipeline
        pipeline = kind.from_pretrained(GOLDEN / ("tiny_stable_diffusion_xl" if name.endswith("xl") else "tiny_stable_diffusion"))
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name="style")
        for key, scale in (("", 1.0), (".half", 0.5)):
            pipeline.set_adapters(["style"], [scale])
            result[name + key] = pipeline(
                "a red cat", num_inference_steps=3, output_type="pt", generator=torch.Generator().manual_seed(3)
            ).images.contiguous()  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDEN)
    out = parser.parse_args().out
    folder = out / "lora_files"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(4)
    for make in (sd, script, kohya):
        make(folder)
    save_file(images(folder), out / "lora_images.safetensors")


if __name__ == "__main__":
    main()
