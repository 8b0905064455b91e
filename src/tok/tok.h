/* tok/tok.h - a tokenizer: text to token ids and back.
 *
 * Kinds: byte-level BPE (merges by rank inside the words that a pattern cuts; "gpt2" in
 * GGUF), SentencePiece BPE (merges by the score of the joined piece; "llama") and SentencePiece
 * Unigram (the pieces whose scores have the greatest sum; "t5"). A tokenizer is opened from plain arrays (tok_source) or from a tokenizer.json, which is a pipeline of its own
 * (pipe.h).
 *
 * Model of encoding: added tokens are cut out of the text first (leftmost, longest), the rest
 * goes through the splitter and the merges. Control tokens (types control and unknown) are
 * found only where the caller allows it; user-defined tokens are always found. Text that came
 * from a user must not make control tokens: tok_encode_ranges() takes the ranges that may.
 *
 * Decoding has three forms. The text form gives valid UTF-8: bytes that can no longer become a
 * character turn into U+FFFD the way the reference library of the kind does it (byte-level:
 * one per maximal prefix of a character; SentencePiece: one per byte token). In it SentencePiece
 * prints control tokens as nothing, the unknown token as " U+2047 " or what the file says, and drops one
 * leading blank where the vocabulary adds one, all of them where it drops them from text. TOK_SKIP_SPECIAL drops control tokens in both kinds. TOK_RAW
 * joins the bytes of the tokens as they are; where a tokenizer.json decodes by other steps than bytes, it
 * has no other form than the text.
 *
 * Threads: a tok is frozen once open; any number of threads may use it without locks.
 * Memory:  a tok copies what it needs from its source. tok_ids are the caller's.
 */
#ifndef TOK_TOK_H
#define TOK_TOK_H

#include "base/buf.h"
#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tok tok;

enum { TOK_NONE = 0xffffffff, TOK_VOCAB_MAX = (1 << 24) - 2 };

/* A string of the source: not NUL-terminated, borrowed. */
typedef struct {
    const char *bytes;
    size_t n;
} tok_text;

typedef enum {
    TOK_NORMAL = 1,
    TOK_UNKNOWN,
    TOK_CONTROL,
    TOK_USER_DEFINED,
    TOK_UNUSED,
    TOK_BYTE,
} tok_type;

/* What tok_open() needs; everything is borrowed until it returns. */
typedef struct {
    const char *model;      /* "gpt2", "llama" or "t5" */
    const char *pre;        /* name of the splitter for "gpt2" (tok_split_names()), from which normal form and
                             * "whole words first" follow; ignored for the others */
    const tok_text *texts;  /* [n_vocab], text of each token as the file spells it */
    const float *scores;    /* [n_scores]; n_scores = n_vocab, ignored for "gpt2" */
    const int32_t *types;   /* [n_types], tok_type values; n_types = n_vocab, or 0: all normal */
    const tok_text *merges; /* [n_merges] "left right", rank = index; "gpt2" only */
    uint32_t n_vocab, n_scores, n_types, n_merges;
    int64_t bos, eos, unk, pad; /* ids, or -1 */
    bool add_bos, add_eos;      /* TOK_ADD_SPECIAL puts them around the text */
    /* What SentencePiece does to text before it is cut; ignored for "gpt2". */
    bool add_space_prefix; /* a blank goes in front of each piece of text (add_dummy_prefix) */
    bool blank_behind;     /* ... or behind it (treat_whitespace_as_suffix) */
    bool squeeze_blanks;   /* blanks are dropped at the ends and in runs (remove_extra_whitespaces) */
    bool literal_blanks;   /* pieces have blanks as they are, not as U+2581 (no escape_whitespaces) */
    tok_text charsmap;     /* compiled replacements (precompiled_charsmap), n 0: none */
    tok_text unk_text;     /* what the unknown token prints, bytes NULL: " U+2047 " */
} tok_source;

/* Opens a tokenizer. The caller owns *out: tok_close(). NULL on failure.
 * Errors: FL_EUNSUPPORTED for a model kind or splitter that is not known (the message lists those that
 * are), FL_EFORMAT for arrays that contradict each other, FL_ENOMEM. */
FL_CHECKED fl_status tok_open(tok **out, const tok_source *src, fl_err *err);
/* Opens the tokenizer of a tokenizer.json (n bytes of JSON); config is the tokenizer_config.json beside it, which names
 * bos, eos, unknown and padding, or NULL.
 * Errors: FL_EFORMAT for what contradicts itself, FL_EUNSUPPORTED for a component that is not known; the message names
 * the component. FL_ENOMEM. */
FL_CHECKED fl_status tok_open_json(tok **out, const char *json, size_t n, const char *config, size_t n_config,
                                   fl_err *err);
/* Opens a tokenizer.model (n bytes, SentencePiece's protobuf, models BPE and Unigram). The file does not say whether bos
 * and eos go around the text. Errors as tok_open(), FL_EUNSUPPORTED naming what we do not do. */
FL_CHECKED fl_status tok_open_sentencepiece(tok **out, const void *bytes, size_t n, bool add_bos, bool add_eos,
                                            fl_err *err);
/* Opens a tekken.json (n bytes). Errors: FL_EFORMAT, FL_EUNSUPPORTED for a pattern we cannot run, FL_ENOMEM. */
FL_CHECKED fl_status tok_open_tekken(tok **out, const char *json, size_t n, fl_err *err);
/* Opens a rank file (n bytes, lines "base64 rank") that is called name; config is the tokenizer_config.json beside it, or
 * NULL. Errors: FL_EUNSUPPORTED where neither says how text is cut into words, FL_EFORMAT, FL_ENOMEM. */
FL_CHECKED fl_status tok_open_tiktoken(tok **out, const char *ranks, size_t n, const char *name, const char *config,
                                       size_t n_config, fl_err *err);
void tok_close(tok *t);

/* The splitter names of "gpt2" vocabularies, separated by ", ". */
const char *tok_split_names(void);
/* Whether vocabularies with this splitter have a bos token put in front unless the file says otherwise. */
bool tok_split_adds_bos(const char *name);

/* -------------------------------------------------------------------------------- vocabulary */

uint32_t tok_n_vocab(const tok *t);
uint32_t tok_bos(const tok *t); /* TOK_NONE where the vocabulary has none */
uint32_t tok_eos(const tok *t);
uint32_t tok_unk(const tok *t);
uint32_t tok_pad(const tok *t);
bool tok_adds_bos(const tok *t);

/* The functions below take any id; beyond the vocabulary they say "no" or "empty". */
bool tok_is_special(const tok *t, uint32_t id); /* control or unknown: dropped by TOK_SKIP_SPECIAL */
/* Ends a turn: the eos token, or a control token known by its text (<|im_end|>, <|eot_id|>, ...). */
bool tok_is_stop(const tok *t, uint32_t id);
/* The bytes a token stands for (not always whole characters); n 0 beyond the vocabulary. Borrowed. */
tok_text tok_piece(const tok *t, uint32_t id);
/* The token that stands for exactly these bytes, added tokens first; TOK_NONE if there is none.
 * Walks the vocabulary: for configuration, not for text. */
uint32_t tok_find(const tok *t, const char *bytes, size_t n);

/* -------------------------------------------------------------------------------- encoding */

/* Growing array of ids. Zero-initialise, end with tok_ids_clear(). */
typedef struct {
    uint32_t *ids;
    size_t n, cap;
} tok_ids;

bool tok_ids_push(tok_ids *a, uint32_t id); /* false without memory */
void tok_ids_clear(tok_ids *a);

enum {
    TOK_ADD_SPECIAL = 1,   /* bos and eos, where the vocabulary wants them */
    TOK_PARSE_SPECIAL = 2, /* text of control tokens becomes those tokens */
};

enum { TOK_TEXT_MAX = 1 << 30 }; /* bytes in one call */

/* Appends the ids of text to out. On failure out holds what it held before.
 * Errors: FL_EINVAL for invalid UTF-8 (the message has the byte offset), text beyond TOK_TEXT_MAX, or text that a
 * vocabulary without an unknown token cannot spell,
 * FL_ENOMEM. O(n log n) in the length of the text, whatever the text. */
FL_CHECKED fl_status tok_encode(const tok *t, const char *text, size_t n, unsigned flags, tok_ids *out, fl_err *err);

typedef struct {
    size_t begin, end; /* bytes */
} tok_range;

/* As tok_encode() with TOK_PARSE_SPECIAL, except that a control token is made only where all its bytes
 * lie in the ranges given (rising, disjoint; adjacent ones count as one). Ranges do not cut the text. */
FL_CHECKED fl_status tok_encode_ranges(const tok *t, const char *text, size_t n, const tok_range *ranges,
                                       size_t n_ranges, unsigned flags, tok_ids *out, fl_err *err);

/* -------------------------------------------------------------------------------- decoding */

enum {
    TOK_SKIP_SPECIAL = 1,
    TOK_RAW = 2,
};

/* Appends the text of ids to out. Errors: FL_EINVAL for an id beyond the vocabulary, FL_ENOMEM. */
FL_CHECKED fl_status tok_decode(const tok *t, const uint32_t *ids, size_t n, unsigned flags, base_buf *out,
                                fl_err *err);

/* The same one token at a time. The pieces joined are the text tok_decode() gives; no piece ends inside a
 * character, except under TOK_RAW. May hold memory until tok_stream_finish() or tok_stream_clear(); t must outlive it. */
typedef struct {
    const tok *t;
    unsigned flags;
    uint8_t pending[4]; /* bytes of a character that is not complete */
    uint8_t n_pending;
    bool started;      /* something was printed, or the leading blank dropped */
    uint32_t stripped; /* of what the decoder drops at the start */
    base_buf run;      /* byte tokens whose run has not ended (tokenizer.json with ByteFallback) */
} tok_stream;

void tok_stream_init(tok_stream *s, const tok *t, unsigned flags);
/* Appends what the token completes (maybe nothing). Errors as tok_decode(). */
FL_CHECKED fl_status tok_stream_push(tok_stream *s, uint32_t id, base_buf *out, fl_err *err);
/* Appends what is left: U+FFFD for bytes of an incomplete character. The stream is then as after init. */
FL_CHECKED fl_status tok_stream_finish(tok_stream *s, base_buf *out, fl_err *err);
void tok_stream_clear(tok_stream *s);

#endif
