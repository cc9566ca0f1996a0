#!/usr/bin/env python3
"""Makes the seeds of the fuzzers: small valid and invalid files of every kind. Uses only Python's standard library.

    make_corpus.py [FOLDER]    writes them, one folder for each fuzzer
    make_corpus.py --check     fails if a seed is missing in the folder of the repository
"""
import gzip
import io
import json
import pathlib
import struct
import sys
import tarfile

from picture_seeds import some_jpeg, some_png

DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
          "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
          "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}


def safetensors(header, data=b"", pad=True):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin=0):
    count = 1
    for length in shape:
        count *= length
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + count * DTYPES[dtype] // 8]}


def some_safetensors():
    values = bytes(range(1, 65))
    yield "empty", safetensors({})
    yield "metadata", safetensors({"__metadata__": {"format": "pt", "a \"quoted\" \\ key": "line\nbreak é"}})
    yield "metadata_null", safetensors(b'{"__metadata__":null}')
    for dtype in DTYPES:
        yield f"dtype_{dtype}", safetensors({"t": entry(dtype, [2, 4])}, values[: 8 * DTYPES[dtype] // 8])
    yield "scalar", safetensors({"s": entry("F32", [])}, values[:4])
    yield "no_elements", safetensors({"z": entry("F16", [0, 3]), "t": entry("U8", [3])}, values[:3])
    yield "several", safetensors({"__metadata__": {"format": "pt"}, "conv.weight": entry("F32", [2, 2]),
                                  "conv.bias": entry("F32", [2], 16), "steps": entry("I64", [1], 24)}, values[:32])
    yield "unordered", safetensors({"b": entry("U8", [4], 4), "a": entry("F32", [1])}, values[:8])
    yield "positional", safetensors(b'{"a":["F32",[1],[0,4]]}', values[:4])
    yield "more_fields", safetensors(b'{"a":{"z":[1,{"q":-2.5e3}],"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
                                     values[:2])
    yield "escapes", safetensors(b'{"\\u0061\\n\\u00e9\\ud83d\\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
                                 values[:1])
    yield "spaces", safetensors(b' {\n"a" : {"dtype":\t"U8", "shape": [ 1 ],"data_offsets":[0 , 1]} } ', values[:1])
    yield "hole", safetensors({"a": entry("U8", [1]), "b": entry("U8", [1], 2)}, values[:3])
    yield "overlap", safetensors({"a": entry("U8", [4]), "b": entry("U8", [4], 2)}, values[:6])
    yield "trailing", safetensors({"a": entry("U8", [1])}, values[:5])
    yield "truncated", safetensors({"a": entry("F64", [4])}, values[:31])
    yield "wrapping", safetensors(b'{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}')
    yield "large_zero", safetensors(b'{"a":{"dtype":"U8","shape":[0,9223372036854775807],"data_offsets":[0,0]}}')
    yield "twice", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                               b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', values[:1])
    yield "deep", safetensors(b'{"a":{"z":' + b"[" * 120 + b"]" * 120
                              + b',"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', values[:1])
    yield "length_too_large", struct.pack("<Q", 1 << 40) + b"{}"


def some_indices():
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    good = {"metadata": {"total_size": 24}, "weight_map": {"a": names[0], "b.weight": names[0], "c": names[1]}}
    yield "good", json.dumps(good, indent=2).encode()
    yield "empty", b'{"metadata":{},"weight_map":{}}'
    for name, shard in (("above", "../x.safetensors"), ("absolute", "/etc/passwd"), ("dots", ".."), ("nul", "x\0"),
                        ("pickle", "model.bin"), ("number", 1), ("none", None)):
        yield name, json.dumps({"weight_map": {"a": shard}}).encode()
    yield "list", b'{"weight_map":["a"]}'
    yield "twice", b'{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}'


def some_configs():
    config = {"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "act_fn": "silu", "dropout": 0.0,
              "block_out_channels": [32, 64], "flip_sin_to_cos": True, "in_channels": 3, "norm_eps": 1e-05,
              "sample_size": [32, 32], "lambda_min_clipped": float("-inf"), "unknown": {"a": [None, float("nan")]}}
    yield "good", json.dumps(config, indent=2, sort_keys=True).encode()
    yield "numbers", b'[0,-0,1.0,1e5,-1.5E-3,18446744073709551615,18446744073709551616,NaN,Infinity,-Infinity,0.1]'
    yield "strings", '["\\u0000\\u007f:NaN","é\U0001f600","\\ud83d\\ude00","\\\\NaN\\"","\\n\\t"]'.encode()
    yield "wrong_types", b'{"in_channels":true,"flip_sin_to_cos":1,"norm_eps":"1","act_fn":null,"sample_size":1.5}'
    yield "none", b'{"dropout":null,"sample_size":null,"block_out_channels":null}'
    yield "twice", b'{"a":1,"a":2}'
    yield "deep", b"[" * 130 + b"]" * 130
    yield "byte_order_mark", b"\xef\xbb\xbf{}"
    yield "nul", b"{}\0"


def some_idx():
    def idx(code, shape, data):
        return bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", n) for n in shape) + data
    images = idx(8, [2, 3, 4], bytes(range(24)))
    yield "uint8", images
    yield "gzip", gzip.compress(images, mtime=0)
    yield "two_members", gzip.compress(images[:10], mtime=0) + gzip.compress(images[10:], mtime=0)
    yield "padded", gzip.compress(images, mtime=0) + bytes(5)
    yield "labels", idx(8, [3], bytes([7, 0, 9]))
    yield "int16", idx(0x0B, [2], struct.pack(">hh", -2, 300))
    yield "float32", idx(0x0D, [1, 2], struct.pack(">ff", 1.5, -2))
    yield "float64", idx(0x0E, [1], struct.pack(">d", 2.5))
    yield "no_rows", idx(8, [0, 28, 28], b"")
    yield "large", idx(8, [0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF], b"1")
    yield "trailing", images + b"x"
    yield "truncated", gzip.compress(images, mtime=0)[:-9]
    yield "bomb", gzip.compress(idx(8, [100000], bytes(100000)), mtime=0)


# A vocabulary of a few letters, and the merges that make "hello" of them.
TOKENS = {"h": 0, "e": 1, "l": 2, "o": 3, "o</w>": 4, "he": 5, "ll": 6, "hell": 7, "hello</w>": 8, "\u0120": 9,
          "<|startoftext|>": 10, "<|endoftext|>": 11}
MERGES = ["h e", "l l", "he ll", "hell o</w>"]
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1059962\n"


def some_vocabularies():
    yield "good", json.dumps(TOKENS).encode()
    yield "letters", json.dumps(TOKENS, ensure_ascii=False).encode()
    yield "one", b'{"a":0}'
    yield "empty", b"{}"
    yield "list", b'["a"]'
    yield "same_id", b'{"a":0,"b":0}'
    yield "twice", b'{"a":0,"a":1}'
    yield "surrogates", b'{"\\ud83d\\ude00":0,"\\ud800":1}'
    for name, number in (("negative", "-1"), ("large", "2147483647"), ("larger", "18446744073709551616"),
                         ("fraction", "0.5"), ("whole", "1.0"), ("none", "null"), ("text", '"1"'), ("nan", "NaN")):
        yield name, b'{"a":' + number.encode() + b"}"
    yield "lfs_pointer", LFS_POINTER


def some_merges():
    yield "good", ("#version: 0.2\n" + "\n".join(MERGES) + "\n").encode()
    yield "no_version", "\n".join(MERGES).encode()
    yield "carriage_returns", ("#version: 0.2\r\n" + "\r\n".join(MERGES) + "\r\n").encode()
    yield "letters", "é ü\n\u0120 a\n\U0001f600 b\n".encode()
    yield "empty", b""
    yield "empty_line", b"a b\n\nc d\n"
    yield "one_token", b"a\n"
    yield "three_tokens", b"a b c\n"
    yield "no_utf8", b"a \xff\n"
    yield "nul", b"a b\0\n"
    yield "byte_order_mark", b"\xef\xbb\xbfa b\n"
    yield "conflict", b"a b\n<<<<<<< HEAD\nb c\n=======\nc d\n>>>>>>> theirs\n"
    yield "lfs_pointer", LFS_POINTER
    yield "page", b"<!DOCTYPE html>\n<html lang=\"en\">\n"


def some_tokenizers():
    def tokenizer(added=None, **model):
        model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": TOKENS, "merges": MERGES} | model
        return json.dumps({"version": "1.0", "added_tokens": added or [], "model": model}).encode()
    special = {"id": 11, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": True,
               "normalized": False, "special": True}
    yield "good", tokenizer([special])
    yield "pairs", tokenizer(merges=[merge.split() for merge in MERGES])
    yield "added", tokenizer([special, {"id": 12, "content": " Hello ", "lstrip": True, "normalized": True},
                              {"id": 13, "content": "l", "single_word": True}])
    yield "same_content", tokenizer([special, special | {"id": 14}])
    yield "same_id", tokenizer([special, special | {"content": "x"}])
    yield "empty_content", tokenizer([special | {"content": ""}])
    yield "no_merges", tokenizer(merges=[])
    yield "unknown_merge", tokenizer(merges=["x y"])
    yield "no_vocabulary", tokenizer(vocab={})
    yield "other_model", tokenizer(type="Unigram")
    yield "other_suffix", tokenizer(end_of_word_suffix="")
    yield "no_model", b'{"model":null}'
    yield "list", b"[]"
    yield "lfs_pointer", LFS_POINTER


def some_metadata():
    yield "jsonl", (b'{"file_name": "a.png", "text": ["a \\"cat\\"", "b"], "label": 3}\n\n'
                    b'{"file_name": "b.png", "text": "dog", "label": null}\r\n')
    yield "torn", b'{"file_name": "a.png"}\n{"file_na'
    yield "list", b'[{"file_name": "a.png"}]\n'
    yield "csv", b'file_name,text\na.png,"a ""cat"", and\nmore"\nb.png,dog\n'
    yield "csv_crlf", b'\xef\xbb\xbftext,file_name\r\n"x\r\ny",a.png\r\n\r\n,b.png'
    yield "csv_open_quote", b'file_name,text\na.png,"no end\n'
    yield "csv_after_quote", b'file_name,text\na.png,"x"y\n'
    yield "csv_fields", b'file_name,text\na.png\n'
    yield "csv_no_utf8", b'file_name,text\na.png,\xe0\x80\xaf\n'
    yield "lfs_pointer", LFS_POINTER


def some_tars():
    def archive(members, form=tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, data in members:
                about = tarfile.TarInfo(name)
                if isinstance(data, dict):
                    for field, value in data.items():
                        setattr(about, field, value)
                    tar.addfile(about)
                else:
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
        # Without the zeros behind the end mark.
        end = (len(file.getvalue().rstrip(b"\0")) + 511) // 512 * 512
        return file.getvalue()[:end + 1024]

    image = [("a.png", b"image"), ("b.png", b"image")]
    plain = archive([("a.png", b"image"), ("a.txt", b"a cat"), ("a.cls", b"3"), ("b.jpg", b"x"), ("b.txt", b"b"),
                     ("b.cls", b"0")])
    yield "plain", plain
    yield "gzip", gzip.compress(plain, mtime=0)
    yield "json", archive([("d/1.png", b"i"), ("d/1.json", b'{"caption": ["a", "b"], "label": 2}'), ("d/2.json", b"[]")])
    yield "pax", archive([("\u00e9" * 80 + ".png", b"image")], tarfile.PAX_FORMAT)
    yield "gnu_long_name", archive([("n" * 150 + ".png", b"image")], tarfile.GNU_FORMAT)
    yield "above", archive([("../a.png", b"image")])
    yield "link", archive([*image, ("c.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})])
    yield "hard_link", archive([*image, ("c.png", {"type": tarfile.LNKTYPE, "linkname": "a.png"})])
    yield "device", archive([*image, ("c.png", {"type": tarfile.CHRTYPE})])
    yield "folder", archive([("d", {"type": tarfile.DIRTYPE}), *image])
    yield "no_image", archive([("a.txt", b"a")])
    yield "two_images", archive([("a.png", b"1"), ("a.jpg", b"2")])
    yield "meta", archive([("__meta__/x.json", b"{}"), (".hidden", b"x"), ("README", b"x"), *image])
    yield "no_end", archive(image)[:-1024]
    yield "truncated", plain[:700]
    yield "sizes", archive([*image, ("c.png", {"size": 0o77777777777})])
    yield "sparse", archive([("s.png", {"type": tarfile.GNUTYPE_SPARSE})], tarfile.GNU_FORMAT)
    yield "empty", archive([])


SEEDS = {"safetensors": some_safetensors, "shard_index": some_indices, "config": some_configs, "idx": some_idx,
         "metadata": some_metadata, "tar": some_tars, "vocabulary": some_vocabularies, "merges": some_merges,
         "tokenizer": some_tokenizers, "png": some_png, "jpeg": some_jpeg}


def main():
    checks = sys.argv[1:] == ["--check"]
    own = pathlib.Path(__file__).resolve().parent / "corpus"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 and not checks else own
    missing = []
    for kind, seeds in SEEDS.items():
        if not checks:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        count = 0
        for name, seed in seeds():
            count += 1
            path = folder / kind / name
            if not checks:
                path.write_bytes(seed)
            elif not path.is_file():  # compressed files may differ between versions of zlib
                missing.append(f"{kind}/{name}")
        print(f"{kind}: {count} seeds")
    if missing:
        sys.exit(f"missing in {folder}: {', '.join(missing)}; run make_corpus.py and commit what it writes")


if __name__ == "__main__":
    main()
