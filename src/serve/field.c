#include "serve/field.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

typedef enum { BOOL, COUNT, INT, REAL, SEED, TEXT, JSON, STOP, OPTIONS, IGNORED, REFUSED } field_kind;

typedef struct {
    const char *name;
    unsigned bodies;
    field_kind kind;
    size_t offset;
    double low, high;
    const char *neutral; /* REFUSED: a text that asks for nothing, too */
    const char *help;
} field;

#define AT(x) offsetof(field_values, x)

enum {
    C = FIELD_COMPLETION,
    H = FIELD_CHAT,
    B = C | H,
    T = FIELD_TOKENIZE,
    D = FIELD_DETOKENIZE,
    ALL = B | T | D,
};

static const field fields[] = {
    {"model", ALL, TEXT, AT(model), 0, 0, NULL, "the model's name; another one is a 404"},
    {"prompt", C | T, JSON, AT(prompt), 0, 0, NULL, "a text; for completions also ids, or a list of texts or of ids"},
    {"messages", H | T, JSON, AT(messages), 0, 0, NULL, "roles system, developer, user, assistant, tool; texts"},
    {"tokens", D, JSON, AT(tokens), 0, 0, NULL, "ids"},
    {"max_tokens", B, COUNT, AT(max_tokens), 0, 4294967294.0, NULL, "completions: 16; chat: until the context is full"},
    {"max_completion_tokens", H, COUNT, AT(max_completion_tokens), 1, 4294967294.0, NULL, "goes before max_tokens"},
    {"temperature", B, REAL, AT(temperature), 0, 2, NULL, "0 is greedy; 1"},
    {"top_p", B, REAL, AT(top_p), 1e-9, 1, NULL, "1"},
    {"top_k", B, INT, AT(top_k), -1, 2147483647.0, NULL, "0 and -1 are off"},
    {"min_p", B, REAL, AT(min_p), 0, 1, NULL, "0"},
    {"repetition_penalty", B, REAL, AT(repetition_penalty), 0.01, 100, NULL, "1"},
    {"presence_penalty", B, REAL, AT(presence_penalty), -2, 2, NULL, "0"},
    {"frequency_penalty", B, REAL, AT(frequency_penalty), -2, 2, NULL, "0"},
    {"n", B, COUNT, AT(n), 1, FIELD_CHOICES_MAX, NULL, "answers to each prompt; more than 1 needs a temperature"},
    {"best_of", C, COUNT, AT(best_of), 1, FIELD_CHOICES_MAX, NULL, "only equal to n"},
    {"seed", B, SEED, AT(seed), 0, 0, NULL, "the same seed draws the same answer; -1 is none"},
    {"logprobs", C, INT, AT(logprobs), 0, FIELD_LOGPROBS_MAX, NULL, "this many of the best for each token"},
    {"logprobs", H, BOOL, AT(want_logprobs), 0, 0, NULL, "a log-probability for each token"},
    {"top_logprobs", H, COUNT, AT(top_logprobs), 0, FIELD_LOGPROBS_MAX, NULL, "needs logprobs"},
    {"stream", B, BOOL, AT(stream), 0, 0, NULL, "server-sent events"},
    {"stream_options", B, OPTIONS, 0, 0, 0, NULL, "include_usage, continuous_usage_stats; needs stream"},
    {"echo", C, BOOL, AT(echo), 0, 0, NULL, "the prompt before the answer"},
    {"stop", B, STOP, 0, 0, 0, NULL, "a text or up to 4"},
    {"ignore_eos", B, BOOL, AT(ignore_eos), 0, 0, NULL, "go on after the model's end token"},
    {"priority", B, INT, AT(priority), -2147483647.0, 2147483647.0, NULL, "smaller is served earlier"},
    {"cache_salt", B, TEXT, AT(cache_salt), 0, 0, NULL, "only requests with the same salt share the prefix cache"},
    {"return_tokens_as_token_ids", B, BOOL, AT(tokens_as_ids), 0, 0, NULL, "tokens in logprobs as token_id:N"},
    {"return_token_ids", B, BOOL, AT(return_token_ids), 0, 0, NULL, "adds prompt_token_ids and token_ids"},
    {"add_generation_prompt", H | T, BOOL, AT(add_generation_prompt), 0, 0, NULL, "true"},
    {"add_special_tokens", C | T, BOOL, AT(add_special_tokens), 0, 0, NULL, "the model's start token; true for texts"},
    {"chat_template_kwargs", H | T, JSON, AT(template_kwargs), 0, 0, NULL, "further variables of the template"},
    {"return_token_strs", T, BOOL, AT(return_token_strs), 0, 0, NULL, "adds token_strs"},
    {"user", B, IGNORED, 0, 0, 0, NULL, "changes nothing"},
    {"metadata", B, IGNORED, 0, 0, 0, NULL, "changes nothing"},
    {"store", B, IGNORED, 0, 0, 0, NULL, "nothing is stored"},
    {"service_tier", B, IGNORED, 0, 0, 0, NULL, "changes nothing"},
    {"parallel_tool_calls", H, IGNORED, 0, 0, 0, NULL, "there are no tools"},
    {"include_reasoning", H, IGNORED, 0, 0, 0, NULL, "reasoning is not told apart from the answer"},
    {"logit_bias", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"suffix", C, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"tools", H, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"tool_choice", H, REFUSED, 0, 0, 0, "none", "not here yet"},
    {"functions", H, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"function_call", H, REFUSED, 0, 0, 0, "none", "not here yet"},
    {"response_format", B, REFUSED, 0, 0, 0, "text", "only {\"type\": \"text\"} yet"},
    {"structured_outputs", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"guided_json", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"guided_regex", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"guided_choice", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"guided_grammar", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"reasoning_effort", H, REFUSED, 0, 0, 0, "none", "not here yet; chat_template_kwargs reach the template"},
    {"thinking_token_budget", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"continue_final_message", H | T, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"chat_template", H | T, REFUSED, 0, 0, 0, NULL, "templates of requests are not run"},
    {"documents", H, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"modalities", H, REFUSED, 0, 0, 0, "text", "text only"},
    {"audio", H, REFUSED, 0, 0, 0, NULL, "text only"},
    {"prompt_embeds", C, REFUSED, 0, 0, 0, NULL, "tensors in requests are not read"},
    {"use_beam_search", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"stop_token_ids", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"include_stop_str_in_output", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"min_tokens", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"truncate_prompt_tokens", B, REFUSED, 0, 0, 0, NULL, "prompts are never cut"},
    {"prompt_logprobs", B, REFUSED, 0, 0, 0, NULL, "echo with logprobs has them"},
    {"logprob_token_ids", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"allowed_token_ids", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"bad_words", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
    {"repetition_detection", B, REFUSED, 0, 0, 0, NULL, "not here yet"},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* Whether a value asks for nothing. */
static bool is_neutral(const field *f, const json_t *v) {
    const char *s = json_string_value(json_is_object(v) ? json_object_get(v, "type") : v);
    const json_t *only = json_is_array(v) && json_array_size(v) == 1 ? json_array_get(v, 0) : NULL;
    if (only) s = json_string_value(only);
    if (f->neutral && s && (strcmp(s, f->neutral) == 0 || strcmp(s, "auto") == 0)) return true;
    if (json_is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0)) return true;
    if (json_is_string(v) && json_string_length(v) == 0) return true;
    if (strcmp(f->name, "tools") == 0) return false; /* an empty list of tools is a mistake, says the protocol */
    return (json_is_array(v) && json_array_size(v) == 0) || (json_is_object(v) && json_object_size(v) == 0);
}

static fl_status read_number(const field *f, void *to, const json_t *v, fl_err *err) {
    if (!json_is_number(v))
        return fl_fail(err, FL_EINVAL, "%s must be a number%s.", f->name, json_is_string(v) ? ", not a text" : "");
    double x = json_number_value(v);
    if (f->kind != REAL && x != nearbyint(x)) return fl_fail(err, FL_EINVAL, "%s must be a whole number.", f->name);
    if (!(x >= f->low && x <= f->high)) {
        if (f->high > 2e9) return fl_fail(err, FL_EINVAL, "%s must be at least %.10g, not %.10g.", f->name, f->low, x);
        return fl_fail(err, FL_EINVAL, "%s must be from %.10g to %.10g, not %.10g.", f->name, f->low, f->high, x);
    }
    if (f->kind == COUNT) *(uint32_t *)to = (uint32_t)x;
    if (f->kind == INT) *(int32_t *)to = (int32_t)x;
    if (f->kind == REAL) *(float *)to = (float)x;
    return FL_OK;
}

static fl_status read_text(const char *name, const char **to, const json_t *v, fl_err *err) {
    if (!json_is_string(v)) return fl_fail(err, FL_EINVAL, "%s must be a text.", name);
    *to = json_string_value(v);
    if (strlen(*to) != json_string_length(v)) return fl_fail(err, FL_EINVAL, "%s must hold no NUL.", name);
    return FL_OK;
}

static fl_status add_stop(field_values *o, const json_t *v, fl_err *err) {
    if (o->n_stop == FIELD_STOP_MAX) return fl_fail(err, FL_EINVAL, "stop must be at most %d texts.", FIELD_STOP_MAX);
    fl_status st = read_text("stop", &o->stop[o->n_stop], v, err);
    if (st == FL_OK && !*o->stop[o->n_stop]) st = fl_fail(err, FL_EINVAL, "stop must hold no empty text.");
    if (st == FL_OK) o->n_stop++;
    return st;
}

static fl_status read_stop(field_values *o, const json_t *v, fl_err *err) {
    if (!json_is_array(v)) return add_stop(o, v, err);
    fl_status st = FL_OK;
    for (size_t i = 0; i < json_array_size(v) && st == FL_OK; i++) st = add_stop(o, json_array_get(v, i), err);
    return st;
}

static fl_status read_stream_options(field_values *o, const json_t *v, fl_err *err) {
    const struct {
        const char *name;
        bool *to;
    } flags[] = {{"include_usage", &o->include_usage}, {"continuous_usage_stats", &o->continuous_usage}};
    if (!json_is_object(v)) return fl_fail(err, FL_EINVAL, "stream_options must be an object.");
    for (size_t i = 0; i < 2; i++) {
        const json_t *x = json_object_get(v, flags[i].name);
        if (!x || json_is_null(x)) continue;
        if (!json_is_boolean(x))
            return fl_fail(err, FL_EINVAL, "stream_options.%s must be true or false.", flags[i].name);
        *flags[i].to = json_is_true(x);
    }
    o->has_stream_options = true;
    return FL_OK;
}

static fl_status read_field(field_values *o, const field *f, json_t *v, fl_err *err) {
    void *to = (char *)o + f->offset;
    switch (f->kind) {
        case BOOL:
            if (!json_is_boolean(v)) return fl_fail(err, FL_EINVAL, "%s must be true or false.", f->name);
            *(bool *)to = json_is_true(v);
            if (to == &o->add_special_tokens) o->has_add_special = true;
            return FL_OK;
        case SEED:
            if (!json_is_integer(v)) return fl_fail(err, FL_EINVAL, "seed must be a whole number.");
            o->seed = json_integer_value(v);
            o->has_seed = o->seed != -1;
            return FL_OK;
        case TEXT: return read_text(f->name, to, v, err);
        case JSON: *(json_t **)to = v; return FL_OK;
        case STOP: return read_stop(o, v, err);
        case OPTIONS: return read_stream_options(o, v, err);
        case IGNORED: return FL_OK;
        case REFUSED:
            if (is_neutral(f, v)) return FL_OK;
            return fl_fail(err, FL_EINVAL, "%s is not supported by this server (%s).", f->name, f->help);
        default: return read_number(f, to, v, err);
    }
}

/* Rules between fields. */
static fl_status check(const field_values *o, unsigned kind, const char **param, fl_err *err) {
    *param = "stream_options";
    if (o->has_stream_options && !o->stream) return fl_fail(err, FL_EINVAL, "stream_options needs stream: true.");
    *param = "top_logprobs";
    if (o->top_logprobs && !o->want_logprobs) return fl_fail(err, FL_EINVAL, "top_logprobs needs logprobs: true.");
    *param = "n";
    if (o->n > 1 && o->temperature < 1e-5f)
        return fl_fail(err, FL_EINVAL, "n must be 1 when the temperature is 0: all answers would be the same.");
    *param = "best_of";
    if (o->best_of && o->best_of != o->n) return fl_fail(err, FL_EINVAL, "best_of must be equal to n.");
    *param = "max_tokens";
    if (o->max_tokens == 0 && !(kind == FIELD_COMPLETION && o->echo))
        return fl_fail(err, FL_EINVAL, "max_tokens must be at least 1, or 0 with echo on /v1/completions.");
    *param = "cache_salt";
    if (o->cache_salt && !*o->cache_salt) return fl_fail(err, FL_EINVAL, "cache_salt must not be empty.");
    *param = NULL;
    return FL_OK;
}

fl_status field_read(field_values *v, const json_t *body, unsigned kind, const char **param, fl_err *err) {
    *v = (field_values){.max_tokens = kind == FIELD_COMPLETION ? 16 : UINT32_MAX,
                        .max_completion_tokens = UINT32_MAX,
                        .temperature = 1,
                        .top_p = 1,
                        .repetition_penalty = 1,
                        .n = 1,
                        .logprobs = -1,
                        .add_generation_prompt = true,
                        .add_special_tokens = true};
    *param = NULL;
    if (!json_is_object(body)) return fl_fail(err, FL_EINVAL, "The body must be a JSON object.");
    for (int i = 0; i < N_FIELDS; i++) {
        json_t *value = fields[i].bodies & kind ? json_object_get(body, fields[i].name) : NULL;
        if (!value || json_is_null(value)) continue;
        *param = fields[i].name;
        fl_status st = read_field(v, &fields[i], value, err);
        if (st != FL_OK) return st;
    }
    if (v->max_completion_tokens != UINT32_MAX) v->max_tokens = v->max_completion_tokens;
    return check(v, kind, param, err);
}

/* ---- the OpenAPI document ---- */

static json_t *field_type(const field *f) {
    switch (f->kind) {
        case BOOL: return json_pack("{s:s,s:b}", "type", "boolean", "nullable", 1);
        case SEED: return json_pack("{s:s,s:b}", "type", "integer", "nullable", 1);
        case TEXT: return json_pack("{s:s,s:b}", "type", "string", "nullable", 1);
        case COUNT:
        case INT:
            return json_pack("{s:s,s:b,s:I,s:I}", "type", "integer", "nullable", 1, "minimum", (json_int_t)f->low,
                             "maximum", (json_int_t)f->high);
        case REAL:
            return json_pack("{s:s,s:b,s:f,s:f}", "type", "number", "nullable", 1, "minimum", f->low, "maximum",
                             f->high);
        default: return json_object();
    }
}

json_t *field_schema(unsigned kind) {
    static const char *const states[] = {[IGNORED] = "ignored: ", [REFUSED] = "refused: "};
    json_t *properties = json_object();
    for (int i = 0; i < N_FIELDS; i++) {
        const field *f = &fields[i];
        if (!(f->bodies & kind)) continue;
        json_t *type = field_type(f);
        const char *state = f->kind >= IGNORED ? states[f->kind] : "";
        json_object_set_new(type, "description", json_sprintf("%s%s", state, f->help));
        json_object_set_new(properties, f->name, type);
    }
    return json_pack("{s:s,s:o}", "type", "object", "properties", properties);
}
