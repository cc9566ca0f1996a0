"""A test case for the programs that start with the folder of mnist_text_to_image."""
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from inputs import write_idx

TINY = ["--data_dir", "idx", "--train_batch_size", 8, "--eval_batch_size", 20, "--num_inference_steps", 2]


class DigitCase(unittest.TestCase):
    """Makes the folder `pipeline` with the program `text_to_image`, and runs `program` on it."""
    program = None
    text_to_image = None

    @classmethod
    def setUpClass(cls):
        root = tempfile.TemporaryDirectory()
        cls.addClassCleanup(root.cleanup)
        cls.folder = pathlib.Path(root.name)
        write_idx(cls.folder / "idx", 24)
        cls.run_words(cls.text_to_image, *TINY, "--resolution", 16, "--output_dir", "pipeline", "--vae_train_steps", 2,
                      "--max_train_steps", 2)  # fmt: skip

    @classmethod
    def run_words(cls, program, *words, code=0):
        result = subprocess.run([program, *map(str, words)], cwd=cls.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=600)
        assert result.returncode == code, result.stdout
        return result.stdout

    def train(self, out, *words, code=0):
        """Runs the program on the pipeline folder with small numbers, and returns its output."""
        return self.run_words(self.program, *TINY, "--pretrained_model_name_or_path", "pipeline", "--output_dir", out,
                              *words, code=code)  # fmt: skip

    @staticmethod
    def shares(text):
        """The lines with shares of samples."""
        return [line for line in text.splitlines() if " %" in line]

    def expect_mistakes(self, *attempts):
        """Runs the program with (flags, part of the message); later flags replace those of `train`."""
        for words, part in attempts:
            flags = [str(word) for word in words if str(word).startswith("--")]
            given = []
            for flag, value in (("--pretrained_model_name_or_path", "pipeline"), ("--data_dir", "idx")):
                if flag not in flags:
                    given += [flag, value]
            with self.subTest(words=words):
                self.assertIn(part, self.run_words(self.program, *given, "--output_dir", "none", *words, code=1))
        self.assertFalse((self.folder / "none").exists())

    def expect_same_training_after_a_resume(self, weights, *words):
        """Trains 4 steps at once, and 2 steps before and after a break; compares a file of the output folder."""
        words = [*words, "--max_train_steps", 4, "--checkpointing_steps", 2]
        whole = self.train("resumed", *words)
        expected = (self.folder / "resumed" / weights).read_bytes()
        shutil.rmtree(self.folder / "resumed/checkpoint-4")
        (self.folder / "resumed" / weights).unlink()
        resumed = self.train("resumed", *words, "--resume_from_checkpoint", "latest")
        self.assertEqual((self.folder / "resumed" / weights).read_bytes(), expected)
        # The same figures; the classifier of the first run is read again.
        self.assertEqual(self.shares(resumed), self.shares(whole))
        # A folder with a finished training is kept.
        self.assertIn("overwrite_output_dir", self.train("resumed", *words, code=1))
