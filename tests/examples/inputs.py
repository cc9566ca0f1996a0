"""Small images, IDX files and model configs for the tests of the training programs."""
import json
import shutil
import struct
import tarfile
import zlib


def write_png(path, shade, gray=None, height=10):
    """Writes a picture of 10 x 10 pixels, or of another height: a pattern, or one gray level."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def level(x, y):
        return (x * y + shade) % 256 if gray is None else gray

    rows = b"".join(b"\0" + bytes(level(x, y) for x in range(10) for _ in range(3)) for y in range(height))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 10, height, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_idx(folder, count):
    folder.mkdir()
    for name in ("train", "t10k"):
        pixels = bytes((i * 7 + i // 64) % 256 for i in range(count * 64))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 8, 8) + pixels)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) +
                                                           bytes(i % 10 for i in range(count)))


def write_config(path, channels, classes="null"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"""{{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": {channels}, "out_channels": {channels},
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [8],
        "layers_per_block": 1, "norm_num_groups": 2, "num_class_embeds": {classes}}}""")


def make_inputs(folder):
    write_idx(folder / "idx", 12)
    for i in range(12):
        write_png(folder / f"classes/{'ab'[i % 2]}/{i}.png", 9 * i)
        write_png(folder / f"flat/{i}.png", 9 * i)
    write_config(folder / "gray/config.json", 1)
    write_config(folder / "color/config.json", 3)
    write_config(folder / "gray_classes/config.json", 1, 11)
    write_config(folder / "color_classes/config.json", 3, 3)


def make_captioned_pictures(folder, columns=("text",), count=8):
    """Pictures with a metadata.jsonl: captions, and conditioning images or masks where columns name them."""
    rows = []
    for i in range(count):
        write_png(folder / f"{i}.png", 9 * i)
        row = {"file_name": f"{i}.png"}
        for column in columns:
            if column == "text":
                row[column] = ["a red cat", "a blue dog"][i % 2]
            else:
                row[column] = f"{column}/{i}.png"
                write_png(folder / row[column], 5 * i)
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def make_shards(folder, shards=2, count=6):
    """Writes the shards s-0.tar, s-1.tar, ... of a WebDataset: pictures with captions and class labels."""
    folder.mkdir()
    for shard in range(shards):
        files = folder / f"files-{shard}"
        for i in range(count):
            write_png(files / f"{i}.png", 9 * i + shard)
            (files / f"{i}.txt").write_text(["a red cat", "a blue dog"][i % 2])
            (files / f"{i}.cls").write_text(str(i % 3))
        with tarfile.open(folder / f"s-{shard}.tar", "w") as archive:
            for path in sorted(files.iterdir()):
                archive.add(path, path.name)


def make_mixed_pictures(folder):
    """Pictures of two aspect ratios."""
    for i in range(8):
        write_png(folder / f"{i}.png", 9 * i, height=10 if i % 2 else 20)


def read_weights(path):
    """Returns the header of a safetensors file without its metadata, and the data."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    header.pop("__metadata__", None)
    return header, content[8 + size:]


def make_inpainting_folder(model, folder):
    """Copies a pipeline folder and gives the UNet the 9 input channels of inpainting, with small new weights."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "unet/config.json").read_text())
    before = config["in_channels"]
    config["in_channels"] = 2 * before + 1
    (folder / "unet/config.json").write_text(json.dumps(config))
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    header, data = read_weights(path)
    parts, offset = [], 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part = data[begin:end]
        if name == "conv_in.weight":
            out, _, height, width = entry["shape"]
            row = before * height * width * 4
            added = struct.pack("<f", 0.05) * ((before + 1) * height * width)
            part = b"".join(part[i * row:(i + 1) * row] + added for i in range(out))
            entry["shape"][1] = 2 * before + 1
        entry["data_offsets"] = [offset, offset + len(part)]
        offset += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return folder
