#!/usr/bin/env python3
"""Reads the files of the C++ program interop_observability with TensorBoard, a JSON reader and a browser.

    observability.py --program interop_observability [--keep DIR]
"""
import argparse
import html.parser
import io
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy
import safetensors.numpy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import skips

CHARTS = ["chart-loss", "chart-learning-rate", "chart-gradient-norm", "chart-images-per-second", "chart-timestep-bins",
          "chart-timestep-bins-over-steps"]
# The colours of the two loss curves on a light page.
TRAINING, VALIDATION = (0x00, 0x72, 0xb2), (0xd5, 0x5e, 0x00)
failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print(f"failed: {what}")


def loss_at(step):
    noise = 0.12 * math.sin(step * 0.9) + 0.08 * math.sin(step * 0.37)
    return (0.03 + 0.9 * math.exp(-step / 90)) * (1 + noise)


def check_events(folder):
    events = EventAccumulator(str(folder / "logs"), size_guidance={name: 0 for name in (
        "scalars", "images", "histograms", "tensors")})
    events.Reload()
    tags = events.Tags()
    check(sorted(tags["scalars"]) == ["train/interrupted", "train/loss", "train/lr", "validation/loss"],
          f"scalar tags {tags['scalars']}")
    steps = list(range(10, 1001, 10))
    points = events.Scalars("train/loss")
    check([point.step for point in points] == steps, "each step once, after the resume")
    check(all(numpy.float32(loss_at(point.step)) == numpy.float32(point.value) for point in points), "losses")
    check([point.step for point in events.Scalars("validation/loss")] == list(range(100, 1001, 100)), "validations")
    check(events.Scalars("train/interrupted") == [], "what came after the checkpoint is purged")

    check(sorted(tags["images"]) == ["gray", "samples"], f"image tags {tags['images']}")
    images = events.Images("samples")
    check([image.step for image in images] == list(range(100, 1001, 100)), "steps of the images")
    for image in images:
        found = numpy.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        expected = numpy.asarray(Image.open(folder / f"samples-{image.step}.png"))
        check(found.shape == (122, 122, 3) and (found == expected).all(), f"image of step {image.step}")
        check((image.height, image.width) == found.shape[:2], "size of the image")
    gray = events.Images("gray")[0]
    picture = Image.open(io.BytesIO(gray.encoded_image_string))
    check((gray.step, gray.width, gray.height, picture.mode) == (3, 5, 4, "L"), "the gray image")
    values = numpy.rint(numpy.linspace(0, 1, 20, dtype=numpy.float32) * 255)
    check((numpy.asarray(picture).reshape(-1) == values).all(), "pixels of the gray image")

    histograms = events.Histograms("weights/conv_in")
    check([entry.step for entry in histograms] == list(range(100, 1001, 100)), "steps of the histograms")
    weights = safetensors.numpy.load_file(folder / "histogram.safetensors")["conv_in"].astype(numpy.float64).ravel()
    last = histograms[-1].histogram_value
    check((last.min, last.max, last.num) == (weights.min(), weights.max(), weights.size), "range of the histogram")
    check(math.isclose(last.sum, weights.sum(), rel_tol=1e-9), "sum of the histogram")
    check(math.isclose(last.sum_squares, (weights ** 2).sum(), rel_tol=1e-9), "squares of the histogram")
    counts, edges = numpy.histogram(weights, bins=64, range=(weights.min(), weights.max()))
    check(numpy.allclose(last.bucket_limit, edges[1:], rtol=0, atol=1e-12), "edges of the histogram")
    check(list(last.bucket) == list(counts), "counts of the histogram")

    check(tags["tensors"] == ["configuration"], f"tensor tags {tags['tensors']}")
    check(events.SummaryMetadata("configuration").plugin_data.plugin_name == "text", "plugin of the text")
    text = tensor_util.make_ndarray(events.Tensors("configuration")[0].tensor_proto).item().decode()
    check(text.endswith("| learning_rate | 1e-3 (**größte**) |"), f"text {text!r}")


def check_torn(folder):
    """Checks that a file which ends inside a record, as after a crash, is read up to that record."""
    torn = folder / "torn"
    torn.mkdir()
    first = sorted((folder / "logs").iterdir())[0]
    (torn / first.name).write_bytes(first.read_bytes()[:-7])
    events = EventAccumulator(str(torn), size_guidance={"scalars": 0})
    events.Reload()
    check([point.step for point in events.Scalars("train/loss")] == list(range(10, 601, 10)), "a torn file")
    check("gray" not in events.Tags()["images"], "the torn record")


def check_metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "loss" in row]
    check([row["step"] for row in training] == list(range(10, 1001, 10)), "steps in metrics.jsonl")
    check(all(math.isclose(row["loss"], loss_at(row["step"]), rel_tol=1e-8) for row in training), "its losses")
    check(all(row["memory_bytes"] > 2**20 for row in training), "its memory")
    validations = [row for row in rows if "validation_loss" in row]
    check([row["step"] for row in validations] == list(range(100, 1001, 100)), "its validations")
    check(all(math.isclose(sum(row["validation_bin_losses"]) / 10, row["validation_loss"], rel_tol=1e-8)
              for row in validations), "its losses by timestep")
    table = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    check([int(row[0]) for row in table[1:]] == [row["step"] for row in training], "steps in metrics.csv")


class Page(html.parser.HTMLParser):
    """Collects the paths of each chart, the texts, and all attributes with a resource to load."""

    def __init__(self):
        super().__init__()
        self.chart, self.paths, self.text, self.loads = None, {}, "", []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "svg":
            self.chart = attributes.get("id")
            self.paths[self.chart] = []
        if tag == "path" and self.chart:
            self.paths[self.chart].append(attributes.get("d", ""))
        self.loads += [value for key, value in attributes.items() if key in ("src", "href", "srcset")]

    def handle_endtag(self, tag):
        if tag == "svg":
            self.chart = None

    def handle_data(self, data):
        self.text += data


def run_browser(browser, folder, *arguments):
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
               f"--user-data-dir={folder / 'browser'}", *arguments, (folder / "report.html").as_uri()]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=600, check=True).stdout


def pixels_of(pixels, color):
    """Counts the pixels of a colour. The colours of bars and lines by timestep differ by at least 20."""
    return (numpy.abs(pixels.astype(int) - color) < 15).all(axis=-1).sum()


def check_report(folder):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        code = skips.skip("interop.observability", "the report is not looked at, there is no Chromium (Debian: apt-get "
                          "install chromium)", tool_is_missing=True)
        check(code == skips.SKIPPED, "there is a browser")
        return
    page = Page()
    page.feed(run_browser(browser, folder, "--dump-dom").decode())
    for name in CHARTS:
        # The path of a curve or a bar has more than two points; the path of an axis has two.
        drawn = [path for path in page.paths.get(name, []) if len(re.findall(r"[MLHV]", path)) > 3]
        check(drawn, f"{name} has a path with points")
    check(any(path.count("L") == 99 for path in page.paths["chart-loss"]), "the loss curve has 100 points")
    check(page.loads and all(value.startswith("data:image/png;base64,") for value in page.loads), "loads only itself")
    check(len(page.loads) == 10, "ten pictures")
    for text in ("UNet2DModel <28 x 28> & friends", "ema.power", "AttnDownBlock2D", "Least validation loss"):
        check(text in page.text, f"the page says {text!r}")

    screenshot = folder / "report.png"
    run_browser(browser, folder, f"--screenshot={screenshot}", "--window-size=1200,2600")
    pixels = numpy.asarray(Image.open(screenshot).convert("RGB"))
    # The left half of the page shows the loss above the gradient norm. The legend takes 50 pixels.
    training, validation = (pixels_of(pixels[:, :600], color) for color in (TRAINING, VALIDATION))
    check(training > 1000, f"the training curves are drawn, {training} pixels")
    check(validation > 300, f"the validation curve is drawn, {validation} pixels")
    dark = folder / "report-dark.png"
    run_browser(browser, folder, f"--screenshot={dark}", "--window-size=1200,2600",
                "--blink-settings=preferredColorScheme=0")
    check(numpy.asarray(Image.open(dark).convert("L"))[:20].mean() < 64, "the page is dark where the system is")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--keep", type=pathlib.Path, help="a new folder that stays, to look at")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([arguments.program, str(folder)], check=True)
        check_events(folder)
        check_torn(folder)
        check_metrics(folder)
        check_report(folder)
    print("failed: " + "; ".join(failures) if failures else "TensorBoard, JSON and the browser see what was written")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
