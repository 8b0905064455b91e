#!/usr/bin/env python3
"""Holds flambeau's tokenizers against the reference libraries on random texts.

  compare_tokenizers.py MODEL [--reference FILE] [--n 1000000] [--seed 1] [--special] [--show 10]
                        [--each FILE | --without FILE]

MODEL is what `flambeau tokenize` takes. The reference is read from --reference, or from MODEL: tokenizer.json (library
tokenizers), tokenizer.model (sentencepiece), or a rank file with --pattern (tiktoken). Texts come from the seed and the
pieces of the vocabulary alone, so that a run can be repeated: text i is made by random.Random(seed * 2**32 + i).
Both sides encode each text without adding tokens (--special: with special tokens found in text) and decode the ids again. Differences are
printed and counted; the last line is `N texts, N different ids, N different texts`; the exit code is 1 if there are any.
--each looks at every character by itself (between letters, alone, between blanks, behind a letter) and writes those
on which the two differ to FILE, with their Unicode categories; --without leaves texts with these out and says how many.
Needs the library on the Python path; everything runs in one thread.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import unicodedata

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

WORDS = """the of and to in is that it was for on are as with his they at be this from have or by one had not but what
all were when we there can an your which their said if do will each about how up out them then she many some so these
would other into has more her two like him see time could no make than first been its who now people my made over did
down only way find use may water long little very after words called just where most know getElementById
self.assertEqual std::vector<int> #include printf("%d\\n", x); return nullptr; def __init__(self): import os camelCase
HTTPServer snake_case don't I'm you're he'll we've they'd IT'S O'Neill 's 'T 'Re 3.14159 1,000,000 0xDEADBEEF 192.168.0.1
2026-11-28 user@example.org https://a.b/c?d=e&f=g#h C:\\Users <tag attr="v"/> {"a": [1, 2.5e-3, null]} naïve café Straße
Übergröße señor Привет мир как дела Ελληνικά שלום مرحبا العربية हिन्दी தமிழ் ไทย 日本語 テキスト 中文分词 한국어 안녕하세요""".split()
RANGES = [  # (weight, first, last)
    (12, 0x20, 0x7e), (6, 0x61, 0x7a), (3, 0x30, 0x39), (3, 0xa0, 0xff), (2, 0x100, 0x24f), (2, 0x250, 0x36f),
    (2, 0x370, 0x52f), (2, 0x590, 0x6ff), (2, 0x900, 0xdff), (1, 0xe00, 0x0eff), (1, 0x10a0, 0x11ff),
    (2, 0x1e00, 0x1fff), (3, 0x2000, 0x206f), (2, 0x2070, 0x218f), (2, 0x2190, 0x27bf), (2, 0x2e80, 0x30ff),
    (1, 0x3100, 0x33ff), (4, 0x4e00, 0x9fff), (2, 0xac00, 0xd7a3), (1, 0xe000, 0xf8ff), (2, 0xf900, 0xfdff),
    (2, 0xfe00, 0xffef), (1, 0xfff0, 0xffff), (1, 0x10000, 0x10fff), (1, 0x1d400, 0x1d7ff), (3, 0x1f000, 0x1faff),
    (1, 0x20000, 0x2a6df), (1, 0xe0000, 0xe01ff), (1, 0x100000, 0x10ffff), (2, 0, 0x1f), (2, 0, 0x10ffff)]
WEIGHTS = [r[0] for r in RANGES]
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\n\n", "   ", "\u00a0", "\u3000", "\u2028", "\u180e", "\u200b", "\x0b", "\x85", "\u2581"]
NEWER = False  # characters that Python's tables (Unicode 14 in 3.11, as PCRE2's) do not know
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "☕️", "1️⃣", "🙂🙂", "‍", "️"]


def one_char(r):
    while True:
        _, lo, hi = r.choices(RANGES, WEIGHTS)[0]
        c = r.randint(lo, hi)
        if NEWER or unicodedata.category(chr(c)) not in ("Cn", "Cs") or (c & 0xffff) > 0xfffd:
            if not 0xd800 <= c <= 0xdfff:
                return chr(c)


def make_text(seed, pieces):
    r = random.Random(seed)
    kind, out = r.random(), []
    for _ in range(1 + int(r.expovariate(0.12)) if kind < 0.9 else r.randint(40, 200)):
        k = r.random()
        if k < 0.3:
            out.append(r.choice(WORDS))
        elif k < 0.5 and pieces:
            out.append(r.choice(pieces))
        elif k < 0.6:
            out.append(r.choice(SPACES) * (1 if r.random() < 0.8 else r.randint(1, 9)))
        elif k < 0.62:
            out.append(r.choice(EMOJI))
        elif k < 0.64:
            out.append(one_char(r) * r.randint(2, 40))
        elif k < 0.66:
            out.append("".join(r.choice(["\u0301", "\u0323", "\u0308", "\u094d", "\u200d", "\u20dd"]) for _ in range(r.randint(1, 4))))
        else:
            out.append(one_char(r))
        if r.random() < 0.35:
            out.append(" ")
    text = "".join(out)
    return text.upper() if kind < 0.05 else text.encode()[:4000].decode(errors="ignore")


class Tokenizers:
    def __init__(self, path, special):
        from tokenizers import Tokenizer
        self.t = Tokenizer.from_file(path)
        self.t.encode_special_tokens = not special
        self.t.no_padding()
        self.t.no_truncation()
        self.pieces = [p.replace("Ġ", " ").replace("▁", " ") for p in self.t.get_vocab()]

    def encode(self, texts):
        return [e.ids for e in self.t.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, lists):
        return self.t.decode_batch(lists, skip_special_tokens=False)


class SentencePiece:
    def __init__(self, path):
        import sentencepiece
        self.t = sentencepiece.SentencePieceProcessor(model_file=path)
        names = [self.t.id_to_piece(i) for i in range(self.t.get_piece_size())]
        self.bytes = [bytes([int(x[3:5], 16)]) if self.t.is_byte(i) else x.encode() if self.t.is_control(i) or self.t.is_unknown(i)
                      else x.replace("▁", " ").encode() for i, x in enumerate(names)]
        self.pieces = [x.replace("▁", " ") for i, x in enumerate(names) if not self.t.is_byte(i)]

    def encode(self, texts):
        return [self.t.encode(x) for x in texts]

    def decode(self, lists):
        # What `detokenize` prints: the bytes as they are, nothing dropped.
        return [b"".join(self.bytes[i] for i in x).decode(errors="replace") for x in lists]


class Tiktoken:
    def __init__(self, path, pattern, nfc):
        self.nfc = nfc
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe
        self.t = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=load_tiktoken_bpe(path), special_tokens={})
        self.pieces = [b.decode() for b in self.t.token_byte_values() if b.isascii()]

    def encode(self, texts):
        return [self.t.encode_ordinary(unicodedata.normalize("NFC", x) if self.nfc else x) for x in texts]

    def decode(self, lists):
        return [self.t.decode(x) for x in lists]


class Tekken:
    """The ranks and the pattern of a tekken.json in tiktoken; ids behind the special tokens."""
    def __init__(self, path):
        import base64
        import tiktoken
        d = json.load(open(path, encoding="utf-8"))
        c = d["config"]
        self.skip = c["default_num_special_tokens"]
        ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in d["vocab"][:c["default_vocab_size"] - self.skip]}
        self.t = tiktoken.Encoding("x", pat_str=c["pattern"], mergeable_ranks=ranks, special_tokens={})
        self.pieces = [b.decode() for b in ranks if b.isascii()]

    def encode(self, texts):
        return [[i + self.skip for i in self.t.encode_ordinary(x)] for x in texts]

    def decode(self, lists):
        return [self.t.decode([i - self.skip for i in x]) for x in lists]


def open_reference(a):
    path = a.reference or a.model
    if os.path.isdir(path):
        path = next(p for p in (os.path.join(path, n) for n in ("tokenizer.json", "tekken.json", "tokenizer.model")) if os.path.exists(p))
    if a.pattern:
        return Tiktoken(path, a.pattern, a.nfc)
    if path.endswith("tekken.json"):
        return Tekken(path)
    return Tokenizers(path, a.special) if path.endswith(".json") else SentencePiece(path)


def run(a, command, lines):
    p = subprocess.run([a.flambeau, *command], input="".join(x + "\n" for x in lines).encode(), stdout=subprocess.PIPE, check=True)
    return p.stdout.decode().split("\n")[:-1]


def ours(a, texts):
    flags = ["--no-bos", "--lines", "--hex"] + (["--parse-special"] if a.special else [])
    out = run(a, ["tokenize", a.model, *flags], [x.encode().hex() for x in texts])
    ids = [json.loads(x[:x.index("]") + 1] + "}")["ids"] for x in out]
    back = run(a, ["detokenize", a.model, "--lines", "--hex"], [",".join(map(str, x)) for x in ids])
    assert len(ids) == len(back) == len(texts), (len(ids), len(back), len(texts))
    return ids, [bytes.fromhex(x).decode(errors="replace") for x in back]


def each(a, ref):
    chars = [chr(c) for c in range(0x110000) if not 0xd800 <= c <= 0xdfff]
    forms = ["a{}b", "{}", " {} ", "a{}", "{}1", ".{}."]
    found = {}
    for form in forms:
        texts = [form.replace("{}", c) for c in chars]
        ids, _ = ours(a, texts)
        for c, x, y in zip(chars, ids, ref.encode(texts)):
            if x != y:
                found.setdefault(c, form)
    with open(a.each, "w", encoding="ascii") as f:
        for c, form in sorted(found.items()):
            f.write(f"{ord(c):X} {unicodedata.category(c)} {form}\n")
    counts = {}
    for c in found:
        counts[unicodedata.category(c)] = counts.get(unicodedata.category(c), 0) + 1
    print(f"{len(found)} characters differ: {counts}")
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--reference")
    p.add_argument("--pattern")
    p.add_argument("--nfc", action="store_true", help="with --pattern: texts in NFC, as Qwen's own code does it")
    p.add_argument("--n", type=int, default=1000000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--batch", type=int, default=50000)
    p.add_argument("--newer", action="store_true", help="characters younger than Python's tables, too")
    p.add_argument("--special", action="store_true")
    p.add_argument("--each")
    p.add_argument("--without")
    p.add_argument("--show", type=int, default=10)
    p.add_argument("--flambeau", default="build/flambeau")
    a = p.parse_args()
    global NEWER
    NEWER = a.newer
    ref = open_reference(a)
    if a.each:
        return each(a, ref)
    without = set()
    if a.without:
        with open(a.without, encoding="ascii") as f:
            without = {chr(int(line.split()[0], 16)) for line in f}
    left_out = 0
    bad_ids = bad_texts = shown = 0
    for begin in range(0, a.n, a.batch):
        texts = [make_text((a.seed << 32) + i, ref.pieces) for i in range(begin, min(a.n, begin + a.batch))]
        n = len(texts)
        texts = [x for x in texts if without.isdisjoint(x)] if without else texts
        left_out += n - len(texts)
        ids, back = ours(a, texts)
        want = ref.encode(texts)
        printed = ref.decode(ids)
        for i, text in enumerate(texts):
            wrong_ids, wrong_text = ids[i] != want[i], back[i] != printed[i]
            bad_ids += wrong_ids
            bad_texts += wrong_text
            if (wrong_ids or wrong_text) and shown < a.show:
                shown += 1
                k = next((k for k in range(min(len(ids[i]), len(want[i]))) if ids[i][k] != want[i][k]), min(len(ids[i]), len(want[i])))
                print(f"text {begin + i}: {text!a}"[:1200])
                if wrong_ids:
                    print(f"  behind {ref.decode([ids[i][:k]])[0][-40:]!a}: ours {ids[i][k:k + 8]}, wanted {want[i][k:k + 8]}")
                if wrong_text:
                    print(f"  text: ours {back[i][:200]!a}\n      wanted {printed[i][:200]!a}")
        note = f" ({left_out} left out)" if without else ""
        print(f"{min(a.n, begin + a.batch) - left_out} texts{note}, {bad_ids} different ids, {bad_texts} different texts", flush=True)
    return 1 if bad_ids or bad_texts else 0


if __name__ == "__main__":
    sys.exit(main())
