"""Golden files of the text folder: results of transformers' CLIPTokenizer, CLIPTextModel and CLIPTextModelWithProjection.

    python tests/reference/text.py --out tests/golden

makes clip_tokenizer.json (prompts and their ids), the folders clip_tokenizer*/, clip_text.json (configs and checksums),
clip_text.safetensors (inputs, outputs, gradients), the folders clip_text_*/ and unicode_classes.json. The tokenizers have
CLIP's vocabulary without the tokens that the prompts do not need; tests/interop/clip_vocabulary.py makes it.
"""

import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
from gradients import gradients
from models import checksum, layout, pattern
from prompts import PROMPTS
from safetensors.torch import load_file, save_file
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import AddedToken, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
VOCABULARY = HERE.parent / "golden" / "clip_tokenizer"
CLASSES = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}

# ---- tokenizers ----------------------------------------------------------------------------------------------------

# Folder -> the additional keys of its tokenizer_config.json.
TOKENIZERS = {
    "clip_tokenizer": {},
    # As in Stable Diffusion 1.5, special tokens are searched in the normalised text.
    "clip_tokenizer_sd15": {
        key: {"__type": "AddedToken", "content": token, "lstrip": False, "normalized": True, "rstrip": False,
              "single_word": False}
        for key, token in [("bos_token", "<|startoftext|>"), ("eos_token", "<|endoftext|>"),
                           ("unk_token", "<|endoftext|>")]
    },  # fmt: skip
    # As in Stable Diffusion 2, every "!" of a prompt is the pad token.
    "clip_tokenizer_sd2": {"pad_token": "!"},
}


def read_config():
    return json.loads((VOCABULARY / "tokenizer_config.json").read_text())


def write_json(path, value, indent=1):
    # json.dumps does not escape DEL, which the reader of the tests refuses outside of escapes.
    path.write_text(json.dumps(value, indent=indent, sort_keys=True).replace("\x7f", "\\u007f") + "\n")


def tokenizer_folders(out):
    """Writes the vocabulary with each config, and the folder that Python saves after tokens were added."""
    for name, config in TOKENIZERS.items():
        folder = out / name
        if folder != VOCABULARY:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for file in ("vocab.json", "merges.txt"):
                if name == "clip_tokenizer":
                    shutil.copy(VOCABULARY / file, folder / file)
            write_json(folder / "tokenizer_config.json", {**read_config(), **config})


def load_tokenizer(name, out, scratch):
    """Returns the tokenizer of a folder. Without vocab.json and merges.txt it uses those of clip_tokenizer."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(VOCABULARY, scratch)
    shutil.copy(out / name / "tokenizer_config.json", scratch / "tokenizer_config.json")
    return CLIPTokenizer.from_pretrained(scratch)


ADDED = ["<cat-toy>", "Big", AddedToken("Sp", single_word=True), AddedToken("<L>", lstrip=True),
         AddedToken("<R>", rstrip=True), AddedToken("<LR>", lstrip=True, rstrip=True),
         AddedToken("RAW", normalized=False), AddedToken("<S>", special=True), "cat", "e\u0301", "a  b"]  # fmt: skip
WITH_ADDED = ["a <cat-toy> on a <CAT-TOY>x", "a Big big BIG bigger", "sp spx xsp sp, sp_ sp1 \u00e9sp", "a  <L>  b",
              "a  <R>  b", "a <LR>   <LR> b", "a<R> <L> b <l>", "raw RAW xRAWx", "<S> <s>", "cats cat concat",
              "\u00e9 e\u0301", "a b a  b", "<|endoftext|><cat-toy>"]  # fmt: skip

CALLS = {
    "longest": {"padding": "longest"},
    "max_length": {"padding": "max_length", "truncation": True},
    "max_length_20": {"padding": "max_length", "truncation": True, "max_length": 20},
    "only_max_length": {"max_length": 3},
    "multiple": {"padding": "longest", "pad_to_multiple_of": 8},
    "left": {"padding": "longest", "padding_side": "left"},
    "no_special": {"padding": "longest", "add_special_tokens": False},
    "no_room": {"padding": "longest", "truncation": True, "max_length": 2},
}
CALL_TEXTS = ["a photo of a cat", "two cats! and a dog", "very " * 60 + "long prompt", ""]


def tokenizers(out):
    tokenizer_folders(out)
    golden = {"prompts": PROMPTS, "ids": {}, "decoded": {}, "calls": {}, "texts": CALL_TEXTS, "with_added": WITH_ADDED}
    scratch = out / "scratch"
    for name in TOKENIZERS:
        tokenizer = load_tokenizer(name, out, scratch)
        ids = [tokenizer(prompt).input_ids for prompt in PROMPTS]
        golden["ids"][name] = ids
        golden["decoded"][name] = [
            [tokenizer.decode(row), tokenizer.decode(row, skip_special_tokens=True)] for row in ids
        ]
        calls = golden["calls"][name] = {}
        for key, options in CALLS.items():
            texts = CALL_TEXTS if key != "only_max_length" else CALL_TEXTS[:3]
            result = tokenizer(texts, return_tensors="pt", **options)
            calls[key] = {"input_ids": result.input_ids.tolist(), "attention_mask": result.attention_mask.tolist()}
    tokenizer = load_tokenizer("clip_tokenizer", out, scratch)
    golden["tokens"] = [tokenizer.tokenize(prompt) for prompt in PROMPTS]
    tokenizer.add_tokens(ADDED)
    ids = [tokenizer(text).input_ids for text in WITH_ADDED]
    golden["added_ids"] = ids
    golden["added_decoded"] = [[tokenizer.decode(row), tokenizer.decode(row, skip_special_tokens=True)] for row in ids]
    golden["size"] = [tokenizer.vocab_size, len(tokenizer)]
    folder = out / "clip_tokenizer_saved"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(scratch)
    write_json(out / "clip_tokenizer.json", golden, indent=None)


# ---- text models ---------------------------------------------------------------------------------------------------

BASE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 10,
    "bos_token_id": 58,
    "eos_token_id": 59,
}

# name -> differences from BASE; "class" is the model's class, "run" holds the arguments of the call.
CASES = {
    "plain": {"run": {"float64": True}},
    "gelu_projection": {
        "class": "CLIPTextModelWithProjection",
        "hidden_act": "gelu",
        "run": {"float64": True, "hidden_states": True},
    },
    "largest_id": {"eos_token_id": 2, "run": {"hidden_states": True}},
    "largest_id_projection": {
        "class": "CLIPTextModelWithProjection",
        "eos_token_id": 2,
        "num_hidden_layers": 3,
        "projection_dim": 20,
    },
    "mask": {"run": {"mask": "padding", "float64": True, "hidden_states": True}},
    "mask_all_ones": {"run": {"mask": "ones"}},
    "mask_left": {"run": {"mask": "left"}},
    "mask_boolean_scores": {"run": {"mask": "boolean_scores"}},
    "mask_added_scores": {"run": {"mask": "added_scores"}},
    "position_ids": {"run": {"position_ids": True}},
    "one_head_wide": {"num_attention_heads": 1, "hidden_size": 12, "layer_norm_eps": 1e-3, "num_hidden_layers": 1},
    "no_eos": {"eos_token_id": 7, "pad_token_id": 0},
    "factors": {"initializer_factor": 0.5, "initializer_range": 0.1, "class": "CLIPTextModelWithProjection"},
    "dropout_in_training": {"attention_dropout": 0.3, "run": {"train": True}},
    "dropout_with_mask": {"attention_dropout": 0.3, "run": {"train": True, "mask": "padding"}},
    "one_token": {"run": {"length": 1}},
    **{f"act_{name}": {"hidden_act": name, "num_hidden_layers": 1} for name in (
        "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
        "hardswish", "laplace", "leaky_relu", "linear", "mish", "relu", "relu2", "relu6", "sigmoid", "silu",
        "sqrtsoftplus", "swish", "tanh")},
}  # fmt: skip


def perturb(model):
    """Changes the parameters that are initialised to exact zeros and ones, and makes attention less uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.1 * pattern(parameter.shape)
            elif "_proj" in name:
                parameter *= 4


def config_text(model, name):
    """Returns config.json as the model saves it, without the version of transformers."""
    config = json.loads(model.config.to_json_string())
    config.update(architectures=[name], dtype="float32", transformers_version="")
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def call_arguments(run, dtype):
    length = run.get("length", 7)
    ids = torch.tensor([[58, 5, 17, 3, 59, 59, 59], [58, 44, 59, 1, 59, 2, 0], [58, 9, 8, 7, 6, 5, 59]])[:, :length]
    arguments = {}
    if run.get("position_ids"):
        arguments["position_ids"] = torch.tensor([[9, 0, 3, 3, 1, 8, 2]])
    rows = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    kind = run.get("mask")
    if kind == "padding":
        arguments["attention_mask"] = rows
    elif kind == "left":
        arguments["attention_mask"] = rows.flip(-1)
    elif kind == "ones":
        arguments["attention_mask"] = torch.ones_like(rows)
    elif kind == "boolean_scores":
        arguments["attention_mask"] = pattern([3, 1, 7, 7]) > -0.5
    elif kind == "added_scores":
        arguments["attention_mask"] = 3 * pattern([1, 4, 7, 7], dtype)
    return ids, arguments


def run_case(name, seed, tensors, dtype):
    spec = dict(CASES[name])
    run, class_name = spec.pop("run", {}), spec.pop("class", "CLIPTextModel")
    config = {**BASE, **spec}
    torch.manual_seed(seed)
    model = CLASSES[class_name](CLIPTextConfig(**config))
    entry = {
        "class": class_name,
        "config": config,
        "run": run,
        "seed": seed,
        "num_parameters": model.num_parameters(),
        "weights_crc32": checksum(model),
        "layout_crc32": layout(model),
        "config_text": config_text(model, class_name),
    }
    perturb(model)
    model = model.to(dtype)
    model.train(run.get("train", False))
    ids, arguments = call_arguments(run, dtype)
    torch.manual_seed(5)
    output = model(ids, output_hidden_states=run.get("hidden_states", False), **arguments)
    pooled = output.text_embeds if class_name.endswith("Projection") else output.pooler_output
    results = {"last_hidden_state": output.last_hidden_state, "pooled": pooled}
    if run.get("hidden_states"):
        results.update({f"hidden_states/{i}": state for i, state in enumerate(output.hidden_states)})
    sum((result * pattern(result.shape, dtype)).sum() for result in results.values()).backward()

    key = name if dtype == torch.float32 else name + ".float64"
    tensors[key + "/input_ids"] = ids
    tensors.update({f"{key}/{argument}": value for argument, value in arguments.items()})
    tensors.update({f"{key}/{result}": value.detach() for result, value in results.items()})
    gradients(key, model, tensors)
    return entry


def save_folders(out, tensors):
    """Writes folders with Python, one with the names and the position_ids of old versions, and one of a whole CLIP."""
    entries = {}
    ids = torch.tensor([[58, 5, 17, 3, 59], [58, 44, 59, 1, 2]])
    for name, class_name in {
        "clip_text_plain": "CLIPTextModel",
        "clip_text_projection_fp16": "CLIPTextModelWithProjection",
        "clip_text_old": "CLIPTextModel",
        "clip_text_whole": "CLIPTextModelWithProjection",
    }.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(11)
        model = CLASSES[class_name](CLIPTextConfig(**BASE)).eval()
        perturb(model)
        keys = list(model.state_dict())
        if name == "clip_text_projection_fp16":
            model = model.half()
            model.save_pretrained(folder, variant="fp16", max_shard_size="5KB")
            model = model.float()
        else:
            model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config["transformers_version"] = "5.0.0"
        path = folder / "model.safetensors"
        if name == "clip_text_old":
            state = {"text_model." + key: value for key, value in load_file(path).items()}
            state["text_model.embeddings.position_ids"] = torch.arange(10)[None]
            save_file(state, path, metadata={"format": "pt"})
            config["torch_dtype"] = config.pop("dtype")
            config["dropout"] = 0.0
            config["initializer_factor"] = 1
        elif name == "clip_text_whole":
            state = load_file(path)
            state["logit_scale"] = torch.tensor(2.6592)
            state["vision_model.post_layernorm.weight"] = torch.ones(3)
            save_file(state, path, metadata={"format": "pt"})
            config = {"model_type": "clip", "projection_dim": 12, "text_config": config, "vision_config": {},
                      "logit_scale_init_value": 2.6592}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        with torch.no_grad():
            tensors[name + "/output"] = model(ids).last_hidden_state
        entries[name] = {"class": class_name, "keys": keys}
    tensors["folders/input_ids"] = ids
    return entries


def text_models(out):
    tensors, cases = {}, {}
    for seed, name in enumerate(CASES):
        cases[name] = run_case(name, seed, tensors, torch.float32)
        if cases[name]["run"].get("float64"):
            run_case(name, seed, tensors, torch.float64)
    folders = save_folders(out, tensors)
    write_json(out / "clip_text.json", {"cases": cases, "folders": folders})
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / "clip_text.safetensors")


def ranges_of(code_points):
    """Returns [first, last] of each run, flattened."""
    ranges = []
    for code_point in sorted(code_points):
        if ranges and ranges[-1] == code_point - 1:
            ranges[-1] = code_point
        else:
            ranges += [code_point, code_point]
    return ranges


def unicode_classes(out):
    """Returns the classes, the lower case and the normal form of every code point in the tokenizers library."""
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    result = {}
    for name, pattern in {"letter": r"\p{L}", "number": r"\p{N}", "space": r"\s"}.items():
        split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        found = set()
        for begin in range(0, len(everything), 512):
            for word, _ in split.pre_tokenize_str("".join(everything[begin : begin + 512])):
                found.update(map(ord, word))
        result[name] = ranges_of(found)
    for name, normalizer in {"lower_case": normalizers.Lowercase(), "nfc": normalizers.NFC()}.items():
        changes = [f"{ord(c):X}:{n};" for c in everything if (n := normalizer.normalize_str(c)) != c]
        result[name] = {"count": len(changes), "crc32": zlib.crc32("".join(changes).encode())}
    write_json(out / "unicode_classes.json", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "golden")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    tokenizers(out)
    text_models(out)
    unicode_classes(out)


if __name__ == "__main__":
    main()
