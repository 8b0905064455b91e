/* unit/tok/vocab.h - reads a vocabulary written as JSON (tests/golden/tok/ORIGIN.md) into a tok_source. */
#ifndef UNIT_TOK_VOCAB_H
#define UNIT_TOK_VOCAB_H

#include "tok/tok.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    tok_source source;
    char *bytes;
    json_t *json;
} vocab;

static inline int vocab_hex(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/* The bytes of a hexadecimal string; the caller frees them. */
static inline char *vocab_unhex(const char *hex, size_t *n) {
    size_t len = strlen(hex) / 2;
    char *out = malloc(len + 1);
    if (!out) abort();
    for (size_t i = 0; i < len; i++) out[i] = (char)(vocab_hex(hex[2 * i]) << 4 | vocab_hex(hex[2 * i + 1]));
    out[len] = '\0';
    *n = len;
    return out;
}

static inline tok_text *vocab_texts(const json_t *list, uint32_t *n) {
    *n = (uint32_t)json_array_size(list);
    tok_text *out = calloc(*n + 1u, sizeof *out);
    if (!out) abort();
    for (uint32_t i = 0; i < *n; i++) out[i].bytes = vocab_unhex(json_string_value(json_array_get(list, i)), &out[i].n);
    return out;
}

static inline int64_t vocab_id(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

/* False when there is no such file. */
static inline bool vocab_load(vocab *v, const char *path) {
    *v = (vocab){0};
    json_t *o = v->json = json_load_file(path, 0, NULL);
    if (!o) return false;
    tok_source *s = &v->source;
    s->model = json_string_value(json_object_get(o, "model"));
    s->pre = json_string_value(json_object_get(o, "pre"));
    s->texts = vocab_texts(json_object_get(o, "tokens"), &s->n_vocab);
    s->merges = vocab_texts(json_object_get(o, "merges"), &s->n_merges);
    const json_t *types = json_object_get(o, "types"), *scores = json_object_get(o, "scores");
    s->n_types = (uint32_t)json_array_size(types);
    s->n_scores = (uint32_t)json_array_size(scores);
    int32_t *t = calloc(s->n_types + 1u, sizeof *t);
    float *f = calloc(s->n_scores + 1u, sizeof *f);
    if (!t || !f) abort();
    for (uint32_t i = 0; i < s->n_types; i++) t[i] = (int32_t)json_integer_value(json_array_get(types, i));
    for (uint32_t i = 0; i < s->n_scores; i++) f[i] = (float)json_number_value(json_array_get(scores, i));
    s->types = t;
    s->scores = f;
    s->bos = vocab_id(o, "bos");
    s->eos = vocab_id(o, "eos");
    s->unk = vocab_id(o, "unk");
    s->pad = vocab_id(o, "pad");
    s->add_bos = json_is_true(json_object_get(o, "add_bos"));
    s->add_eos = json_is_true(json_object_get(o, "add_eos"));
    s->add_space_prefix = json_is_true(json_object_get(o, "add_space_prefix"));
    return true;
}

static inline void vocab_free(vocab *v) {
    for (uint32_t i = 0; i < v->source.n_vocab; i++) free((void *)(uintptr_t)v->source.texts[i].bytes);
    for (uint32_t i = 0; i < v->source.n_merges; i++) free((void *)(uintptr_t)v->source.merges[i].bytes);
    free((void *)(uintptr_t)v->source.texts);
    free((void *)(uintptr_t)v->source.merges);
    free((void *)(uintptr_t)v->source.types);
    free((void *)(uintptr_t)v->source.scores);
    json_decref(v->json);
    *v = (vocab){0};
}

#endif
