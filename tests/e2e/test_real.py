"""Two real models against recorded answers (tests/golden/real): ids, log-probabilities, logits, greedy continuations."""
import array
import json

from flambeau import FOLDER, GOLDEN, Case, golden, ids_text, pulled

TOLERANCE = 2e-4       # float32 engines among each other: see tests/golden/real/ORIGIN.md
MARGIN = 1e-3          # below it the order of two logits is rounding
F32 = ("--compute", "f32", "--kv-cache-dtype", "f32")


class Real:
    name = ""
    n_texts, n_prompts, n_tokens = 6, 16, 64

    @classmethod
    def setUpClass(cls):
        cls.model = pulled(cls.name)
        cls.expect = golden(cls.name)

    def test_ids(self):
        texts = [t for t in self.expect["texts"] + self.expect["prompts"] if "text" in t]
        stdin = "".join(t["text"].encode().hex() + "\n" for t in texts).encode()
        out = self.ok("tokenize", self.model, "--hex", "--lines", stdin=stdin).decode().splitlines()
        for line, t in zip(out, texts, strict=True):
            self.assertEqual(json.loads(line)["ids"], t["ids"], t["name"])
        chats = [p for p in self.expect["prompts"] if p["kind"] == "chat"]
        stdin = "".join(p["rendered"].encode().hex() + "\n" for p in chats).encode()
        out = self.ok("tokenize", self.model, "--hex", "--lines", "--no-bos", "--parse-special", stdin=stdin)
        for line, p in zip(out.decode().splitlines(), chats, strict=True):
            self.assertEqual(json.loads(line)["ids"], p["ids"], p["name"])

    def lines(self, command, rows, *args):
        out = self.ok(command, self.model, "--hex", "--lines", *args, stdin="".join(r + "\n" for r in rows).encode())
        return out.decode().splitlines()

    def test_many_texts(self):
        answers = json.loads((GOLDEN / "real" / self.name / "tokenizer.json").read_text())
        strings = {s["i"]: s["hex"] for s in json.loads((GOLDEN / "tok" / "strings.json").read_text())["strings"]}
        cases, prefix = answers["cases"], answers["add"]["prefix"]
        texts = [strings[c["i"]] for c in cases]
        for args, wanted in ((["--no-bos"], [c["plain"] for c in cases]), ([], [prefix + c["plain"] for c in cases]),
                             (["--no-bos", "--parse-special"], [c.get("special", c["plain"]) for c in cases])):
            out = self.lines("tokenize", texts, *args)
            for line, c, ids in zip(out, cases, wanted, strict=True):
                self.assertEqual(json.loads(line)["ids"], ids, f"string {c['i']} {args}")
        ids = [*answers["detok"], *({"ids": c["plain"], "text": strings[c["i"]]} for c in cases if "decode" not in c)]
        for line, c in zip(self.lines("detokenize", [ids_text(c["ids"]) for c in ids]), ids, strict=True):
            self.assertIn(line, (c["text"], c.get("bytes")), c)

    def compare_logits(self, path, n):
        spec = self.expect["logits"]
        got, wanted = array.array("f", path.read_bytes()), array.array("f")
        wanted.frombytes((GOLDEN / "real" / self.name / spec["file"]).read_bytes())
        width = spec["shape"][1]
        self.assertEqual(len(got), n * width)
        for row, position in enumerate(spec["positions"]):
            a, b = got[position * width:(position + 1) * width], wanted[row * width:(row + 1) * width]
            self.assertLess(max(abs(x - y) for x, y in zip(a, b)), TOLERANCE, f"logits of position {position}")

    def test_logprobs(self):
        worst, logits = 0.0, FOLDER / "real.f32"
        for t in self.expect["texts"][:self.n_texts]:
            more = ["--logits", logits] if t["name"] == self.expect["logits"]["text"] else []
            out = self.json("score", self.model, *F32, "--tokens", ids_text(t["ids"]), *more, timeout=500)
            self.assertIsNone(out["logprobs"][0])
            worst = max(worst, *(abs(a - b) for a, b in zip(out["logprobs"][1:], t["logprobs"][1:], strict=True)))
            for mine, theirs in zip(out["top"], t["top"], strict=True):
                worst = max(worst, abs(mine["logprob"] - theirs["logprob"]))
            near = {x["id"] for x in t["top"] if x["logprob"] - t["top"][-1]["logprob"] > TOLERANCE}
            self.assertLessEqual(near, {x["id"] for x in out["top"]})
            self.assertLess(abs(out["perplexity"] / t["perplexity"] - 1), TOLERANCE)
            if more:
                self.compare_logits(logits, len(t["ids"]))
        print(f"{self.name}: log-probabilities differ by {worst:.1e} at most")
        self.assertLess(worst, TOLERANCE)

    def test_greedy(self):
        for p in self.expect["prompts"][-self.n_prompts:]:
            out = self.json("run", self.model, *F32, "--tokens", ids_text(p["ids"]), "--temperature", "0", "-n",
                            str(self.n_tokens), timeout=500)
            steps = next((i for i, m in enumerate(p["margins"]) if m < MARGIN), len(p["greedy"]))
            stop = p["finish_reason"] == "stop"
            wanted = p["greedy"][:-1] if stop else p["greedy"]
            n = min(steps, len(wanted), self.n_tokens)
            self.assertEqual(out["tokens"][:n], wanted[:n], p["name"])
            if steps == len(p["greedy"]) and len(p["greedy"]) <= self.n_tokens:
                self.assertEqual(out["finish_reason"], p["finish_reason"], p["name"])
                # The recording's decoder drops the blank of ", 1"; blanks are compared through the ids.
                self.assertEqual(out["text"].replace(" ", ""), p["greedy_text"].replace(" ", ""), p["name"])
                self.assertEqual(self.ok("detokenize", self.model, ids_text(out["tokens"])).decode(), out["text"])

    def test_quantised_activations(self):
        """The default profile: near in perplexity, and greedy answers that leave the float32 ones only at close calls
        (other engines with 8-bit activations were seen to leave them at margins up to 0.63)."""
        t = self.expect["texts"][0]
        out = self.json("score", self.model, "--tokens", ids_text(t["ids"]))
        self.assertEqual(out["profile"], "q8")
        self.assertLess(abs(out["perplexity"] / t["perplexity"] - 1), 0.05)
        for p in self.expect["prompts"][:4]:
            out = self.json("run", self.model, "--tokens", ids_text(p["ids"]), "--temperature", "0", "-n", "24")
            for mine, theirs, margin in zip(out["tokens"], p["greedy"], p["margins"]):
                if mine != theirs:
                    self.assertLess(margin, 0.75, p["name"])
                    break


class SmolLM2(Real, Case):
    name = "smollm2"

    def test_chats(self):
        path = FOLDER / "chat.json"
        for p in self.expect["prompts"]:
            if p["kind"] != "chat":
                continue
            path.write_text(json.dumps(p["messages"]))
            out = self.json("template", self.model, "--messages", path)
            self.assertEqual((out["text"], out["tokens"]), (p["rendered"], p["ids"]), p["name"])
            self.assertEqual(self.ok("template", self.model, "--messages", path).decode(), p["rendered"])

    def test_an_answer(self):
        out = self.json("run", "smollm2", "What is the capital of France?", "--compute", "f32", "--temperature", "0", "-n", "40")
        self.assertIn("Paris", out["text"])
        self.assertEqual(out["finish_reason"], "stop")


class Gemma3(Real, Case):
    name = "gemma3-270m"
    n_texts, n_prompts, n_tokens = 5, 6, 24   # the last four prompts are plain text

    def test_chats(self):
        path, template = FOLDER / "chat.json", GOLDEN / "real" / "gemma3.jinja"
        for p in self.expect["prompts"]:
            if p["kind"] != "chat":
                continue
            path.write_text(json.dumps(p["messages"]))
            out = self.json("template", template, "--messages", path, "--kwargs", '{"bos_token": "<bos>"}')
            self.assertEqual(out, {"text": p["rendered"]}, p["name"])
