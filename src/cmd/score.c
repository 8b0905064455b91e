/* flambeau score - the log-probability of a given text, token by token.
 *
 * One request with prompt_logprobs and no answer. --batch-with puts further requests beside it, whose results are
 * dropped: they exist to show that the result does not depend on them. --logits writes each position's row where it
 * belongs in a file beside FILE, which takes FILE's place once it is complete.
 */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "--logits writes floats as they lie in memory");

enum { NEIGHBOURS_MAX = 63, CHUNK_DEFAULT = 64, STEP_TOKENS_MAX = 65536 };

typedef struct {
    const char *path; /* the file wanted; NULL: none */
    char *part;       /* the one written */
    int fd;
    int error; /* errno of the first write that failed */
} logits_file;

typedef struct {
    uint32_t *ids;
    size_t n;
} prompt;

typedef struct {
    const cmd_options *o;
    fl_model *model;
    fl_engine *engine;
    prompt main, neighbours[NEIGHBOURS_MAX];
    size_t n_neighbours;
    fl_request *requests[NEIGHBOURS_MAX + 1]; /* the scored one is the last */
    size_t n_requests;
    logits_file logits;
    base_buf logprobs; /* float each */
    base_buf top;      /* fl_top each */
} scoring;

/* ---- the logits file ----- */

static fl_status logits_open(logits_file *f, const char *path, fl_err *err) {
    struct stat st;
    bool in_place = stat(path, &st) == 0 && !S_ISREG(st.st_mode); /* a device */
    size_t n = strlen(path) + 32;
    f->part = base_malloc(n);
    if (!f->part) return fl_fail(err, FL_ENOMEM, "no memory");
    if (in_place)
        snprintf(f->part, n, "%s", path);
    else
        snprintf(f->part, n, "%s.part-%d", path, (int)getpid());
    if (!in_place) cmd_signal_remove(f->part); /* first: a signal may come between the two */
    f->fd = open(f->part, O_WRONLY | O_CLOEXEC | (in_place ? 0 : O_CREAT | O_TRUNC), 0666);
    f->path = path;
    if (f->fd >= 0) return FL_OK;
    cmd_signal_remove(NULL);
    return fl_fail(err, FL_EIO, "cannot write the logits to %s: %s", path, strerror(errno));
}

static void logits_write(void *user, uint32_t position, const float *logits, uint32_t n_vocab) {
    logits_file *f = user;
    const char *bytes = (const char *)logits;
    size_t size = (size_t)n_vocab * sizeof *logits;
    off_t at = (off_t)position * (off_t)size;
    while (size > 0 && !f->error) {
        ssize_t n = pwrite(f->fd, bytes, size, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            f->error = n < 0 ? errno : EIO;
            break;
        }
        bytes += n;
        at += n;
        size -= (size_t)n;
    }
}

/* Puts the complete file in its place, or removes it if keep is false or something failed. */
static fl_status logits_close(logits_file *f, bool keep, fl_err *err) {
    fl_status st = FL_OK;
    if (f->fd >= 0) {
        bool in_place = strcmp(f->part, f->path) == 0;
        if (close(f->fd) != 0 && !f->error) f->error = errno;
        if (keep && f->error)
            st = fl_fail(err, FL_EIO, "cannot write the logits to %s: %s", f->path, strerror(f->error));
        if (keep && st == FL_OK && !in_place && rename(f->part, f->path) != 0)
            st = fl_fail(err, FL_EIO, "cannot write the logits to %s: %s", f->path, strerror(errno));
        if ((!keep || st != FL_OK) && !in_place) unlink(f->part);
        cmd_signal_remove(NULL);
    }
    base_free(f->part);
    *f = (logits_file){.fd = -1};
    return st;
}

/* ---- prompts ----- */

static fl_status read_main(scoring *s, fl_err *err) {
    const cmd_options *o = s->o;
    if (o->tokens) {
        fl_status st = cmd_input_ids(o->tokens, &s->main.ids, &s->main.n, err);
        if (st == FL_OK && s->main.n == 0) st = fl_fail(err, FL_EINVAL, "--tokens wants at least one id, found none");
        return st;
    }
    base_buf b = {0};
    fl_status st = FL_OK;
    const char *text = o->text;
    if (!text) st = cmd_input_read(o->file ? o->file : "-", &b, err);
    if (st == FL_OK && !text) text = b.data ? b.data : "";
    size_t n = o->text ? strlen(o->text) : b.len;
    if (st == FL_OK && n == 0) st = fl_fail(err, FL_EINVAL, "score wants a text, found an empty one");
    if (st == FL_OK) st = cmd_model_tokenize(s->model, text, n, o->no_bos, &s->main.ids, &s->main.n, err);
    base_buf_clear(&b);
    return st;
}

static fl_status read_neighbours(scoring *s, fl_err *err) {
    base_buf b = {0};
    size_t at = 0, n;
    const char *line;
    fl_status st = cmd_input_read(s->o->batch_with, &b, err);
    while (st == FL_OK && cmd_input_line(&b, &at, &line, &n)) {
        if (n == 0) continue;
        if (s->n_neighbours == NEIGHBOURS_MAX) {
            st =
                fl_fail(err, FL_EINVAL, "--batch-with takes %d lines, %s holds more", NEIGHBOURS_MAX, s->o->batch_with);
            break;
        }
        prompt *p = &s->neighbours[s->n_neighbours];
        st = cmd_model_tokenize(s->model, line, n, s->o->no_bos, &p->ids, &p->n, err);
        if (st == FL_OK)
            s->n_neighbours++;
        else
            (void)fl_wrap(err, st, "%s line %zu", s->o->batch_with, s->n_neighbours + 1);
    }
    base_buf_clear(&b);
    return st;
}

/* ---- the work ----- */

static fl_status open_engine(scoring *s, fl_err *err) {
    const cmd_options *o = s->o;
    fl_engine_options options;
    cmd_model_engine_options(o, &options);
    uint32_t n = (uint32_t)s->n_neighbours + 1;
    uint64_t step = (uint64_t)(o->chunk ? o->chunk : CHUNK_DEFAULT) * n;
    options.max_num_seqs = n;
    options.max_num_batched_tokens = (uint32_t)(step < STEP_TOKENS_MAX ? step : STEP_TOKENS_MAX);
    options.max_logit_rows = options.max_num_batched_tokens;
    if (n > 1) {
        fl_model_info info;
        fl_model_info_init(&info);
        fl_model_get_info(s->model, &info);
        options.kv_cache_tokens = o->max_model_len ? o->max_model_len : info.context_length;
        for (size_t i = 0; i < s->n_neighbours; i++) options.kv_cache_tokens += s->neighbours[i].n + 64;
    }
    return cmd_model_engine(&s->engine, s->model, &options, o->print_plan, err);
}

static fl_status add(scoring *s, const prompt *p, bool is_main, fl_err *err) {
    fl_request_options r;
    fl_request_options_init(&r);
    r.prompt = p->ids;
    r.n_prompt = p->n;
    r.max_tokens = 0;
    r.prompt_logprobs = true;
    r.prefill_chunk = s->o->chunk ? s->o->chunk : CHUNK_DEFAULT;
    r.n_logprobs = is_main ? (int)s->o->top : -1;
    if (is_main && s->o->logits) {
        r.on_logits = logits_write;
        r.user = &s->logits;
    }
    fl_status st = fl_request_add(&s->requests[s->n_requests], s->engine, &r, err);
    if (st == FL_OK) cmd_signal_watch(s->requests[s->n_requests++]);
    return st;
}

static fl_status follow(scoring *s, fl_err *err) {
    fl_event event;
    fl_event_init(&event);
    do {
        fl_status st = fl_request_next(s->requests[s->n_requests - 1], &event, -1, err);
        if (st != FL_OK) return st;
        if (event.kind == FL_EVENT_PROMPT) base_buf_append(&s->logprobs, &event.logprob, sizeof event.logprob);
        if (s->logits.error)
            return fl_fail(err, FL_EIO, "cannot write the logits to %s: %s", s->logits.path, strerror(s->logits.error));
    } while (event.kind != FL_EVENT_DONE);
    if (event.finish == FL_FINISH_CANCELED) return fl_fail(err, FL_ECANCELED, "scoring was stopped");
    if (event.n_top) base_buf_append(&s->top, event.top, event.n_top * sizeof *event.top);
    return s->top.failed || s->logprobs.failed ? fl_fail(err, FL_ENOMEM, "no memory for the result") : FL_OK;
}

/* exp of minus the mean log-probability; NAN for a single token. */
static double perplexity(const float *logprobs, size_t n) {
    double sum = 0;
    for (size_t i = 1; i < n; i++) sum += (double)logprobs[i];
    return n > 1 ? exp(-sum / (double)(n - 1)) : (double)NAN;
}

static void as_json(const scoring *s, const char *profile, base_buf *b) {
    const float *logprobs = (const float *)(const void *)s->logprobs.data;
    const fl_top *top = (const fl_top *)(const void *)s->top.data;
    size_t n = s->logprobs.len / sizeof *logprobs, n_top = s->top.len / sizeof *top;
    cmd_json_open(b, '{');
    cmd_json_key(b, "tokens");
    cmd_json_ids(b, s->main.ids, s->main.n);
    cmd_json_key(b, "logprobs");
    cmd_json_open(b, '[');
    for (size_t i = 0; i < n; i++) cmd_json_float(b, i == 0 ? NAN : logprobs[i]);
    cmd_json_close(b, ']');
    cmd_json_key(b, "top");
    cmd_json_open(b, '[');
    for (size_t i = 0; i < n_top; i++) {
        cmd_json_open(b, '{');
        cmd_json_key(b, "id");
        cmd_json_count(b, top[i].id);
        cmd_json_key(b, "logprob");
        cmd_json_float(b, top[i].logprob);
        cmd_json_close(b, '}');
    }
    cmd_json_close(b, ']');
    cmd_json_key(b, "perplexity");
    cmd_json_double(b, perplexity(logprobs, n));
    cmd_json_key(b, "profile");
    cmd_json_string(b, profile);
    cmd_json_close(b, '}');
    base_buf_putc(b, '\n');
}

/* One line for each token, a line for the whole. */
static void as_text(const scoring *s, const char *profile, base_buf *b) {
    const float *logprobs = (const float *)(const void *)s->logprobs.data;
    size_t n = s->logprobs.len / sizeof *logprobs;
    for (size_t i = 0; i < n; i++) {
        size_t n_piece = 0;
        const char *piece = fl_token_piece(s->model, s->main.ids[i], &n_piece);
        base_buf shown = {0};
        cmd_json_text(&shown, piece ? piece : "", n_piece);
        if (i == 0)
            base_buf_printf(b, "%8u         -  %s\n", s->main.ids[i], shown.data ? shown.data : "");
        else
            base_buf_printf(b, "%8u %9.4f  %s\n", s->main.ids[i], (double)logprobs[i], shown.data ? shown.data : "");
        base_buf_clear(&shown);
    }
    base_buf_printf(b, "perplexity %.6g over %zu tokens (%s)\n", perplexity(logprobs, n), n > 0 ? n - 1 : 0, profile);
}

static fl_status print(const scoring *s, fl_err *err) {
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(s->engine, &info);
    base_buf b = {0};
    if (s->o->json)
        as_json(s, info.profile, &b);
    else
        as_text(s, info.profile, &b);
    fl_status st = cmd_out_flush(&b, err);
    base_buf_clear(&b);
    return st;
}

static fl_status work(scoring *s, fl_err *err) {
    fl_status st = FL_OK;
    if (s->o->logits) st = logits_open(&s->logits, s->o->logits, err);
    for (size_t i = 0; st == FL_OK && i < s->n_neighbours; i++) st = add(s, &s->neighbours[i], false, err);
    if (st == FL_OK) st = add(s, &s->main, true, err);
    if (st == FL_OK) st = follow(s, err);
    for (size_t i = 0; i < s->n_requests; i++) {
        cmd_signal_forget(s->requests[i]);
        fl_request_close(s->requests[i]);
    }
    fl_err closing;
    fl_status closed = logits_close(&s->logits, st == FL_OK, &closing);
    if (st == FL_OK && closed != FL_OK) {
        *err = closing;
        st = closed;
    }
    return st == FL_OK ? print(s, err) : st;
}

static void scoring_clear(scoring *s) {
    fl_engine_close(s->engine);
    fl_model_close(s->model);
    if (s->o->tokens)
        base_free(s->main.ids);
    else
        fl_free(s->main.ids);
    for (size_t i = 0; i < s->n_neighbours; i++) fl_free(s->neighbours[i].ids);
    base_buf_clear(&s->logprobs);
    base_buf_clear(&s->top);
}

int cmd_score(const cmd_options *o, fl_err *err) {
    if ((o->text != NULL) + (o->file != NULL) + (o->tokens != NULL) > 1)
        return cmd_usage(err, "score wants one of --text, --file and --tokens, found more");
    if (o->text && !*o->text) return cmd_usage(err, "score wants a text, found an empty --text");
    scoring s = {.o = o, .logits = {.fd = -1}};
    int code = CMD_OK;
    if (o->tokens && read_main(&s, err) != FL_OK) code = CMD_USAGE;
    if (code == CMD_OK) {
        fl_status st = cmd_model_open(&s.model, o->args[0], err);
        if (st == FL_OK && !o->tokens) st = read_main(&s, err);
        if (st == FL_OK && o->batch_with) st = read_neighbours(&s, err);
        if (st == FL_OK) {
            st = open_engine(&s, err);
            if (st == FL_EINVAL) code = CMD_USAGE;
        }
        if (st == FL_OK) st = work(&s, err);
        if (code == CMD_OK) code = cmd_exit(st);
    }
    scoring_clear(&s);
    return code;
}
