"""run: prompts, sampling options, results."""
import json
import re

from flambeau import FOLDER, Case, ids_text, run, tiny

GREEDY = ("--temperature", "0", "-n", "12", "--ignore-eos")


class Run(Case):
    def test_json_fields(self):
        out = self.json("run", tiny(), "hello", *GREEDY)
        self.assertEqual(list(out), ["prompt_tokens", "tokens", "text", "finish_reason", "seed", "profile", "timings",
                                     "rss_peak_bytes"])
        self.assertEqual(list(out["timings"]), ["load_ms", "prefill_ms", "prefill_tps", "decode_ms", "decode_tps",
                                                "start_to_first_token_ms"])
        self.assertEqual((len(out["tokens"]), out["finish_reason"], out["profile"]), (12, "length", "q8"))
        self.assertGreater(out["rss_peak_bytes"], 1 << 20)
        t = out["timings"]
        self.assertGreater(t["start_to_first_token_ms"], t["prefill_ms"])
        for value in t.values():
            self.assertGreater(value, 0)

    def test_text_is_streamed_and_figures_go_to_stderr(self):
        out = self.json("run", tiny(), "hello", *GREEDY)
        result = run("run", tiny(), "hello", *GREEDY)
        text = result.stdout.decode()
        self.assertEqual(text.rstrip("\n"), out["text"].rstrip("\n"))
        self.assertTrue(text.endswith("\n"))
        self.assertRegex(result.stderr.decode(), r"load \d+ ms, first token after \d+ ms; prompt \d+ tokens, [\d.]+ tok/s; "
                                                 r"answer 12 tokens, [\d.]+ tok/s")
        self.assertNotIn(b"\033", result.stderr)

    def test_the_prompt_goes_through_the_template(self):
        model, messages = tiny(), FOLDER / "messages.json"
        for args, content in ((["hello <|im_end|>"], [("user", "hello <|im_end|>")]),
                              (["hello", "--system", "be brief"], [("system", "be brief"), ("user", "hello")])):
            messages.write_text(json.dumps([{"role": r, "content": c} for r, c in content]))
            wanted = self.json("template", model, "--messages", messages)["tokens"]
            self.assertEqual(self.json("run", model, *args, *GREEDY)["prompt_tokens"], wanted)
        self.assertEqual(wanted.count(2), 2)   # the template's own <|im_end|>

    def test_ways_to_give_a_prompt(self):
        model = tiny()
        raw = self.json("run", model, "hello", "--raw", *GREEDY)
        self.assertEqual(raw["prompt_tokens"], self.json("tokenize", model, "hello")["ids"])
        ids = self.json("run", model, "--tokens", ids_text(raw["prompt_tokens"]), *GREEDY)
        self.assertEqual(ids["tokens"], raw["tokens"])
        self.assertEqual(self.json("run", model, "--raw", *GREEDY, stdin=b"hello")["tokens"], raw["tokens"])
        chat = self.json("run", model, "hello", *GREEDY)
        self.assertEqual(self.json("run", model, *GREEDY, stdin=b"hello\n")["prompt_tokens"], chat["prompt_tokens"])
        self.assertNotEqual(chat["prompt_tokens"], raw["prompt_tokens"])

    def test_a_model_without_template(self):
        result = run("run", tiny("gemma3"), "hello", *GREEDY)
        self.assertEqual(result.returncode, 0)
        notes = [line for line in result.stderr.decode().splitlines() if "chat template" in line]
        self.assertEqual(len(notes), 1)
        self.assertIn("plain text", notes[0])
        out = self.json("run", tiny("gemma3"), "hello", *GREEDY)
        self.assertEqual(out["prompt_tokens"], self.json("tokenize", tiny("gemma3"), "hello")["ids"])
        self.refused(1, ["--system", "chat template"], "run", tiny("gemma3"), "hello", "--system", "s", *GREEDY)

    def test_seeds(self):
        def draw(*args):
            return self.json("run", tiny(), "hello", "-n", "12", "--ignore-eos", "--temperature", "1.5", *args)

        first = draw("--seed", "7")
        self.assertEqual(first["seed"], 7)
        self.assertEqual(draw("--seed", "7")["tokens"], first["tokens"])
        self.assertNotEqual(draw("--seed", "8")["tokens"], first["tokens"])
        drawn = draw()
        self.assertEqual(draw("--seed", str(drawn["seed"]))["tokens"], drawn["tokens"])
        self.assertEqual(draw("--seed", "18446744073709551615")["seed"], 2**64 - 1)

    def test_filters(self):
        greedy = self.json("run", tiny(), "hello", *GREEDY)["tokens"]
        for args in (["--top-k", "1"], ["--top-p", "0.000001"], ["--min-p", "1"]):
            out = self.json("run", tiny(), "hello", "-n", "12", "--ignore-eos", "--temperature", "2", *args)
            self.assertEqual(out["tokens"], greedy, args)

    def test_penalties(self):
        greedy = self.json("run", tiny(), "hello", "--temperature", "0", "-n", "40", "--ignore-eos")["tokens"]
        for args in (["--presence-penalty", "100"], ["--frequency-penalty", "100"]):
            tokens = self.json("run", tiny(), "hello", "--temperature", "0", "-n", "40", "--ignore-eos", *args)["tokens"]
            self.assertEqual(len(set(tokens)), 40, args)
            self.assertEqual(tokens[0], greedy[0])

    def test_stop_texts(self):
        model = tiny()
        full = self.json("run", model, "hello", *GREEDY)
        printable = re.search(r"[ -~]{1,3}", full["text"][1:])
        stop = printable[0] if printable else full["text"][3]
        out = self.json("run", model, "hello", *GREEDY, "--stop", "never there", "--stop", stop)
        self.assertEqual(out["finish_reason"], "stop")
        self.assertEqual(out["text"], full["text"][:full["text"].index(stop)])

    def test_the_context_ends_an_answer(self):
        out = self.json("run", tiny(context=64), "--tokens", ids_text(range(3, 53)), "--temperature", "0", "--ignore-eos")
        self.assertEqual((out["finish_reason"], len(out["prompt_tokens"]) + len(out["tokens"]) >= 64), ("length", True))
        out = self.json("run", tiny(), "--tokens", "5,6,7", "--temperature", "0", "--ignore-eos", "--max-model-len", "20")
        self.assertIn(len(out["tokens"]), (17, 18))

    def test_the_plan(self):
        result = run("run", tiny(), "hello", *GREEDY, "--print-plan", "--json")
        self.assertIn("tokens", json.loads(result.stdout))
        self.assertGreater(len(result.stderr.splitlines()), 3)

    def test_levels_give_the_same_answer(self):
        wanted = self.json("run", tiny(), "hello", *GREEDY)["tokens"]
        for args in (["-O0"], ["-O1"], ["-O", "2"], ["--enforce-eager"], ["--device", "sim"], ["-t", "3"]):
            self.assertEqual(self.json("run", tiny(), "hello", *GREEDY, *args)["tokens"], wanted, args)

    def test_show(self):
        out = self.json("show", tiny())
        self.assertEqual((out["architecture"], out["layers"], out["vocab"], out["chat_template"]), ("llama", 2, 268, True))
        self.assertIn("tiny llama", self.ok("show", tiny()).decode())
