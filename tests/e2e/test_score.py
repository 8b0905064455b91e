"""score: log-probabilities, logits, perplexity."""
import array
import math

from flambeau import FOLDER, Case, ids_text, tiny


def rows(path, n):
    data = array.array("f", path.read_bytes())
    width = len(data) // n
    return [data[i * width:(i + 1) * width] for i in range(n)]


def log_softmax(row):
    top = max(row)
    z = top + math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - z for x in row]


class Score(Case):
    def test_fields_and_consistency(self):
        for model in (tiny(), tiny("gemma3")):
            logits = FOLDER / "logits.f32"
            out = self.json("score", model, "--text", "hello the world, hello", "--top", "5", "--logits", logits)
            self.assertEqual(list(out), ["tokens", "logprobs", "top", "perplexity", "profile"])
            n = len(out["tokens"])
            self.assertEqual(len(out["logprobs"]), n)
            self.assertIsNone(out["logprobs"][0])
            table = [log_softmax(row) for row in rows(logits, n)]
            for i in range(1, n):
                self.assertAlmostEqual(out["logprobs"][i], table[i - 1][out["tokens"][i]], delta=2e-5)
            best = sorted(range(len(table[-1])), key=lambda v: (-table[-1][v], v))[:5]
            self.assertEqual([t["id"] for t in out["top"]], best)
            for t in out["top"]:
                self.assertAlmostEqual(t["logprob"], table[-1][t["id"]], delta=2e-5)
            self.assertAlmostEqual(out["perplexity"], math.exp(-math.fsum(out["logprobs"][1:]) / (n - 1)), delta=1e-6 * out["perplexity"])

    def test_ways_to_give_a_text(self):
        text = FOLDER / "text.txt"
        text.write_text("hello the world")
        for model in (tiny(), tiny("gemma3")):
            wanted = self.json("score", model, "--text", "hello the world")
            self.assertEqual(self.json("score", model, "--file", text), wanted)
            self.assertEqual(self.json("score", model, stdin=b"hello the world"), wanted)
            self.assertEqual(self.json("score", model, "--tokens", ids_text(wanted["tokens"])), wanted)
            self.assertIn(f"perplexity {wanted['perplexity']:.6g}", self.ok("score", model, "--file", text).decode())
        self.assertEqual(self.json("score", tiny("gemma3"), "--text", "hello", "--no-bos")["tokens"],
                         self.json("score", tiny("gemma3"), "--text", "hello")["tokens"][1:])

    def test_top(self):
        self.assertEqual(len(self.json("score", tiny(), "--text", "hello")["top"]), 20)
        self.assertEqual(self.json("score", tiny(), "--text", "hello", "--top", "0")["top"], [])

    def test_one_token(self):
        out = self.json("score", tiny(), "--tokens", "5")
        self.assertEqual((out["logprobs"], out["perplexity"], len(out["top"])), ([None], None, 20))

    def test_greedy_agrees_with_score(self):
        out = self.json("run", tiny(), "--tokens", "5,6,7", "--temperature", "0", "-n", "6", "--ignore-eos")
        ids = [5, 6, 7]
        for token in out["tokens"]:
            self.assertEqual(self.json("score", tiny(), "--tokens", ids_text(ids), "--top", "1")["top"][0]["id"], token)
            ids.append(token)

    def test_nothing_is_left_behind(self):
        folder = FOLDER / "score"
        folder.mkdir()
        self.refused(1, "logits", "score", tiny(), "--text", "hi", "--logits", folder / "no" / "f")
        self.refused(1, "No space", "score", tiny(), "--text", "hi", "--logits", "/dev/full")
        self.refused(1, "99999", "score", tiny(), "--tokens", "1,99999", "--logits", folder / "f")
        self.assertEqual(list(folder.iterdir()), [])
