#!/usr/bin/env python3
"""convert_lora between the layouts, and what inspect_checkpoint says of each: convert_lora_test.py PROGRAM INSPECT"""
import json
import pathlib
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from program_case import ProgramCase

INSPECT = pathlib.Path(sys.argv.pop(2)).resolve()
PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
XL_MODEL = MODEL.with_name("tiny_stable_diffusion_xl")
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
Q_PROJ = "encoder.layers.0.self_attn.q_proj"


def write_tensors(path, tensors, metadata=None):
    """Writes float32 tensors of given shapes: {name: shape}."""
    header, size = ({"__metadata__": metadata} if metadata else {}), 0
    for number, (name, shape) in enumerate(tensors.items()):
        count = 1
        for side in shape:
            count *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [size, size + 4 * count]}
        size += 4 * count
    text = json.dumps(header).encode()
    values = b"".join(struct.pack("<f", i % 7 - 3) for i in range(size // 4))
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def read_tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[8 + size:][slice(*entry["data_offsets"])]) for name, entry in header.items()}


def width(model, component):
    config = json.loads((model / component / "config.json").read_text())
    return config["hidden_size"] if component != "unet" else config["block_out_channels"][-1]


class ConvertLora(ProgramCase):
    def setUp(self):
        super().setUp()
        for model, name in ((MODEL, "sd"), (XL_MODEL, "xl")):
            unet, text = width(model, "unet"), width(model, "text_encoder")
            tensors = {f"unet.{TO_Q}.lora_A.weight": [2, unet], f"unet.{TO_Q}.lora_B.weight": [unet, 2],
                       f"text_encoder.{Q_PROJ}.lora_A.weight": [3, text], f"text_encoder.{Q_PROJ}.lora_B.weight": [text, 3]}
            config = {f"{part}.{key}": value for part, r in (("unet", 2), ("text_encoder", 3))
                      for key, value in (("r", r), ("lora_alpha", 4), ("target_modules", ["to_q", "q_proj"]))}
            write_tensors(self.folder / f"{name}.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)})

    def convert(self, lora, out, *arguments, model=MODEL, code=0):
        return self.run_in_folder(PROGRAM, [lora, out, "--model", model, *arguments], code)

    def inspect(self, path, code=0):
        return self.run_in_folder(INSPECT, [path], code)

    def test_there_and_back(self):
        for model, name, text_prefix in ((MODEL, "sd", "lora_te_"), (XL_MODEL, "xl", "lora_te1_")):
            file = self.folder / f"{name}.safetensors"
            self.convert(file, f"{name}/kohya", "--format", "kohya", "--output_name", "style.safetensors", model=model)
            kohya = self.folder / name / "kohya/style.safetensors"
            text = f"{text_prefix}text_model_{Q_PROJ.replace('.', '_')}"
            self.assertEqual(set(read_tensors(kohya)), {
                f"{layer}.{end}" for layer in (f"lora_unet_{TO_Q.replace('.', '_')}", text)
                for end in ("alpha", "lora_down.weight", "lora_up.weight")})
            self.assertEqual(struct.unpack("<f", read_tensors(kohya)[f"{text}.alpha"][2]), (4.0,))
            self.convert(kohya, f"{name}/back", model=model)
            self.assertEqual(read_tensors(self.folder / name / "back/pytorch_lora_weights.safetensors"), read_tensors(file))
            self.convert(file, f"{name}/peft", "--format", "peft", model=model)
            config = json.loads((self.folder / name / "peft/text_encoder/adapter_config.json").read_text())
            self.assertEqual((config["peft_type"], config["r"], config["lora_alpha"]), ("LORA", 3, 4))
            self.convert(f"{name}/peft/text_encoder", f"{name}/text", model=model)
            again = read_tensors(self.folder / name / "text/pytorch_lora_weights.safetensors")
            self.assertEqual(again, {key: value for key, value in read_tensors(file).items() if key.startswith("text")})

    def test_inspect_checkpoint_knows_the_layouts(self):
        self.convert("sd.safetensors", "kohya", "--format", "kohya")
        self.convert("sd.safetensors", "peft", "--format", "peft")
        self.convert("sd.safetensors", "out")
        for path, parts in (
            ("sd.safetensors", ["layout of diffusers", "unet: 1 layers, rank 2, alpha 4, modules to_q",
                                "text_encoder: 1 layers, rank 3, alpha 4, modules q_proj"]),
            ("out", ["layout of diffusers", "unet: 1 layers, rank 2, alpha 4"]),
            ("kohya", ["layout of kohya-ss", "unet: 1 layers, rank 2, alpha 4, modules to_q"]),
            ("peft/unet", ["layout of PEFT", "model: 1 layers, rank 2, alpha 4, modules to_q"]),
        ):
            text = self.inspect(path)
            for part in (*parts, "It would load."):
                self.assertIn(part, text)

    def test_inspect_checkpoint_knows_embeddings_and_other_kinds(self):
        for tensors, metadata, code, parts in (
            ({"<cat-toy>": [768]}, None, 0, ["textual inversion, layout of diffusers", "token <cat-toy>: 1 vector of 768"]),
            ({"<cat>": [2, 16]}, None, 0, ["token <cat>: 2 vectors of 16 numbers"]),
            ({"emb_params": [3, 768]}, None, 0, ["AUTOMATIC1111", "emb_params: 3 vectors of 768"]),
            ({"clip_l": [2, 768], "clip_g": [2, 1280]}, None, 0, ["Stable Diffusion XL", "clip_g: 2 vectors of 1280"]),
            ({"unet:0:down": [4, 8], "unet:0:up": [8, 4]}, {"unet": '["CrossAttention"]'}, 0,
             ["layout of cloneofsimo", "unet: 1 layers, rank 4, alpha none (scale 1)"]),
            ({f"{TO_Q.replace('to_q', 'processor.to_q_lora')}.down.weight": [4, 8],
              f"{TO_Q.replace('to_q', 'processor.to_q_lora')}.up.weight": [8, 4]}, None, 0,
             ["layout of attention processors", "rank 4"]),
            ({"lora_unet_x.hada_w1_a": [4, 8]}, None, 1, ["1 tensors of LoHa, which is not supported", "would fail"]),
            ({"lora_unet_x.lokr_w1": [4, 8]}, None, 1, ["LoKr"]),
            ({"weight": [4, 8]}, None, 0, ["safetensors file"]),
        ):
            write_tensors(self.folder / "x.safetensors", tensors, metadata)
            text = self.inspect("x.safetensors", code)
            for part in parts:
                self.assertIn(part, text)

    def test_mistakes_are_named(self):
        (self.folder / "empty").mkdir()
        for arguments, part in (
            (["none.safetensors", "out", "--model", MODEL], "none.safetensors: there is no such file"),
            (["sd.safetensors", "out", "--model", "none"], "--model none: there is no such folder"),
            (["sd.safetensors", "out", "--model", "empty"], "expected a pipeline folder"),
            (["sd.safetensors", "out", "--model", MODEL, "--output_name", "a/b"], "output_name"),
        ):
            self.assertIn(part, self.run_in_folder(PROGRAM, arguments, 1))
        text = subprocess.run([PROGRAM, "sd.safetensors", "out", "--model", MODEL, "--format", "zip"], cwd=self.folder,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        self.assertIn("--format", text)
        self.assertFalse((self.folder / "out").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
