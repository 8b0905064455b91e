"""An answer depends on its own prompt and on nothing else: logits are compared byte for byte over chunks, threads, batch
neighbours, instruction sets, optimisation levels and devices."""
import random

from flambeau import FOLDER, Case, golden, ids_text, pulled, run, tiny

ISAS = ("scalar", "avx2", "avx512", "avx512vnni", "amx", "neon")
NEIGHBOURS = ("the world says hello\nhello hello hello, the end of the line.\nnumbers 1 2 3 4 5 6 7 8 9 10 and more of them\n")


def isas(model):
    """Those that this processor and this build have; an unknown name is wrong usage, a missing one a failure."""
    return [i for i in ISAS if run("score", model, "--tokens", "5,6", "--cpu-isa", i).returncode == 0]


class SameBits(Case):
    def logits(self, model, ids, *args):
        path = FOLDER / "bits.f32"
        self.ok("score", model, "--tokens", ids_text(ids), "--logits", path, *args)
        data = path.read_bytes()
        path.unlink()
        return data

    def same(self, model, ids, variants):
        wanted = self.logits(model, ids)
        self.assertEqual(len(wanted) % (4 * len(ids)), 0)
        for args in variants:
            with self.subTest(args=args):
                self.assertTrue(self.logits(model, ids, *args) == wanted, "the logits differ")

    def neighbours(self):
        path = FOLDER / "neighbours.txt"
        path.write_text(NEIGHBOURS)
        return str(path)

    def variants(self, model, n):
        some = [["--chunk", c] for c in ("1", "7", "64", str(n))] + [["-t", t] for t in ("1", "2", "3", "8")]
        some += [["--batch-with", self.neighbours()], ["--batch-with", self.neighbours(), "--chunk", "7"]]
        some += [["--device", "sim"], ["-O0"], ["-O1"]]
        return some + [["--cpu-isa", i] for i in isas(model)]

    def combination(self, rng, model, n):
        pick = ["--chunk", str(rng.choice((1, 3, 7, 33, 64, n))), "-t", str(rng.choice((1, 2, 3, 5, 8))),
                f"-O{rng.randrange(3)}", "--device", rng.choice(("cpu", "sim")), "--cpu-isa", rng.choice(isas(model))]
        return pick + (["--batch-with", self.neighbours()] if rng.random() < 0.5 else [])

    def test_tiny_models(self):
        rng = random.Random(5)
        ids = [rng.randrange(3, 259) for _ in range(200)]
        for model in (tiny(), tiny("gemma3"), tiny(kind="Q4_1"), tiny(kind="F32")):
            self.same(model, ids, self.variants(model, 200))

    def test_tiny_profiles(self):
        rng = random.Random(6)
        ids = [rng.randrange(3, 259) for _ in range(70)]
        for compute in ("bf16", "f32"):
            wanted = self.logits(tiny("gemma3"), ids, "--compute", compute)
            self.assertFalse(wanted == self.logits(tiny("gemma3"), ids), "the profile changes nothing")
            for seed in range(6):
                args = self.combination(random.Random(seed), tiny("gemma3"), 70)
                self.assertTrue(self.logits(tiny("gemma3"), ids, "--compute", compute, *args) == wanted, [compute, *args])

    def test_seeded_combinations(self):
        for seed in range(20):
            rng = random.Random(seed)
            model = rng.choice((tiny(), tiny("gemma3")))
            ids = [rng.randrange(3, 259) for _ in range(rng.randrange(2, 150))]
            args = self.combination(rng, model, len(ids))
            self.assertTrue(self.logits(model, ids, *args) == self.logits(model, ids), f"seed {seed}: {args}")

    def test_64_threads(self):
        self.same(tiny(), [5, 6, 7, 8, 9], [["-t", "64"]])

    def test_a_real_model(self):
        model = pulled("smollm2")
        ids = golden("smollm2")["texts"][0]["ids"][:200]
        variants = [v for v in self.variants(model, 200) if "scalar" not in v]
        self.same(model, ids, variants)
        self.same(model, ids[:40], [["--cpu-isa", "scalar"]])
