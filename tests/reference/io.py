"""Golden files of the io and data folders, written and read by Python's safetensors, Pillow, torch and diffusers.

    python tests/reference/io.py --out tests/golden

makes io.safetensors (tensors and expected pixels), io_dtypes.safetensors (one tensor per dtype), and the folder io/ with
images and a sharded model folder.
"""

import argparse
import io
import json
import pathlib
import shutil
import struct
import zlib

import numpy
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import save_file

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.int16, torch.uint16, torch.float16, torch.bfloat16,
    torch.int32, torch.uint32, torch.float32, torch.complex64, torch.float64, torch.int64, torch.uint64,
]  # fmt: skip


def picture(width: int, height: int, seed: int) -> numpy.ndarray:
    """Returns smooth colours with some noise, uint8 [height, width, 3]."""
    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    waves = [numpy.sin(x / (3 + c) + seed) + numpy.cos(y / (4 + c) - c) for c in range(3)]
    noise = random.normal(0, 12, (height, width, 3))
    return numpy.clip(128 + 55 * numpy.stack(waves, -1) + noise, 0, 255).astype(numpy.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(color: int, depth: int, rows, width: int, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """Makes a PNG file from packed rows, for the formats that Pillow does not write. `rows(x0, y0, dx, dy)` returns the rows of
    a pass."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = [line for step in (passes if interlaced else [(0, 0, 1, 1)]) for line in rows(*step)]
    height = len(rows(0, 0, 1, 1))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def array_rows(array: numpy.ndarray):
    """Packs rows of whole bytes, big-endian."""

    def rows(x0, y0, dx, dy):
        part = array[y0::dy, x0::dx]
        return [line.astype(array.dtype.newbyteorder(">")).tobytes() for line in part] if part.size else []

    return rows


def packed_rows(array: numpy.ndarray, depth: int):
    """Packs rows of values of 1, 2 or 4 bits."""

    def rows(x0, y0, dx, dy):
        part = array[y0::dy, x0::dx]
        bits = (part[..., None] >> numpy.arange(depth - 1, -1, -1)) & 1
        return [numpy.packbits(line.reshape(-1)).tobytes() for line in bits] if part.size else []

    return rows


def turned_exif(orientation: int) -> bytes:
    """Returns the TIFF part of an EXIF segment with only tag 274, big-endian."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


def odd_jpegs(rgb: bytes, cmyk: bytes) -> dict[str, bytes]:
    """Makes files for which libjpeg prints a warning although their pixels are complete."""
    scan = rgb.index(b"\xff\xda")
    end_of_spectrum = scan + 4 + 1 + 2 * rgb[scan + 4] + 1
    tables = rgb.index(b"\xff\xdb")
    jfif = rgb.index(b"JFIF\0") + 5
    adobe = cmyk.index(b"Adobe") + 11
    return {
        "odd_scan.jpg": rgb[:end_of_spectrum] + b"\0" + rgb[end_of_spectrum + 1:],
        "odd_gap.jpg": rgb[:tables] + b"12345" + rgb[tables:],
        "odd_jfif.jpg": rgb[:jfif] + b"\x07" + rgb[jfif + 1:],
        "odd_adobe.jpg": cmyk[:adobe] + b"\x09" + cmyk[adobe + 1:],
    }  # fmt: skip


def write_images(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """Makes small images of every format, and their pixels as Pillow decodes them."""
    color = picture(21, 13, 0)
    gray = color[..., 0]
    alpha = picture(21, 13, 1)[..., :1]
    wide = color.astype(numpy.uint16) * 257 + numpy.arange(21, dtype=numpy.uint16)[None, :, None]
    palette = Image.fromarray(color).quantize(16)
    files: dict[str, bytes] = {}

    def pillow(name: str, image: Image.Image, **options):
        out = io.BytesIO()
        image.save(out, "PNG" if name.endswith("png") else "JPEG", **options)
        files[name] = out.getvalue()

    pillow("gray.png", Image.fromarray(gray))
    pillow("rgb.png", Image.fromarray(color))
    pillow("rgba.png", Image.fromarray(numpy.concatenate([color, alpha], -1)))
    pillow("gray_alpha.png", Image.fromarray(numpy.concatenate([gray[..., None], alpha], -1), "LA"))
    pillow("palette.png", palette)
    pillow("palette_transparent.png", palette, transparency=3)
    pillow("one_bit.png", Image.fromarray(gray > 128))
    files["two_bits.png"] = png_bytes(0, 2, packed_rows(gray >> 6, 2), 21)
    files["four_bits.png"] = png_bytes(0, 4, packed_rows(gray >> 4, 4), 21)
    files["gray_interlaced.png"] = png_bytes(0, 8, array_rows(gray), 21, interlaced=True)
    files["rgb_interlaced.png"] = png_bytes(2, 8, array_rows(color), 21, interlaced=True)
    files["rgb_16.png"] = png_bytes(2, 16, array_rows(wide), 21)
    files["gray_16.png"] = png_bytes(0, 16, array_rows(wide[..., 0]), 21)
    pillow("gray.jpg", Image.fromarray(gray), quality=90)
    pillow("rgb.jpg", Image.fromarray(color), quality=90)
    pillow("rgb_444.jpg", Image.fromarray(color), quality=95, subsampling=0)
    pillow("rgb_progressive.jpg", Image.fromarray(color), quality=85, progressive=True)
    pillow("cmyk.jpg", Image.fromarray(numpy.concatenate([color, alpha], -1), "CMYK"), quality=95)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        pillow(f"turned_{orientation}.jpg", Image.fromarray(color), quality=90, exif=exif)
        pillow(f"turned_{orientation}.png", Image.fromarray(color), exif=exif)
    # The chunk may also follow the pixels.
    late = files["rgb.png"]
    files["turned_late.png"] = late[:-12] + chunk(b"eXIf", turned_exif(6)) + late[-12:]
    files |= odd_jpegs(files["rgb.jpg"], files["cmyk.jpg"])

    from PIL import ImageOps

    expected = {}
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        image = Image.open(io.BytesIO(data))
        rgb = numpy.array(image.convert("RGB"))
        if name == "gray_16.png":  # Pillow clips at 255 instead of scaling
            rgb = numpy.repeat((wide[..., :1] >> 8).astype(numpy.uint8), 3, -1)
        expected[f"rgb/{name}"] = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
        expected[f"gray/{name}"] = torch.from_numpy(numpy.array(Image.fromarray(rgb).convert("L")))[None]
        if name.startswith("turned"):
            upright = numpy.array(ImageOps.exif_transpose(image))
            expected[f"upright/{name}"] = torch.from_numpy(upright).permute(2, 0, 1).contiguous()
    return expected


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """torchvision.transforms.v2.functional.resize(image, antialias=True) on uint8 [C, H, W]."""
    batch = image[None]
    return torch.nn.functional.interpolate(batch, (height, width), mode="bilinear", align_corners=False, antialias=True)[0]


def transforms() -> dict[str, torch.Tensor]:
    """Resize, centre crop and normalization, as diffusers' train_unconditional chains them."""
    out = {}
    for i, (width, height, resolution) in enumerate([(37, 53, 16), (53, 37, 16), (20, 20, 31), (50, 21, 21), (16, 16, 16)]):
        image = torch.from_numpy(picture(width, height, 10 + i)).permute(2, 0, 1).contiguous()
        longer = int(resolution * max(height, width) / min(height, width))
        size = (resolution, longer) if height <= width else (longer, resolution)
        small = resized(image, *size)
        top, left = round((size[0] - resolution) / 2.0), round((size[1] - resolution) / 2.0)
        crop = small[:, top : top + resolution, left : left + resolution]
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], Image.BILINEAR)
        out[f"transform/{i}/image"] = image
        out[f"transform/{i}/resized"] = small
        out[f"transform/{i}/pillow"] = torch.from_numpy(numpy.array(pillow)).permute(2, 0, 1).contiguous()
        out[f"transform/{i}/result"] = (crop.float() / 255 - 0.5) / 0.5
    return out


def dtype_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        if dtype == torch.bool:
            value = torch.rand(3, 2, generator=generator) > 0.5
        elif dtype.is_complex:
            value = torch.randn(3, 2, generator=generator, dtype=dtype)
        elif dtype.is_floating_point:
            value = torch.randn(3, 2, generator=generator).to(dtype)
        else:
            value = torch.randint(0, 100, (3, 2), generator=generator).to(dtype)
        tensors[f"{name}.b"] = value
        tensors[f"{name}.a"] = value[:1].clone()
    tensors["float4"] = torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 4)
    tensors['na"me \\ \n \x7f \u00e9 \U0001f600'] = torch.tensor([1.0])
    return tensors


def random_numbers() -> dict[str, torch.Tensor]:
    """Draws numbers from a CPU generator."""
    out = {}
    for seed in (0, 1234, 2**63 + 5):
        generator = torch.Generator().manual_seed(seed)
        out[f"random/{seed}/randn"] = torch.randn(3, 7, generator=generator)
        out[f"random/{seed}/rand"] = torch.rand(5, generator=generator)
        out[f"random/{seed}/randint"] = torch.randint(0, 1000, (9,), generator=generator)
        out[f"random/{seed}/half"] = torch.randn(20, generator=generator, dtype=torch.float16)
        out[f"random/{seed}/many"] = torch.randn(40, generator=generator)
    torch.manual_seed(7)
    out["random/global"] = torch.randn(6)
    return out


def sharded_folder(folder: pathlib.Path) -> list[str]:
    """Saves a tiny model with diffusers, in one file and in shards. Returns the order of its state dict."""
    torch.manual_seed(0)
    model = UNet2DModel(sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4,),
                        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=2,
                        add_attention=False)  # fmt: skip
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="5KB")
    model.save_pretrained(folder / "shards", max_shard_size="5KB", variant="fp16")
    return list(model.state_dict())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "io", ignore_errors=True)
    golden = write_images(out / "io" / "images") | transforms() | random_numbers()
    order = sharded_folder(out / "io")
    save_file(golden, out / "io.safetensors", metadata={"state_dict_order": json.dumps(order)})
    save_file(dtype_tensors(), out / "io_dtypes.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
