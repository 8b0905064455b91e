/* unit/engine/tiny.h - tiny models for tests: random weights in valid blocks of any type, written as GGUF files.
 *
 * The vocabulary has single letters, pairs of letters, two halves of an e with an acute accent, and three
 * control tokens, so that drawn tokens make text with all its difficulties. */
#ifndef UNIT_ENGINE_TINY_H
#define UNIT_ENGINE_TINY_H

#include "file/gguf_write.h"
#include "flambeau.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TINY_PATH_MAX = 256, TINY_EOS = 1, TINY_TENSORS_MAX = 128 };

/* Zero fields get the defaults of tiny_defaults(). */
typedef struct {
    const char *arch; /* "llama", "gemma3" */
    uint32_t n_layers, d_model, n_heads, n_kv_heads, d_k, d_ff, n_vocab, context, window;
    dtype types[8]; /* of the matrices, in turn */
    uint32_t n_types;
    dtype embed;
    bool biases, head, no_tokenizer, context_is_huge;
    uint64_t seed;
    const char *broken; /* this F32 tensor gets a NaN at its start */
    float scale;        /* of every matrix of a layer, in a tensor beside it; 0: none, NAN: one of two values */
    int block_scale;    /* added to the block scales of NVFP4 */
} tiny_model;

typedef struct {
    tiny_model m;
    file_gguf_writer w;
    void *data[TINY_TENSORS_MAX];
    uint32_t n_data, n_matrices;
    uint64_t seed;
} tiny_writer;

static inline void tiny_defaults(tiny_model *m) {
    if (!m->n_layers) m->n_layers = 2;
    if (!m->n_heads) m->n_heads = 4;
    if (!m->n_kv_heads) m->n_kv_heads = 2;
    if (!m->d_k) m->d_k = 16;
    if (!m->d_model) m->d_model = 64;
    if (!m->d_ff) m->d_ff = 96;
    if (!m->n_vocab) m->n_vocab = 96;
    if (!m->context) m->context = 1024;
    if (!m->seed) m->seed = 1;
    if (!m->n_types) m->n_types = 1;
}

static inline void tiny_half(uint8_t *p, float f) {
    uint16_t h = dtype_f32_to_f16(f);
    memcpy(p, &h, sizeof h);
}

/* One block (or element) whose values have about standard deviation 1/8. */
static inline void tiny_block(dtype type, uint8_t *p, uint64_t *seed) {
    size_t n = dtype_find(type)->block_bytes;
    float x = test_random_float(seed) * 0.2f, d = 1 + test_random_float(seed) * 0.3f;
    uint16_t h = type == DTYPE_F16 ? dtype_f32_to_f16(x) : dtype_f32_to_bf16(x);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)test_random_below(seed, 256);
    switch (type) {
        case DTYPE_F32: memcpy(p, &x, sizeof x); break;
        case DTYPE_F16:
        case DTYPE_BF16: memcpy(p, &h, sizeof h); break;
        case DTYPE_Q4_0: tiny_half(p, d * 0.027f); break;
        case DTYPE_Q5_0: tiny_half(p, d * 0.013f); break;
        case DTYPE_Q8_0: tiny_half(p, d * 0.0017f); break;
        case DTYPE_Q4_1: tiny_half(p, d * 0.027f), tiny_half(p + 2, d * -0.2f); break;
        case DTYPE_Q4_K: tiny_half(p, d * 0.0008f), tiny_half(p + 2, d * 0.006f); break;
        case DTYPE_Q6_K: tiny_half(p + n - 2, d * 0.0001f); break;
        case DTYPE_Q5_1: tiny_half(p, d * 0.013f), tiny_half(p + 2, d * -0.2f); break;
        case DTYPE_Q2_K: tiny_half(p + 80, d * 0.015f), tiny_half(p + 82, d * 0.022f); break;
        case DTYPE_Q3_K: tiny_half(p + n - 2, d * 0.003f); break;
        case DTYPE_Q5_K: tiny_half(p, d * 0.0004f), tiny_half(p + 2, d * 0.006f); break;
        case DTYPE_IQ4_NL: tiny_half(p, d * 0.0018f); break;
        case DTYPE_IQ4_XS: tiny_half(p, d * 0.0001f); break;
        case DTYPE_MXFP4: p[0] = 122; break;
        case DTYPE_NVFP4:
            for (int i = 0; i < 4; i++) p[i] = (uint8_t)(24 + p[i] % 8);
            break;
        case DTYPE_TQ2_0: tiny_half(p + n - 2, d * 0.12f); break;
        default: tiny_half(p, d * 0.004f); break;
    }
}

static inline void *tiny_tensor(tiny_writer *t, const char *name, dtype type, uint32_t n, uint32_t k) {
    const dtype_info *info = dtype_find(type);
    size_t n_blocks = (size_t)n * k / info->block_elems;
    uint8_t *data = malloc(n_blocks * info->block_bytes);
    if (!data || t->n_data == TINY_TENSORS_MAX) abort();
    for (size_t i = 0; i < n_blocks; i++) tiny_block(type, data + i * info->block_bytes, &t->seed);
    if (n == 1)
        for (size_t i = 0; i < k; i++) {
            float x = 1 + test_random_float(&t->seed) * 0.3f;
            memcpy(data + 4 * i, &x, 4);
        }
    if (t->m.broken && strcmp(name, t->m.broken) == 0) memset(data, 0xff, 4);
    t->data[t->n_data++] = data;
    file_gguf_write_tensor(&t->w, name, type, n == 1 ? 1 : 2, (int64_t[]){k, n}, data);
    return data;
}

static inline void tiny_matrix(tiny_writer *t, int layer, const char *name, uint32_t n, uint32_t k) {
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    dtype type = t->m.types[t->n_matrices++ % t->m.n_types];
    uint8_t *data = tiny_tensor(t, full, type, n, k);
    for (size_t i = 0; type == DTYPE_NVFP4 && i < (size_t)n * k / 64 * 36; i++)
        if (i % 36 < 4) data[i] = (uint8_t)(data[i] + t->m.block_scale);
    if (t->m.scale == 0) return;
    (void)snprintf(full, sizeof full, "blk.%d.%s.scale", layer, name);
    uint64_t seed = t->seed; /* the other tensors are the same with and without */
    float *scale = tiny_tensor(t, full, DTYPE_F32, 1, isnan(t->m.scale) ? 2 : 1);
    scale[0] = t->m.scale;
    t->seed = seed;
}

static inline void tiny_vector(tiny_writer *t, int layer, const char *name, uint32_t k) {
    char full[64];
    (void)snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    (void)tiny_tensor(t, full, DTYPE_F32, 1, k);
}

static inline void tiny_layer(tiny_writer *t, int l) {
    const tiny_model *m = &t->m;
    uint32_t d = m->d_model, nq = m->n_heads * m->d_k, nk = m->n_kv_heads * m->d_k;
    bool gemma = strcmp(m->arch, "gemma3") == 0;
    tiny_vector(t, l, "attn_norm.weight", d);
    tiny_matrix(t, l, "attn_q", nq, d);
    tiny_matrix(t, l, "attn_k", nk, d);
    tiny_matrix(t, l, "attn_v", nk, d);
    tiny_matrix(t, l, "attn_output", d, nq);
    tiny_vector(t, l, "ffn_norm.weight", d);
    tiny_matrix(t, l, "ffn_gate", m->d_ff, d);
    tiny_matrix(t, l, "ffn_up", m->d_ff, d);
    tiny_matrix(t, l, "ffn_down", d, m->d_ff);
    if (m->biases)
        tiny_vector(t, l, "attn_q.bias", nq), tiny_vector(t, l, "attn_k.bias", nk),
            tiny_vector(t, l, "attn_v.bias", nk);
    if (!gemma) return;
    tiny_vector(t, l, "attn_q_norm.weight", m->d_k);
    tiny_vector(t, l, "attn_k_norm.weight", m->d_k);
    tiny_vector(t, l, "post_attention_norm.weight", d);
    tiny_vector(t, l, "post_ffw_norm.weight", d);
}

static inline const char *tiny_key(const tiny_writer *t, const char *name) {
    static char key[96];
    (void)snprintf(key, sizeof key, "%s.%s", t->m.arch, name);
    return key;
}

static inline void tiny_sizes(tiny_writer *t) {
    const tiny_model *m = &t->m;
    file_gguf_write_string(&t->w, "general.architecture", m->arch);
    file_gguf_write_string(&t->w, "general.name", "tiny");
    file_gguf_write_u32(&t->w, tiny_key(t, "block_count"), m->n_layers);
    file_gguf_write_u32(&t->w, tiny_key(t, "embedding_length"), m->d_model);
    file_gguf_write_u32(&t->w, tiny_key(t, "feed_forward_length"), m->d_ff);
    file_gguf_write_u32(&t->w, tiny_key(t, "attention.head_count"), m->n_heads);
    file_gguf_write_u32(&t->w, tiny_key(t, "attention.head_count_kv"), m->n_kv_heads);
    file_gguf_write_u32(&t->w, tiny_key(t, "attention.key_length"), m->d_k);
    file_gguf_write_u32(&t->w, tiny_key(t, "attention.value_length"), m->d_k);
    file_gguf_write_u32(&t->w, tiny_key(t, "context_length"), m->context_is_huge ? UINT32_MAX : m->context);
    file_gguf_write_f32(&t->w, tiny_key(t, "attention.layer_norm_rms_epsilon"), 1e-5f);
    if (strcmp(m->arch, "gemma3") != 0) return;
    file_gguf_write_u32(&t->w, "gemma3.attention.sliding_window", m->window);
    file_gguf_write_u32(&t->w, "gemma3.attention.sliding_window_pattern", 2);
}

static inline void tiny_tokenizer(tiny_writer *t) {
    static const char *const fixed[] = {"<s>",      "</s>",     "<|im_end|>",
                                        "\xc3\x83", "\xc2\xa9", "\xc4\xa0"}; /* bytes c3, a9, 20 */
    uint32_t n = t->m.n_vocab;
    file_string *texts = calloc(n, sizeof *texts);
    int32_t *types = calloc(n, sizeof *types);
    char(*letters)[4] = calloc(n, sizeof *letters);
    if (!texts || !types || !letters) abort();
    for (uint32_t i = 0; i < n; i++) {
        types[i] = i < 3 ? 3 : 1;
        if (i >= 32)
            (void)snprintf(letters[i], 4, "%c%c", 'a' + (i - 32) / 26 % 26, 'a' + i % 26);
        else if (i >= 6)
            (void)snprintf(letters[i], 4, "%c", 'a' + i - 6);
        const char *s = i < 6 ? fixed[i] : letters[i];
        texts[i] = (file_string){s, strlen(s)};
    }
    file_gguf_write_string(&t->w, "tokenizer.ggml.model", "gpt2");
    file_gguf_write_string(&t->w, "tokenizer.ggml.pre", "gpt-2");
    file_gguf_write_strings(&t->w, "tokenizer.ggml.tokens", texts, n);
    file_gguf_write_array(&t->w, "tokenizer.ggml.token_type", FILE_GGUF_I32, types, n);
    file_gguf_write_u32(&t->w, "tokenizer.ggml.eos_token_id", TINY_EOS);
    file_gguf_write_u32(&t->w, "tokenizer.ggml.bos_token_id", 0);
    free(letters);
    free(types);
    free(texts);
}

/* Writes the model into $TMPDIR; the caller removes the file. */
static inline void tiny_write(const tiny_model *model, char path[TINY_PATH_MAX]) {
    static uint32_t n_written;
    tiny_writer t = {.m = *model};
    fl_err err;
    const char *folder = getenv("TMPDIR");
    (void)snprintf(path, TINY_PATH_MAX, "%s/flambeau-tiny-%d-%u.gguf", folder ? folder : "/tmp", (int)getpid(),
                   n_written++);
    tiny_defaults(&t.m);
    t.seed = t.m.seed;
    tiny_sizes(&t);
    if (!t.m.no_tokenizer) tiny_tokenizer(&t);
    (void)tiny_tensor(&t, "token_embd.weight", t.m.embed, t.m.n_vocab, t.m.d_model);
    (void)tiny_tensor(&t, "output_norm.weight", DTYPE_F32, 1, t.m.d_model);
    if (t.m.head) (void)tiny_tensor(&t, "output.weight", t.m.types[0], t.m.n_vocab, t.m.d_model);
    for (uint32_t l = 0; l < t.m.n_layers; l++) tiny_layer(&t, (int)l);
    if (file_gguf_write_to_path(&t.w, path, &err) != FL_OK) {
        printf("cannot write a tiny model: %s\n", err.msg);
        abort();
    }
    file_gguf_writer_clear(&t.w);
    for (uint32_t i = 0; i < t.n_data; i++) free(t.data[i]);
}

/* The model, opened; its file is already gone. */
static inline fl_model *tiny_open(const tiny_model *model) {
    char path[TINY_PATH_MAX];
    fl_model *m;
    fl_err err;
    tiny_write(model, path);
    if (fl_model_open(&m, path, &err) != FL_OK) {
        printf("cannot open a tiny model: %s\n", err.msg);
        abort();
    }
    (void)remove(path);
    return m;
}

#endif
