"""Every family: folders and GGUF files against recorded logits (tests/golden/tiny), and the same bits however they are computed.

What was compared goes to build/families.json, from which tools/models_table.py writes the table of docs/models.md."""
import array
import datetime
import json
import struct
import subprocess
import sys

import folders
from flambeau import BUILD, FOLDER, ROOT, Case, ids_text, run

NAMES = sorted(p.name for p in folders.TINY.iterdir() if p.is_dir())
TOLERANCE = 1e-4  # the same fp32 sums in another order: 1e-5 expected of logits up to 10
TOKENS = [5, 77, 3, 200, 258, 14, 9, 9, 31, 100, 6, 42, 250, 17, 8, 61, 199, 23, 4, 90, 11, 35, 70, 2, 128, 64, 32, 16, 7, 12]
# What GGUF cannot say: rounded frequencies, which layers have no RoPE, an attention scale other than the heads' width.
UNSAYABLE = {"llama-bf16-sharded": {}, "qwen3-moe-bf16": {}, "smollm3": {"no_rope_layers": None}, "gemma2": {"query_pre_attn_scalar": 20}}
_records = {}


def expected(name):
    return json.loads((folders.TINY / name / "expect.json").read_text())["cases"]


def bf16(x):
    u = struct.unpack("<I", struct.pack("<f", x))[0]
    return struct.unpack("<f", struct.pack("<I", u + 0x7fff + (u >> 16 & 1) & 0xffff0000))[0]


def rounded_frequencies(d=16):
    """RoPE whose frequencies are those of base 10000 rounded to bfloat16 (tests/golden/tiny/ORIGIN.md)."""
    exact = [10000 ** (-2 * i / d) for i in range(d // 2)]
    divisors = [f / bf16(f) for f in exact]
    return {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 1.0, "attention_factor": 1.0,
            "original_max_position_embeddings": 512, "short_factor": divisors, "long_factor": divisors}


def folder_of(name):
    if name.endswith(("bf16", "bf16-sharded")):
        return folders.copy(name, {"rope_parameters": rounded_frequencies()})
    return folders.TINY / name


def record(family, container, n_tokens, difference, greedy):
    row = _records.setdefault(f"{family} {container}", {"family": family, "container": container, "tokens": 0,
                                                        "difference": 0.0, "greedy": 0})
    row["tokens"] += n_tokens
    row["difference"] = max(row["difference"], difference)
    row["greedy"] += greedy
    row["date"] = datetime.date.today().isoformat()
    (BUILD / "families.json").write_text(json.dumps(list(_records.values()), indent=1) + "\n")


class Families(Case):
    def logits(self, model, ids, *args):
        path = FOLDER / "families.f32"
        self.ok("score", model, "--tokens", ids_text(ids), "--logits", path, *args)
        data = path.read_bytes()
        path.unlink()
        return data

    def compare(self, name, container, model, cases):
        """Logits and greedy tokens of the cases; --max-model-len where the recording chose a list of RoPE divisors by it."""
        for case in cases:
            n = len(case["ids"])
            args = ["--compute", "f32"] + (["--max-model-len", "32"] if name == "phi3" and n == 7 else [])
            with self.subTest(name=name, container=container, n=n):
                found = array.array("f", self.logits(model, case["ids"], *args))
                wanted = array.array("f", (folders.TINY / name / case["logits"]).read_bytes())
                self.assertEqual(len(found), len(wanted))
                difference = max(abs(x - y) for x, y in zip(found, wanted))
                self.assertLess(difference, TOLERANCE)
                tokens = self.json("run", model, "--tokens", ids_text(case["ids"]), "--temperature", "0", "-n",
                                   len(case["greedy"]), "--ignore-eos", *args)["tokens"]
                self.assertEqual(tokens, case["greedy"])
                record(name, container, n, difference, len(tokens))

    def test_folders(self):
        for name in NAMES:
            self.compare(name, "folder", folder_of(name), expected(name))

    def test_gguf(self):
        for name in NAMES:
            if name in UNSAYABLE:
                continue
            path = folders.to_gguf(folders.TINY / name, FOLDER / f"{name}.gguf")
            cases = expected(name)
            if name == "mistral":  # GGUF's llama has no window: equal as long as 8 tokens see each other
                cases = [c for c in cases if len(c["ids"]) <= 8]
                cases[0]["greedy"] = cases[0]["greedy"][:1]
            if name == "llama4":  # GGUF's llama4 has chunks of 8192 and no scale before: equal within 8 tokens
                cases = [c for c in cases if len(c["ids"]) < 8]
                cases[0]["greedy"] = cases[0]["greedy"][:1]
            self.compare(name, "GGUF", path, cases)

    def test_containers_agree(self):
        say = {**UNSAYABLE, "llama4": {"attention_chunk_size": 8192, "floor_scale": 8192}}
        for name, config in say.items():
            folder = folders.copy(name, config)
            path = folders.to_gguf(folder, FOLDER / f"{name}.gguf")
            for ids in ([9, 8, 7, 300], TOKENS):
                a, b = (array.array("f", self.logits(m, ids, "--compute", "f32")) for m in (folder, path))
                difference = max(abs(x - y) for x, y in zip(a, b))
                self.assertLess(difference, TOLERANCE)
                record(name, "GGUF against the folder", len(ids), difference, 0)

    def test_rope_kinds(self):
        """The scalings that both containers can say, through both."""
        for rope in ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
                     {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}):
            folder = folders.copy("qwen2", {"rope_parameters": rope})
            old = folders.copy("qwen2", {"rope_parameters": None, "rope_theta": 10000.0,
                                         "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}})
            path = folders.to_gguf(folder, FOLDER / "rope.gguf")
            wanted = self.logits(folder, TOKENS, "--compute", "f32")
            self.assertTrue(wanted == self.logits(path, TOKENS, "--compute", "f32"), "GGUF differs")
            self.assertTrue(wanted == self.logits(old, TOKENS, "--compute", "f32"), "rope_scaling differs")
            self.assertFalse(wanted == self.logits(folders.TINY / "qwen2", TOKENS, "--compute", "f32"), "no scaling is the same")

    def test_one_file_is_as_good_as_three(self):
        name = "llama-bf16-sharded"
        one = folders.copy(name, tensors=folders.read(folders.TINY / name))
        self.assertTrue(self.logits(one, TOKENS) == self.logits(folders.TINY / name, TOKENS))
        # A header whose length is odd: nothing is aligned.
        (one / "model.safetensors").write_bytes(folders.encode(folders.read(one), pad=False, __metadata__={"x": "y"}))
        self.assertTrue(self.logits(one, TOKENS) == self.logits(folders.TINY / name, TOKENS))

    def test_same_bits(self):
        neighbours = FOLDER / "neighbours.txt"
        neighbours.write_text("hello hello\nhe said: the end of the line, and more of it\n1 2 3 4 5 6 7 8 9\n")
        batch = ["--batch-with", neighbours]
        variants = [["--chunk", "1"], ["--chunk", "7", "-t", "3"], ["-t", "1", "-O0"], ["--device", "sim"], batch,
                    [*batch, "--chunk", "5", "--device", "sim"], ["--cpu-isa", "scalar"]]
        for name in NAMES:
            folder = folders.copy(name, tokenizer=True)
            for compute in ("auto", "bf16"):
                wanted = self.logits(folder, TOKENS, "--compute", compute)
                for args in variants:
                    with self.subTest(name=name, compute=compute, args=args):
                        self.assertTrue(self.logits(folder, TOKENS, "--compute", compute, *args) == wanted, "the logits differ")

    def test_the_table_is_printed(self):
        path = FOLDER / "records.json"
        path.write_text(json.dumps([{"family": "a", "container": "folder", "tokens": 1, "difference": 0.5, "greedy": 2,
                                     "date": "2026-01-31"}]))
        out = subprocess.run([sys.executable, ROOT / "tools" / "models_table.py", path], capture_output=True, text=True,
                             check=True).stdout
        self.assertIn("| a | folder | 1 | 5.0e-01 | 2 | 2026-01-31 |", out)
        rows = (ROOT / "docs" / "models.md").read_text()
        for name in NAMES:
            self.assertIn(f"| {name} | folder |", rows)


class Folders(Case):
    def test_commands(self):
        folder = folders.copy("qwen3", tokenizer=True)
        shown = self.json("show", folder)
        self.assertEqual([shown[k] for k in ("architecture", "vocab", "layers", "head_dim", "stop_ids", "chat_template")],
                         ["qwen3", 331, 3, 24, [2], True])
        ids = self.json("tokenize", folder, "hello")["ids"]
        self.assertEqual(self.json("score", folder, "--text", "hello")["tokens"], ids)
        self.assertEqual(self.ok("detokenize", folder, ids_text(ids)), b"hello")
        out = self.json("run", folder, "hello", "--temperature", "0", "-n", "12", "--ignore-eos")
        self.assertEqual(len(out["tokens"]), 12)
        self.assertIn("qwen3", self.ok("bench", folder, "-p", "16", "-n", "4", "-r", "1").decode())

    def test_no_tokenizer(self):
        self.refused(1, "no tokenizer", "run", folders.TINY / "llama", "hello")
        self.refused(1, "no tokenizer", "tokenize", folders.TINY / "llama", "hello")
        self.assertEqual(self.json("show", folders.TINY / "llama")["vocab"], 331)

    def test_stop_tokens(self):
        folder = folders.copy("llama", {"eos_token_id": [2, 17]})
        (folder / "generation_config.json").write_text('{"eos_token_id": [17, 40]}')
        self.assertEqual(self.json("show", folder)["stop_ids"], [2, 17, 40])
        (folder / "generation_config.json").write_text('{"eos_token_id": "x"}')
        self.refused(1, ["generation_config.json", "eos_token_id"], "show", folder)
