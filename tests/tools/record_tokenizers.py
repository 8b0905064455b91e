#!/usr/bin/env python3
"""Makes small tokenizer.json files with components that no recorded one has, and records the answers of the library
tokenizers for tests/golden/tok/strings.json in the form of the files there.

  record_tokenizers.py tests/golden/tok [NAME ...]      writes own/NAME/tokenizer.json and own-NAME.json
  record_tokenizers.py OUT --files                      writes OUT/NAME/tokenizer.json only

Left out are strings with characters younger than Unicode 3.2, on which the tables of the library's parts differ.
Needs the library (the answers say which version). Vocabularies are trained on the strings themselves.
"""
import json
import os
import random
import sys
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tok")
KIMI = "|".join([
    r"""[\p{Han}]+""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""\p{N}{1,3}""", r""" ?[^\s\p{L}\p{N}]+[\r\n]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""])


def strings():
    with open(os.path.join(ROOT, "strings.json"), encoding="utf-8") as f:
        return [bytes.fromhex(s["hex"]).decode() for s in json.load(f)["strings"]]


def train(t, trainer):
    t.train_from_iterator([s for s in strings() if len(s) < 4000 and "\0" not in s], trainer)
    return t


def bpe(size=600, **k):
    return dict(trainer=trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], **k))


def byte_bpe(pre, normalizer=None, decoder=None, **model):
    t = Tokenizer(models.BPE(**model))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoder or decoders.ByteLevel()
    return train(t, trainers.BpeTrainer(vocab_size=500, show_progress=False, special_tokens=["<s>", "</s>"],
                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def char_bpe(pre=None, normalizer=None, decoder=None, trainer=None, **model):
    t = Tokenizer(models.BPE(unk_token="<unk>", **model))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoder
    return train(t, trainer or bpe()["trainer"])


def word_level(pre, decoder=None, unk="<unk>"):
    t = Tokenizer(models.WordLevel(unk_token=unk))
    t.pre_tokenizer, t.decoder = pre, decoder
    return train(t, trainers.WordLevelTrainer(vocab_size=700, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]))


def word_piece(pre, decoder):
    t = Tokenizer(models.WordPiece(unk_token="<unk>"))
    t.pre_tokenizer, t.decoder = pre, decoder
    return train(t, trainers.WordPieceTrainer(vocab_size=800, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]))


def fallback(decoder):
    t = char_bpe(normalizer=normalizers.Replace(" ", "▁"), byte_fallback=True, fuse_unk=True)
    j = json.loads(t.to_str())
    vocab = j["model"]["vocab"]
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    t = Tokenizer.from_str(json.dumps(j))
    t.decoder = decoder
    return t


def level(regex=True, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


P, D, N = pre_tokenizers, decoders, normalizers
MAKERS = {
    "kimi": lambda: byte_bpe(P.Sequence([P.Split(Regex(KIMI), "isolated"), level(False)])),
    "nmt": lambda: char_bpe(P.Whitespace(), N.Sequence([N.Nmt(), N.NFKC()])),
    "scripts": lambda: word_level(P.Sequence([P.WhitespaceSplit(), P.UnicodeScripts()]), D.WordPiece(prefix="##", cleanup=False)),
    "scripts-blanks": lambda: char_bpe(P.UnicodeScripts()),
    "fixed": lambda: byte_bpe(P.Sequence([P.FixedLength(4), level(False)])),
    "wordlevel": lambda: word_level(P.Whitespace()),
    "suffix": lambda: char_bpe(P.BertPreTokenizer(), N.Lowercase(), D.BPEDecoder(suffix="</w>"), bpe(end_of_word_suffix="</w>")["trainer"],
                               end_of_word_suffix="</w>"),
    "ctc": lambda: char_bpe(P.WhitespaceSplit(), N.Replace(" ", "|"), D.CTC(pad_token="<s>", word_delimiter_token="|")),
    "behind-fuse": lambda: fallback(D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0), D.Replace(Regex("[ \\n]+"), "_"),
                                                D.Replace("th", "TH")])),
    "regex-decoder": lambda: fallback(D.Sequence([D.Replace(Regex("[▁a-c]"), "<>"), D.ByteFallback(), D.Metaspace()])),
    "level-words": lambda: byte_bpe(P.Sequence([level(), P.Split("e", "merged_with_next"), P.Punctuation()])),
    "level-wordpiece": lambda: word_piece(level(), D.Sequence([D.WordPiece(prefix="##", cleanup=False), D.ByteLevel()])),
    "level-norm": lambda: byte_bpe(P.WhitespaceSplit(), N.Sequence([N.NFC(), N.ByteLevel()])),
    "level-fuse": lambda: byte_bpe(level(), decoder=D.Sequence([D.ByteLevel(), D.Replace("the", "THE"), D.Fuse(), D.Strip("T", 2, 0)])),
}


def make(name):
    random.seed(1)
    t = MAKERS[name]()
    t.add_tokens([AddedToken("<ent>", normalized=False), AddedToken("Hello", single_word=True)])
    return t


def record(t, name, all_strings):
    t.encode_special_tokens = True
    plain = [t.encode(s, add_special_tokens=False).ids for s in all_strings]
    t.encode_special_tokens = False
    special = [t.encode(s, add_special_tokens=False).ids for s in all_strings]
    cases, detok, r, n = [], [], random.Random(7), t.get_vocab_size()
    for i, s in enumerate(all_strings):
        if any(unicodedata.ucd_3_2_0.category(x) == "Cn" for x in s):
            continue
        c = {"i": i, "plain": plain[i]}
        if special[i] != plain[i]:
            c["special"] = special[i]
        text = t.decode(plain[i], skip_special_tokens=False)
        if text != s:
            c["decode"] = text.encode().hex()
        cases.append(c)
    for k in range(90):
        ids = [r.randrange(n) for _ in range(r.randint(1, 12))]
        if k % 3 == 0:
            ids = [x for x in plain[r.randrange(len(plain))] for _ in range(r.choice([1, 1, 2]))][:40] or [0]
        d = {"kind": "random", "ids": ids, "text": t.decode(ids, skip_special_tokens=False).encode().hex()}
        skip = t.decode(ids, skip_special_tokens=True).encode().hex()
        if skip != d["text"]:
            d["text_skip_special"] = skip
        if t.decoder.__class__.__name__ == "ByteLevel":
            raw = raw_bytes(t, ids).hex()
            if raw != d["text"]:
                d["bytes"] = raw
        detok.append(d)
    return {"library": f"tokenizers {tokenizers.__version__}", "flags": {"plain": "encode_special_tokens", "made by": f"tests/tools/record_tokenizers.py {name}"},
            "add": {"prefix": [], "suffix": []}, "parse_special": True, "cases": cases, "detok": detok}


def raw_bytes(t, ids):
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {chr(b): b for b in printable}
    chars.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)})
    out = b""
    for i in ids:
        x = t.id_to_token(i)
        out += bytes(chars[c] for c in x) if all(c in chars for c in x) else x.encode()
    return out


def main():
    out, only_files = sys.argv[1], "--files" in sys.argv
    for name in [a for a in sys.argv[2:] if not a.startswith("-")] or MAKERS:
        t = make(name)
        folder = os.path.join(out, name) if only_files else os.path.join(out, "own", name)
        os.makedirs(folder, exist_ok=True)
        t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
        if only_files:
            continue
        with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
            f.write("{}")
        with open(os.path.join(out, f"own-{name}.json"), "w", encoding="utf-8") as f:
            json.dump(record(t, name, strings()), f, separators=(",", ":"))


if __name__ == "__main__":
    main()
