"""A few seconds of each libFuzzer target of tests/fuzz/ over its corpus (docs/fuzzing.md has the long runs)."""
import os
import shutil
import subprocess
import tempfile
import unittest

from flambeau import ROOT

SECONDS = 6
NAMES = sorted(p.name.removesuffix("_fuzz.c") for p in (ROOT / "tests" / "fuzz").glob("*_fuzz.c"))
PROGRAMS = ROOT / "build" / "san-fuzzer-no-link-address-undefined" / "fuzz"


@unittest.skipUnless(shutil.which("clang"), "this machine has no clang")
class Fuzz(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        made = subprocess.run(["make", "-s", f"-j{os.cpu_count()}", "fuzz"], cwd=ROOT, capture_output=True, text=True,
                              timeout=400, check=False)
        if made.returncode != 0:
            raise AssertionError(made.stdout[-2000:] + made.stderr[-2000:])


def add(name):
    def test(self):
        with tempfile.TemporaryDirectory() as folder:
            seeds = ROOT / "tests" / "fuzz" / "corpus" / name
            self.assertTrue(list(seeds.iterdir()))
            result = subprocess.run([PROGRAMS / name, f"-max_total_time={SECONDS}", "-seed=1", "-timeout=30",
                                     f"-artifact_prefix={folder}/", folder, seeds], cwd=ROOT, capture_output=True,
                                    text=True, timeout=120, check=False)
            self.assertEqual(result.returncode, 0, result.stderr[-3000:])
            self.assertIn("Done ", result.stderr)

    setattr(Fuzz, f"test_{name}", test)


for _name in NAMES:
    add(_name)
