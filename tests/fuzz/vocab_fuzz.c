/* Any bytes as a vocabulary file: the first byte says which (tokenizer.json, tokenizer.model, tekken.json), the rest is the file.
 * What opens encodes and decodes a text, piece by piece as in one go. */
#include "base/buf.h"
#include "tok/tok.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static fl_status open_vocab(tok **t, uint8_t kind, const char *file, size_t n) {
    switch (kind) {
        case 'j': return tok_open_json(t, file, n, NULL, 0, NULL);
        case 'm': return tok_open_sentencepiece(t, file, n, true, true, NULL);
        case 't': return tok_open_tekken(t, file, n, NULL);
        default: return FL_EINVAL;
    }
}

static void check_decoding(const tok *t, const tok_ids *a) {
    base_buf whole = {0}, joined = {0};
    tok_stream s;
    tok_stream_init(&s, t, 0);
    if (tok_decode(t, a->ids, a->n, 0, &whole, NULL) != FL_OK) abort();
    for (size_t i = 0; i < a->n; i++)
        if (tok_stream_push(&s, a->ids[i], &joined, NULL) != FL_OK) abort();
    if (tok_stream_finish(&s, &joined, NULL) != FL_OK) abort();
    if (whole.len != joined.len || (whole.len && memcmp(whole.data, joined.data, whole.len) != 0)) abort();
    base_buf_clear(&whole);
    base_buf_clear(&joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "The caf\xc3\xa9 of <s>12 b\xe2\x96\x81"
                               "c</s>  \n\xe4\xb8\xad\xf0\x9f\x98\x80 abab aaaaaa";
    tok *t = NULL;
    if (!size || open_vocab(&t, data[0], (const char *)data + 1, size - 1) != FL_OK) return 0;
    tok_ids a = {0};
    for (unsigned flags = 0; flags < 4; flags++) {
        a.n = 0;
        if (tok_encode(t, text, sizeof text - 1, flags, &a, NULL) == FL_OK) check_decoding(t, &a);
    }
    a.n = 0;
    for (uint32_t id = 0; id < tok_n_vocab(t) && id < 300; id++)
        if (!tok_ids_push(&a, id)) abort();
    check_decoding(t, &a);
    tok_ids_clear(&a);
    tok_close(t);
    return 0;
}
