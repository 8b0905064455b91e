/* The tokenizer of a GGUF file: its metadata arrays as a tok_source. */
#include "engine/engine_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static fl_status read_texts(const file_gguf *f, const char *key, tok_text **out, uint32_t *n, fl_err *err) {
    const file_gguf_value *v;
    fl_status st = file_gguf_get_strings(f, key, &v, err);
    if (st != FL_OK) return st;
    if (v->count > TOK_VOCAB_MAX)
        return fl_fail(err, FL_EFORMAT, "%s has %llu entries", key, (unsigned long long)v->count);
    *n = (uint32_t)v->count;
    *out = base_calloc(*n + 1, sizeof **out);
    if (!*out) return fl_fail(err, FL_ENOMEM, "%s: no memory", key);
    file_gguf_strings it = file_gguf_strings_begin(v);
    file_string s;
    for (uint32_t i = 0; file_gguf_strings_next(&it, &s); i++) (*out)[i] = (tok_text){s.data, s.len};
    return FL_OK;
}

static fl_status read_scores(const file_gguf *f, float **out, uint32_t *n, fl_err *err) {
    const file_gguf_value *v;
    if (!file_gguf_find(f, "tokenizer.ggml.scores")) return FL_OK;
    fl_status st = file_gguf_get_floats(f, "tokenizer.ggml.scores", &v, err);
    if (st != FL_OK) return st;
    if (v->count > TOK_VOCAB_MAX)
        return fl_fail(err, FL_EFORMAT, "tokenizer.ggml.scores has %llu entries", (unsigned long long)v->count);
    *n = (uint32_t)v->count;
    *out = base_calloc(*n + 1, sizeof **out);
    if (!*out) return fl_fail(err, FL_ENOMEM, "tokenizer.ggml.scores: no memory");
    for (uint32_t i = 0; i < *n; i++) (*out)[i] = (float)file_gguf_float_at(v, i);
    return FL_OK;
}

static fl_status read_types(const file_gguf *f, int32_t **out, uint32_t *n, fl_err *err) {
    const file_gguf_value *v;
    if (!file_gguf_find(f, "tokenizer.ggml.token_type")) return FL_OK;
    fl_status st = file_gguf_get_ints(f, "tokenizer.ggml.token_type", &v, err);
    if (st != FL_OK) return st;
    if (v->count > TOK_VOCAB_MAX)
        return fl_fail(err, FL_EFORMAT, "tokenizer.ggml.token_type has %llu entries", (unsigned long long)v->count);
    *n = (uint32_t)v->count;
    *out = base_calloc(*n + 1, sizeof **out);
    if (!*out) return fl_fail(err, FL_ENOMEM, "tokenizer.ggml.token_type: no memory");
    for (uint32_t i = 0; i < *n; i++) {
        int64_t type = file_gguf_int_at(v, i);
        (*out)[i] = type < 0 || type > 255 ? 0 : (int32_t)type; /* 0 is no type: tok refuses it by name */
    }
    return FL_OK;
}

/* otherwise: the id where the file names none. */
static fl_status read_id(const file_gguf *f, const char *key, int64_t otherwise, int64_t *out, fl_err *err) {
    uint32_t id;
    fl_status st = file_gguf_get_u32_or(f, key, UINT32_MAX, &id, err);
    *out = st == FL_OK && id != UINT32_MAX ? (int64_t)id : otherwise;
    return st;
}

/* What SentencePiece's Unigram files say about text; its defaults where they do not. */
static fl_status read_rules(const file_gguf *f, tok_source *s, fl_err *err) {
    const file_gguf_value *v;
    fl_status st = file_gguf_get_bool_or(f, "tokenizer.ggml.remove_extra_whitespaces", true, &s->squeeze_blanks, err);
    if (st != FL_OK || !file_gguf_find(f, "tokenizer.ggml.precompiled_charsmap")) return st;
    st = file_gguf_get_ints(f, "tokenizer.ggml.precompiled_charsmap", &v, err);
    if (st != FL_OK) return st;
    if (v->elem != FILE_GGUF_U8 && v->elem != FILE_GGUF_I8)
        return fl_fail(err, FL_EFORMAT, "tokenizer.ggml.precompiled_charsmap is no array of bytes but of %s",
                       file_gguf_type_name(v->elem));
    s->charsmap = (tok_text){(const char *)v->data, v->count};
    return FL_OK;
}

static fl_status read_flags(const file_gguf *f, tok_source *s, fl_err *err) {
    /* Unless the file says else SentencePiece models put a blank in front of texts, BPE ones a bos token, too, and
     * Unigram ones an eos token behind. */
    bool unigram = strcmp(s->model, "t5") == 0, spm = strcmp(s->model, "llama") == 0;
    fl_status st =
        file_gguf_get_bool_or(f, "tokenizer.ggml.add_bos_token", spm || tok_split_adds_bos(s->pre), &s->add_bos, err);
    if (st == FL_OK) st = file_gguf_get_bool_or(f, "tokenizer.ggml.add_eos_token", unigram, &s->add_eos, err);
    if (st == FL_OK)
        st = file_gguf_get_bool_or(f, "tokenizer.ggml.add_space_prefix", spm || unigram, &s->add_space_prefix, err);
    if (st == FL_OK) st = read_id(f, "tokenizer.ggml.bos_token_id", -1, &s->bos, err);
    if (st == FL_OK) st = read_id(f, "tokenizer.ggml.eos_token_id", unigram ? 1 : -1, &s->eos, err);
    if (st == FL_OK) st = read_id(f, "tokenizer.ggml.unknown_token_id", unigram ? 2 : -1, &s->unk, err);
    if (st == FL_OK) st = read_id(f, "tokenizer.ggml.padding_token_id", unigram ? 0 : -1, &s->pad, err);
    return st == FL_OK && unigram ? read_rules(f, s, err) : st;
}

fl_status engine_open_tok(tok **out, const file_gguf *f, fl_err *err) {
    *out = NULL;
    file_string name, pre = {"default", 7};
    char model[64], splitter[64];
    if (!file_gguf_find(f, "tokenizer.ggml.model"))
        return fl_fail(err, FL_EUNSUPPORTED, "the file has no tokenizer; give token ids");
    fl_status st = file_gguf_get_string(f, "tokenizer.ggml.model", &name, err);
    if (st == FL_OK && file_gguf_find(f, "tokenizer.ggml.pre"))
        st = file_gguf_get_string(f, "tokenizer.ggml.pre", &pre, err);
    if (st != FL_OK) return st;
    (void)snprintf(model, sizeof model, "%.*s", (int)(name.len < 63 ? name.len : 63), name.data);
    (void)snprintf(splitter, sizeof splitter, "%.*s", (int)(pre.len < 63 ? pre.len : 63), pre.data);
    tok_source s = {.model = model, .pre = splitter};
    tok_text *texts = NULL, *merges = NULL;
    float *scores = NULL;
    int32_t *types = NULL;
    st = read_texts(f, "tokenizer.ggml.tokens", &texts, &s.n_vocab, err);
    if (st == FL_OK && file_gguf_find(f, "tokenizer.ggml.merges"))
        st = read_texts(f, "tokenizer.ggml.merges", &merges, &s.n_merges, err);
    if (st == FL_OK) st = read_scores(f, &scores, &s.n_scores, err);
    if (st == FL_OK) st = read_types(f, &types, &s.n_types, err);
    if (st == FL_OK) st = read_flags(f, &s, err);
    s.texts = texts;
    s.merges = merges;
    s.scores = scores;
    s.types = types;
    if (st == FL_OK) st = tok_open(out, &s, err);
    base_free(texts);
    base_free(merges);
    base_free(scores);
    base_free(types);
    return st;
}
