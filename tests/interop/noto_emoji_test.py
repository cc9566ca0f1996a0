"""examples/data/noto_emoji.py on a package with a few pictures: noto_emoji_test.py"""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "examples/data/noto_emoji.py"
NAMES = """# group: Smileys & Emotion
1F600                  ; fully-qualified     # \U0001F600 E1.0 grinning face
263A FE0F              ; fully-qualified     # \u263A E0.6 smiling face
1F91D                  ; fully-qualified     # \U0001F91D E3.0 handshake
1F1E8 1F1ED            ; fully-qualified     # \U0001F1E8\U0001F1ED E2.0 flag: Switzerland
"""


class NotoEmoji(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.root = Path(root.name)
        gem = self.root / "package/usr/share/rubygems-integration/all/gems/tanuki_emoji-1"
        self.pictures = gem / "app/assets/images/tanuki_emoji"
        self.pictures.mkdir(parents=True)
        (gem / "vendor/unicode").mkdir(parents=True)
        (gem / "vendor/unicode/emoji-test.txt").write_text(NAMES, encoding="utf-8")

    def draw(self, *names):
        for name in names:
            picture = Image.new("RGBA", (72, 72), (10, 20, 30, 0))
            picture.paste((255, 0, 0, 255), (36, 0, 72, 72))
            picture.save(self.pictures / name)

    def run_script(self, package="package"):
        words = [sys.executable, str(SCRIPT), str(self.root / package), str(self.root / "out")]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_writes_pictures_on_white_with_their_names(self):
        self.draw("CH.png", "emoji_u1f600.png", "emoji_u263a.png", "emoji_u1f91d_1f3fb.png")
        result = self.run_script()
        self.assertEqual(result.returncode, 0, result.stdout)
        found = {}
        for part, count in (("train", 3), ("test", 1)):
            lines = (self.root / "out" / part / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
            self.assertEqual(len(lines), count)
            for line in lines:
                entry = json.loads(line)
                found[entry["file_name"]] = entry["text"]
                with Image.open(self.root / "out" / part / entry["file_name"]) as picture:
                    self.assertEqual((picture.mode, picture.size), ("RGB", (64, 64)))
                    self.assertEqual(picture.getpixel((5, 5)), (255, 255, 255))
                    self.assertEqual(picture.getpixel((58, 5)), (255, 0, 0))
        self.assertEqual(found, {"CH.png": "flag: Switzerland", "emoji_u1f600.png": "grinning face",
                                 "emoji_u263a.png": "smiling face", "emoji_u1f91d_1f3fb.png": "handshake"})

    def test_refuses_an_existing_folder_and_a_package_without_pictures(self):
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn("of the package ruby-tanuki-emoji", result.stdout)
        self.draw("emoji_u1f600.png")
        (self.root / "out").mkdir()
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn("exists; expected a new folder", result.stdout)

    def test_names_a_picture_without_a_name(self):
        self.draw("emoji_u1f601.png")
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn("emoji_u1f601.png: the list of names has no entry for 1f601", result.stdout)


if __name__ == "__main__":
    unittest.main()
