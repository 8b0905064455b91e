/* engine/engine_int.h - what the files of the engine share: models, engines, requests.
 *
 * Locks, in the order they may be taken: step (whoever runs steps; guards scheduler,
 * cache, device and slots), queue (requests that have arrived), request (what a request
 * has published). The step loop takes queue and request locks only for a few
 * instructions and allocates nothing.
 */
#ifndef ENGINE_ENGINE_INT_H
#define ENGINE_ENGINE_INT_H

#include "base/thread.h"
#include "dev/dev.h"
#include "flambeau.h"
#include "kv/cache.h"
#include "model/model.h"
#include "sched/sched.h"
#include "tok/jinja.h"
#include "tok/tok.h"

enum { ENGINE_STEP_TOKENS = 512 /* of one step, unless told */ };
enum { ENGINE_SLOTS_MAX = 4, ENGINE_REQUESTS_MAX = 1024, ENGINE_SEQS_MAX = 512, ENGINE_STOP_MAX = 8 };

struct fl_model {
    model_source *source;         /* NULL: a tokenizer without weights */
    char *license, *name, *types; /* owned */
    char tok_kind[140];           /* "gpt2, smollm", or "tokenizer.json": the kind of its file */
    fl_status config_status;      /* why no engine can be opened on it */
    fl_err config_err;
    model_config config;
    fl_status tok_status; /* why there is no tokenizer */
    fl_err tok_err;
    tok *tok;
    fl_status template_status; /* why there is no template */
    fl_err template_err;
    jinja *chat_template, *tool_template; /* the latter, if there is one, where tools are given */
    uint32_t n_stop, stop[ENGINE_STOP_MAX];
    uint64_t n_params;
};

/* One step in flight: what the scheduler planned, the tables the device reads, the outputs it writes. */
typedef struct {
    sched_step step;
    dev_ticket ticket;
    bool launched; /* false: the device refused the run */
    fl_err refusal;
    step_tables tables;
    step_outputs outputs;
    uint32_t *token, *position, *token_seq, *seq_begin, *row_token;
    const uint32_t **pages[GRAPH_GROUPS_MAX];
    sample_params *draw;
    float *logits; /* [max_rows, n_vocab], allocated when a request first wants logits */
} engine_slot;

struct fl_engine {
    const fl_model *model;
    const dev_vtable *vt;
    dev *dev;
    compute profile;
    graph *g;
    graph_plan *plan;
    dev_weight **weights; /* by graph weight */
    dev_span kv_span[GRAPH_GROUPS_MAX];
    kv_cache *kv;
    dev_program *program;
    sched *sched;
    engine_slot slots[ENGINE_SLOTS_MAX];
    uint32_t n_slots, first_slot, n_in_flight; /* ring: the oldest is first_slot */
    uint32_t max_len, max_seqs, max_tokens, max_rows;
    uint32_t kv_pages[GRAPH_GROUPS_MAX];
    bool kv_f32, prefix_caching;
    uint64_t weight_bytes, kv_bytes, token_bytes;
    double load_ms, compile_ms;
    base_mutex step_lock;
    fl_request *running[ENGINE_REQUESTS_MAX]; /* by scheduler handle */
    base_mutex queue_lock;
    base_cond queue_cond;
    fl_request *arrived, **arrived_end; /* list, first come first */
    uint32_t n_requests;                /* not closed; guarded by queue_lock */
    uint32_t n_between;                 /* threads that wait for the end of a step; guarded by queue_lock */
    bool threaded, quit;                /* guarded by queue_lock */
    pthread_t thread;
    atomic_uint_fast64_t n_steps, n_prompt_tokens, n_output_tokens, n_step_allocations, n_cached_tokens, n_preemptions;
    atomic_uint n_running, n_waiting, n_kv_used;
    void (*on_step)(void *user); /* of the thread; NULL: nobody asks */
    void *on_step_user;
};

struct fl_request {
    fl_engine *e;
    fl_request *next; /* in the arrived list */
    uint32_t handle;  /* of the scheduler */
    uint32_t n_prompt, max_draws;
    uint32_t *tokens; /* [n_prompt + max_draws] */
    kv_key *keys;     /* of its full pages, the scheduler's; NULL: no prefix caching */
    kv_key root;
    int32_t priority;
    sample_params params;
    sample_seen *seen; /* ids of prompt and output, when a penalty is on */
    uint32_t *seen_at; /* [n_vocab] index + 1 into seen */
    bool ignore_eos, score_prompt, any_logprobs;
    uint32_t chunk, n_top;
    void (*on_logits)(void *user, uint32_t position, const float *logits, uint32_t n_vocab);
    void *user;
    atomic_bool cancel;
    /* Published by the engine, guarded by lock. */
    base_mutex lock;
    base_cond changed;
    uint32_t n_cached;          /* prompt tokens that the cache had when it started */
    uint32_t n_scored, n_drawn; /* prompt tokens scored, tokens drawn (without a stop token) */
    float *prompt_logprobs, *logprobs;
    fl_top *prompt_top, *top; /* [.., n_top] */
    fl_top *last_top;         /* [n_top] after the prompt of a request that draws nothing */
    fl_finish finish;
    bool has_stop_token; /* ended by stop_token, whose numbers lie at n_drawn */
    uint32_t stop_token;
    fl_err err;
    bool released; /* the engine has let go of it */
    bool queued;   /* guarded by the engine's queue_lock */
    double t_added, t_started, t_first, t_done;
    /* The reader's. */
    uint32_t next_prompt, next_token;
    fl_finish told; /* how the answer ended for the reader; NONE: it goes on */
    bool has_text;
    tok_stream stream;
    base_buf text;  /* not yet given out: may be the beginning of a stop text */
    size_t n_given; /* bytes at the start of text that the last event showed */
    char **stop;
    uint32_t n_stop;
    bool by_text; /* told STOP by stop[stopped_by] */
    uint32_t stopped_by;
};

/* load.c */
fl_status engine_load(fl_engine *e, const fl_engine_options *o, fl_err *err);
void engine_unload(fl_engine *e);
kv_kind engine_kv_kind(const fl_engine *e, uint32_t group);
uint32_t engine_span(const fl_engine *e); /* sched_span() */
/* step.c: takes step_lock for a step, or for something between two steps. The latter goes first: a loop of steps would
 * hardly ever leave the lock to anybody else. */
void engine_lock_for_step(fl_engine *e);
void engine_lock_between_steps(fl_engine *e);
/* The caller holds step_lock. *busy: requests remain. */
fl_status engine_step(fl_engine *e, bool *busy, fl_err *err);
/* Waits for and finishes all steps in flight. */
void engine_drain(fl_engine *e);
/* request.c: told by the step loop. */
void engine_request_started(fl_request *r, uint32_t n_cached); /* each time it starts; the first counts */
void engine_request_scored(fl_request *r, uint32_t position, const sample_result *row);
bool engine_request_drawn(fl_request *r, const sample_result *row); /* false: it has ended with this token */
void engine_request_finish(fl_request *r, fl_finish finish, const fl_err *why);
void engine_request_released(fl_request *r);
/* vocab.c */
fl_status engine_open_tok(tok **out, const file_gguf *f, fl_err *err);
/* text.c: a lone tokenizer or a folder, by its name. */
bool engine_is_text(const char *path);
/* Tokenizer, template and stop tokens. weights: the folder has a model too, which may do without them. */
fl_status engine_open_text(fl_model *m, const char *path, bool weights, fl_err *err);
/* model.c */
void engine_add_stop(fl_model *m, uint32_t id);

#endif
