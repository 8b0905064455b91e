"""show and list: what a model is said to be, held against what the file was made of."""
import json
import os
import pathlib
import pty
import re
import shutil
import subprocess
import tempfile

import gguf
from flambeau import FOLDER, GOLDEN, PATIENCE, Case, command, run, tiny

TOOLS = ("{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
         "{%- if tools %}{% for t in tools %}{{ t.function.name }}{% endfor %}{% endif %}"
         "{%- for m in messages %}{% if m.role == 'assistant' %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
         "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
         "{% elif m.role == 'tool' %}{{ m.content }}{% elif m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
PICKY = ("{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('only user and assistant') }}"
         "{% endif %}{{ m.content }}{% endfor %}")
SWITCH = ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
          "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}")


class Show(Case):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flambeau-show-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def test_sizes_and_types(self):
        m = gguf.llama()
        d, ff, vocab = 64, 128, len(m.keys["tokenizer.ggml.tokens"])
        q4 = gguf.llama(seed=3, kind="Q4_1")
        m.tensors["blk.1.ffn_up.weight"] = q4.tensors["blk.1.ffn_up.weight"]
        out = self.json("show", m.save(self.folder / "m.gguf"))
        modules = {x["module"]: x for x in out["modules"]}
        self.assertEqual(set(modules), {"token_embd", "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm",
                                        "ffn_gate", "ffn_up", "ffn_down", "output_norm", "output"})
        up = modules["ffn_up"]
        self.assertEqual((up["tensors"], up["parameters"], up["bytes"]), (2, 2 * d * ff, d * ff * 34 // 32 + d * ff * 20 // 32))
        self.assertEqual(up["types"]["Q4_1"], {"tensors": 1, "parameters": d * ff, "bytes": d * ff * 20 // 32})
        self.assertAlmostEqual(up["bits_per_weight"], (8.5 + 5) / 2)
        self.assertAlmostEqual(modules["token_embd"]["bits_per_weight"], 8.5)
        self.assertEqual(out["parameters"], sum(x["parameters"] for x in out["modules"]))
        self.assertEqual(out["weights"]["bytes"], sum(len(t[2]) for t in m.tensors.values()))
        self.assertEqual(out["weights"]["tensors"], len(m.tensors))
        self.assertEqual(out["vocab"], vocab)
        self.assertEqual(out["files"], [{"path": str(self.folder / "m.gguf"), "bytes": out["file_bytes"]}])
        self.assertIn("Q8_0 1, Q4_1 1", self.ok("show", self.folder / "m.gguf").decode())

    def test_attention_and_memory(self):
        """The cache of one request: bf16 keys and values of each layer, of 32 positions at a time."""
        out = self.json("show", tiny("gemma3"))
        self.assertTrue(out["runs"])
        self.assertEqual(out["layer_windows"], [32, 32, 0])
        text = self.ok("show", tiny("gemma3")).decode()
        self.assertIn("1 layers see everything (2), 2 see 32 positions", text)
        out = self.json("show", tiny("llama"))
        self.assertEqual(out["layer_windows"], [0, 0])
        position = 2 * 2 * 2 * 16 * 2  # layers, key-value heads, keys and values of 16, two bytes
        self.assertEqual(out["needs"]["cache_bytes_context"], 512 * position)
        self.assertEqual(out["needs"]["cache_bytes_1000"], 1024 * position)
        self.assertEqual((out["needs"]["profile"], out["needs"]["kv_cache_dtype"]), ("q8", "bf16"))

    def test_what_an_engine_takes(self):
        """The weights foretold are those an engine has; an embedding that is not the head is read where it lies."""
        for name in ("llama", "gemma3"):
            out = self.json("show", tiny(name))
            needs = out["needs"]
            if name == "llama":
                needs["weight_bytes"] -= next(x["bytes"] for x in out["modules"] if x["module"] == "token_embd")
            lines = run("chat", tiny(name), stdin=b"/show\n").stderr.decode()
            packed = int(re.search(r"weights (\d+) kB", lines)[1]) * 1000
            self.assertLess(abs(packed / needs["weight_bytes"] - 1), 0.02)  # what is packed is rounded up to whole tiles

    def test_tokenizer(self):
        out = self.json("show", tiny("gemma3"))
        self.assertEqual((out["bos"], out["eos"]), ({"id": 2, "text": "<bos>"}, {"id": 1, "text": "<eos>"}))
        self.assertEqual((out["padding"]["id"], out["unknown"]["id"], out["special_tokens"]), (0, 3, 4))
        self.assertEqual((out["tokenizer"], self.json("show", tiny())["tokenizer"]), ("llama", "gpt2, smollm"))

    def test_templates(self):
        def features(template):
            return self.json("show", gguf.llama(template=template).save(self.folder / "t.gguf"))["template"]

        yes = {"system": True, "tools": True, "tool_calls": True, "reasoning": True}
        self.assertEqual(features(TOOLS), yes)
        self.assertEqual(features(PICKY), dict.fromkeys(yes, False))
        self.assertEqual(features(SWITCH), {**dict.fromkeys(yes, False), "reasoning": True})
        self.assertEqual(features(gguf.CHATML)["system"], True)
        self.assertEqual(features(None), None)
        self.assertEqual(features("{% for %}"), None)
        self.assertIn("line 1", self.ok("show", self.folder / "t.gguf").decode())

    def test_what_does_not_run(self):
        for change, words in ((lambda m: m.keys.update({"general.architecture": "qwen9"}), "qwen9"),
                              (lambda m: m.tensors.pop("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight"),
                              (lambda m: m.keys.pop("llama.block_count"), "block_count")):
            m = gguf.llama()
            change(m)
            path = m.save(self.folder / "no.gguf")
            out = self.json("show", path)
            self.assertEqual((out["runs"], out["needs"]), (False, None))
            self.assertIn(words, out["why_not"])
            line = self.refused(1, words, "run", path, "hello", "-n", "1")
            self.assertIn(out["why_not"], line)
            self.assertIn(words, self.ok("show", path).decode())

    def test_parts(self):
        m = gguf.llama()
        names = list(m.tensors)
        for i in range(3):
            part = gguf.Model(dict(m.keys) if i == 0 else {}, {n: m.tensors[n] for n in names[i::3]})
            part.keys.update({"split.no": i, "split.count": 3, "split.tensors.count": len(names)})
            part.save(self.folder / f"m-{i + 1:05}-of-00003.gguf")
        out = self.json("show", self.folder / "m-00001-of-00003.gguf")
        self.assertEqual([pathlib.Path(f["path"]).name for f in out["files"]], [f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)])
        self.assertEqual([f["bytes"] for f in out["files"]], [os.path.getsize(f["path"]) for f in out["files"]])
        self.assertIn("in 3 parts", self.ok("show", self.folder / "m-00001-of-00003.gguf").decode())

    def test_folders(self):
        """Sizes of the headers themselves: tests/golden/tiny, whole and in parts."""
        for name in ("llama", "llama-bf16-sharded", "gpt-oss", "deepseek-v3"):
            folder = GOLDEN / "tiny" / name
            tensors, paths = {}, sorted(folder.glob("*.safetensors"))
            for path in paths:
                raw = path.read_bytes()
                head = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])
                tensors.update({k: v for k, v in head.items() if k != "__metadata__"})
            out = self.json("show", folder)
            self.assertEqual((out["runs"], out["why_not"]), (True, None))
            self.assertEqual((out["tensors"], out["weights"]["tensors"]), (len(tensors), len(tensors)))
            self.assertEqual(out["weights"]["bytes"],
                             sum(t["data_offsets"][1] - t["data_offsets"][0] for t in tensors.values()))
            self.assertEqual(set(out["weights"]["types"]), {t["dtype"] for t in tensors.values()})
            self.assertEqual(sorted((f["path"], f["bytes"]) for f in out["files"]), [(str(p), p.stat().st_size) for p in paths])
            self.assertEqual(len(out["layer_windows"]), json.loads((folder / "config.json").read_text())["num_hidden_layers"])
            if name.startswith("llama"):
                self.assertEqual(next(m["tensors"] for m in out["modules"] if m["module"] == "self_attn.q_proj"), out["layers"])
            text = self.ok("show", folder).decode()
            self.assertEqual(f"in {len(paths)} parts" in text, len(paths) > 1)

    def test_control_characters(self):
        m = gguf.llama(template="{{ raise_exception('\x1b[31m') }}")
        m.keys["general.name"] = "a\x1b]0;title\x07b"
        self.assertNotIn(b"\x1b", self.ok("show", m.save(self.folder / "m.gguf")))

    def test_a_tokenizer_alone(self):
        (self.folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}))
        out = self.json("show", self.folder / "tokenizer.json")
        self.assertEqual((out["runs"], out["tokenizer"], out["vocab"], out["files"]), (False, "tokenizer.json", 1, []))
        self.assertIn("runs", self.ok("show", self.folder / "tokenizer.json").decode())


class List(Case):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flambeau-list-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.env = {"FLAMBEAU_CACHE": str(self.folder / "own"), "HF_HUB_CACHE": str(self.folder / "hf")}

    def add(self, name, model):
        folder = self.folder / "own" / "models" / name
        folder.mkdir(parents=True)
        return model.save(folder / "m.gguf")

    def rows(self):
        return {r["name"]: r for r in json.loads(self.ok("list", "--json", env=self.env))}

    def test_fits(self):
        self.add("good", gguf.llama())
        odd = gguf.llama()
        odd.keys["general.architecture"] = "qwen9"
        self.add("odd", odd)
        huge = gguf.llama(context=1 << 20)
        huge.keys["llama.attention.head_count_kv"] = 4
        del huge.tensors["output.weight"]
        self.add("huge", huge)
        rows = self.rows()
        self.assertEqual((rows["good"]["fits"], rows["good"]["why_not"], rows["good"]["family"], rows["good"]["dtype"]),
                         ("yes", None, "llama", "Q8_0"))
        self.assertEqual(rows["odd"]["fits"], "no")
        self.assertIn("qwen9", rows["odd"]["why_not"])
        self.assertEqual(rows["huge"]["fits"], "no")
        self.assertIn("blk.0.attn_k.weight", rows["huge"]["why_not"])
        text = self.ok("list", env=self.env).decode().splitlines()
        self.assertIn("FAMILY", text[0])
        self.assertTrue(any(line.startswith("odd ") and "no: " in line for line in text))

    def test_rm(self):
        path = pathlib.Path(self.add("good", gguf.llama()))
        size = path.stat().st_size
        result = run("rm", "good", env=self.env)
        self.assertEqual((result.returncode, result.stdout), (0, b""))
        self.assertIn(f"good removed, {size / 1e3:.0f} kB free again", result.stderr.decode())
        self.assertFalse(path.parent.exists())
        self.refused(1, "good", "rm", "good", env=self.env)

    def test_rm_asks(self):
        path = pathlib.Path(self.add("good", gguf.llama()))
        for answer, code in ((b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"y\n", 0)):
            self.assertTrue(path.exists())
            ours, theirs = pty.openpty()
            p = subprocess.Popen(command("rm", "good"), env={**os.environ, **self.env}, stdin=theirs, stderr=subprocess.PIPE)
            os.close(theirs)
            os.write(ours, answer)
            _, err = p.communicate(timeout=PATIENCE)
            os.close(ours)
            self.assertEqual(p.returncode, code, err)
            self.assertIn(b"[y/N]", err)
            self.assertIn(str(path.parent).encode(), err)
        self.assertFalse(path.exists())
        path = pathlib.Path(self.add("good", gguf.llama()))
        ours, theirs = pty.openpty()
        self.assertEqual(subprocess.run(command("rm", "--yes", "good"), env={**os.environ, **self.env}, stdin=theirs,
                                        check=False).returncode, 0)
        os.close(ours)
        os.close(theirs)
        self.assertFalse(path.exists())

    def test_rm_stays_inside(self):
        """A link in the place of a model is left alone, and so is what it leads to; links inside a model go, their targets stay."""
        outside = self.folder / "outside"
        outside.mkdir()
        (outside / "m.gguf").write_bytes(b"precious")
        (self.folder / "own" / "models").mkdir(parents=True)
        (self.folder / "own" / "models" / "evil").symlink_to(outside)
        (self.folder / "hf").mkdir()
        (self.folder / "hf" / "models--org--name").symlink_to(outside)
        for name in ("evil", "org/name"):
            self.refused(1, ["link", name], "rm", name, "--yes", env=self.env)
        for name in ("..", "../outside", "/etc", "org/..", "org/name@main", "org/name:x.gguf"):
            self.refused(1, "", "rm", name, "--yes", env=self.env)
        path = pathlib.Path(self.add("good", gguf.llama())).parent
        (path / "deep").mkdir()
        (path / "deep" / "out").symlink_to(outside)
        (path / "file").symlink_to(outside / "m.gguf")
        self.ok("rm", "good", env=self.env)
        self.assertFalse(path.exists())
        self.assertEqual((outside / "m.gguf").read_bytes(), b"precious")
