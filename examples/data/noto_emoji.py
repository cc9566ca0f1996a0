"""Makes an image folder of the 1,794 Noto emoji of Debian's package `ruby-tanuki-emoji`, with their names as captions.

    apt-get download ruby-tanuki-emoji && dpkg -x ruby-tanuki-emoji_*.deb emoji-package
    python3 examples/data/noto_emoji.py emoji-package out/emoji

The images are licensed under the Apache License 2.0 (Noto Emoji). The script needs Pillow. It writes OUTPUT/train and
OUTPUT/test, which holds every tenth emoji: PNG files on a white ground and metadata.jsonl with the columns `file_name` and
`text`, such as "grinning face".
"""
import argparse
import json
import pathlib
import re
import sys

from PIL import Image

PICTURES = "**/images/tanuki_emoji/*.png"
NAMES = "**/vendor/unicode/emoji-test.txt"
HELD_OUT = 10  # one of so many
VARIATION_SELECTOR = "fe0f"
SKIN_TONE = "_1f3f[b-f]"


def read_names(text):
    """Returns the names by code points, such as {"1f600": "grinning face"}, of Unicode's emoji-test.txt."""
    names = {}
    for points, name in re.findall(r"^([0-9A-F ]+?) *; [a-z-]+ *# \S+ E[0-9.]+ (.+)$", text, re.MULTILINE):
        names["_".join(point for point in points.lower().split() if point != VARIATION_SELECTOR)] = name
    return names


def code_points(stem):
    """Returns the code points of a picture: of emoji_u1f600, or of the flag US, whose letters are regional indicators."""
    if re.fullmatch("[A-Z]{2}", stem):
        return "_".join(f"{0x1F1E6 + ord(letter) - ord('A'):x}" for letter in stem)
    return "_".join(point for point in stem.removeprefix("emoji_u").split("_") if point != VARIATION_SELECTOR)


def name_of(stem, names):
    points = code_points(stem)
    name = names.get(points) or names.get(re.sub(SKIN_TONE, "", points))  # the list lacks a few skin tones
    if name is None:
        sys.exit(f"{stem}.png: the list of names has no entry for {points}")
    return name


def on_white(picture, size):
    picture = picture.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=pathlib.Path, help="folder of the unpacked package; / if it is installed")
    parser.add_argument("output", type=pathlib.Path, help="new folder")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    arguments = parser.parse_args()
    root = arguments.package / "usr/share/rubygems-integration"
    pictures, names = sorted(root.glob(PICTURES)), sorted(root.glob(NAMES))
    if not pictures or not names:
        sys.exit(f"{root}: expected the files {PICTURES} and {NAMES} of the package ruby-tanuki-emoji")
    if arguments.output.exists():
        sys.exit(f"{arguments.output} exists; expected a new folder")
    names = read_names(names[0].read_text(encoding="utf-8"))
    captions = [name_of(path.stem, names) for path in pictures]
    lines = {"train": [], "test": []}
    for index, (path, caption) in enumerate(zip(pictures, captions)):
        part = "train" if index % HELD_OUT else "test"
        folder = arguments.output / part
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            on_white(picture, arguments.size).save(folder / path.name)
        lines[part].append(json.dumps({"file_name": path.name, "text": caption}))
    for part, entries in lines.items():
        (arguments.output / part / "metadata.jsonl").write_text("\n".join(entries) + "\n", encoding="utf-8")
        print(f"{arguments.output / part}: {len(entries)} images")


if __name__ == "__main__":
    main()
