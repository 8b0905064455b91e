/* Any bytes as a text for two small vocabularies (byte-level BPE, SentencePiece BPE), and as a list of ids. What must
 * hold is checked: text that is UTF-8 becomes ids; without special tokens those of the byte-level one give the same bytes
 * back; pieces joined are the whole text. Run in the repository root. */
#include "base/buf.h"
#include "tests/unit/tok/vocab.h"
#include "tok/tok.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tok *open_vocab(const char *path) {
    vocab v;
    tok *t = NULL;
    if (!vocab_load(&v, path) || tok_open(&t, &v.source, NULL) != FL_OK) abort();
    vocab_free(&v);
    return t;
}

static void check_decoding(const tok *t, const tok_ids *a, unsigned flags) {
    base_buf whole = {0}, joined = {0};
    tok_stream s;
    tok_stream_init(&s, t, flags);
    if (tok_decode(t, a->ids, a->n, flags, &whole, NULL) != FL_OK) abort();
    for (size_t i = 0; i < a->n; i++)
        if (tok_stream_push(&s, a->ids[i], &joined, NULL) != FL_OK) abort();
    if (tok_stream_finish(&s, &joined, NULL) != FL_OK) abort();
    if (whole.len != joined.len || (whole.len && memcmp(whole.data, joined.data, whole.len) != 0)) abort();
    base_buf_clear(&whole);
    base_buf_clear(&joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tok *toks[2];
    if (!toks[0]) {
        toks[0] = open_vocab("tests/golden/tok/own-bytelevel.gguf.vocab.json");
        toks[1] = open_vocab("tests/golden/tok/own-bpe-plain.gguf.vocab.json");
    }
    if (size == 0) return 0;
    const tok *t = toks[data[0] & 1];
    unsigned encode = data[0] >> 1 & 3, decode = data[0] >> 3 & 3;
    const char *text = (const char *)data + 1;
    tok_ids a = {0};
    if (tok_encode(t, text, size - 1, encode, &a, NULL) == FL_OK) {
        base_buf raw = {0};
        if (tok_decode(t, a.ids, a.n, TOK_RAW, &raw, NULL) != FL_OK) abort();
        bool plain = (data[0] & 1) == 0 && encode == 0;
        if (plain && (raw.len != size - 1 || (raw.len && memcmp(raw.data, text, raw.len) != 0))) abort();
        base_buf_clear(&raw);
        check_decoding(t, &a, decode);
    }
    tok_ids_clear(&a);
    for (size_t i = 1; i + 1 < size; i += 2)
        if (!tok_ids_push(&a, (data[i] | (uint32_t)data[i + 1] << 8) % tok_n_vocab(t))) abort();
    check_decoding(t, &a, decode);
    tok_ids_clear(&a);
    return 0;
}
