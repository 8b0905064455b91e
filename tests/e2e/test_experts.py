"""Models with experts and latent attention: MXFP4 in folders and GGUF, what is printed of them, and what is refused."""
import array
import json
import random

import folders
import gguf
from flambeau import FOLDER, Case, ids_text, run

TOKENS = [5, 77, 3, 200, 258, 14, 9, 9, 31, 100, 6, 42, 250, 17, 8, 61, 199, 23, 4, 90]
CODES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
EXPERTS, FF, D = 4, 64, 64


def packed(rng, rows, columns):
    """Random MXFP4 of [EXPERTS, rows, columns]: codes, scales, and the values."""
    n = EXPERTS * rows * columns
    codes = bytes(rng.randrange(256) for _ in range(n // 2))
    scales = bytes(rng.choice((121, 122, 123)) for _ in range(n // 32))
    values = [CODES[codes[i // 2] >> 4 * (i % 2) & 15] * 2.0 ** (scales[i // 32] - 127) for i in range(n)]
    return codes, scales, values


def mxfp4_folders():
    """The same gpt-oss with experts packed, with their values in fp32 (k in front), and packed as GGUF stacks."""
    rng, config = random.Random(4), {"intermediate_size": FF, "quantization_config": {"quant_method": "mxfp4"}}
    plain, coded, stacks = folders.read(folders.TINY / "gpt-oss"), {}, {}
    for name in [n for n in plain if ".experts." in n]:
        layer, part = name.split(".")[2], name.rsplit(".", 1)[1]
        wide = 2 * FF if part.startswith("gate") else D
        if part.endswith("_bias"):
            data = array.array("f", [rng.gauss(0, 0.2) for _ in range(EXPERTS * wide)]).tobytes()
            plain[name] = coded[name] = "F32", [EXPERTS, wide], data
            continue
        k = D if part.startswith("gate") else FF
        codes, scales, values = packed(rng, wide, k)
        data = array.array("f", [values[(e * wide + n) * k + i] for e in range(EXPERTS) for i in range(k) for n in range(wide)])
        plain[name] = "F32", [EXPERTS, k, wide], data.tobytes()
        coded[name + "_blocks"] = "U8", [EXPERTS, wide, k // 32, 16], codes
        coded[name + "_scales"] = "U8", [EXPERTS, wide, k // 32], scales
        for side, rows in (("gate", range(0, wide, 2)), ("up", range(1, wide, 2))) if wide != D else (("down", range(wide)),):
            blocks = bytearray()
            for e in range(EXPERTS):
                for n in rows:
                    for b in range(k // 32):
                        at = (e * wide + n) * k // 32 + b
                        c = codes[at * 16:at * 16 + 16]
                        nibbles = [x for byte in c for x in (byte & 15, byte >> 4)]
                        blocks += bytes([scales[at], *(nibbles[i] | nibbles[i + 16] << 4 for i in range(16))])
            stacks[f"blk.{layer}.ffn_{side}_exps.weight"] = 39, [k, len(rows), EXPERTS], bytes(blocks)
    coded.update({n: t for n, t in plain.items() if ".experts." not in n})
    one = folders.copy("gpt-oss", {"intermediate_size": FF}, plain)
    two = folders.copy("gpt-oss", config, coded)
    model = {}

    def keep(self, path):
        model["m"] = self
        return path

    save, gguf.Model.save = gguf.Model.save, keep
    try:
        folders.to_gguf(one, FOLDER / "unused.gguf")
    finally:
        gguf.Model.save = save
    model["m"].tensors.update(stacks)
    return one, two, model["m"].save(FOLDER / "mxfp4.gguf")


class Experts(Case):
    def logits(self, model, *args):
        path = FOLDER / "experts.f32"
        self.ok("score", model, "--tokens", ids_text(TOKENS), "--logits", path, *args)
        return path.read_bytes()

    def test_mxfp4(self):
        plain, coded, stacks = mxfp4_folders()
        wanted = self.logits(plain, "--compute", "f32")
        self.assertTrue(self.logits(coded, "--compute", "f32") == wanted, "codes decode to other values")
        self.assertTrue(self.logits(stacks, "--compute", "f32") == wanted, "GGUF's codes decode to other values")
        natural = self.logits(coded)
        self.assertTrue(self.logits(stacks) == natural, "codes compute otherwise than GGUF's")
        for args in (["--chunk", "1"], ["-t", "3", "-O0"], ["--device", "sim"], ["--cpu-isa", "scalar"]):
            self.assertTrue(self.logits(coded, *args) == natural, f"other bits with {args}")
        close = [abs(a - b) for a, b in zip(array.array("f", natural), array.array("f", wanted))]
        self.assertLess(max(close), 1)  # 8-bit activations in three layers of experts, logits up to 10

    def test_plan(self):
        out = run("run", folders.TINY / "deepseek-v3", "--tokens", "5,6", "-n", "1", "--ignore-eos", "--print-plan").stderr.decode()
        for text in ("expert_matmul expert_matmul > silu_mul", "head_matmul", "[8,24,64]", "route"):
            self.assertIn(text, out)

    def broken(self, name, words, config=None, change=None, code=1):
        tensors = folders.read(folders.TINY / name)
        if change:
            change(tensors)
        self.refused(code, words, "score", folders.copy(name, config, tensors), "--tokens", "1,2")

    def test_what_configurations_may_say(self):
        """Scaling by position as a number; halves instead of neighbours, with the rows of the rotary parts moved to match."""
        wanted = self.logits(folders.TINY / "llama4")
        self.assertTrue(self.logits(folders.copy("llama4", {"attn_temperature_tuning": 4})) == wanted)
        self.assertFalse(self.logits(folders.copy("llama4", {"attn_temperature_tuning": 0})) == wanted)
        c = json.loads((folders.TINY / "deepseek-v3" / "config.json").read_text())
        nope, rope, latent, tensors = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["kv_lora_rank"], folders.read(folders.TINY / "deepseek-v3")
        order = [2 * i for i in range(rope // 2)] + [2 * i + 1 for i in range(rope // 2)]
        for name, (dtype, shape, data) in tensors.items():
            fixed, heads = (nope, c["num_attention_heads"]) if "q_b_proj" in name else (latent, 1) if "kv_a_proj" in name else (0, 0)
            step, rows = len(data) // shape[0], []
            for h in range(heads):
                first = h * (fixed + rope)
                rows += [first + i for i in range(fixed)] + [first + fixed + i for i in order]
            if rows:
                tensors[name] = dtype, shape, b"".join(data[r * step:(r + 1) * step] for r in rows)
        found = self.logits(folders.copy("deepseek-v3", {"rope_interleave": False}, tensors))
        far = max(abs(a - b) for a, b in zip(array.array("f", found), array.array("f", self.logits(folders.TINY / "deepseek-v3"))))
        self.assertLess(far, 1e-4)

    def test_bad_tensors(self):
        def drop(t):
            del t["model.layers.1.block_sparse_moe.experts.3.w2.weight"]

        def narrow(t):
            t["model.layers.1.block_sparse_moe.experts.3.w2.weight"] = "F32", [64, 71], bytes(64 * 71 * 4)

        def mixed(t):
            t["model.layers.1.block_sparse_moe.experts.3.w2.weight"] = "BF16", [64, 72], bytes(64 * 72 * 2)

        def integers(t):
            t["model.layers.1.feed_forward.experts.down_proj"] = "U8", [4, 40, 64], bytes(4 * 40 * 64)

        def turned(t):
            t["model.layers.1.feed_forward.experts.down_proj"] = "F32", [4, 64, 40], bytes(4 * 64 * 40 * 4)

        def no_bias(t):
            del t["model.layers.1.mlp.gate.e_score_correction_bias"]

        def latent(t):
            t["model.layers.1.self_attn.kv_b_proj.weight"] = "F32", [112, 21], bytes(112 * 21 * 4)

        self.broken("mixtral", ["ffn_down_exps", "missing"], change=drop)
        self.broken("mixtral", ["experts.3.w2", "64, 71", "72"], change=narrow)
        self.broken("mixtral", ["experts.3.w2", "BF16", "F32"], change=mixed)
        self.broken("llama4", ["experts.down_proj", "U8"], change=integers)
        self.broken("llama4", ["experts.down_proj", "[4, 64, 40]"], change=turned)
        self.broken("deepseek-v3", ["exp_probs_b", "missing"], change=no_bias)
        self.broken("deepseek-v3", ["kv_b_proj", "[112, 20]"], change=latent)

    def test_bad_numbers(self):
        self.broken("mixtral", ["0 experts"], {"num_local_experts": 0})
        self.broken("mixtral", ["99 of them"], {"num_experts_per_tok": 99})
        self.broken("mixtral", ["num_local_experts", "many"], {"num_local_experts": "many"})
        self.broken("deepseek-v3", ["router"], {"n_group": 3})
        self.broken("deepseek-v3", ["router"], {"topk_group": 0})
        self.broken("deepseek-v3", ["latent of 4000"], {"kv_lora_rank": 4000})
        self.broken("deepseek-v2", ["scored by dice"], {"scoring_func": "dice"})
        self.broken("deepseek-v2", ["attention_bias"], {"attention_bias": True})
        self.broken("gpt-oss", ["swiglu_limit"], {"swiglu_limit": -1})
        self.broken("gpt-oss", ["quantization_config"], {"quantization_config": {"quant_method": "gptq"}})
        self.broken("llama4", ["chunks of 0"], {"attention_chunk_size": 0})
        self.broken("qwen3-moe-bf16", ["decoder_sparse_step"], {"decoder_sparse_step": 0})

    def test_old_latent_files(self):
        """GGUF files from before latent attention was split have one attn_kv_b and no widths of it: refused by name."""
        c = json.loads((folders.TINY / "deepseek-v2" / "config.json").read_text())
        self.assertEqual(c["kv_lora_rank"], 20)
        path = folders.to_gguf(folders.TINY / "deepseek-v2", FOLDER / "old.gguf")
        data = open(path, "rb").read()
        key = b"deepseek2.attention.key_length_mla"
        self.assertEqual(data.count(key), 1)
        (FOLDER / "old.gguf").write_bytes(data.replace(key, b"deepseek2.attention.key_length_xxx"))
        self.refused(1, ["key_length_mla", "missing"], "score", path, "--tokens", "1,2")
