#!/usr/bin/env python3
"""The Python side of the interop test of tokenizers and text encoders.

    text.py ids TOKENIZER PROGRAM    compares the ids of the prompts, and of 3000 random ones, with the program's
    text.py save DIR TOKENIZER       saves a tokenizer, both text encoders and their outputs for a prompt
    text.py check DIR                opens what text.cpp saved, and compares
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
from prompts import PROMPTS, random_prompts  # noqa: E402

PROMPT = "a <cat-toy> on Mars, it's 42!"


def compare_ids(folder, program):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    prompts = PROMPTS + random_prompts(3000)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(prompts).replace("\x7f", "\\u007f"))
        file.flush()
        output = subprocess.run([program, "ids", str(folder), file.name], check=True, capture_output=True).stdout
    wrong = 0
    for prompt, row in zip(prompts, json.loads(output), strict=True):
        ids = tokenizer(prompt).input_ids
        expected = [ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)]
        if row != expected:
            wrong += 1
            if wrong <= 10:
                print(f"{prompt!a}: {row!a}, expected {expected!a}")
    print(f"{len(prompts) - wrong} of {len(prompts)} prompts give the same ids")
    return 1 if wrong else 0


def outputs(tokenizer, plain, projected):
    ids = tokenizer(PROMPT, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return {"ids": ids, "plain": plain(ids).last_hidden_state, "projected": projected(ids).text_embeds}


def save(folder, vocabulary):
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
    tokenizer.add_tokens(["<cat-toy>"])
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, projection_dim=12, num_hidden_layers=2,
        num_attention_heads=4, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(1)
    plain, projected = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    tokenizer.save_pretrained(folder / "tokenizer")
    plain.save_pretrained(folder / "text_encoder")
    projected.save_pretrained(folder / "text_encoder_2", max_shard_size="100KB")
    save_file(outputs(tokenizer, plain, projected), folder / "text.safetensors")


def check(folder):
    def load(cls, name):
        model, report = cls.from_pretrained(folder / name, output_loading_info=True)
        problems = {key: value for key, value in report.items() if value}
        assert not problems, f"{name}: {problems}"
        return model

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    plain, projected = load(CLIPTextModel, "text_encoder"), load(CLIPTextModelWithProjection, "text_encoder_2")
    expected = load_file(folder / "text.safetensors")
    for name, found in outputs(tokenizer, plain, projected).items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-4 * largest)
    # The files in the format of old versions give the same ids.
    (folder / "tokenizer" / "tokenizer.json").unlink()
    from_old = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    for prompt in [PROMPT, *PROMPTS]:
        assert from_old(prompt).input_ids == tokenizer(prompt).input_ids, prompt
    return 0


if __name__ == "__main__":
    action, folder, *rest = sys.argv[1:]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sys.exit({"ids": compare_ids, "save": save, "check": check}[action](folder, *rest))
