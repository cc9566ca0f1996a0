#!/usr/bin/env python3
"""Folders that the training programs write, opened by Python: training.py --program TRAIN_TEXT_TO_IMAGE

Each program trains a tiny Stable Diffusion folder for 20 steps. Python opens the result and draws the picture that `sample`
draws from it. The programs are taken from the folder of the given one.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionInpaintPipeline
from diffusers import StableDiffusionAdapterPipeline, StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from diffusers import StableDiffusionXLAdapterPipeline
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, T2IAdapter, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "examples"))
from inputs import write_idx

MODEL = TESTS / "golden/tiny_stable_diffusion"
STEPS = 20


def make_pictures(folder):
    rows, rng = [], np.random.default_rng(0)
    for name in ("mask", "edges"):
        (folder / name).mkdir(parents=True)
    for i in range(8):
        for name in (f"{i}.png", f"mask/{i}.png", f"edges/{i}.png"):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(np.where(pixels > 127, 255, 0).astype(np.uint8) if "mask" in name else pixels).save(folder / name)
        rows.append({"file_name": f"{i}.png", "text": ["a red cat", "a blue dog"][i % 2], "mask": f"mask/{i}.png",
                     "edges": f"edges/{i}.png"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def train(program, model, pictures, out, *flags):
    run_program(program, "--pretrained_model_name_or_path", model, "--train_data_dir", pictures, "--output_dir", out,
                "--resolution", 16, "--train_batch_size", 4, "--max_train_steps", STEPS, "--learning_rate", 1e-3, "--seed", 0,
                *flags)  # fmt: skip
    return out


def run_program(*command):
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout


def pixels_of(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="np", **options).images


def check_same_picture(sample, folder, prompt="a red cat"):
    """Both draw the same picture from a folder, to a step of 255."""
    png = folder.parent / "sample.png"
    subprocess.run([sample, "--model", folder, "--prompt", prompt, "--num_inference_steps", "5", "--seed", "7",
                    "--output", png], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    ours = np.asarray(Image.open(png).convert("RGB")).astype(int)
    theirs = (pixels_of(StableDiffusionPipeline.from_pretrained(folder), prompt=prompt)[0] * 255).round().astype(int)
    # Gray images have one channel.
    theirs = np.broadcast_to(theirs, ours.shape[:2] + (3,)) if theirs.shape[2] == 1 else theirs
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1, np.abs(ours - theirs).max()
    assert theirs.std() > 2, "the picture is blank"


def check_digits(program_folder, root):
    """Python opens what the programs for MNIST write, with the vocabulary that they make."""
    write_idx(root / "idx", 24)
    tiny = ["--data_dir", root / "idx", "--train_batch_size", 8, "--eval_batch_size", 2, "--num_inference_steps", 2,
            "--validation_steps", 0, "--max_train_steps", STEPS]  # fmt: skip
    out, net = root / "digits", root / "digits_net"
    run_program(program_folder / "mnist_text_to_image", *tiny, "--resolution", 16, "--vae_train_steps", STEPS,
                "--output_dir", out)  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(out)
    # The tokenizer from vocab.json and merges.txt alone splits a text in the same way.
    plain = root / "plain"
    plain.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (plain / name).write_bytes((out / "tokenizer" / name).read_bytes())
    for text in ("a handwritten three", "the digit 3", "Number 42, and a caf\u00e9", ""):
        ids = pipeline.tokenizer(text).input_ids
        assert ids == CLIPTokenizer.from_pretrained(plain)(text).input_ids, text
    assert pipeline.tokenizer.tokenize("a handwritten three") == ["a</w>", "handwritten</w>", "three</w>"]
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings
    assert pipeline.text_encoder.config.eos_token_id == pipeline.tokenizer.eos_token_id
    check_same_picture(program_folder / "sample", out, "the digit 3")

    run_program(program_folder / "mnist_controlnet", *tiny, "--pretrained_model_name_or_path", out, "--output_dir", net)
    controlnet = ControlNetModel.from_pretrained(net)
    assert controlnet.controlnet_mid_block.weight.abs().max() > 0
    edges = Image.fromarray(np.eye(16, dtype=np.uint8) * 255)
    pixels_of(StableDiffusionControlNetPipeline(**pipeline.components, controlnet=controlnet,
                                                requires_safety_checker=False),
              prompt="the digit 3", image=edges)  # fmt: skip
    check_fine_tuned_digits(program_folder, out, tiny, pipeline)


def check_fine_tuned_digits(program_folder, folder, tiny, pipeline):
    """Python fuses the adapter of mnist_style_lora as the program does, and opens what the other two write."""
    style, word, sevens = (folder.parent / name for name in ("digits_style", "digits_word", "digits_sevens"))
    tiny = [*tiny, "--pretrained_model_name_or_path", folder]
    run_program(program_folder / "mnist_style_lora", *tiny, "--output_dir", style)
    pipeline.load_lora_weights(style)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    fused = load_file(style / "fused/unet/diffusion_pytorch_model.safetensors")
    assert set(fused) == set(pipeline.unet.state_dict())
    for name, tensor in pipeline.unet.state_dict().items():
        torch.testing.assert_close(tensor, fused[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")

    run_program(program_folder / "mnist_new_word", *tiny, "--num_images", 2, "--output_dir", word)
    pipeline.load_textual_inversion(word / "learned_embeds.safetensors")
    assert pipeline.tokenizer.tokenize("a handwritten <nought>")[-1] == "<nought>"

    run_program(program_folder / "mnist_dreambooth", *tiny, "--num_images", 2, "--with_prior_preservation",
                "--num_class_images", 2, "--output_dir", sevens)  # fmt: skip
    check_same_picture(program_folder / "sample", sevens, "a handwritten sks seven")


def make_xl(folder):
    """An SDXL folder of the tiny parts."""
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
    torch.manual_seed(1)
    config = {**pipeline.unet.config, "cross_attention_dim": 32, "addition_embed_type": "text_time",
              "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}  # fmt: skip
    unet = UNet2DConditionModel.from_config(config)
    text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=len(pipeline.tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=8, bos_token_id=pipeline.tokenizer.bos_token_id, eos_token_id=pipeline.tokenizer.eos_token_id))
    StableDiffusionXLPipeline(
        pipeline.vae, pipeline.text_encoder, text_encoder_2, pipeline.tokenizer, pipeline.tokenizer, unet,
        EulerDiscreteScheduler.from_config(pipeline.scheduler.config)).save_pretrained(folder)  # fmt: skip


def check_xl_defaults(program, model, folder):
    """The defaults of train_text_to_image_sdxl.py. A picture that cannot be read ends the training at its first batch."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/0.png").write_bytes(b"not a picture")
    (folder / "pictures/metadata.jsonl").write_text('{"file_name": "0.png", "text": "a red cat"}\n')
    command = [program.resolve(), "--pretrained_model_name_or_path", model, "--train_data_dir", "pictures",
               "--max_train_steps", "1"]  # fmt: skip
    result = subprocess.run([str(word) for word in command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)  # fmt: skip
    assert result.returncode == 1 and "0.png" in result.stdout, result.stdout
    config = json.loads((folder / "sdxl-model-finetuned/training_config.json").read_text())
    assert config["resolution"] == 1024, config["resolution"]


def make_inpainting(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
    torch.manual_seed(2)
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    StableDiffusionInpaintPipeline(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, unet, pipeline.scheduler, None,
                                   None, requires_safety_checker=False).save_pretrained(folder)  # fmt: skip


def is_trained(folder, before, weights="unet/diffusion_pytorch_model.safetensors"):
    # Both versions of the names of a text encoder are read by Python.
    ours, theirs = ({name.removeprefix("text_model."): tensor for name, tensor in load_file(base / weights).items()}
                    for base in (folder, before))
    assert ours.keys() == theirs.keys()
    return any(not torch.equal(ours[name], theirs[name]) for name in ours)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    program = parser.parse_args().program
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        pictures = root / "pictures"
        make_pictures(pictures)

        print("text to image", flush=True)
        out = train(program, MODEL, pictures, root / "sd", "--use_ema")
        assert is_trained(out, MODEL)
        check_same_picture(program.parent / "sample", out)
        print("text to image, text encoder", flush=True)
        out = train(program, MODEL, pictures, root / "text", "--train_text_encoder", "--prediction_type", "v_prediction")
        assert is_trained(out, MODEL) and is_trained(out, MODEL, "text_encoder/model.safetensors")
        check_same_picture(program.parent / "sample", out)

        print("inpainting", flush=True)
        make_inpainting(root / "inpainting")
        out = train(program, root / "inpainting", pictures, root / "inpainted", "--mask_column", "mask")
        assert is_trained(out, root / "inpainting")
        image = Image.open(pictures / "0.png").resize((16, 16))
        pixels_of(StableDiffusionInpaintPipeline.from_pretrained(out), prompt="a red cat", image=image,
                  mask_image=Image.open(pictures / "mask/0.png").resize((16, 16)), height=16, width=16)  # fmt: skip

        print("Stable Diffusion XL", flush=True)
        make_xl(root / "xl")
        out = train(program, root / "xl", pictures, root / "xl_trained", "--proportion_empty_prompts", 0.3)
        assert is_trained(out, root / "xl")
        pipeline = StableDiffusionXLPipeline.from_pretrained(out)
        assert pipeline.config.force_zeros_for_empty_prompt
        assert isinstance(pipeline.scheduler, EulerDiscreteScheduler)
        pixels_of(pipeline, prompt="a red cat", height=16, width=16)
        check_xl_defaults(program, root / "xl", root / "defaults")

        print("ControlNet", flush=True)
        for model, name in ((MODEL, "net"), (root / "xl", "net_xl")):
            crops = ["--crops_coords_top_left_h", 2, "--crops_coords_top_left_w", 4] if name == "net_xl" else []
            out = train(program.parent / "train_controlnet", model, pictures, root / name, "--conditioning_image_column",
                        "edges", "--proportion_empty_prompts", 0.5, *crops)  # fmt: skip
            controlnet = ControlNetModel.from_pretrained(out)
            assert controlnet.controlnet_mid_block.weight.abs().max() > 0
            if model is MODEL:
                parts = StableDiffusionPipeline.from_pretrained(MODEL).components
                edges = Image.open(pictures / "edges/0.png").resize((16, 16))
                pixels_of(StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False),
                          prompt="a red cat", image=edges)  # fmt: skip

        print("T2I-adapter", flush=True)
        for model, name in ((MODEL, "adapter"), (root / "xl", "adapter_xl")):
            out = train(program.parent / "train_t2i_adapter", model, pictures, root / name, "--conditioning_image_column",
                        "edges", "--proportion_empty_prompts", 0.5)  # fmt: skip
            adapter = T2IAdapter.from_pretrained(out)
            # The folder of the trained module has the same weights.
            inside = load_file(out / "t2iadapter/diffusion_pytorch_model.safetensors")
            assert all(torch.equal(inside[key], tensor) for key, tensor in adapter.state_dict().items())
            parts = (StableDiffusionPipeline if model is MODEL else StableDiffusionXLPipeline).from_pretrained(model).components
            edges = Image.open(pictures / "edges/0.png").resize((16, 16))
            if model is MODEL:
                parts.pop("image_encoder")
                pipeline = StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)
            else:
                pipeline = StableDiffusionXLAdapterPipeline(**parts, adapter=adapter)
            with_adapter, without = (pixels_of(pipeline, prompt="a red cat", image=edges, height=16, width=16,
                                               adapter_conditioning_scale=scale) for scale in (1.0, 0.0))  # fmt: skip
            assert np.abs(with_adapter - without).max() > 0
        print("textual inversion, instruct-pix2pix", flush=True)
        out = train(program.parent / "textual_inversion", MODEL, pictures, root / "inversion", "--placeholder_token", "<toy>",
                    "--initializer_token", "cat", "--num_vectors", 2)  # fmt: skip
        check_same_picture(program.parent / "sample", out, "a red <toy>")
        pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
        pipeline.load_textual_inversion(out)
        theirs = pixels_of(StableDiffusionPipeline.from_pretrained(out), prompt="a red <toy>")
        assert np.abs(pixels_of(pipeline, prompt="a red <toy>") - theirs).max() < 1e-5
        out = train(program.parent / "train_instruct_pix2pix", MODEL, pictures, root / "pix2pix", "--edited_image_column", "edges",
                    "--original_image_column", "file_name", "--edit_prompt_column", "text", "--conditioning_dropout_prob", 0.05,
                    "--random_flip")  # fmt: skip
        image = Image.open(pictures / "0.png").resize((16, 16))
        image.save(root / "original.png")
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(out)
        theirs = pixels_of(pipeline, prompt="a red cat", image=image)[0]
        run_program(program.parent / "sample", "--model", out, "--prompt", "a red cat", "--image", root / "original.png",
                    "--num_inference_steps", 5, "--seed", 7, "--output", root / "edited.png")  # fmt: skip
        ours = np.asarray(Image.open(root / "edited.png").convert("RGB")).astype(int)
        assert np.abs(ours - (theirs * 255).round().astype(int)).max() <= 1
        print("digits", flush=True)
        check_digits(program.parent, root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
