"""The command line: what is refused, in which words, with which exit code."""
import os
import subprocess

from flambeau import Case, command, run, tiny


class Options(Case):
    def test_version_and_help(self):
        version = open("VERSION").read().strip()
        self.assertEqual(self.ok("--version").decode(), f"flambeau {version}\n")
        text = self.ok("help").decode()
        for name in ("run", "chat", "score", "tokenize", "detokenize", "template", "bench", "show", "pull", "list", "rm",
                     "doctor"):
            self.assertIn(f"flambeau {name}", text)
            self.assertEqual(self.ok(name, "--help"), self.ok("help", name))
            self.assertIn("Options:", self.ok("help", name).decode())
        self.assertIn("--temperature", self.ok("help", "run").decode())
        self.assertNotIn("--temperature", self.ok("help", "score").decode())

    def test_nothing_shows_the_help(self):
        result = run()
        self.assertEqual((result.returncode, result.stdout), (2, b""))
        self.assertIn(b"flambeau run MODEL", result.stderr)

    def test_unknown_names(self):
        self.refused(2, ["no command 'rnu'", "'run'"], "rnu")
        self.refused(2, ["no command 'quantize'"], "quantize")
        self.refused(2, ["no option --temprature", "--temperature"], "run", "m.gguf", "--temprature", "1")
        self.refused(2, ["no option -x"], "run", "m.gguf", "-x")
        self.refused(2, ["no option --logits"], "run", "m.gguf", "hi", "--logits", "f")
        self.refused(2, ["no command"], "help", "nothing-like-it")

    def test_options_of_later_versions_do_not_exist(self):
        for option in ("--trace", "--compile-cache", "--load-format"):
            self.refused(2, f"no option {option}", "run", "m.gguf", "hi", option, "x")
        self.refused(2, "-O wants", "run", "m.gguf", "hi", "-O3")

    def test_values(self):
        for args, words in (
            (["-n", "x"], ["-n wants a number", "'x'"]),
            (["-n", "1.5"], ["whole number", "1.5"]),
            (["-n"], ["-n wants a value"]),
            (["-n", "0"], ["-n wants"]),
            (["-n", "nan"], ["-n wants a number"]),
            (["-n", "0x10"], ["-n wants a number"]),
            (["--temperature", "-1"], ["--temperature wants", "-1"]),
            (["--temperature=hot"], ["--temperature wants", "hot"]),
            (["--top-p", "1.5"], ["--top-p wants", "1.5"]),
            (["--seed", "-3"], ["--seed wants", "-3"]),
            (["--seed", "18446744073709551616"], ["--seed wants"]),
            (["--json=1"], ["--json takes no value"]),
            (["--stop", ""], ["--stop wants a text"]),
            (["--stop", "x"] * 17, ["16 times"]),
        ):
            with self.subTest(args=args):
                self.refused(2, words, "run", "m.gguf", "hi", *args)

    def test_threads(self):
        for n in ("0", "10000", "-1"):
            self.refused(2, ["-t wants a number from 1 to 512", n], "run", "m.gguf", "hi", "-t", n)
        self.refused(2, "--threads wants", "score", "m.gguf", "--text", "hi", "--threads", "0")

    def test_arguments(self):
        self.refused(2, "wants MODEL", "run")
        self.refused(2, ["one more", "'c'"], "run", "a.gguf", "b", "c")
        self.refused(2, ["--tokens is the prompt"], "run", "a.gguf", "b", "--tokens", "1")
        self.refused(2, ["token ids", "'x"], "run", "a.gguf", "--tokens", "1,x")
        self.refused(2, ["at least one id"], "run", "a.gguf", "--tokens", ",")
        self.refused(2, ["--raw"], "run", "a.gguf", "b", "--raw", "--system", "s")
        self.refused(2, ["one of --text"], "score", "a.gguf", "--text", "x", "--tokens", "1")
        self.refused(2, ["--messages"], "template", "a.gguf")
        self.refused(2, ["--lines reads stdin"], "tokenize", "a.gguf", "text", "--lines")

    def test_lists(self):
        for args, words in ((["-p", "x"], "-p wants a list"), (["-p", "8-4*1"], "range"), (["-b", "-1"], "-b wants"),
                            (["-p", "0", "-n", "0"], "nothing to measure"), (["-o", "xml"], "table, csv or md"),
                            (["-p", "1-1000"], "64"), (["-r", "0"], "-r wants")):
            with self.subTest(args=args):
                self.refused(2, words, "bench", "m.gguf", *args)

    def test_numbers_with_suffixes(self):
        model = tiny()
        for written, n in (("3", 3), ("0.003k", 3), ("3e0", 3)):
            out = self.json("run", model, "hi", "--temperature", "0", "--ignore-eos", "-n", written)
            self.assertEqual(len(out["tokens"]), n)
        self.assertEqual(len(self.json("run", model, "hi", "--ignore-eos", "-n", "0.1k")["tokens"]), 100)

    def test_options_may_stand_anywhere(self):
        model = tiny()
        plain = self.ok("run", model, "hello", "--temperature", "0", "-n", "4")
        self.assertEqual(plain, self.ok("run", "-n4", "--temperature=0", model, "hello"))
        self.assertEqual(plain, self.ok("run", "-n4", "--temperature=0", model, "--", "hello"))

    def test_a_full_or_closed_stdout(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run(command("help"), stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"error: cannot write the result to stdout", result.stderr)
        read, write = os.pipe()
        os.close(read)
        result = subprocess.run(command("help"), stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        self.assertEqual((result.returncode, result.stderr), (1, b""))
