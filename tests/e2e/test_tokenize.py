"""tokenize and detokenize."""
import json
import os
import shutil
import tempfile

from flambeau import Case, ids_text, tiny

TEXTS = ["hello world", "the hello  theworld\n\ttabs", "Grüße, 你好 🙂🙂", "12345 + 67 = x_y", " ", "a\u0000b", "<|im_end|>"]


class Tokenize(Case):
    def test_json(self):
        out = self.json("tokenize", tiny(), "hello world")
        self.assertEqual("".join(out["pieces"]), "hello world")
        self.assertEqual(len(out["ids"]), len(out["pieces"]))
        self.assertEqual(out["pieces"][0], "hello")
        self.assertEqual(self.ok("tokenize", tiny(), "hello world").decode(), ids_text(out["ids"]) + "\n")

    def test_round_trip(self):
        for model in (tiny(), tiny("gemma3")):
            for text in TEXTS:
                with self.subTest(model=model, text=text):
                    ids = self.json("tokenize", model, "--no-bos", stdin=text.encode())["ids"]
                    self.assertEqual(self.ok("detokenize", model, ids_text(ids)), text.encode())
                    self.assertEqual(self.ok("detokenize", model, stdin=json.dumps(ids).encode()), text.encode())
                    self.assertEqual(self.ok("detokenize", model, "--hex", ids_text(ids)).decode(), text.encode().hex())

    def test_start_token(self):
        self.assertEqual(self.json("tokenize", tiny("gemma3"), "hello")["ids"][0], 2)
        self.assertNotEqual(self.json("tokenize", tiny("gemma3"), "hello", "--no-bos")["ids"][0], 2)
        self.assertEqual(self.json("tokenize", tiny(), "hello"), self.json("tokenize", tiny(), "hello", "--no-bos"))

    def test_special_tokens(self):
        model = tiny()
        self.assertEqual(self.json("tokenize", model, "<|im_end|>", "--parse-special")["ids"], [2])
        self.assertNotIn(2, self.json("tokenize", model, "<|im_end|>")["ids"])
        self.assertEqual(self.ok("detokenize", model, "1,2"), b"<|im_start|><|im_end|>")
        self.assertEqual(self.ok("detokenize", model, "1,2", "--skip-special"), b"")

    def test_a_tokenizer_without_weights(self):
        own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tok", "own")
        folder, spm = os.path.join(own, "bytelevel"), os.path.join(own, "bpe-plain")
        for model in (folder, os.path.join(folder, "tokenizer.json"), spm, os.path.join(spm, "tokenizer.model")):
            with self.subTest(model=model):
                ids = self.json("tokenize", model, "--no-bos", "hello world")["ids"]
                self.assertEqual(self.ok("detokenize", model, ids_text(ids)).strip(), b"hello world")
        self.assertEqual(self.json("tokenize", folder, "<s>", "--no-bos", "--parse-special")["ids"], [0])
        self.refused(1, "no weights", "run", folder, "hello")
        self.refused(1, "without tokenizer.json", "tokenize", own, "hello")

    def test_unigram_gguf(self):
        golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tok")
        model = os.path.join(golden, "own", "uni-nfkc.gguf")
        with open(os.path.join(golden, "strings.json"), encoding="utf-8") as f:
            strings = json.load(f)["strings"]
        with open(os.path.join(golden, "own-uni-nfkc.gguf.json"), encoding="utf-8") as f:
            cases = json.load(f)["cases"]
        hexed = "".join(strings[c["i"]]["hex"] + "\n" for c in cases).encode()
        out = self.ok("tokenize", model, "--no-bos", "--lines", "--hex", stdin=hexed).decode().splitlines()
        self.assertEqual([json.loads(line)["ids"] for line in out], [c["plain"] for c in cases])
        self.assertEqual(self.json("tokenize", model, "Hello")["ids"][-1], 1)

    def test_files_of_a_folder(self):
        own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tok", "own", "bytelevel", "tokenizer.json")
        with tempfile.TemporaryDirectory() as folder:
            def put(name, what):
                os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    f.write(what if isinstance(what, str) else json.dumps(what))

            def render(*options):
                return self.ok("template", folder, "--messages", os.path.join(folder, "messages"), *options).decode()

            shutil.copy(own, folder)
            put("messages", [{"role": "user", "content": "hi"}])
            put("tools", [{"type": "function", "function": {"name": "f"}}])
            put("tokenizer_config.json", {"chat_template": [{"name": "default", "template": "one {{ bos_token }}"},
                                                            {"name": "tool_use", "template": "two {{ tools | length }}"}]})
            put("special_tokens_map.json", {"bos_token": {"content": "<s>"}, "eos_token": "</s>"})
            put("generation_config.json", {"eos_token_id": [1, 7]})
            tools = ("--tools", os.path.join(folder, "tools"))
            self.assertEqual([render(), render(*tools)], ["one <s>", "two 1"])
            put("chat_template.jinja", "file")
            put("additional_chat_templates/tool_use.jinja", "file for tools")
            self.assertEqual([render(), render(*tools)], ["file", "file for tools"])
            put("additional_chat_templates/tool_use.jinja", "{% if %}")
            self.refused(1, "chat template for tools", "template", folder, "--messages", os.path.join(folder, "messages"))
            put("generation_config.json", "[1")
            self.refused(1, "generation_config.json", "tokenize", folder, "hi")

    def test_lines(self):
        model = tiny()
        lines = ["hello", "", "the world"]
        hexed = "".join(t.encode().hex() + "\n" for t in lines).encode()
        out = self.ok("tokenize", model, "--lines", "--hex", stdin=hexed).decode().splitlines()
        self.assertEqual([json.loads(line)["ids"] for line in out],
                         [self.json("tokenize", model, t)["ids"] if t else [] for t in lines])
        self.assertEqual(out, self.ok("tokenize", model, "--lines", stdin="\n".join(lines).encode()).decode().splitlines())
        ids = "".join(ids_text(json.loads(line)["ids"]) + "\n" for line in out).encode()
        self.assertEqual(self.ok("detokenize", model, "--lines", stdin=ids).decode(), "hello\n\nthe world\n")

    def test_hex(self):
        self.assertEqual(self.json("tokenize", tiny(), "68 65 6C6c6f", "--hex"), self.json("tokenize", tiny(), "hello"))
        self.refused(1, "odd number", "tokenize", tiny(), "686", "--hex")
        self.refused(1, "pairs of 0-9a-f", "tokenize", tiny(), "6x", "--hex")

    def test_empty_text(self):
        self.assertEqual(self.json("tokenize", tiny(), stdin=b"")["ids"], [])
        self.assertEqual(self.ok("detokenize", tiny(), stdin=b""), b"")

    def test_refused(self):
        self.refused(1, "UTF-8", "tokenize", tiny(), stdin=b"ab\xff")
        self.refused(1, "99999", "detokenize", tiny(), "1,99999")
        self.refused(1, "token ids", "detokenize", tiny(), "1;2")

    def test_half_characters_are_valid_json(self):
        out = self.json("tokenize", tiny(), "🙂")
        self.assertEqual(len(out["ids"]), 4)
        self.assertEqual(out["pieces"], ["\ufffd"] * 4)
        self.assertEqual(self.ok("detokenize", tiny(), ids_text(out["ids"])).decode(), "🙂")
