/* serve/serve_int.h - what the files of the server share.
 *
 * A job is one call that needs a worker: its body, what the fields say, its prompts and choices (one engine request each).
 * It belongs to one thread at a time: the loop makes it, a worker prepares it, the loop polls its requests whenever the
 * engine has made a step, answers, and closes it when the engine has let go of all its requests. When the client leaves,
 * call becomes NULL (only the loop looks at it) and the job is closed as soon as it is back.
 */
#ifndef SERVE_SERVE_INT_H
#define SERVE_SERVE_INT_H

#include "base/buf.h"
#include "base/thread.h"
#include "serve/field.h"
#include "serve/http.h"
#include "serve/metrics.h"
#include "serve/serve.h"

enum { WORKERS = 2, JSON_DEPTH_MAX = 64, JSON_VALUES_MAX = 2000000, LOGPROB_BYTES_MAX = 64 << 20, REQUESTS_MAX = 2048 };

typedef struct job job;
typedef struct choice choice;
typedef struct route route;

/* How an answer looks: completions.c, chat.c. JSON values are the caller's; NULL: no memory. */
typedef struct {
    const char *id, *object, *chunk;
    void (*note)(job *j, choice *c, const fl_event *e);              /* a prompt or drawn token with its logprob */
    json_t *(*whole)(job *j, choice *c);                             /* a choice of the whole reply */
    json_t *(*delta)(job *j, choice *c, const char *text, size_t n); /* a choice of a chunk; c->finish may be set */
    bool role_first;                                                 /* a chunk without text opens each choice */
} form;

struct route {
    const char *method, *path;
    void (*answer)(serve *s, http_call *c); /* by the loop, at once; or */
    void (*prepare)(job *j);                /* by a worker */
    unsigned body;                          /* FIELD_... */
    const form *form;                       /* of answers that the engine draws */
    const char *summary;
};

struct choice {
    fl_request *request; /* NULL: closed, or not begun */
    uint32_t prompt;     /* its number in the job */
    base_buf text;       /* the whole answer, unless streamed */
    json_t *logprobs;    /* since the last chunk */
    json_t *token_ids;   /* since the last chunk, when asked for */
    size_t n_characters; /* of the tokens noted, for text_offset */
    bool begun, done, in_prompt;
    const char *finish, *stop_text;
    uint32_t n_output;
    double last; /* when the last token came */
};

typedef struct {
    uint32_t *ids;
    size_t n_ids;
    char *text; /* NULL: given as ids and not asked for */
    size_t n_text;
} prompt;

struct job {
    serve *s;
    http_call *call; /* NULL: nobody waits */
    const route *route;
    job *next;
    char id[48];
    int64_t created;
    double start, first;
    char *bytes; /* the body */
    size_t n_bytes;
    json_t *body;
    field_values v;
    prompt prompts[FIELD_CHOICES_MAX];
    uint32_t n_prompts;
    choice *choices;
    uint32_t n_choices, n_done, n_counted; /* counted: in the server's n_requests */
    bool with_worker;                      /* the loop's note */
    bool streaming, ended;                 /* ended: all choices are done, a worker writes the reply */
    /* What a worker found. */
    int status; /* not 0: an error */
    const char *param;
    fl_err err;
    base_buf reply;
};

struct serve {
    serve_options o;
    fl_model *model;
    fl_engine *engine;
    http *http;
    char url[160];
    uint8_t key_digests[SERVE_KEYS_MAX][32];
    int64_t created;
    uint32_t max_len, n_vocab;
    size_t text_max; /* bytes of a prompt: more cannot fit the context */
    uint64_t id_base;
    atomic_uint_fast64_t n_ids;
    atomic_uint n_requests; /* of all jobs */
    bool draining, aborting;
    double drain_until;
    int number;
    pthread_t workers[WORKERS];
    uint32_t n_workers;
    base_mutex lock; /* guards the two lists and quit */
    base_cond changed;
    job *todo, **todo_end, *prepared;
    bool quit;
    /* The loop's. */
    job *active, *closing;
    uint32_t n_jobs; /* with workers and active */
    serve_metrics metrics;
};

/* serve.c */
extern const route serve_routes[]; /* ended by one without a path */
void serve_error(serve *s, http_call *c, int status, const char *param, const char *message);
void serve_begin_reply(serve *s, http_call *c); /* the headers that all replies have */
/* Ends a call's line in the log and its count. */
void serve_log(serve *s, const http_call *c, int status, const job *j);

/* job.c */
fl_status job_open_workers(serve *s, fl_err *err);
void job_close_workers(serve *s);
void job_start(serve *s, http_call *c, const route *r);
void job_on_wake(serve *s);         /* takes prepared jobs, polls, closes */
void job_on_gone(serve *s, job *j); /* its client has left */
void job_abort_all(serve *s);       /* running answers end with "abort" */
void job_close_all(serve *s);       /* after the engine's thread has ended */
void job_fail(job *j, int status, const char *param, const char *fmt, ...) FL_PRINTF(4, 5);
void job_fail_err(job *j, fl_status st, const char *param); /* with j->err */

/* answer.c */
/* Takes the events of its requests. True: it is over, or all choices are done and a worker is to write the reply (ended). */
bool answer_poll(job *j);
void answer_write(job *j); /* by a worker: the whole reply */

/* prompt.c */
void prompt_prepare_completion(job *j);
void prompt_prepare_chat(job *j);
void prompt_render_completion(job *j);
void prompt_render_chat(job *j);
void prompt_tokenize(job *j);
void prompt_detokenize(job *j);

/* completions.c, chat.c */
extern const form completion_form, chat_form;

/* text.c: JSON values; the caller owns them. */
json_t *text_json(const char *bytes, size_t n); /* bytes that are no UTF-8 become U+FFFD */
json_t *text_token(const job *j, uint32_t id);  /* a token as logprobs show it */
json_t *text_bytes(const job *j, uint32_t id);  /* its bytes as numbers */
json_t *text_logprob(float x);                  /* -9999 for what cannot be */
size_t text_characters(const char *bytes, size_t n);
bool text_dump(base_buf *b, const json_t *v); /* appends v as one line */

/* openapi.c */
json_t *openapi_document(void);

#endif
