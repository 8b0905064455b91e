"""bench: what it measures and prints (not how fast)."""
import csv
import io

import folders
from flambeau import Case, run, tiny


class Bench(Case):
    def test_json(self):
        out = self.json("bench", tiny(), "-p", "8,16", "-n", "4", "-b", "1,3", "-d", "0,20", "-r", "2")
        self.assertEqual(list(out), ["machine", "model", "profile", "weight_bytes", "weight_bytes_per_token", "results", "rss_peak_bytes"])
        self.assertEqual([(r["test"], r["depth"]) for r in out["results"]],
                         [(t, d) for d in (0, 20) for t in ("pp8", "pp16", "tg4", "tg4xb3")])
        for r in out["results"]:
            self.assertEqual(len(r["samples"]), 2)
            speed = r["tokens_per_s"]
            self.assertTrue(0 < speed["min"] <= speed["median"] <= speed["max"], r)
        self.assertTrue(out["machine"]["isa"] and out["machine"]["cpu"] and out["machine"]["threads"] >= 1)
        self.assertEqual(out["model"]["architecture"], "llama")

    def test_bytes_of_experts(self):
        """A token of the tiny Mixtral reads 2 of 5 experts: everything but the embedding and three fifths of them."""
        folder = folders.TINY / "mixtral"
        out = self.json("bench", folder, "-p", "4", "-n", "2", "-r", "1")
        packed = {n: t for n, t in folders.read(folder).items() if not n.endswith(("norm.weight", "embed_tokens.weight"))}
        rows = {n: (-(-t[1][0] // 16) * 16) * t[1][1] * 4 for n, t in packed.items()}  # in tiles of 16 rows
        experts = sum(b for n, b in rows.items() if ".experts." in n)
        self.assertEqual(out["weight_bytes_per_token"], sum(rows.values()) - experts * 3 // 5)
        self.assertGreater(out["weight_bytes"], sum(rows.values()))

    def test_random_weights(self):
        args = ("-p", "4", "-n", "2", "-r", "1")
        for folder in sorted(p for p in folders.TINY.iterdir() if p.is_dir()):
            for quant in ("f32", "q8_0"):
                out = self.json("bench", "--load-format", "dummy", "--shape", folder / "config.json", "--quant", quant, *args)
                self.assertEqual(len(out["results"]), 2)
        out = self.json("bench", "--load-format", "dummy", "--shape", "smollm2-135m", "--quant", "q4_0", *args)
        self.assertEqual(out["model"]["model"], "smollm2-135m")
        self.assertEqual(out["weight_bytes_per_token"], 576 * 18 // 32 * 49152 + 106168320 * 18 // 32)
        dummy = ("bench", "--load-format", "dummy")
        self.refused(2, ["gpt5", "qwen3-4b"], *dummy, "--shape", "gpt5")
        self.refused(2, ["q9", "q4_0"], *dummy, "--shape", "qwen3-4b", "--quant", "q9")
        self.refused(2, "--shape", *dummy)
        self.refused(2, "MODEL", *dummy, "--shape", "qwen3-4b", "x.gguf")
        self.refused(2, "dummy", "bench", "--shape", "qwen3-4b", "x.gguf")
        self.refused(2, "auto or dummy", "bench", "--load-format", "best", "x.gguf")
        self.refused(2, "MODEL", "bench")

    def test_ranges(self):
        out = self.json("bench", tiny(), "-p", "4-16*2", "-n", "2-4", "-r", "1")
        self.assertEqual([r["test"] for r in out["results"]], ["pp4", "pp8", "pp16", "tg2", "tg3", "tg4"])
        out = self.json("bench", tiny(), "-p", "8-24+8", "-n", "0", "-r", "1")
        self.assertEqual([r["test"] for r in out["results"]], ["pp8", "pp16", "pp24"])

    def test_tables(self):
        args = ("bench", tiny(), "-p", "8", "-n", "2", "-r", "1")
        table = self.ok(*args).decode().splitlines()
        self.assertEqual(len(table), 3)
        self.assertIn("pp8", table[1])
        rows = list(csv.DictReader(io.StringIO(self.ok(*args, "-o", "csv").decode())))
        self.assertEqual([r["test"] for r in rows], ["pp8", "tg2"])
        self.assertGreater(float(rows[1]["tok/s"]), 0)
        md = self.ok(*args, "-o", "md").decode().splitlines()
        self.assertEqual((len(md), md[1].count("---")), (4, md[0].count("|") - 1))
        self.assertEqual(run(*args).stderr, b"")

    def test_too_long(self):
        self.refused(2, ["512"], "bench", tiny(), "-p", "1k", "-n", "0", "-r", "1")

    def test_startup(self):
        out = self.json("bench", "startup", tiny(), "-r", "3")
        self.assertEqual([r["cache"] for r in out["results"]], ["cold", "warm"])
        for r in out["results"]:
            for phase in ("start_ms", "load_ms", "first_token_ms", "total_ms"):
                self.assertLessEqual(r[phase]["min"], r[phase]["median"])
                self.assertLessEqual(r[phase]["median"], r[phase]["max"])
            self.assertGreater(r["total_ms"]["min"], r["load_ms"]["min"])
        self.assertEqual(out["results"][1]["file_in_cache"], 1)
        self.assertEqual(len(self.ok("bench", "startup", tiny(), "-r", "1", "-t", "1").splitlines()), 3)
        self.refused(2, "have no effect", "bench", "startup", tiny(), "-p", "8")
        self.refused(2, "one more", "bench", tiny(), tiny())
        result = run("bench", "startup", "/nowhere.gguf", "-r", "1")
        self.assertEqual((result.returncode, result.stdout), (1, b""))
