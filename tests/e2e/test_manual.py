"""Manual pages and completion: written from the option table, so that nothing is missing from them."""
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from flambeau import PROGRAM, ROOT, Case


def options(case, name):
    """The options of a command as its help shows them: --long, or -x for those without a long name."""
    text = case.ok("help", name).decode().split("\nOptions:\n")[1]
    return re.findall(r"^ +(?:-\w, )?(--[a-z-]+|-\w)", text, re.M)


class Manual(Case):
    def names(self):
        return [n for n in re.findall(r"^  flambeau ([a-z]+) ", self.ok("help").decode(), re.M) if n != "help"]

    def test_pages_have_every_option(self):
        page = self.ok("help", "--man").decode()
        for name in self.names():
            self.assertIn(f"flambeau\\-{name} (1)", page)
            text = self.ok("help", "--man", name).decode()
            self.assertTrue(text.startswith(f".TH FLAMBEAU\\-{name} 1"))
            self.assertGreater(len(options(self, name)), 0)
            for option in options(self, name):
                self.assertIn(f"\\fB{option}\\fR".replace("-", "\\-"), text)
        self.refused(2, "--man, --bash and --zsh", "help", "--nonsense")
        self.refused(2, "no command", "help", "--man", "nonsense")

    @unittest.skipUnless(shutil.which("groff"), "this machine has no groff")
    def test_groff_has_no_complaint(self):
        for name in [None, *self.names()]:
            page = self.ok("help", "--man", *([name] if name else []))
            result = subprocess.run(["groff", "-man", "-Tascii", "-ww", "-z"], input=page, capture_output=True, check=False)
            self.assertEqual(result.stderr, b"")

    def complete(self, *words):
        script = f'source /dev/stdin <<<"$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _flambeau 2>/dev/null; ' \
                 'printf "%s\\n" "${COMPREPLY[@]}"'
        result = subprocess.run(["bash", "-c", script, "bash", self.ok("help", "--bash"), "flambeau", *words], text=True,
                                capture_output=True, env={"PATH": str(pathlib.Path(PROGRAM).parent) + ":/usr/bin:/bin",
                                                          "HOME": "/nonexistent"}, cwd=ROOT, check=True)
        return result.stdout.split()

    def test_bash(self):
        self.assertLessEqual({"run", "chat", "help"}, set(self.complete("")))
        self.assertEqual(self.complete("tok"), ["tokenize"])
        for name in self.names():
            self.assertLessEqual(set(options(self, name)), set(self.complete(name, "-")))
        self.assertEqual(self.complete("run", "smollm2", "--temp"), ["--temperature"])
        self.assertIn("smollm2", self.complete("chat", "smo"))
        self.assertEqual(self.complete("score", "m", "--file", "READ"), ["README.md"])
        self.assertEqual(self.complete("help", "scor"), ["score"])

    @unittest.skipUnless(shutil.which("zsh"), "this machine has no zsh")
    def test_zsh(self):
        with tempfile.NamedTemporaryFile() as f:
            f.write(self.ok("help", "--zsh"))
            f.flush()
            subprocess.run(["zsh", "-n", f.name], check=True)

    def test_zsh_has_every_option(self):
        text = self.ok("help", "--zsh").decode()
        for name in self.names():
            part = text.split(f"\n    {name})\n")[1].split("\n        ;;")[0]
            for option in options(self, name):
                self.assertIn(f"'*{option}[", part)
            self.assertEqual(part.replace("'\\''", "").count("'") % 2, 0)
