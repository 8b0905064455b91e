/* Opening a vocabulary, and questions about its tokens. Every number of the source is checked
 * here, once; the rest of the folder trusts it. See tok.h.
 */
#include "tok/tok.h"

#include "base/mem.h"
#include "tok/pipe.h"
#include "tok/tok_int.h"

#include <string.h>

void tok_close(tok *t) {
    if (!t) return;
    tok_pipe_close(t->pipe);
    tok_match_clear(&t->user);
    tok_match_clear(&t->user_spelled);
    tok_match_clear(&t->trie);
    tok_table_clear(&t->spelled);
    tok_charsmap_close(t->charsmap);
    base_free(t->unk_text);
    tok_match_clear(&t->added);
    tok_map_clear(&t->map);
    tok_bpe_clear(&t->bpe);
    tok_split_close(t->split);
    base_free(t->scores);
    base_free(t->stop);
    base_free(t->types);
    tok_table_clear(&t->table);
    base_free(t);
}

static fl_status read_id(const tok_source *src, const char *name, int64_t id, uint32_t *out, fl_err *err) {
    *out = TOK_NONE;
    if (id < 0) return FL_OK;
    if (id >= src->n_vocab)
        return fl_fail(err, FL_EFORMAT, "%s token %lld is beyond the vocabulary of %u", name, (long long)id,
                       src->n_vocab);
    *out = (uint32_t)id;
    return FL_OK;
}

static fl_status read_ids(tok *t, const tok_source *src, fl_err *err) {
    const struct {
        const char *name;
        int64_t id;
        uint32_t *out;
    } ids[] = {{"bos", src->bos, &t->bos},
               {"eos", src->eos, &t->eos},
               {"unknown", src->unk, &t->unk},
               {"padding", src->pad, &t->pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        fl_status st = read_id(src, ids[i].name, ids[i].id, ids[i].out, err);
        if (st != FL_OK) return st;
    }
    if (src->add_bos && t->bos == TOK_NONE)
        return fl_fail(err, FL_EFORMAT, "the vocabulary adds a bos token but has none");
    if (src->add_eos && t->eos == TOK_NONE)
        return fl_fail(err, FL_EFORMAT, "the vocabulary adds an eos token but has none");
    t->add_bos = src->add_bos;
    t->add_eos = src->add_eos;
    t->add_space_prefix = src->add_space_prefix;
    return FL_OK;
}

static fl_status read_types(tok *t, const tok_source *src, fl_err *err) {
    if (src->n_types && src->n_types != src->n_vocab)
        return fl_fail(err, FL_EFORMAT, "%u tokens but %u token types", src->n_vocab, src->n_types);
    t->types = base_malloc(src->n_vocab);
    if (!t->types) return fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", src->n_vocab);
    for (uint32_t i = 0; i < src->n_vocab; i++) {
        int32_t type = src->n_types ? src->types[i] : TOK_NORMAL;
        if (type < TOK_NORMAL || type > TOK_BYTE)
            return fl_fail(err, FL_EFORMAT, "token %u has the unknown type %d", i, type);
        t->types[i] = (uint8_t)type;
    }
    return FL_OK;
}

/* Texts of control tokens that end a turn, whatever the file calls its eos token. */
static const char *const stop_texts[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|call|>",
    "<|return|>",
    "<|user|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "<EOT>",
    "<|observation|>",
    "<｜end▁of▁sentence｜>",
};

fl_status tok_find_stops(tok *t, fl_err *err) {
    t->stop = base_calloc(t->n_vocab, 1);
    if (!t->stop) return fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", t->n_vocab);
    if (t->eos != TOK_NONE) t->stop[t->eos] = 1;
    for (size_t i = 0; i < sizeof stop_texts / sizeof *stop_texts; i++) {
        uint32_t id = tok_match_find(&t->added, stop_texts[i], strlen(stop_texts[i]));
        if (id != TOK_NONE && tok_is_special(t, id)) t->stop[id] = 1;
    }
    return FL_OK;
}

/* Makes the table of bytes as large as the texts: neither kind prints a token longer than it is spelled. */
static fl_status open_table(tok *t, const tok_source *src, fl_err *err) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < src->n_vocab; i++)
        if (__builtin_add_overflow(bytes, src->texts[i].n, &bytes) || bytes >= UINT32_MAX)
            return fl_fail(err, FL_EFORMAT, "the texts of the tokens take more than 4 GiB");
    if (!tok_table_init(&t->table, src->n_vocab, bytes))
        return fl_fail(err, FL_ENOMEM, "vocabulary of %zu bytes", bytes);
    return FL_OK;
}

static fl_status open_kind(tok *t, const tok_source *src, fl_err *err) {
    unsigned set = 1u << TOK_CONTROL | 1u << TOK_UNKNOWN | (t->spm ? 0 : 1u << TOK_USER_DEFINED);
    fl_status st = t->spm ? tok_spm_open(t, src, err) : tok_bpe_open(t, src, err);
    if (st != FL_OK) return st;
    if (!tok_match_init(&t->added, &t->table, t->types, set)) return fl_fail(err, FL_ENOMEM, "control tokens");
    return tok_find_stops(t, err);
}

fl_status tok_open(tok **out, const tok_source *src, fl_err *err) {
    *out = NULL;
    bool unigram = src->model && strcmp(src->model, "t5") == 0;
    bool spm = unigram || (src->model && strcmp(src->model, "llama") == 0);
    if (!spm && !(src->model && strcmp(src->model, "gpt2") == 0))
        return fl_fail(
            err, FL_EUNSUPPORTED,
            "tokenizer model \"%.100s\" is not known; known are gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 "
            "(SentencePiece Unigram)",
            src->model ? src->model : "");
    if (!src->n_vocab || src->n_vocab > TOK_VOCAB_MAX)
        return fl_fail(err, FL_EFORMAT, "a vocabulary of %u tokens; 1 to %d are possible", src->n_vocab, TOK_VOCAB_MAX);
    tok *t = base_calloc(1, sizeof *t);
    if (!t) return fl_fail(err, FL_ENOMEM, "tokenizer");
    t->spm = spm;
    t->unigram = unigram;
    t->n_vocab = src->n_vocab;
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    fl_status st = read_ids(t, src, err);
    if (st == FL_OK) st = read_types(t, src, err);
    if (st == FL_OK) st = open_table(t, src, err);
    if (st == FL_OK) st = open_kind(t, src, err);
    if (st != FL_OK) {
        tok_close(t);
        return st;
    }
    *out = t;
    return FL_OK;
}

uint32_t tok_n_vocab(const tok *t) { return t->n_vocab; }
uint32_t tok_bos(const tok *t) { return t->bos; }
uint32_t tok_eos(const tok *t) { return t->eos; }
uint32_t tok_unk(const tok *t) { return t->unk; }
uint32_t tok_pad(const tok *t) { return t->pad; }
bool tok_adds_bos(const tok *t) { return t->pipe ? t->pipe->before.n > 0 : t->add_bos; }

bool tok_is_special(const tok *t, uint32_t id) {
    return id < t->n_vocab && (t->types[id] == TOK_CONTROL || t->types[id] == TOK_UNKNOWN);
}

bool tok_is_stop(const tok *t, uint32_t id) { return id < t->n_vocab && t->stop[id]; }

tok_text tok_piece(const tok *t, uint32_t id) {
    return id < t->n_vocab ? tok_table_get(&t->table, id) : (tok_text){"", 0};
}

uint32_t tok_find(const tok *t, const char *bytes, size_t n) {
    uint32_t id = tok_match_find(&t->added, bytes, n);
    if (id == TOK_NONE && t->spm) id = tok_match_find(&t->user, bytes, n);
    for (uint32_t i = 0; id == TOK_NONE && i < t->n_vocab; i++) {
        tok_text x = tok_table_get(&t->table, i);
        if (x.n == n && (!n || memcmp(x.bytes, bytes, n) == 0)) id = i;
    }
    return id;
}
