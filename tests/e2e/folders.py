"""Models as Hugging Face publishes them: reading and writing safetensors, adding a tokenizer, turning a folder into GGUF.

Written against the formats and the rules of docs/models.md, not against src/: the readers are tested by a second hand.
"""
import array
import json
import math
import pathlib
import re
import shutil
import struct

import gguf
from flambeau import FOLDER, GOLDEN

TINY = GOLDEN / "tiny"
SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1}


def header(data):
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def read(path):
    """{name: (dtype, shape, bytes)} of a file or of all files of a folder."""
    path, tensors = pathlib.Path(path), {}
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        head, data = header(file.read_bytes())
        for name, t in head.items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                tensors[name] = t["dtype"], t["shape"], data[begin:end]
    return tensors


def encode(tensors, pad=True, **more):
    """The bytes of a file; more: entries of the header that replace or join those of the tensors."""
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps({**head, **more}).encode()
    text += b" " * (-len(text) % 8 if pad else 0)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


_count = 0


def copy(name, config=None, tensors=None, tokenizer=False):
    """A copy of a tiny folder: config's keys replaced (None: removed), other tensors, a tokenizer added."""
    global _count
    _count += 1
    folder = FOLDER / f"{name}-{_count}"
    shutil.copytree(TINY / name, folder)
    if config:
        c = json.loads((folder / "config.json").read_text())
        c = {k: v for k, v in {**c, **config}.items() if v is not None or k not in config}
        (folder / "config.json").write_text(json.dumps(c))
    if tensors is not None:
        for f in folder.glob("model*"):
            f.unlink()
        (folder / "model.safetensors").write_bytes(encode(tensors))
    if tokenizer:
        add_tokenizer(folder)
    return folder


def add_tokenizer(folder):
    """Byte-level BPE: three control tokens, 256 bytes, a merge; fewer tokens than the model has rows."""
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {t: i for i, t in enumerate([*special, *gguf.byte_characters(), "he"])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level,
        "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, t in enumerate(special)],
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                  "merges": [["h", "e"]]}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"}))


# ---- GGUF ----

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PARTS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
         "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm"}
PARTS.update({"block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
              "feed_forward.router": "ffn_gate_inp", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm",
              "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
              "self_attn.kv_a_layernorm": "attn_kv_a_norm"})
for _side in ("gate", "up", "down"):
    PARTS[f"feed_forward.{_side}_proj"] = f"ffn_{_side}"
    for _shared in ("mlp.shared_experts", "feed_forward.shared_expert"):
        PARTS[f"{_shared}.{_side}_proj"] = f"ffn_{_side}_shexp"
SIDES = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
ADJACENT = {"llama", "granite", "smollm3"}  # families whose rows of Wq and Wk the converter permutes
ARCHITECTURE = {"mistral": "llama", "gemma3_text": "gemma3", "mixtral": "llama", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss",
                "llama4_text": "llama4", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}


def floats(data):
    return array.array("f", data)


def permute(rows, heads, d):
    """Rows of each head so that the pairs (i, i + d/2) become neighbours."""
    order = [h * d + j + half * (d // 2) for h in range(heads) for j in range(d // 2) for half in range(2)]
    return [rows[i] for i in order]


def name_of(name, post):
    stem, suffix = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    part = "post_attention_norm" if post and part == "post_attention_layernorm" else PARTS[part]
    return f"blk.{layer}.{part}.{suffix}"


def rope_keys(arch, c, d, tensors):
    r = c["rope_parameters"]
    r = r.get("full_attention", r)
    keys = {f"{arch}.rope.freq_base": float(r["rope_theta"]), f"{arch}.rope.dimension_count": d}
    if r["rope_type"] == "llama3":
        length, lo, hi, s = r["original_max_position_embeddings"], r["low_freq_factor"], r["high_freq_factor"], r["factor"]
        values = []
        for i in range(d // 2):
            wave = 2 * 3.141592653589793 * r["rope_theta"] ** (2 * i / d)
            t = (length / wave - lo) / (hi - lo)
            values.append(1.0 if wave < length / hi else s if wave > length / lo else 1 / ((1 - t) / s + t))
        tensors["rope_freqs.weight"] = "F32", [d // 2], array.array("f", values).tobytes()
    if r["rope_type"] == "longrope":
        length = r["original_max_position_embeddings"]
        for which in ("long", "short"):
            tensors[f"rope_factors_{which}.weight"] = "F32", [d // 2], array.array("f", r[which + "_factor"]).tobytes()
        keys[f"{arch}.rope.scaling.original_context_length"] = length
        keys[f"{arch}.rope.scaling.attn_factor"] = (1 + math.log(r["factor"]) / math.log(length)) ** 0.5
    if r["rope_type"] in ("linear", "yarn"):
        keys[f"{arch}.rope.scaling.type"] = r["rope_type"]
        keys[f"{arch}.rope.scaling.factor"] = float(r["factor"])
        keys[f"{arch}.rope.scaling.original_context_length"] = r.get("original_max_position_embeddings", c["max_position_embeddings"])
    return keys


def gguf_keys(arch, c, d, tensors):
    keys = {"general.architecture": arch}
    a = {"block_count": c["num_hidden_layers"], "context_length": c["max_position_embeddings"],
         "embedding_length": c["hidden_size"], "feed_forward_length": c["intermediate_size"],
         "attention.head_count": c["num_attention_heads"], "attention.head_count_kv": c["num_key_value_heads"],
         "attention.layer_norm_rms_epsilon": c["rms_norm_eps"], "attention.key_length": d, "attention.value_length": d}
    if c.get("sliding_window") and arch != "llama":
        a["attention.sliding_window"] = c["sliding_window"]
    if arch == "granite":
        a.update({"embedding_scale": c["embedding_multiplier"], "residual_scale": c["residual_multiplier"],
                  "logit_scale": c["logits_scaling"], "attention.scale": c["attention_multiplier"]})
    if arch == "gemma2":
        a.update({"attn_logit_softcapping": c["attn_logit_softcapping"],
                  "final_logit_softcapping": c["final_logit_softcapping"]})
    if arch == "gemma3":
        a["rope.freq_base_swa"] = c["rope_parameters"]["sliding_attention"]["rope_theta"]
    keys.update({f"{arch}.{k}": v for k, v in a.items()})
    keys.update(rope_keys(arch, c, d, tensors))
    return keys


# ---- GGUF of experts and of latent attention ----

def turned(rows, columns, size, data):
    """[rows, columns] as [columns, rows]."""
    return b"".join(data[(r * columns + c) * size:(r * columns + c + 1) * size] for c in range(columns) for r in range(rows))


def stack_of(tensors, out):
    """Experts that are a tensor each, moved from tensors to out as stacks."""
    found = {}
    for name in list(tensors):
        match = re.fullmatch(r"model\.layers\.(\d+)\.\w+\.experts\.(\d+)\.(\w+)\.weight", name)
        if match:
            layer, expert, side = match.groups()
            found.setdefault((layer, SIDES[side]), {})[int(expert)] = tensors.pop(name)
    for (layer, side), experts in found.items():
        dtype, (n, k), _ = experts[0]
        out[f"blk.{layer}.ffn_{side}_exps.weight"] = dtype, [len(experts), n, k], b"".join(experts[i][2] for i in sorted(experts))


def fused_stack(layer, part, tensor, mixed, out):
    """[E, k, 2 n] of gate and up (or [E, k, n] of down), or biases [E, 2 n], as stacks [E, n, k] and biases."""
    dtype, shape, data = tensor
    bias, down, size = part.endswith("_bias"), part.startswith("down"), SIZES[dtype]
    e, k, n = (shape[0], 1, shape[1]) if bias else shape
    step = len(data) // e
    experts = [turned(k, n, size, data[i * step:(i + 1) * step]) for i in range(e)]  # [n, k]
    sides = [("down", 0, n, 1)] if down else [("gate", 0, n, 2), ("up", 1, n, 2)] if mixed else [("gate", 0, n // 2, 1), ("up", n // 2, n, 1)]
    for side, first, end, every in sides:
        rows = range(first, end, every)
        blob = b"".join(x[r * k * size:(r + 1) * k * size] for x in experts for r in rows)
        name = f"blk.{layer}.ffn_{side}_exps." + ("bias" if bias else "weight")
        out[name] = dtype, [e, len(rows)] if bias else [e, len(rows), k], blob


def split_kv_b(c, layer, tensor, out):
    dtype, (_, r), data = tensor
    nope, v, size = c["qk_nope_head_dim"], c["v_head_dim"], SIZES[tensor[0]]
    step = (nope + v) * r * size
    heads = [data[i:i + step] for i in range(0, len(data), step)]
    out[f"blk.{layer}.attn_k_b.weight"] = dtype, [len(heads), r, nope], b"".join(turned(nope, r, size, h) for h in heads)
    out[f"blk.{layer}.attn_v_b.weight"] = dtype, [len(heads), v, r], b"".join(h[nope * r * size:] for h in heads)


def expert_tensors(c, tensors):
    """The tensors that GGUF shapes in another way, taken out of `tensors`: {GGUF's name: (dtype, shape, bytes)}."""
    out = {}
    stack_of(tensors, out)
    for name in list(tensors):
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if not match:
            continue
        layer, part = match.groups()
        if part == "self_attn.sinks":
            out[f"blk.{layer}.attn_sinks.weight"] = tensors.pop(name)
        elif part == "mlp.gate.e_score_correction_bias":
            out[f"blk.{layer}.exp_probs_b.bias"] = tensors.pop(name)
        elif part == "self_attn.kv_b_proj.weight":
            split_kv_b(c, layer, tensors.pop(name), out)
        elif ".experts." in part:
            fused_stack(layer, part.rsplit(".", 1)[1], tensors.pop(name), c["model_type"] == "gpt_oss", out)
    return out


def expert_keys(arch, c):
    count = c.get("num_local_experts", c.get("n_routed_experts"))
    if not count:
        return {}
    a = {"expert_count": count, "expert_used_count": c["num_experts_per_tok"],
         "expert_feed_forward_length": c.get("moe_intermediate_size", c["intermediate_size"])}
    if arch == "llama4":
        a.update({"feed_forward_length": c["intermediate_size_mlp"], "interleave_moe_layer_step": c["interleave_moe_layer_step"]})
    if arch == "deepseek2":
        latent, rope, r = c["kv_lora_rank"], c["qk_rope_head_dim"], c["rope_parameters"]
        a.update({"attention.head_count_kv": 1, "attention.key_length": latent + rope, "attention.value_length": latent,
                  "attention.key_length_mla": c["qk_nope_head_dim"] + rope, "attention.value_length_mla": c["v_head_dim"],
                  "attention.kv_lora_rank": latent, "rope.dimension_count": rope,
                  "leading_dense_block_count": c["first_k_dense_replace"], "expert_shared_count": c["n_shared_experts"],
                  "expert_weights_scale": float(c["routed_scaling_factor"]), "expert_weights_norm": c["norm_topk_prob"],
                  "expert_group_count": c["n_group"], "expert_group_used_count": c["topk_group"],
                  "expert_gating_func": 2 if c["model_type"] == "deepseek_v3" else 1})
        if c["q_lora_rank"]:
            a["attention.q_lora_rank"] = c["q_lora_rank"]
        if r["rope_type"] == "yarn":
            a["rope.scaling.yarn_log_multiplier"] = 0.1 * r["mscale_all_dim"]
    return {f"{arch}.{k}": v for k, v in a.items()}


def to_gguf(folder, path):
    """What llama.cpp's converter makes of the folder (without a tokenizer); fp32 and bfloat16 stay what they are."""
    c = json.loads((folder / "config.json").read_text())
    arch = ARCHITECTURE.get(c["model_type"], c["model_type"])
    d = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    gemma, post = arch.startswith("gemma"), arch.startswith(("gemma", "olmo", "gpt-oss"))
    kinds, source, tensors = {"F32": "F32", "BF16": 30}, read(folder), {}
    for name, (dtype, shape, data) in expert_tensors(c, source).items():
        tensors[name] = kinds[dtype], shape[::-1], data
    for name, (dtype, shape, data) in source.items():
        if gemma and name.endswith("norm.weight"):
            data = array.array("f", [x + 1 for x in floats(data)]).tobytes()
        if arch in ADJACENT and (".q_proj." in name or ".k_proj." in name):
            heads = c["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            step = len(data) // shape[0]
            data = b"".join(permute([data[i:i + step] for i in range(0, len(data), step)], heads, d))
        tensors[name_of(name, post)] = kinds[dtype], shape[::-1], data
    keys = gguf_keys(arch, c, d, tensors)
    keys.update(expert_keys(arch, c))
    return gguf.Model(keys, tensors).save(path)
