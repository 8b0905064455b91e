/* tok/tok_int.h - what the files of the tokenizer share.
 *
 * A vocabulary is a table of byte strings (tok_table) and, where text must be found in it, a
 * map over that table (tok_map). Merging is one algorithm for both kinds (merge.c): a list of
 * symbols and a heap of neighbouring pairs; the kinds differ in how a pair is looked up.
 */
#ifndef TOK_TOK_INT_H
#define TOK_TOK_INT_H

#include "tok/tok.h"

/* ---- table.c: n byte strings in one block. Entry i is bytes[start[i] .. start[i + 1]). */
typedef struct {
    char *bytes;
    uint32_t *start; /* [n_max + 1] */
    uint32_t n, n_max;
    size_t cap;
} tok_table;

bool tok_table_init(tok_table *t, uint32_t n_max, size_t bytes_max);
void tok_table_clear(tok_table *t);
/* Room for the next entry's bytes (the capacity given at init must hold them); ended by tok_table_end(). */
char *tok_table_next(tok_table *t);
void tok_table_end(tok_table *t, size_t n);
tok_text tok_table_get(const tok_table *t, uint32_t i);

/* Open addressing over the entries of a table. A slot is 0 or (8 bits of hash << 24 | entry + 1): four
 * bytes, so that a map of 262,144 pieces stays in a second-level cache. */
typedef struct {
    uint32_t *slots;
    uint32_t mask;
    uint64_t seed;
} tok_map;

bool tok_map_init(tok_map *m, uint32_t n_keys);
void tok_map_clear(tok_map *m);
/* Adds the entries whose type is in the set (bit 1 << type; types NULL: all). The first of equal strings counts. */
void tok_map_fill(tok_map *m, const tok_table *t, const uint8_t *types, unsigned set);
uint32_t tok_map_find(const tok_map *m, const tok_table *t, const char *bytes, size_t n);

/* A hash seed that a file cannot know. */
uint64_t tok_seed(void);

/* ---- match.c: finds added tokens in text. */
typedef struct {
    uint32_t *ids;       /* [n] sorted by the bytes of their texts */
    uint32_t first[257]; /* ids[first[b] .. first[b + 1]) begin with byte b */
    uint32_t n;
    const tok_table *table;
} tok_match;

/* Takes the entries of table whose type is in the set (bit 1 << type) and whose text is valid UTF-8 and not
 * empty. The table must stay where it is. */
bool tok_match_init(tok_match *m, const tok_table *table, const uint8_t *types, unsigned set);
void tok_match_clear(tok_match *m);
/* The longest token that begins at p, or TOK_NONE; *len gets its length. */
uint32_t tok_match_at(const tok_match *m, const char *p, size_t n, size_t *len);
uint32_t tok_match_find(const tok_match *m, const char *p, size_t n);
/* All tokens that begin at p, shortest first: zero-initialise the rest of the walk. */
typedef struct {
    const char *p;
    size_t n, d;
    uint32_t lo, hi;
} tok_match_walk;
bool tok_match_next(const tok_match *m, tok_match_walk *w, uint32_t *id, size_t *len);

/* ---- split.c: cuts text into words by patterns. */
typedef enum { TOK_ISOLATED, TOK_REMOVED, TOK_WITH_PREVIOUS, TOK_WITH_NEXT, TOK_CONTIGUOUS } tok_behaviour;

typedef struct {
    const char *pattern; /* in PCRE2's language */
    tok_behaviour behaviour;
    bool invert;
} tok_stage;

enum { TOK_STAGES_MAX = 32 };

typedef struct {
    uint32_t begin, end;
} tok_piece_range;

/* Growing array of pieces of one text. Zero-initialise, end with tok_pieces_clear(). */
typedef struct {
    tok_piece_range *at;
    size_t n, cap;
} tok_pieces;

bool tok_pieces_push(tok_pieces *p, size_t begin, size_t end);
void tok_pieces_clear(tok_pieces *p);

typedef struct tok_split tok_split;
typedef struct tok_words tok_words; /* scratch of one call */

/* Errors: FL_EFORMAT for a pattern that does not compile, FL_EUNSUPPORTED for too many stages. */
FL_CHECKED fl_status tok_split_open(tok_split **out, const tok_stage *stages, uint32_t n, fl_err *err);
void tok_split_close(tok_split *s);
FL_CHECKED fl_status tok_words_open(tok_words **out, const tok_split *s, fl_err *err);
void tok_words_close(tok_words *w);
/* Runs stages [first, end) on the given pieces of text; *out is given itself or borrowed until the next call. given may
 * be what the call before gave. */
FL_CHECKED fl_status tok_words_cut(tok_words *w, uint32_t first, uint32_t end, const char *text,
                                   const tok_pieces *given, const tok_pieces **out, fl_err *err);

/* The first match of stage k in text at or behind at. */
FL_CHECKED fl_status tok_words_search(tok_words *w, uint32_t k, const char *text, size_t n, size_t at, size_t range[2],
                                      bool *found, fl_err *err);

/* White space, to stand inside a class. */
#define TOK_WHITE "\\t-\\r \\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define TOK_PATTERN_GPT2                                                                                               \
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" TOK_WHITE "\\p{L}\\p{N}]+|[" TOK_WHITE "]+(?![^" TOK_WHITE         \
    "])|[" TOK_WHITE "]+"

/* ---- family.c: the splitters that GGUF names. */
enum {
    TOK_WHOLE_FIRST = 1, /* a word that is a token is taken whole, before any merge */
    TOK_NFC = 2,         /* text is brought to NFC */
    TOK_BOS_DEFAULT = 4, /* bos goes in front unless the file says otherwise */
};

typedef struct {
    const char *name;
    unsigned rules;
    const char *stages[6];
} tok_family;

const tok_family *tok_family_find(const char *name); /* NULL: not known */

/* ---- norm.c: normal forms of Unicode. */
typedef enum { TOK_FORM_NONE, TOK_FORM_NFC, TOK_FORM_NFD, TOK_FORM_NFKC, TOK_FORM_NFKD } tok_form;

/* Appends valid UTF-8 text in the form to out. False without memory. */
bool tok_normalize(tok_form form, const char *text, size_t n, base_buf *out);

/* ---- merge.c: the merging of symbols by priority. */
typedef struct {
    uint32_t id;         /* TOK_NONE: not looked up */
    uint32_t start, len; /* bytes of the text; len 0: merged into a symbol before it */
    uint32_t prev, next; /* TOK_NONE at the ends */
    bool frozen;         /* takes part in no merge */
} tok_symbol;

typedef struct {
    uint64_t order; /* priority << 32 | index of the left symbol; the smallest is merged first */
    uint32_t id, len;
} tok_pair;

/* ---- cache.c: the ids of short words met before in the same call. */
enum { TOK_CACHE_WORD = 16, TOK_CACHE_IDS = 3 };

typedef struct {
    uint64_t word[2]; /* all bytes of the word, some twice: with its length that is the word */
    uint32_t ids[TOK_CACHE_IDS];
    uint16_t n_bytes, n_ids; /* n_bytes 0: free */
} tok_cache_entry;

typedef struct {
    tok_cache_entry *at; /* NULL: no cache */
    uint32_t shift;      /* the place is the upper 64 - shift bits of a hash */
} tok_cache;

/* For a text of n bytes; short ones get none. False without memory. */
bool tok_cache_init(tok_cache *c, size_t n);
void tok_cache_clear(tok_cache *c);
/* The entry where the word belongs, NULL if it cannot be kept; *found: it holds the word. */
tok_cache_entry *tok_cache_find(const tok_cache *c, const char *word, size_t n, bool *found);
/* Appends the ids of a word found. False without memory. */
bool tok_cache_take(const tok_cache_entry *e, tok_ids *out);
/* Keeps the ids in the entry found for the word, if they fit. */
void tok_cache_put(tok_cache_entry *e, const char *word, size_t n, const uint32_t *ids, size_t n_ids);

/* Scratch of one call. */
typedef struct {
    const tok *t;
    const char *text;
    tok_symbol *symbols;
    uint32_t n_symbols, window; /* window: how many symbols the pusher may add */
    size_t symbols_cap;
    tok_pair *heap;
    size_t n_heap, heap_cap;
    tok_symbol *tail; /* the last tokens of the window before */
    size_t n_tail, tail_cap;
    tok_cache cache;
    struct tok_pipe_run *run; /* chars.c: the call */
    tok_pieces pieces;        /* bpe.c: the text as one piece */
    size_t before;            /* spm.c: ids of other texts in front */
    uint32_t *unused_left;    /* spm.c: [n_vocab] length of the left part of an unused piece, or NULL */
} tok_merge;

/* What the kinds of BPE differ in. */
typedef struct {
    /* Pushes symbols of text[at .. n) until the window is full (tok_merge_full()); where it stopped. The symbols must
     * follow from the text at and behind at alone, and start at rising places. */
    size_t (*push)(tok_merge *m, const char *text, size_t at, size_t n);
    /* Looks a pair up; false when it does not merge. The smaller priority is merged first. It must follow from the ids,
     * or the joint bytes, of the two. */
    bool (*find)(tok_merge *m, const tok_symbol *a, const tok_symbol *b, uint32_t *priority, uint32_t *id);
    bool (*put)(const tok_merge *m, const tok_symbol *s, tok_ids *out); /* appends the ids of a symbol */
    bool whole;                                                         /* the text is merged in one window */
} tok_merge_kind;

enum { TOK_PUSH_MORE = 8 }; /* symbols that one step of a pusher may add beyond a full window */

static inline bool tok_merge_full(const tok_merge *m) { return m->n_symbols >= m->window; }
void tok_merge_push(tok_merge *m, uint32_t id, uint32_t start, uint32_t len, bool frozen);
/* Merges text[0 .. n) and appends its ids. False without memory. */
bool tok_merge_text(tok_merge *m, const tok_merge_kind *kind, const char *text, size_t n, tok_ids *out);
void tok_merge_clear(tok_merge *m);

/* ---- bpe.c, spm.c */
typedef struct {
    uint64_t key; /* left << 32 | right; BPE_FREE: free */
    uint32_t rank, id;
} tok_bpe_slot;

typedef struct {
    tok_bpe_slot *slots;
    uint32_t shift; /* the hash is the upper 64 - shift bits of a product */
    uint32_t n_slots;
    uint64_t seed;
} tok_bpe;

FL_CHECKED fl_status tok_bpe_open(tok *t, const tok_source *src, fl_err *err);
void tok_bpe_clear(tok_bpe *b);
bool tok_bpe_init(tok_bpe *b, uint32_t n_merges);
/* Adds merge i; names are the pieces as the file spells them, skip the bytes of right that the joined piece leaves
 * out. Errors: FL_EFORMAT for a piece that is not there. joined is scratch. */
FL_CHECKED fl_status tok_bpe_add(tok_bpe *b, const tok_table *names, const tok_map *map, uint32_t i, tok_text left,
                                 tok_text right, size_t skip, base_buf *joined, fl_err *err);
bool tok_bpe_find(const tok_bpe *b, uint32_t left, uint32_t right, uint32_t *rank, uint32_t *id);
/* "left right" at its first blank; false if there is none. */
bool tok_bpe_split(tok_text m, tok_text *left, tok_text *right);
void tok_bpe_level(tok *t);
void tok_bpe_bytes_find(tok *t, const tok_table *names, const tok_map *map);
bool tok_bpe_word(tok_merge *m, const char *word, size_t n, tok_ids *out);
FL_CHECKED fl_status tok_bpe_encode(tok_merge *m, tok_words *w, base_buf *scratch, const char *text, size_t n,
                                    tok_ids *out, fl_err *err);
/* The bytes that a byte-level text stands for; the text itself if one of its characters is no such byte.
 * out has room for n bytes. */
size_t tok_bpe_bytes(const tok *t, tok_text text, char *out);

FL_CHECKED fl_status tok_spm_open(tok *t, const tok_source *src, fl_err *err);
FL_CHECKED fl_status tok_spm_encode(tok_merge *m, base_buf *scratch, const char *text, size_t n, tok_ids *out,
                                    fl_err *err);
/* Writes text with every U+2581 as a blank; the count. out has room for n bytes. */
size_t tok_spm_blanks(const char *text, size_t n, char *out);
/* Appends what text[start .. start + len) becomes: id, or for TOK_NONE its byte tokens, or the unknown token. */
bool tok_spm_put(const tok_merge *m, uint32_t id, uint32_t start, uint32_t len, tok_ids *out);

/* ---- spm_text.c: out gets text as the pieces spell it. False without memory or beyond TOK_TEXT_MAX. */
bool tok_spm_text(const tok *t, const char *text, size_t n, base_buf *out);

/* ---- spm_unigram.c: types, scores and pieces are there. Encodes m->text[0 .. n). */
FL_CHECKED fl_status tok_spm_unigram_open(tok *t, fl_err *err);
bool tok_spm_unigram(const tok_merge *m, size_t n, tok_ids *out);

/* Marks the tokens that end a turn; the types and t->added are there. */
FL_CHECKED fl_status tok_find_stops(tok *t, fl_err *err);

/* stream.c: appends bytes as text, U+FFFD per maximal prefix of a character where they are none. */
bool tok_put_lossy(const tok *t, tok_text x, base_buf *out);

struct tok {
    struct tok_pipe *pipe; /* a tokenizer.json (pipe.h); NULL: from a tok_source */
    bool spm;
    bool add_bos, add_eos, add_space_prefix;
    uint32_t bos, eos, unk, pad;
    uint32_t n_vocab;
    tok_table table;       /* the bytes each token stands for */
    uint8_t *types;        /* [n_vocab] tok_type */
    uint8_t *stop;         /* [n_vocab] tok_is_stop() */
    uint32_t byte_id[256]; /* the token of each byte, or TOK_NONE */
    tok_match added;       /* byte-level: control, unknown and user-defined; SentencePiece: the first two */
    tok_map map; /* SentencePiece BPE: normal, user-defined and unused pieces; byte-level with whole_first: all */
    /* byte-level */
    uint16_t level[324]; /* code point -> byte; 256: none */
    tok_split *split;
    uint32_t n_stages; /* of split */
    tok_form form;
    bool whole_first; /* a word in map is taken whole */
    bool by_rank;     /* neighbours merge when their joint bytes are in map, the lowest id first; no merges in bpe */
    tok_bpe bpe;
    /* SentencePiece */
    bool unigram;
    bool squeeze_blanks, blank_behind, literal_blanks; /* as in tok_source */
    struct tok_charsmap *charsmap;                     /* or NULL */
    char *unk_text;
    tok_table spelled;       /* [n_vocab] texts as the file has them: where blanks are literal or there are rules */
    const tok_table *pieces; /* what map, user and trie are over: table, or spelled where blanks are literal */
    tok_match user;          /* user-defined pieces */
    tok_match user_spelled;  /* the same in text before the rules */
    tok_match trie;          /* unigram: normal and user-defined pieces */
    float unk_score;
    float *scores; /* [n_vocab] */
    uint32_t piece_bytes_max;
    bool has_unused;
    bool words_alone;       /* the ids of a stretch do not depend on those before it: bytes stand for what is unknown */
    bool before_blank[256]; /* bytes that some piece has directly before a blank */
};

#endif
