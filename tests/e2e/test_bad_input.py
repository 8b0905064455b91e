"""Files, models and prompts that cannot work: one clear line, exit code 1 or 2, no crash, nothing left behind."""
import json
import os
import random
import struct
import subprocess

import gguf
from flambeau import FOLDER, PATIENCE, Case, command, ids_text, run, tiny

COMMANDS = (("run", "hello", "-n", "2"), ("score", "--text", "hello"), ("tokenize", "hello"), ("bench", "-p", "4", "-n", "1"), ("show",))


def save(model, name="bad.gguf"):
    path = FOLDER / name
    path.write_bytes(model if isinstance(model, bytes) else model.bytes())
    return str(path)


class Files(Case):
    def every_command(self, path, words, code=1):
        for name, *rest in COMMANDS:
            self.refused(code, words, name, path, *rest)

    def test_no_such_file(self):
        self.every_command("/nowhere/m.gguf", "/nowhere/m.gguf")
        self.every_command("no-such-model", ["no-such-model", "smollm2"])
        self.refused(1, "MODEL is empty", "run", "", "hello")

    def test_a_folder(self):
        folder = FOLDER / "folder.gguf"
        folder.mkdir(exist_ok=True)
        self.every_command(str(folder), "folder")

    def test_unreadable(self):
        path = save(gguf.llama(), "unreadable.gguf")
        os.chmod(path, 0)
        if os.geteuid() != 0:
            self.every_command(path, "ermission")
            return
        try:   # root reads everything, so somebody else asks
            result = subprocess.run(command("run", path, "hello"), capture_output=True, user=65534, check=False)
        except OSError as error:
            self.skipTest(f"nobody cannot run the program: {error}")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, b"^error: .*ermission")

    def test_wrong_magic(self):
        self.every_command(save(b"GGML" + bytes(100)), "GGUF")
        self.every_command(save(b""), "")
        self.every_command(save(b"#!/bin/sh\necho hello, this is not a model at all\n"), "GGUF")

    def test_version(self):
        data = bytearray(gguf.llama().bytes())
        data[4] = 99
        self.every_command(save(bytes(data)), "99")

    def test_truncated(self):
        data = gguf.llama().bytes()
        for n in (1, 4, 8, 23, 24, 100, 1000, 5000, 20000, len(data) - 40):
            with self.subTest(n=n):
                self.refused(1, "", "run", save(data[:n]), "hello", "-n", "2")

    def test_damaged_headers(self):
        """Random bytes in the header: an answer or an error, no crash and no hang."""
        data = gguf.llama().bytes()
        for seed in range(60):
            rng, bad = random.Random(seed), bytearray(data)
            for _ in range(rng.randrange(1, 5)):
                bad[rng.randrange(8, 9000)] = rng.randrange(256)
            result = run("run", save(bytes(bad)), "hello", "-n", "2", timeout=PATIENCE)
            self.assertIn(result.returncode, (0, 1), f"seed {seed}: {result.stderr[-300:]}")

    def test_huge_counts(self):
        for at in (8, 16):
            data = bytearray(gguf.llama().bytes())
            data[at:at + 8] = struct.pack("<Q", 1 << 60)
            self.every_command(save(bytes(data)), "")

    def test_missing_keys(self):
        for key in ("general.architecture", "llama.block_count", "llama.embedding_length", "llama.attention.head_count",
                    "llama.context_length", "llama.feed_forward_length", "llama.attention.layer_norm_rms_epsilon"):
            model = gguf.llama()
            del model.keys[key]
            with self.subTest(key=key):
                self.refused(1, key, "run", save(model), "hello")

    def test_wrong_sizes(self):
        for key, v in (("llama.block_count", 0), ("llama.block_count", 1 << 31), ("llama.attention.head_count", 0),
                       ("llama.attention.head_count_kv", 3), ("llama.embedding_length", 65), ("llama.context_length", 0),
                       ("llama.rope.dimension_count", 7), ("llama.attention.layer_norm_rms_epsilon", float("nan"))):
            model = gguf.llama()
            model.keys[key] = v
            with self.subTest(key=key, v=v):
                self.refused(1, "", "run", save(model), "hello", "-n", "2")

    def test_missing_tensors(self):
        for name in gguf.llama().tensors:
            if "blk.1." in name or name == "output.weight":   # without the latter the embedding is the head
                continue
            model = gguf.llama()
            del model.tensors[name]
            with self.subTest(name=name):
                self.refused(1, name, "run", save(model), "hello", "-n", "2")

    def test_wrong_shapes(self):
        model = gguf.llama()
        kind, (columns, n), data = model.tensors["blk.1.ffn_up.weight"]
        model.tensors["blk.1.ffn_up.weight"] = kind, [n, columns], data
        self.refused(1, "blk.1.ffn_up.weight", "run", save(model), "hello")

    def test_unknown_kinds(self):
        model = gguf.llama()
        model.keys["general.architecture"] = "mamba9"
        for name, *rest in COMMANDS[:2]:   # its text may be known all the same
            self.refused(1, ["mamba9", "llama", "gemma3"], name, save(model), *rest)
        model = gguf.llama()
        _, dims, data = model.tensors["blk.0.attn_q.weight"]
        model.tensors["blk.0.attn_q.weight"] = 16, dims, data   # IQ2_XXS: known by name, not read
        self.refused(1, "IQ2_XXS", "run", save(model), "hello")
        model.tensors["blk.0.attn_q.weight"] = 999, dims, data
        self.refused(1, "999", "run", save(model), "hello")
        model = gguf.llama()
        model.keys["tokenizer.ggml.model"] = "elvish"
        self.refused(1, "elvish", "tokenize", save(model), "hello")
        model = gguf.llama()
        model.keys["tokenizer.ggml.pre"] = "elvish"
        self.refused(1, "elvish", "tokenize", save(model), "hello")

    def test_a_vocabulary_that_disagrees(self):
        model = gguf.llama()
        model.keys["tokenizer.ggml.tokens"] = model.keys["tokenizer.ggml.tokens"] + ["one more"]
        model.keys["tokenizer.ggml.token_type"] = model.keys["tokenizer.ggml.token_type"] + [1]
        for name, *rest in COMMANDS[:2]:
            self.refused(1, ["269", "268"], name, save(model), *rest)

    def test_weights_that_are_not_numbers(self):
        for kind, name, bad in (("F32", "blk.0.attn_q.weight", struct.pack("<f", float("nan"))),
                                ("F32", "output_norm.weight", struct.pack("<f", float("inf"))),
                                ("Q8_0", "blk.1.ffn_down.weight", struct.pack("<e", float("nan"))),
                                ("Q4_1", "blk.0.attn_k.weight", struct.pack("<e", float("inf")))):
            model = gguf.llama(kind=kind)
            a, b, data = model.tensors[name]
            model.tensors[name] = a, b, bad + data[len(bad):]
            with self.subTest(name=name):
                self.refused(1, "", "run", save(model), "hello", "-n", "4")
                self.refused(1, "", "score", save(model), "--text", "hello")


class Prompts(Case):
    def test_empty(self):
        self.refused(2, "empty", "run", tiny(), "")
        self.refused(2, "empty", "run", tiny(), stdin=b"")
        self.refused(2, "empty", "run", tiny(), "--raw", "")
        self.refused(2, "empty", "score", tiny(), "--text", "")
        self.refused(1, "empty", "score", tiny(), stdin=b"")

    def test_too_long(self):
        ids = ids_text([5] * 513)
        self.refused(1, ["513", "512"], "run", tiny(), "--tokens", ids)
        self.refused(1, ["513", "512"], "score", tiny(), "--tokens", ids)
        self.refused(1, ["513", "100"], "run", tiny(), "--tokens", ids, "--max-model-len", "100")

    def test_not_utf8(self):
        for text in (b"ab\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"):
            for args in (["run"], ["run", "--raw"], ["score"], ["tokenize"]):
                with self.subTest(text=text, args=args):
                    self.refused(1, "UTF-8", args[0], tiny(), *args[1:], stdin=text)
        result = subprocess.run([*command("run", tiny()), b"ab\xff"], capture_output=True, check=False)
        self.assertEqual(result.returncode, 1)

    def test_ids_out_of_range(self):
        self.refused(1, "268", "run", tiny(), "--tokens", "1,268")
        self.refused(2, "4294967296", "run", tiny(), "--tokens", "1,4294967296")

    def test_engine_options(self):
        self.refused(1, "abacus", "run", tiny(), "hi", "--device", "abacus")
        self.refused(2, "f7", "run", tiny(), "hi", "--compute", "f7")
        self.refused(2, "f7", "run", tiny(), "hi", "--kv-cache-dtype", "f7")
        self.refused(2, "z80", "run", tiny(), "hi", "--cpu-isa", "z80")
        if os.uname().machine == "x86_64":
            self.refused(2, "neon", "run", tiny(), "hi", "--cpu-isa", "neon")
        self.refused(2, ["1000", "512"], "run", tiny(), "hi", "--max-model-len", "1000")

    def test_deep_json(self):
        """10,000 levels, where a parser that calls itself would run out of stack."""
        deep, keys = FOLDER / "deep.json", FOLDER / "keys.json"
        deep.write_text("[" * 10000 + "]" * 10000)
        keys.write_text('{"messages":' * 10000 + "1" + "}" * 10000)
        for path in (deep, keys):
            self.refused(1, "depth", "template", tiny(), "--messages", path)
            self.refused(1, "depth", "template", tiny(), "--messages", path, "--tools", path)
            self.refused(1, "", "tokenize", path, "hello")

    def test_hostile_tokenizers(self):
        """Named faults of tokenizer.json, and a pattern that explodes, which must end by itself."""
        def write(model, **more):
            path = FOLDER / "tokenizer.json"
            path.write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], **model}, **more}))
            return path

        def split(pattern):
            return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}}

        def added(*pairs):
            return {"added_tokens": [{"id": i, "content": c, "special": False, "single_word": False, "lstrip": False,
                                      "rstrip": False, "normalized": False} for i, c in pairs]}

        for path, words in ((lambda: write({"merges": [["a", "c"]]}), ["merge 0", "not in the vocabulary"]),
                            (lambda: write({"vocab": {"a": 0, "b": 0}}), "given twice"),
                            (lambda: write({}, **added((1, "x"), (1, "y"))), "given twice"),
                            (lambda: write({}, **split("(a+")), "does not compile"),
                            (lambda: write({}, **split("(a+)+$")), "gave up")):
            self.refused(1, words, "tokenize", path(), "a" * 40 + "b")

    def test_hostile_templates(self):
        for template in ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ 'a' * 1000000000 }}", "{{ range(10 ** 9) | list }}",
                         "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
                         "{% set n = namespace(s='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
                         "{{ messages | nosuch }}", "{% include 'x' %}", "{{ lipsum(5) }}", "{{ ''.__class__.__mro__ }}",
                         "{% if " + "(" * 10000 + "1" + ")" * 10000 + " %}{% endif %}"):
            path = FOLDER / "hostile.jinja"
            path.write_text(template)
            self.refused(1, "line 1", "run", tiny(), "hello", "--chat-template", path)
