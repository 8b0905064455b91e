/* hello - asks a model one thing:  hello MODEL.gguf "text to go on from" */
#include "flambeau.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    fl_err err = {.msg = ""};
    fl_model *model = NULL;
    fl_engine *engine = NULL;
    fl_request *request = NULL;
    fl_request_options options;
    fl_event event;
    uint32_t *ids = NULL;
    fl_request_options_init(&options);
    fl_event_init(&event);
    if (argc != 3) return fprintf(stderr, "usage: hello MODEL.gguf TEXT\n"), 2;

    fl_status st = fl_model_open(&model, argv[1], &err);
    if (st == FL_OK) st = fl_engine_open(&engine, model, NULL, &err);
    if (st == FL_OK)
        st = fl_tokenize(model, argv[2], strlen(argv[2]), FL_TOKENIZE_ADD_SPECIAL, &ids, &options.n_prompt, &err);
    options.prompt = ids;
    options.max_tokens = 32;
    if (st == FL_OK) st = fl_request_add(&request, engine, &options, &err);
    while (st == FL_OK && event.kind != FL_EVENT_DONE) {
        st = fl_request_next(request, &event, -1, &err);
        if (st == FL_OK) fwrite(event.text, 1, event.n_text, stdout);
    }
    putchar('\n');
    if (st != FL_OK) fprintf(stderr, "error: %s\n", err.msg);
    fl_request_close(request);
    fl_engine_close(engine);
    fl_model_close(model);
    fl_free(ids);
    return st != FL_OK;
}
