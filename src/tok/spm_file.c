/* tokenizer.model: SentencePiece's ModelProto. The reader takes what it needs from the protobuf and skips the rest; every
 * length is checked against what is left. Fields of the format (sentencepiece_model.proto): ModelProto 1 pieces,
 * 2 trainer_spec, 3 normalizer_spec, 5 denormalizer_spec; piece 1 text, 2 score, 3 type; trainer_spec 3 model_type, 24
 * treat_whitespace_as_suffix, 40 to 43 the ids of unk, bos, eos, pad, 44 unk_surface; normalizer_spec 2 precompiled_charsmap, 3
 * add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces.
 */
#include "tok/tok.h"

#include "base/mem.h"

#include <string.h>

typedef struct {
    const uint8_t *at, *end;
} reader;

typedef struct {
    uint32_t number;
    uint64_t value; /* of a number */
    reader bytes;   /* of a fixed or counted field */
} field;

static bool read_varint(reader *r, uint64_t *out) {
    *out = 0;
    for (unsigned shift = 0; r->at < r->end && shift < 64; shift += 7) {
        uint8_t b = *r->at++;
        *out |= (uint64_t)(b & 127) << shift;
        if (b < 128) return true;
    }
    return false;
}

/* The next field; false at the end and, with r->at NULL, for what is no protobuf. */
static bool next_field(reader *r, field *f) {
    uint64_t key, n = 0;
    if (!r->at || r->at == r->end) return false;
    *f = (field){0};
    bool ok = read_varint(r, &key) && key >> 3 && key >> 3 <= UINT32_MAX;
    unsigned wire = ok ? key & 7 : 7;
    if (wire == 0)
        ok = read_varint(r, &f->value);
    else if (wire == 1)
        n = 8;
    else if (wire == 2)
        ok = read_varint(r, &n);
    else if (wire == 5)
        n = 4;
    else
        ok = false;
    ok = ok && n <= (uint64_t)(r->end - r->at);
    if (!ok) {
        r->at = NULL;
        return false;
    }
    f->number = (uint32_t)(key >> 3);
    f->bytes = (reader){r->at, r->at + n};
    r->at += n;
    return true;
}

typedef struct {
    tok_text *texts;
    float *scores;
    int32_t *types;
    uint32_t n;
    int64_t model_type, unk, bos, eos, pad;
    tok_text charsmap, unk_surface;
    bool suffix, dummy_prefix, squeeze, escape, denormalizer;
} model;

static tok_text text_of(const field *f) {
    return (tok_text){(const char *)f->bytes.at, (size_t)(f->bytes.end - f->bytes.at)};
}

static bool read_piece(reader r, tok_text *text, float *score, int32_t *type) {
    field f;
    *text = (tok_text){"", 0};
    *score = 0;
    *type = TOK_NORMAL;
    while (next_field(&r, &f)) {
        if (f.number == 1) *text = text_of(&f);
        if (f.number == 2 && f.bytes.end - f.bytes.at == 4)
            memcpy(score, f.bytes.at, 4); /* little-endian, as this machine */
        if (f.number == 3) *type = f.value <= TOK_BYTE ? (int32_t)f.value : 0;
    }
    return r.at != NULL;
}

static bool read_trainer(reader r, model *m) {
    field f;
    while (next_field(&r, &f)) {
        int64_t v = (int32_t)f.value; /* negative ones come as ten bytes */
        if (f.number == 3) m->model_type = v;
        if (f.number == 24) m->suffix = v != 0;
        if (f.number == 40) m->unk = v;
        if (f.number == 41) m->bos = v;
        if (f.number == 42) m->eos = v;
        if (f.number == 43) m->pad = v;
        if (f.number == 44) m->unk_surface = text_of(&f);
    }
    return r.at != NULL;
}

static bool read_normalizer(reader r, model *m) {
    field f;
    while (next_field(&r, &f)) {
        if (f.number == 2) m->charsmap = text_of(&f);
        if (f.number == 3) m->dummy_prefix = f.value != 0;
        if (f.number == 4) m->squeeze = f.value != 0;
        if (f.number == 5) m->escape = f.value != 0;
    }
    return r.at != NULL;
}

static bool read_denormalizer(reader r, model *m) {
    field f;
    while (next_field(&r, &f)) m->denormalizer = m->denormalizer || (f.number == 2 && f.bytes.end > f.bytes.at);
    return r.at != NULL;
}

static fl_status read_model(model *m, reader all, fl_err *err) {
    field f;
    uint32_t n = 0;
    bool ok = true;
    for (reader r = all; next_field(&r, &f);) m->n += f.number == 1 && m->n < TOK_VOCAB_MAX;
    m->texts = base_malloc(m->n * sizeof *m->texts);
    m->scores = base_malloc(m->n * sizeof *m->scores);
    m->types = base_malloc(m->n * sizeof *m->types);
    if (!m->texts || !m->scores || !m->types) return fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", m->n);
    reader r = all;
    while (ok && next_field(&r, &f)) {
        if (f.number == 1 && n < m->n) {
            ok = read_piece(f.bytes, &m->texts[n], &m->scores[n], &m->types[n]);
            n++;
        }
        if (f.number == 2) ok = read_trainer(f.bytes, m);
        if (f.number == 3) ok = read_normalizer(f.bytes, m);
        if (f.number == 5) ok = read_denormalizer(f.bytes, m);
    }
    if (!ok || !r.at || !n) return fl_fail(err, FL_EFORMAT, "tokenizer.model is no SentencePiece model, or is cut off");
    /* The piece of the type counts, as in the library; ids beyond the vocabulary mean that there is no such token. */
    for (uint32_t i = 0; i < m->n; i++)
        if (m->types[i] == TOK_UNKNOWN) m->unk = i;
    if (m->unk >= m->n) m->unk = -1;
    if (m->bos >= m->n) m->bos = -1;
    if (m->eos >= m->n) m->eos = -1;
    if (m->pad >= m->n) m->pad = -1;
    return FL_OK;
}

fl_status tok_open_sentencepiece(tok **out, const void *bytes, size_t n, bool add_bos, bool add_eos, fl_err *err) {
    *out = NULL;
    /* proto2 defaults of the fields that may be absent */
    model m = {.model_type = 1,
               .unk = 0,
               .bos = 1,
               .eos = 2,
               .pad = -1,
               .dummy_prefix = true,
               .squeeze = true,
               .escape = true};
    fl_status st = read_model(&m, (reader){bytes, (const uint8_t *)bytes + n}, err);
    if (st == FL_OK && m.model_type != 1 && m.model_type != 2)
        st = fl_fail(err, FL_EUNSUPPORTED, "tokenizer.model of the kind %s is not supported; known are UNIGRAM and BPE",
                     m.model_type == 3   ? "WORD"
                     : m.model_type == 4 ? "CHAR"
                                         : "?");
    if (st == FL_OK && m.denormalizer)
        st = fl_fail(err, FL_EUNSUPPORTED, "tokenizer.model with a denormalizer is not supported");
    if (st == FL_OK) {
        const tok_source s = {.model = m.model_type == 1 ? "t5" : "llama",
                              .texts = m.texts,
                              .scores = m.scores,
                              .types = m.types,
                              .n_vocab = m.n,
                              .n_scores = m.n,
                              .n_types = m.n,
                              .bos = m.bos,
                              .eos = m.eos,
                              .unk = m.unk,
                              .pad = m.pad,
                              .add_bos = add_bos && m.bos >= 0,
                              .add_eos = add_eos && m.eos >= 0,
                              .add_space_prefix = m.dummy_prefix,
                              .blank_behind = m.suffix,
                              .squeeze_blanks = m.squeeze,
                              .literal_blanks = !m.escape,
                              .charsmap = m.charsmap,
                              .unk_text = m.unk_surface};
        st = tok_open(out, &s, err);
    }
    base_free(m.texts);
    base_free(m.scores);
    base_free(m.types);
    return st;
}
