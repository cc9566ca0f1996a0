"""Golden images of Pillow's filters, which the flag --image_interpolation_mode of diffusers' scripts names.

    python tests/reference/image_interpolation.py --out tests/golden

makes image_interpolation.safetensors: an image, and its sizes after Resize and after CenterCrop for each filter.
"""

import argparse
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

# torchvision.transforms.functional: the filter of an image of Pillow for each InterpolationMode.
MODES = {"nearest": Image.NEAREST, "nearest_exact": Image.NEAREST, "bicubic": Image.BICUBIC, "box": Image.BOX,
         "hamming": Image.HAMMING, "lanczos": Image.LANCZOS}  # fmt: skip
SIZES = [(16, 11), (31, 22), (37, 40), (64, 91), (37, 53), (5, 7)]  # height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randint(0, 256, (37, 53, 3), generator=generator, dtype=torch.uint8)
    # Half of the pixels are extreme, so that the filters overshoot.
    extreme = torch.rand(37, 53, 1, generator=generator) < 0.5
    pixels = torch.where(extreme, (noise > 127) * 255, noise).to(torch.uint8)
    tensors = {"image": pixels.permute(2, 0, 1).contiguous()}
    image = Image.fromarray(pixels.numpy())
    for mode, filter in MODES.items():
        for height, width in SIZES:
            resized = torch.from_numpy(numpy.array(image.resize((width, height), filter)))
            tensors[f"{mode}/{height}x{width}"] = resized.permute(2, 0, 1).contiguous()
    save_file(tensors, out / "image_interpolation.safetensors")


if __name__ == "__main__":
    main()
