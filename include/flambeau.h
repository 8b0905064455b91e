/* flambeau.h - run language models in your own program.
 *
 *     fl_model *model;  fl_engine *engine;  fl_request *request;
 *     fl_model_open(&model, "model.gguf", &err);
 *     fl_engine_open(&engine, model, NULL, &err);
 *     fl_request_add(&request, engine, &options, &err);
 *     while (fl_request_next(request, &event, -1, &err) == FL_OK && event.kind != FL_EVENT_DONE)
 *         fwrite(event.text, 1, event.n_text, stdout);
 *
 * Objects. A model is an opened file: configuration, tokenizer, chat template and
 * mapped weights; it never changes. An engine is a model compiled for one device:
 * packed weights, cache, scheduler. A request is one prompt and what is drawn after
 * it. Engines are independent of each other; several may share one model.
 *
 * Threads. A model may be used by any number of threads. Of an engine, fl_request_add,
 * fl_request_next, fl_request_cancel and the two closing calls may come from any thread;
 * one request belongs to one thread at a time, except that cancel may come from
 * anywhere. Steps are run by the thread fl_engine_start() makes, or, without one, by
 * the callers of fl_engine_step() and fl_request_next(), one after the other.
 *
 * Results depend on the request alone: not on the batch, the threads, the chunks or
 * the cache pages (docs/numerics.md).
 *
 * Structs given by the caller begin with their size and are set up by their _init
 * function, so that they can grow without breaking old programs. Errors are values
 * (fl_err.h); no call prints or exits. Memory handed out is freed with fl_free().
 */
#ifndef FLAMBEAU_H
#define FLAMBEAU_H

#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FL_API __attribute__((visibility("default")))

typedef struct fl_model fl_model;
typedef struct fl_engine fl_engine;
typedef struct fl_request fl_request;

FL_API const char *fl_version(void);
FL_API void fl_free(void *p); /* accepts NULL */

/* ---- models ---------------------------------------------------------------------------------------------------- */

/* Opens a .gguf file (the first part of a split one is enough). Maps it; reads no weights yet. A tokenizer.json,
 * tokenizer.model, tekken.json or a folder that has one opens too, for text only: it cannot run.
 * The caller owns *out: fl_model_close(), after all its engines. *out is NULL on failure.
 * Errors: FL_EIO, FL_EFORMAT, FL_EUNSUPPORTED (an architecture, tokenizer or type we do not know, named), FL_ENOMEM. */
FL_API FL_CHECKED fl_status fl_model_open(fl_model **out, const char *path, fl_err *err);
/* A model with random weights, for measuring what is not at hand. shape: the name of a published model's sizes
 * ("qwen3-4b"), or JSON like its config.json. quant: the type of the matrices ("q4_0", "bf16"; NULL: bf16). It has no
 * tokenizer. Errors: FL_EINVAL for a name or type that is not known, FL_EFORMAT, FL_EUNSUPPORTED, FL_ENOMEM. */
FL_API FL_CHECKED fl_status fl_model_open_shape(fl_model **out, const char *shape, const char *quant, fl_err *err);
FL_API void fl_model_close(fl_model *m); /* accepts NULL */

typedef struct {
    size_t size;
    const char *architecture, *name,
        *license;             /* "" when the file does not say; owned by the model, as all texts here */
    const char *tokenizer;    /* "gpt2, smollm" (kind, splitter), or the kind of its file ("tekken.json"); "": none */
    const char *weight_types; /* "Q4_1, F32, Q8_0": most elements first */
    uint64_t n_params, file_bytes;
    uint32_t n_vocab, n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff;
    uint32_t context_length; /* positions the model was trained for */
    bool has_tokenizer, has_chat_template, add_bos;
    uint32_t n_stop; /* tokens that end an answer */
    uint32_t stop[8];
    uint32_t n_tok_vocab, n_special;         /* tokens of the tokenizer, and how many of them are control tokens */
    uint32_t bos_id, eos_id, unk_id, pad_id; /* UINT32_MAX: none */
    uint32_t n_tensors, n_files;
} fl_model_info;

FL_API void fl_model_info_init(fl_model_info *info);
FL_API void fl_model_get_info(const fl_model *m, fl_model_info *info);

typedef struct {
    size_t size;
    const char *name, *type; /* "blk.0.attn_q.weight", "Q4_K" */
    uint64_t n_elems, n_bytes;
} fl_tensor_info;

/* Tensor index of the file; false beyond the last. info->size must be set. */
FL_API bool fl_model_get_tensor(const fl_model *m, uint32_t index, fl_tensor_info *info);
/* Path and size of file index of the model (a split one has several); NULL beyond the last. */
FL_API const char *fl_model_get_file(const fl_model *m, uint32_t index, uint64_t *bytes);

enum { FL_LAYERS_MAX = 512 };

/* What running a model takes. */
typedef struct {
    size_t size;
    const char *profile, *kv_cache_dtype; /* those of "auto" */
    uint64_t weight_bytes;                /* in the file's types; a device may pack them a little wider */
    uint64_t cache_bytes;                 /* for one request of the positions asked about */
    uint32_t n_layers;                    /* with attention */
    uint32_t layer_window[FL_LAYERS_MAX]; /* positions a layer sees; 0: all */
} fl_model_needs;

FL_API void fl_model_needs_init(fl_model_needs *needs);
/* Reads the header only. Errors: why no engine can be opened on the model, as fl_engine_open(); then nothing is told. */
FL_API FL_CHECKED fl_status fl_model_get_needs(const fl_model *m, uint32_t n_positions, fl_model_needs *needs,
                                               fl_err *err);

/* ---- text ------------------------------------------------------------------------------------------------------ */

enum {
    FL_TOKENIZE_ADD_SPECIAL = 1,   /* the model's own start (and end) tokens */
    FL_TOKENIZE_PARSE_SPECIAL = 2, /* "<|im_end|>" in the text becomes that control token */
};
enum { FL_DETOKENIZE_SKIP_SPECIAL = 1 };

/* Text (UTF-8, may hold NUL) to ids. *ids is the caller's. Errors: FL_EINVAL for invalid UTF-8 (with its position),
 * FL_EUNSUPPORTED for a model without tokenizer, FL_ENOMEM. */
FL_API FL_CHECKED fl_status fl_tokenize(const fl_model *m, const char *text, size_t n_bytes, unsigned flags,
                                        uint32_t **ids, size_t *n_ids, fl_err *err);

/* Ids to bytes (not always valid UTF-8: a token may be half a character). Errors: FL_EINVAL for an id out of range. */
FL_API FL_CHECKED fl_status fl_detokenize(const fl_model *m, const uint32_t *ids, size_t n_ids, unsigned flags,
                                          char **bytes, size_t *n_bytes, fl_err *err);

/* The bytes of one token, as in a text without its neighbours; borrowed from the model. NULL for an id out of range. */
FL_API const char *fl_token_piece(const fl_model *m, uint32_t id, size_t *n_bytes);

/* Renders the model's chat template. context_json is one JSON object: messages, tools, add_generation_prompt (default
 * true) and any other template variable; bos_token and eos_token are the model's unless given.
 * now: "2026-01-31T12:00:00" for strftime_now, NULL: the clock. *text is the caller's; *ids too (may be NULL: not
 * wanted): the template's special tokens are control tokens, those typed in messages are text.
 * Errors: FL_EUNSUPPORTED without a template, FL_EINVAL for bad JSON, FL_EFORMAT for a template that fails (with its line). */
FL_API FL_CHECKED fl_status fl_template_render(const fl_model *m, const char *context_json, const char *now,
                                               char **text, size_t *n_bytes, uint32_t **ids, size_t *n_ids,
                                               fl_err *err);

/* Takes another chat template for the model, given as text; before other threads use it. Errors: FL_EINVAL for a text that
 * is no template (with its line): the model keeps the one it had; FL_ENOMEM. */
FL_API FL_CHECKED fl_status fl_model_set_chat_template(fl_model *m, const char *source, size_t n_source, fl_err *err);

/* Renders a template given as text: no model, no ids. */
FL_API FL_CHECKED fl_status fl_template_render_source(const char *source, size_t n_source, const char *context_json,
                                                      const char *now, char **text, size_t *n_bytes, fl_err *err);

/* ---- engines --------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t size;
    const char *device;              /* "cpu" (NULL), "sim" */
    const char *cpu_isa;             /* NULL: the best of this CPU; "scalar", "avx2", ... */
    const char *compute;             /* "auto" (NULL), "q8", "bf16", "f32" */
    const char *kv_cache_dtype;      /* "auto" (NULL), "bf16", "f32" */
    uint32_t n_threads;              /* 0: as many as the process may use */
    uint32_t max_model_len;          /* positions a request may have; 0: the model's context */
    uint32_t max_num_seqs;           /* requests that run at once; 0: 8 */
    uint32_t max_num_batched_tokens; /* tokens of one step; 0: 512 */
    uint32_t max_logit_rows;         /* logit rows of one step; 0: max_num_seqs */
    uint64_t kv_cache_tokens; /* cache room; 0: for max_num_seqs requests of max_model_len, at most a third of memory */
    uint32_t steps_in_flight; /* 0: what suits the device */
    int opt_level;            /* 0: every op by itself, 1 and more: grouped; -1: the default, 2 */
    uint64_t page_shuffle_seed; /* not 0: cache pages are given out in a random order (tests) */
    bool
        no_prefix_caching; /* true: a request never starts behind pages that an earlier one with the same tokens filled */
    /* Called by the thread of fl_engine_start() after each step: requests may have something to read, and those that have
     * ended can be closed without waiting. Must return quickly and not call the engine; writing to an eventfd is meant. */
    void (*on_step)(void *user);
    void *user;
} fl_engine_options;

FL_API void fl_engine_options_init(fl_engine_options *o);

/* Loads the weights, compiles the step, allocates everything; later steps allocate nothing. options NULL: defaults.
 * m must outlive the engine. Errors: FL_EINVAL for an option (named), FL_EUNSUPPORTED (device, instruction set, an op no
 * row takes), FL_EFORMAT (weights), FL_ENOMEM, FL_EDEVICE. */
FL_API FL_CHECKED fl_status fl_engine_open(fl_engine **out, const fl_model *m, const fl_engine_options *o, fl_err *err);
/* Ends the background thread and drops what is still running. All requests must have been closed. Accepts NULL. */
FL_API void fl_engine_close(fl_engine *e);

typedef struct {
    size_t size;
    const char *device, *cpu_isa, *profile, *kv_cache_dtype;
    uint32_t n_threads, max_model_len, max_num_seqs, max_num_batched_tokens, steps_in_flight;
    uint64_t kv_cache_tokens; /* positions the cache holds in layers that see everything */
    uint64_t weight_bytes, kv_bytes, activation_bytes;
    double load_ms, compile_ms;
    uint64_t n_steps, n_prompt_tokens, n_output_tokens; /* since open */
    uint64_t n_step_allocations;                        /* made inside steps: 0 */
    uint64_t token_bytes;          /* of weights that one token alone reads: of experts, those that it is sent to */
    uint64_t n_cached_tokens;      /* prompt tokens that were found in the cache, since open */
    uint64_t n_preemptions;        /* requests thrown out of a full cache and computed again, since open */
    uint32_t n_running, n_waiting; /* requests after the last step */
    uint32_t n_kv_pages, n_kv_pages_used; /* of all groups; used: held by requests, after the last step */
} fl_engine_info;

FL_API void fl_engine_info_init(fl_engine_info *info);
FL_API void fl_engine_get_info(fl_engine *e, fl_engine_info *info);

/* The compiled plan as text: groups, the kernel row of each, why faster ones refused. The caller frees it. */
FL_API FL_CHECKED fl_status fl_engine_print_plan(const fl_engine *e, char **text, fl_err *err);

/* Runs one step in the caller's thread. *busy: whether requests remain. Must not be mixed with a background thread
 * (FL_EINVAL). Errors: FL_EDEVICE when the device failed: the requests of the step have failed, later ones work. */
FL_API FL_CHECKED fl_status fl_engine_step(fl_engine *e, bool *busy, fl_err *err);

/* Starts or ends a background thread that runs steps whenever there are requests. */
FL_API FL_CHECKED fl_status fl_engine_start(fl_engine *e, fl_err *err);
FL_API void fl_engine_stop(fl_engine *e);

/* Replaces rows [row, row + n_rows) of a weight in place, given in the file's type and layout ("blk.0.attn_q.weight").
 * Takes effect between steps. Errors: FL_EINVAL for a name, range or size that does not fit. */
FL_API FL_CHECKED fl_status fl_engine_write_weight(fl_engine *e, const char *name, uint64_t row, uint64_t n_rows,
                                                   const void *rows, size_t n_bytes, fl_err *err);

/* ---- requests -------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t id;
    float logprob;
} fl_top;

typedef struct {
    size_t size;
    const uint32_t *prompt; /* ids, copied; at least one */
    size_t n_prompt;
    uint32_t max_tokens; /* 0 allowed with prompt_logprobs: only score. UINT32_MAX: up to the context */
    float temperature;   /* 0: greedy */
    float top_p, min_p;  /* 1 and 0: off */
    uint32_t top_k;      /* 0: off */
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    uint64_t seed; /* used when has_seed; else one is drawn, see fl_request_stats */
    bool has_seed;
    bool ignore_eos;         /* go on after the model's stop tokens */
    const char *const *stop; /* texts that end the answer; copied; the answer is cut before them */
    size_t n_stop;
    int n_logprobs;         /* -1: none; else each token's logprob and the n best */
    bool prompt_logprobs;   /* an event for each prompt token, too */
    uint32_t prefill_chunk; /* most prompt tokens a step; 0: what fits */
    /* Called with the raw logits [n_vocab] after each position that has them (all prompt positions with
     * prompt_logprobs), by the thread that runs the step; must return quickly and not call the engine. */
    void (*on_logits)(void *user, uint32_t position, const float *logits, uint32_t n_vocab);
    void *user;
    int32_t priority;       /* smaller is served earlier; among equals first come, first served */
    const char *cache_salt; /* requests with different salts share no cache pages; copied; NULL: "" */
} fl_request_options;

FL_API void fl_request_options_init(fl_request_options *o);

/* Queues a request. The caller owns *out: fl_request_close(). Everything it needs is allocated here.
 * Errors: FL_EINVAL (an empty prompt, an id or option out of range, a prompt longer than the context: both numbers are
 * named), FL_ENOMEM. */
FL_API FL_CHECKED fl_status fl_request_add(fl_request **out, fl_engine *e, const fl_request_options *o, fl_err *err);

typedef enum {
    FL_EVENT_NONE,   /* nothing within the time */
    FL_EVENT_PROMPT, /* a prompt token with its logprob (NAN for the first) */
    FL_EVENT_TOKEN,  /* a drawn token */
    FL_EVENT_DONE,   /* finished: see finish; text may hold what was held back */
} fl_event_kind;

typedef enum {
    FL_FINISH_NONE,
    FL_FINISH_STOP,   /* a stop token or stop text */
    FL_FINISH_LENGTH, /* max_tokens or the context */
    FL_FINISH_CANCELED,
    FL_FINISH_ERROR, /* fl_request_next also returns the error */
} fl_finish;

typedef struct {
    size_t size;
    fl_event_kind kind;
    fl_finish finish;
    uint32_t token;    /* TOKEN and PROMPT; a stop token is not reported */
    float logprob;     /* with n_logprobs >= 0 or prompt_logprobs */
    const fl_top *top; /* the n_top best of this position, best first; valid until the next call */
    uint32_t n_top;
    const char *text; /* complete characters that this event adds to the answer; never NULL */
    size_t n_text;
    /* DONE with FL_FINISH_STOP: what ended the answer. By a stop token: has_stop_token, and token, logprob and top are
     * that token's. By a stop text: the text as it was given. */
    bool has_stop_token;
    const char *stop_text;
} fl_event;

FL_API void fl_event_init(fl_event *event);

/* Waits at most timeout_ms (-1: for ever, 0: not at all) for the next event; without a background thread it runs steps
 * meanwhile. Errors: what made this request fail (FL_EDEVICE, FL_EFORMAT for weights that give NaN, ...); then
 * event->kind is FL_EVENT_DONE. */
FL_API FL_CHECKED fl_status fl_request_next(fl_request *r, fl_event *event, int timeout_ms, fl_err *err);

/* Ends the request at the next step; FL_EVENT_DONE with FL_FINISH_CANCELED follows. Any thread; also from a signal handler. */
FL_API void fl_request_cancel(fl_request *r);
FL_API void fl_request_close(fl_request *r); /* cancels first if needed, then waits for the engine; accepts NULL */

/* The same without waiting: false when a step still works on the request, which stays the caller's and is canceled; to be
 * tried again after the next step (on_step). For loops that must not block. */
FL_API bool fl_request_try_close(fl_request *r);

typedef struct {
    size_t size;
    uint64_t seed;
    uint32_t n_prompt, n_output; /* tokens; n_output excludes the stop token */
    double queue_ms, prefill_ms, decode_ms;
    uint32_t n_cached; /* prompt tokens that were not computed: the cache had them */
} fl_request_stats;

FL_API void fl_request_stats_init(fl_request_stats *s);
FL_API void fl_request_get_stats(const fl_request *r, fl_request_stats *s);

/* After the last event of a request with n_logprobs >= 0 and max_tokens 0: the n best for the position after the prompt
 * are in the FL_EVENT_DONE event. */

#ifdef __cplusplus
}
#endif

#endif
