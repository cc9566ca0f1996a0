#!/usr/bin/env python3
"""Damaged safetensors files: the C++ reader must accept and refuse the same files as Python safetensors, and read the same
values.

    mutations.py --program interop_verdicts [--count 100000] [--seed 0] [--corpus DIR]

Changes the headers of the fuzzer's seeds and usually corrects the lengths that belong to them. Passes all files to the
program at once (each as a 64-bit length and its bytes) and compares its line for each. STRICTER lists the classes of files
that only the C++ reader refuses. It accepts no file that Python refuses.
"""
import argparse
import collections
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import safetensors

# LibTorch's names of the dtypes. It has none for the six-bit dtypes.
DTYPES = {"BOOL": "Bool", "F4": "Float4_e2m1fn_x2", "U8": "Byte", "I8": "Char", "F8_E5M2": "Float8_e5m2",
          "F8_E4M3": "Float8_e4m3fn", "F8_E8M0": "Float8_e8m0fnu", "F8_E4M3FNUZ": "Float8_e4m3fnuz",
          "F8_E5M2FNUZ": "Float8_e5m2fnuz", "I16": "Short", "U16": "UInt16", "F16": "Half", "BF16": "BFloat16",
          "I32": "Int", "U32": "UInt32", "F32": "Float", "C64": "ComplexFloat", "F64": "Double", "I64": "Long",
          "U64": "UInt64"}

# Part of the C++ message -> the reason for which the file is refused although Python accepts it.
STRICTER = {
    "occurs twice": "a name that occurs twice, which the format forbids",
    "LibTorch lacks": "a dtype that LibTorch lacks",
    "the last dimension of tensor": "half a byte in LibTorch's packed four-bit dtype",
    "has a dimension of": "a dimension above 2^63 - 1",
    "cannot make tensor": "a shape whose strides do not fit 64 bits",
    " is an object": "a dtype written as an object",
}

TOKENS = [b'"__metadata__":{', b'"__metadata__":{"format":"pt"},', b'"a":', b'"dtype":', b'"shape":', b'"data_offsets":',
          b'"F32"', b'"F64"', b'"BF16"', b'"U8"', b'"BOOL"', b'"F4"', b'"F6_E2M3"', b'"F31"', b"[]", b"{}", b"[0,0]",
          b"[0,4]", b"[1]", b"[2,2]", b"[0]", b"null", b"true", b"-1", b"-0", b"1.0", b"1e2", b"1e400", b"0", b"4", b"00",
          b"4294967296", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615",
          b"18446744073709551616", b'"\\u0000"', b'"\\ud800"', b'"\\ud83d\\ude00"', b"\xff", b"\xc3\xa9", b"\x00",
          b"\x7f", b"\xef\xbb\xbf", b",", b" ", b"\n", b"\t", b"[[[[[[[[", b"]]]]]]]]", b'"z":[{"q":2.5}],', b"NaN"]
NUMBER = re.compile(rb"\d+")
OFFSETS = re.compile(rb"(\d{1,6})\s*\]")


def replace_number(header, rng):
    numbers = list(NUMBER.finditer(header))
    if not numbers:
        return header
    match = rng.choice(numbers)
    number = int(match[0][:18])
    new = rng.choice([0, 1, number + 1, max(number - 1, 0), number * 2, number // 2, number + 4, rng.getrandbits(64)])
    return header[: match.start()] + str(new).encode() + header[match.end():]


def move_part(header, rng):
    parts = list(re.finditer(rb'"[^"]*":(?:\{[^{}]*\}|\[[^\[\]]*\]|"[^"]*"|[^,{}\[\]]+),?|"[^"]*",?|\d+,?', header))
    if not parts:
        return header
    part = rng.choice(parts)
    choice = rng.randrange(3)
    if choice == 0:
        return header[: part.start()] + header[part.end():]
    if choice == 1:
        return header[: part.end()] + part[0] + header[part.end():]
    other = rng.choice(parts)
    return header[: part.start()] + other[0] + header[part.end():]


def insert_token(header, rng):
    at = rng.randrange(len(header) + 1)
    removed = 0 if rng.random() < 0.5 else rng.randrange(12)
    return header[:at] + rng.choice(TOKENS) + header[at + removed:]


def change_byte(header, rng):
    if not header:
        return header
    at = rng.randrange(len(header))
    return header[:at] + bytes([header[at] ^ (1 << rng.randrange(8))]) + header[at + 1:]


def mutate(seed, rng):
    header_size = min(struct.unpack("<Q", seed[:8])[0], len(seed) - 8)
    header, data = seed[8: 8 + header_size], seed[8 + header_size:]
    for _ in range(rng.randrange(1, 4)):
        header = rng.choice([replace_number, replace_number, move_part, insert_token, change_byte])(header, rng)
    if rng.random() < 0.75:
        ends = OFFSETS.findall(header)
        size = min(max((int(end) for end in ends), default=0), 4096)
        data = data[:size] + bytes(rng.getrandbits(8) for _ in range(size - len(data)))
    elif rng.random() < 0.3:
        data = data[: rng.randrange(len(data) + 1)]
    size = len(header)
    if rng.random() < 0.05:
        size = max(size + rng.randrange(-3, 4), 0)
    file = struct.pack("<Q", size) + header + data
    return file[: rng.randrange(len(file) + 1)] if rng.random() < 0.02 else file


def reference(file):
    """Returns the line that the program should print: "ok", the number of tensors and a checksum of their content."""
    try:
        tensors = safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return "refused"
    checksum = 0
    for name, tensor in sorted((name.encode(), tensor) for name, tensor in tensors):
        data = bytes(tensor["data"])
        dtype = str(tensor["dtype"])
        if dtype == "BOOL":
            data = bytes(byte != 0 for byte in data)
        shape = ",".join(map(str, tensor["shape"]))
        checksum = zlib.crc32(b"%s\0%s\0%s\0" % (name, DTYPES.get(dtype, dtype).encode(), shape.encode()), checksum)
        checksum = zlib.crc32(data, checksum)
    return f"ok {len(tensors)} {checksum:08x}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[1] / "fuzz" / "corpus" / "safetensors")
    arguments = parser.parse_args()

    start = time.monotonic()
    rng = random.Random(arguments.seed)
    seeds = [path.read_bytes() for path in sorted(arguments.corpus.iterdir())]
    files = [seed for seed in seeds] + [mutate(rng.choice(seeds), rng) for _ in range(arguments.count - len(seeds))]
    made = time.monotonic()
    with tempfile.NamedTemporaryFile() as container:
        for file in files:
            container.write(struct.pack("<Q", len(file)) + file)
        container.flush()
        result = subprocess.run([str(arguments.program), container.name], stdout=subprocess.PIPE)
    found = result.stdout.decode().splitlines()
    if result.returncode != 0 or len(found) != len(files):
        print(f"{arguments.program} ended with {result.returncode} after {len(found)} of {len(files)} files")
        return 1
    read = time.monotonic()

    counts = collections.Counter()
    wrong = []
    for file, line in zip(files, found):
        expected = reference(file)
        verdict = line.split(" ", 1)[0]
        reason = next((why for part, why in STRICTER.items() if part in line), None)
        if expected == "refused" and verdict == "refused":
            counts["refused by both"] += 1
        elif expected == line:
            counts["read alike by both"] += 1
        elif expected != "refused" and verdict == "refused" and reason:
            counts[f"refused here only: {reason}"] += 1
        else:
            wrong.append((file, expected, line))
    for text, count in counts.most_common():
        print(f"{count:8,} {text}")
    for file, expected, line in wrong[:10]:
        print(f"DIFFERS: Python: {expected}; C++: {line}; file: {file[:400]!r}")
    print(f"{len(files):,} files, {len(wrong)} differ; made in {made - start:.1f} s, read by C++ in {read - made:.1f} s, "
          f"by Python safetensors {safetensors.__version__} in {time.monotonic() - read:.1f} s")
    # A run in which few files pass the parser would not test the reader.
    enough = counts["read alike by both"] * 20 > len(files) and counts["refused by both"] * 20 > len(files)
    if not enough:
        print("too few files were taken, or too few refused")
    return 1 if wrong or not enough else 0


if __name__ == "__main__":
    sys.exit(main())
