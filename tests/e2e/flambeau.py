"""What the end-to-end tests share: running the program, tiny models on disk, the models of the cache."""
import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

import gguf

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("FLAMBEAU_BUILD", "build")
PROGRAM = str(BUILD / "flambeau")
GOLDEN = ROOT / "tests" / "golden"

_folder = tempfile.TemporaryDirectory(prefix="flambeau-e2e-")
FOLDER = pathlib.Path(_folder.name)


def command(*args):
    return [PROGRAM, *map(str, args)]


PATIENCE = 180  # seconds until a test gives up: on a busy machine everything may be slow


def wait_for(happened):
    """Waits until happened() is true; whether it became so."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run(*args, stdin=b"", env=None, timeout=PATIENCE):
    """Runs flambeau; the result has returncode, stdout and stderr as bytes."""
    return subprocess.run(command(*args), input=stdin, capture_output=True, timeout=timeout,
                          env={**os.environ, **(env or {})}, check=False)


class Case(unittest.TestCase):
    maxDiff = 2000

    def ok(self, *args, **more):
        """Runs flambeau, which must succeed; its stdout."""
        result = run(*args, **more)
        self.assertEqual(result.returncode, 0, f"{args}: {result.stderr.decode(errors='replace')[-500:]}")
        return result.stdout

    def json(self, *args, **more):
        """The one JSON object that flambeau prints."""
        return json.loads(self.ok(*args, "--json", **more))

    def refused(self, code, words, *args, **more):
        """flambeau must end with code and one `error: ` line that has all words, and print nothing on stdout."""
        result = run(*args, **more)
        text = result.stderr.decode(errors="replace")
        self.assertEqual(result.returncode, code, f"{args}: {text[-500:]}")
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, text[-500:])
        self.assertEqual(result.stdout, b"")
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, errors[0])
        return errors[0]


_models = {}


def tiny(name="llama", **options):
    """The path of a tiny model, made once: "llama" or "gemma3"."""
    key = (name, *sorted(options.items()))
    if key not in _models:
        _models[key] = getattr(gguf, name)(**options).save(FOLDER / f"{name}-{len(_models)}.gguf")
    return _models[key]


_pulled = {}


def pulled(name):
    """Pulls a model of the catalogue into the user's cache; skips the test when it cannot be had here."""
    if name not in _pulled:
        result = run("pull", name, timeout=540)
        _pulled[name] = result.stdout.decode().strip() if result.returncode == 0 else None
        if result.returncode != 0:
            _pulled[name, "why"] = result.stderr.decode(errors="replace").strip().splitlines()[-1]
    if _pulled[name] is None:
        raise unittest.SkipTest(f"cannot pull {name}: {_pulled[name, 'why']}")
    return _pulled[name]


def golden(model):
    return json.loads((GOLDEN / "real" / model / "expect.json").read_text())


def ids_text(ids):
    return ",".join(map(str, ids))
