#!/usr/bin/env python3
"""Tests that skipped tests are reported: skips_test.py TEST_SKIPPING CTEST BUILD"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM, CTEST, BUILD = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
REASON = "skipping: Skipping.NeedsWhatIsNotThere: there is no moon; wait"


def run(command, **variables):
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("DIFFUSERS_SKIPS", "DIFFUSERS_REQUIRE_TOOLS")}
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**environment, **{key: str(value) for key, value in variables.items()}})
    return result.returncode, result.stdout


class Skips(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)

    def stub(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def test_a_brief_run_lists_its_skipped_tests(self):
        code, text = run([PROGRAM, "--gtest_brief=1"], DIFFUSERS_SKIPS=self.folder / "skips")
        self.assertEqual(code, 0, text)
        self.assertIn("1 test is skipped:\nSKIPPED: " + REASON, text)
        self.assertEqual((self.folder / "skips/skipping.txt").read_text(), REASON + "\n")

    def test_a_run_of_skipped_tests_alone_has_its_own_exit_status(self):
        flags = dict(DIFFUSERS_SKIPS=self.folder / "skips", DIFFUSERS_SKIP_CODE=77)
        for expected, chosen in ((0, "*"), (77, "*.NeedsWhatIsNotThere"), (0, "*.Runs"), (1, "*.Nothing")):
            code, text = run([PROGRAM, "--gtest_brief=1", "--gtest_filter=" + chosen], **flags)
            self.assertEqual(code, expected, text)
        self.assertEqual((self.folder / "skips/skipping.txt").read_text(), REASON + "\n")

    def test_ctest_lists_them_after_its_summary(self):
        build = self.folder / "build"
        build.mkdir()
        # The file of this build, changed for another build. BUILD may be a link.
        custom = (pathlib.Path(BUILD) / "CTestCustom.cmake").read_text().replace(BUILD, str(build))
        self.assertIn(str(build), custom)
        (build / "CTestCustom.cmake").write_text(custom)
        script = f"import sys; sys.path.insert(0, {str(ROOT / 'tests/support')!r}); import skips; " \
                 "sys.exit(skips.skip('whole', 'nothing is there', tool_is_missing=True))"
        (build / "script.py").write_text(script)
        (build / "CTestTestfile.cmake").write_text(
            f'add_test(skipping "{PROGRAM}" "--gtest_brief=1")\n'
            f'add_test(whole "{sys.executable}" "{build}/script.py")\n'
            'set_tests_properties(whole PROPERTIES SKIP_RETURN_CODE 77)\n')
        for _ in range(2):  # files of an earlier run are not listed again
            code, text = run([CTEST, "--test-dir", build])
            self.assertEqual(code, 0, text)
            self.assertIn("100% tests passed, 0 tests failed out of 2", text)
            self.assertIn("whole (Skipped)", text)
            self.assertEqual(text.count("  skipped: "), 2, text)
            after = text[text.index("Total Test time"):]
            self.assertIn("Skipped, with the reason (2):", after)
            self.assertIn("  skipped: " + REASON, after)
            self.assertIn("  skipped: whole: nothing is there", after)
        code, text = run([CTEST, "--test-dir", build], DIFFUSERS_REQUIRE_TOOLS=1)
        self.assertNotEqual(code, 0, text)
        self.assertIn("50% tests passed, 1 tests failed out of 2", text)

    def test_missing_tools_are_skips_and_failures_where_they_are_required(self):
        empty = self.folder / "bin"
        empty.mkdir()
        commands = [[ROOT / "cmake/check_style.py"], [ROOT / "cmake/run_clang_tidy.py", "--build", self.folder],
                    [ROOT / "tests/fuzz/run.py", "--program", self.folder / "none_fuzz", self.folder]]  # fmt: skip
        for command in commands:
            code, text = run([sys.executable, *command], PATH=empty)
            self.assertEqual(code, 77, text)
            self.assertIn("SKIPPED: ", text)
            code, text = run([sys.executable, *command], PATH=empty, DIFFUSERS_REQUIRE_TOOLS=1)
            self.assertEqual(code, 1, text)
            self.assertIn("FAILED: ", text)

    def test_the_gate_ends_where_packages_cannot_be_installed(self):
        self.stub("id", "echo 0\n")
        self.stub("dpkg-query", "exit 1\n")
        self.stub("apt-get", "echo there is no network; exit 100\n")
        self.stub("cmake", f"touch {self.folder}/cmake_ran\n")
        code, text = run([ROOT / ".ci/run"], PATH=f"{self.folder}/bin:{os.environ['PATH']}")
        self.assertEqual(code, 1, text)
        self.assertIn("Could not install: ", text)
        self.assertFalse((self.folder / "cmake_ran").exists(), text)

    def test_the_gate_fails_where_a_step_is_skipped(self):
        # A copy, whose steps find a cmake and a python3 that skip all tests.
        (self.folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci/run", self.folder / ".ci/run")
        self.stub("id", "echo 1000\n")
        for tool in ("cmake", "python3"):
            self.stub(tool, 'echo "  skipped: some.test: a reason"; [ "$DIFFUSERS_REQUIRE_TOOLS" = 1 ] && exit 77\n')
        code, text = run([self.folder / ".ci/run"], PATH=f"{self.folder}/bin:{os.environ['PATH']}")
        self.assertEqual(code, 1, text)
        self.assertIn("FAILED: test fuzz docs tidy", text)
        self.assertIn("skipped: some.test: a reason", text[text.index("== Summary"):])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
