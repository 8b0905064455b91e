/* tok/pipe.h - the tokenizer of a tokenizer.json as what it is: a pipeline of components.
 *
 * Text is cut by the added tokens that want raw text, each piece normalised, cut by the added tokens that want normalised
 * text, cut into words by the pre-tokenizers, and each word given to the model. The post-processor is two lists of ids
 * around the text. Byte-level files spell bytes as printable characters: that is undone once at open (bpe.c), so
 * that the component ByteLevel costs nothing here.
 *
 * Decoding runs the decoder's steps on one token after the other; what a step does may depend on whether the token is
 * the first, so that streaming needs no window. Byte tokens are held until their run ends (decode.c). Decoders that
 * look at other tokens hold everything until the end (decode_list.c).
 */
#ifndef TOK_PIPE_H
#define TOK_PIPE_H

#include "tok/tok_int.h"

/* ---- normalisers: normal.c */
typedef enum {
    TOK_NORM_FORM,     /* form */
    TOK_NORM_LOWER,    /* every character to lower case */
    TOK_NORM_UNMARK,   /* drops marks: all, or the nonspacing ones (left) */
    TOK_NORM_STRIP,    /* white space at the ends: left, right */
    TOK_NORM_REPLACE,  /* from -> to; by pattern where stage is not TOK_NONE */
    TOK_NORM_PREPEND,  /* to, unless the text is empty */
    TOK_NORM_CHARSMAP, /* map */
    TOK_NORM_CLEAN,    /* drops control characters, white space becomes blanks */
    TOK_NORM_CHINESE,  /* blanks around ideographs */
    TOK_NORM_NMT,      /* drops control characters, what looks like white space becomes blanks */
    TOK_NORM_LEVEL,    /* bytes as printable characters */
} tok_norm_kind;

typedef struct {
    tok_norm_kind kind;
    tok_form form;
    bool left, right;
    uint32_t stage;
    char *from, *to; /* owned */
    size_t n_from, n_to;
    struct tok_charsmap *map; /* owned */
} tok_norm;

/* ---- charsmap.c: SentencePiece's compiled rules, a double-array trie and its replacements. */
typedef struct tok_charsmap {
    uint32_t *units;
    uint32_t n_units;
    char *texts; /* NUL-terminated ones */
    size_t n_texts;
} tok_charsmap;

FL_CHECKED fl_status tok_charsmap_open(tok_charsmap **out, const char *blob, size_t n, fl_err *err);
void tok_charsmap_close(tok_charsmap *m);
/* The replacement of the shortest (longest false) or longest key that begins text; false: none. *len gets its length. */
bool tok_charsmap_find(const tok_charsmap *m, const char *text, size_t n, bool longest, size_t *len, tok_text *to);
/* As the library tokenizers applies it: to grapheme clusters below six bytes, else to single characters. */
bool tok_charsmap_clusters(const tok_charsmap *m, const char *text, size_t n, base_buf *out);

/* ---- pre-tokenizers */
typedef enum { TOK_PRE_SPLIT, TOK_PRE_METASPACE, TOK_PRE_BLANK, TOK_PRE_LEVEL } tok_pre_kind;
typedef enum { TOK_PREPEND_ALWAYS, TOK_PREPEND_FIRST, TOK_PREPEND_NEVER } tok_prepend;

typedef struct {
    tok_pre_kind kind;
    uint32_t first, end; /* split: stages */
    tok_prepend prepend; /* metaspace */
    char sign[5];        /* metaspace: what stands for a blank; NUL-terminated */
} tok_pre;

/* ---- models */
typedef enum {
    TOK_MODEL_BYTES,
    TOK_MODEL_CHARS,
    TOK_MODEL_UNIGRAM,
    TOK_MODEL_WORDPIECE,
    TOK_MODEL_WORDLEVEL,
} tok_model;

/* ---- decoders: decode.c, and those that need all tokens at once: decode_list.c */
typedef enum {
    TOK_DEC_REPLACE,   /* from -> to */
    TOK_DEC_STRIP,     /* up to start and stop times from at the ends */
    TOK_DEC_METASPACE, /* from -> blank; first token: dropped if prepends */
    TOK_DEC_FALLBACK,  /* <0xNN> are bytes */
    TOK_DEC_WORDPIECE, /* from is the prefix of what continues a word; cleanup */
    TOK_DEC_BLANKS,    /* a blank between tokens */
    TOK_DEC_FUSE,      /* all tokens become one */
    TOK_DEC_LEVEL,     /* the bytes that printable characters stand for, all as one token */
    TOK_DEC_SUFFIX,    /* from -> blank, on the last token nothing */
    TOK_DEC_CTC,       /* equal neighbours are one; from dropped, then cleanup and to -> blank; no empty tokens */
} tok_dec_kind;

typedef struct {
    tok_dec_kind kind;
    char *from, *to; /* owned */
    size_t n_from, n_to;
    uint32_t start, stop;
    uint32_t stage; /* replace: by pattern where not TOK_NONE */
    bool prepends, cleanup;
} tok_dec;

enum { TOK_NORMS_MAX = 32, TOK_PRES_MAX = 32, TOK_DECS_MAX = 16 };

/* Added tokens of one stage. */
typedef struct {
    tok_table texts; /* as they are looked for: normalised for the second stage */
    uint8_t *ones;
    uint32_t *ids;
    uint8_t *flags;
    tok_match match; /* over texts; gives an index */
} tok_added;

enum { TOK_ADDED_LSTRIP = 1, TOK_ADDED_RSTRIP = 2, TOK_ADDED_WORD = 4 };

struct tok_pipe {
    tok_norm norms[TOK_NORMS_MAX];
    uint32_t n_norms;
    tok_pre pres[TOK_PRES_MAX];
    uint32_t n_pres;
    tok_added raw, normal;
    tok_model model;
    /* chars, wordpiece, unigram */
    tok_table names; /* [n_vocab] as the file spells them; those outside the model too */
    tok_table shown; /* [n_vocab] names, added tokens that are normalised in that form: what the decoder sees */
    uint8_t *known;  /* [n_vocab] 1: in the model, so that map holds it */
    tok_map map;
    tok_match trie; /* unigram, wordpiece: the model's pieces */
    double *scores; /* unigram */
    double unk_score;
    uint32_t unk;
    bool fuse_unk, byte_fallback;
    char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL: none */
    uint32_t word_chars_max;
    bool cuts;             /* chars: words are cut before U+2581 where no piece joins it to what is before */
    bool before_sign[256]; /* last bytes of characters that some piece has directly before U+2581 */
    bool plain;            /* chars: the symbols of a word follow from the text at their place alone */
    /* post-processor */
    tok_ids before, after;
    /* decoder */
    tok_dec decs[TOK_DECS_MAX];
    uint32_t n_decs;
    bool dec_bytes; /* ByteLevel alone */
    bool dec_whole; /* the decoder needs all tokens: a stream prints at its end */
    char strip[5];  /* dropped from the start of the whole text, up to strip_max times */
    uint32_t strip_max;
};

typedef struct tok_pipe tok_pipe;

void tok_pipe_close(tok_pipe *p);

/* Scratch of one call. */
typedef struct tok_pipe_run {
    const tok *t;
    tok_words *words;
    tok_merge *merge;
    base_buf text[2]; /* of the normalisers; what they made is read until the stretch has ended */
    base_buf made[2]; /* of the pre-tokenizers that write text anew */
    base_buf word;
    tok_pieces pieces;
    struct tok_path *path; /* unigram.c */
    size_t path_cap;
} tok_pipe_run;

void tok_pipe_run_clear(tok_pipe_run *r);

/* added.c: text to ids; control tokens are made in the ranges only. */
FL_CHECKED fl_status tok_pipe_text(tok_pipe_run *r, const char *text, size_t n, const tok_range *ranges,
                                   size_t n_ranges, tok_ids *out, fl_err *err);

/* normal.c: runs the normalisers; *out is borrowed from r, or text itself. */
FL_CHECKED fl_status tok_pipe_normalize(tok_pipe_run *r, const char *text, size_t n, tok_text *out, fl_err *err);
bool tok_is_white(uint32_t cp);
bool tok_is_word(uint32_t cp);

/* pretok.c: one piece of normalised text to ids. at_start: it begins where the whole text begins. */
FL_CHECKED fl_status tok_pipe_encode(tok_pipe_run *r, const char *text, size_t n, bool at_start, tok_ids *out,
                                     fl_err *err);
/* chars.c: what p says of model BPE over characters, once its vocabulary is there. */
void tok_chars_prepare(tok *t);
/* chars.c, unigram.c: one word. */
FL_CHECKED fl_status tok_chars_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err);
FL_CHECKED fl_status tok_wordlevel_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err);
FL_CHECKED fl_status tok_wordpiece_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err);
FL_CHECKED fl_status tok_unigram_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err);
/* Appends the byte tokens <0xNN> of s if all are in the vocabulary. 1: done, 0: not all are, -1: no memory. */
int tok_pipe_bytes(const tok_pipe *p, const char *s, size_t n, tok_ids *out);

/* decode.c */
/* Appends what token id prints, byte tokens as their byte; first: no token was before it. */
bool tok_pipe_piece(const tok_pipe *p, uint32_t id, bool first, base_buf *out);
/* The byte of a name <0xNN>, or -1; of a byte token under the decoder. */
int tok_byte_name(tok_text x);
int tok_pipe_byte(const tok_pipe *p, uint32_t id);
/* Runs a step on the text of b from begin on. */
bool tok_dec_step(const tok_dec *d, bool first, base_buf *b, size_t begin);
bool tok_dec_replace(base_buf *b, size_t begin, const char *from, size_t n_from, const char *to, size_t n_to);
bool tok_dec_cleanup(base_buf *b, size_t begin);
bool tok_pipe_push(tok_stream *s, uint32_t id, base_buf *out);
bool tok_pipe_finish(tok_stream *s, base_buf *out);

/* decode_list.c: the ids of s->run (as bytes) as text. */
FL_CHECKED fl_status tok_pipe_list(tok_stream *s, base_buf *out, fl_err *err);

/* normal.c: appends text with every match of the stage replaced by to. */
FL_CHECKED fl_status tok_replace_matches(tok_words *w, uint32_t stage, const char *text, size_t n, tok_text to,
                                         base_buf *out, fl_err *err);
/* pretok.c: appends the printable characters that stand for the bytes. */
bool tok_put_level(const tok *t, const char *s, size_t n, base_buf *out);

/* onig.c: rewrites a pattern from Oniguruma's language to PCRE2's. */
FL_CHECKED fl_status tok_onig_translate(const char *pattern, size_t n, base_buf *out, fl_err *err);

#endif
