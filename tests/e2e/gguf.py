"""Writes GGUF version 3 files, and makes the tiny random models that the end-to-end tests run on.

The writer is independent of src/file/gguf_write.c on purpose: the reader is tested against a second hand. Weights are
random bytes in the file's own format (a scale and random codes), so that making a model takes milliseconds.
"""
import copy
import random
import struct

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TYPES = {"F32": (0, 1, 4), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34)}  # ggml id, elements and bytes of a block


def string(s):
    data = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(v):
    if isinstance(v, bool):
        return BOOL, struct.pack("<?", v)
    if isinstance(v, int):
        return U32, struct.pack("<I", v)
    if isinstance(v, float):
        return F32, struct.pack("<f", v)
    return STRING, string(v)


def value(v):
    if not isinstance(v, list):
        kind, data = scalar(v)
        return struct.pack("<I", kind) + data
    if v and isinstance(v[0], int):
        kind, items = I32, [struct.pack("<i", x) for x in v]
    else:
        pairs = [scalar(x) for x in v]
        kind, items = pairs[0][0], [data for _, data in pairs]
    return struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(items)


def encode(keys, tensors, alignment=32):
    """keys: {name: value}; tensors: {name: (type name, dims, bytes)}, dims[0] is the row."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(string(k) + value(v) for k, v in keys.items())
    offset, blobs = 0, []
    for name, (kind, dims, data) in tensors.items():
        number = TYPES[kind][0] if isinstance(kind, str) else kind
        head += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, offset)
        data += bytes(-len(data) % alignment)
        blobs.append(data)
        offset += len(data)
    return head + bytes(-len(head) % alignment) + b"".join(blobs)


class Model:
    """keys and tensors of a tiny model; change them, then save()."""

    def __init__(self, keys, tensors):
        self.keys, self.tensors = keys, tensors

    def copy(self):
        return Model(copy.copy(self.keys), copy.copy(self.tensors))

    def bytes(self):
        return encode(self.keys, self.tensors)

    def save(self, path):
        with open(path, "wb") as f:
            f.write(self.bytes())
        return str(path)


def random_blocks(rng, kind, n, size):
    """n elements of about the given size (standard deviation)."""
    if kind == "F32":
        return struct.pack(f"<{n}f", *(rng.gauss(0, size) for _ in range(n)))
    _, block, _ = TYPES[kind]
    data = bytearray()
    for _ in range(n // block):
        scale = size * rng.uniform(0.8, 1.2)
        if kind == "Q8_0":
            data += struct.pack("<e", scale / 74) + rng.randbytes(32)
        else:
            data += struct.pack("<ee", scale / 4.6, -7.5 * scale / 4.6) + rng.randbytes(16)
    return bytes(data)


def norm(rng, n):
    return "F32", [n], struct.pack(f"<{n}f", *(1 + rng.gauss(0, 0.1) for _ in range(n)))


def blocks(rng, tensors, n_layers, d, heads, kv_heads, d_k, ff, kind, gemma):
    def add(name, rows, columns):
        tensors[name] = (kind, [columns, rows], random_blocks(rng, kind, rows * columns, columns ** -0.5))

    for layer in range(n_layers):
        p = f"blk.{layer}."
        tensors[p + "attn_norm.weight"] = norm(rng, d)
        add(p + "attn_q.weight", heads * d_k, d)
        add(p + "attn_k.weight", kv_heads * d_k, d)
        add(p + "attn_v.weight", kv_heads * d_k, d)
        add(p + "attn_output.weight", d, heads * d_k)
        if gemma:
            tensors[p + "attn_q_norm.weight"] = norm(rng, d_k)
            tensors[p + "attn_k_norm.weight"] = norm(rng, d_k)
            tensors[p + "post_attention_norm.weight"] = norm(rng, d)
            tensors[p + "post_ffw_norm.weight"] = norm(rng, d)
        tensors[p + "ffn_norm.weight"] = norm(rng, d)
        add(p + "ffn_gate.weight", ff, d)
        add(p + "ffn_up.weight", ff, d)
        add(p + "ffn_down.weight", d, ff)
    tensors["output_norm.weight"] = norm(rng, d)


def byte_characters():
    """The printable stand-ins of byte-level BPE: bytes 33-126, 161-172, 174-255 are themselves, the rest follow 255."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {b: chr(b) for b in shown}, 256
    for b in range(256):
        if b not in table:
            table[b] = chr(extra)
            extra += 1
    return [table[b] for b in range(256)]


CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>"
          "\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def llama(seed=1, kind="Q8_0", context=512, template=CHATML):
    """Two layers of 64, byte-level BPE of 256 bytes, a few merges and three control tokens (ids 0 to 2)."""
    rng = random.Random(seed)
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġ t", "Ġt he"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_characters(), *(m.replace(" ", "") for m in merges)]
    d, heads, kv_heads, ff, layers = 64, 4, 2, 128, 2
    keys = {
        "general.architecture": "llama", "general.name": "tiny llama", "general.license": "apache-2.0",
        "llama.block_count": layers, "llama.context_length": context, "llama.embedding_length": d,
        "llama.feed_forward_length": ff, "llama.attention.head_count": heads, "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": d // heads, "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3), "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False,
    }
    if template:
        keys["tokenizer.chat_template"] = template
    tensors = {"token_embd.weight": (kind, [d, len(tokens)], random_blocks(rng, kind, d * len(tokens), 1.0))}
    blocks(rng, tensors, layers, d, heads, kv_heads, d // heads, ff, kind, False)
    tensors["output.weight"] = kind, [d, len(tokens)], random_blocks(rng, kind, d * len(tokens), 0.25)
    return Model(keys, tensors)


def gemma3(seed=2, kind="Q8_0", context=512):
    """Three layers of 64 (the third sees everything, the others 32 positions), SentencePiece, no chat template."""
    rng = random.Random(seed)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{b:02X}>" for b in range(256)]
    types = [3, 3, 3, 2] + [6] * 256
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz.,!?", "he", "ll", "▁t", "▁the", "lo", "or", "▁w"]
    tokens += words
    types += [1] * len(words)
    scores = [0.0] * 260 + [-float(i) for i in range(len(words))]
    d, heads, kv_heads, d_k, ff, layers = 64, 2, 1, 32, 96, 3
    keys = {
        "general.architecture": "gemma3", "general.name": "tiny gemma",
        "gemma3.block_count": layers, "gemma3.context_length": context, "gemma3.embedding_length": d,
        "gemma3.feed_forward_length": ff, "gemma3.attention.head_count": heads,
        "gemma3.attention.head_count_kv": kv_heads, "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.key_length": d_k, "gemma3.attention.value_length": d_k,
        "gemma3.attention.sliding_window": 32, "gemma3.attention.sliding_window_pattern": 3,
        "gemma3.rope.freq_base": 1000000.0,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }
    tensors = {"token_embd.weight": (kind, [d, len(tokens)], random_blocks(rng, kind, d * len(tokens), 0.15))}
    blocks(rng, tensors, layers, d, heads, kv_heads, d_k, ff, kind, True)
    return Model(keys, tensors)
