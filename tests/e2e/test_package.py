"""The repository as a newcomer gets it: the example, the tarball, what is installed."""
import os
import pathlib
import re
import subprocess
import tarfile
import tempfile

from flambeau import BUILD, PATIENCE, ROOT, Case, tiny


def make(*args):
    return subprocess.run(["make", "-s", *args], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


class Package(Case):
    def test_hello(self):
        lines = (ROOT / "examples" / "hello.c").read_text().splitlines()
        self.assertLessEqual(len(lines), 40)
        self.assertEqual([i for i in lines if i.startswith('#include "')], ['#include "flambeau.h"'])
        result = subprocess.run([BUILD / "hello", tiny("gemma3"), "hello"], capture_output=True, timeout=PATIENCE, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        greedy = self.json("run", tiny("gemma3"), "hello", "--raw", "--temperature", "0", "-n", "32")
        self.assertEqual(result.stdout.decode(errors="replace").rstrip("\n"), greedy["text"].rstrip("\n"))
        result = subprocess.run([BUILD / "hello", "/nowhere.gguf", "hello"], capture_output=True, timeout=PATIENCE, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"error: ", result.stderr)

    def test_dist(self):
        result = make("dist")
        self.assertEqual(result.returncode, 0, result.stderr)
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(ROOT / result.stdout.strip().splitlines()[-1]) as tar:
                tar.extractall(folder)
            (tree,) = pathlib.Path(folder).iterdir()
            names = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()}
            self.assertLessEqual({"bin/flambeau", "lib/libflambeau.a", "lib/libflambeau.so", "include/flambeau.h",
                                  "include/fl_err.h", "examples/hello.c", "README.md", "LICENSE"}, names)
            version = subprocess.run([tree / "bin/flambeau", "--version"], capture_output=True, text=True, check=True)
            self.assertEqual(version.stdout, self.ok("--version").decode())
            hello = tree / "hello"
            subprocess.run(["gcc", "-std=c17", "-I", tree / "include", tree / "examples/hello.c", "-L", tree / "lib",
                            "-lflambeau", f"-Wl,-rpath,{tree / 'lib'}", "-o", hello], check=True)
            self.assertEqual(subprocess.run([hello, tiny(), "hello"], capture_output=True, check=False).returncode, 0)
            self.assertLess((tree / "bin/flambeau").stat().st_size, 20e6)

    def test_install(self):
        with tempfile.TemporaryDirectory() as folder:
            result = make("install", f"DESTDIR={folder}", "PREFIX=/usr")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertTrue(os.access(f"{folder}/usr/bin/flambeau", os.X_OK))
            self.assertTrue(os.path.exists(f"{folder}/usr/lib/libflambeau.so"))
            for path in ("man/man1/flambeau.1", "man/man1/flambeau-run.1", "bash-completion/completions/flambeau",
                         "zsh/site-functions/_flambeau"):
                self.assertGreater(os.path.getsize(f"{folder}/usr/share/{path}"), 500)

    def test_the_readme_names_commands_that_exist(self):
        names = set(re.findall(r"^ *build/flambeau ([a-z]+)", (ROOT / "README.md").read_text(), re.M)) - {"help"}
        self.assertGreater(len(names), 5)
        for name in names:
            self.ok("help", name)
