/* cmd/model.h - from what the user typed as MODEL to an opened model and engine. */
#ifndef CMD_MODEL_H
#define CMD_MODEL_H

#include "cmd/options.h"
#include "flambeau.h"

/* The path of what was typed as MODEL; a model known by name that is missing is pulled. *path is the caller's
 * (base_free). Errors: FL_EIO for an empty name, those of the download. */
FL_CHECKED fl_status cmd_model_path(char **path, const char *name, fl_err *err);

/* Opens a .gguf file, or a model of the catalogue or the cache by name; one that is missing is pulled, with a bar.
 * The caller owns *out. Errors: those of fl_model_open and of the download. */
FL_CHECKED fl_status cmd_model_open(fl_model **out, const char *name, fl_err *err);

/* The same for o's first argument, with the template of --chat-template. Errors: also those of that file. */
FL_CHECKED fl_status cmd_model_open_chat(fl_model **out, const cmd_options *o, fl_err *err);

/* The engine options that the command line gives; the command fills in the rest. */
void cmd_model_engine_options(const cmd_options *o, fl_engine_options *options);

/* Opens the engine and shows its plan if asked. The caller owns *out. Errors: those of fl_engine_open; FL_EINVAL is a
 * wrong option. */
FL_CHECKED fl_status cmd_model_engine(fl_engine **out, const fl_model *m, const fl_engine_options *options,
                                      bool print_plan, fl_err *err);

/* The ids of a text as the model begins texts. *ids is the caller's (fl_free). Errors: FL_EINVAL for no text at all. */
FL_CHECKED fl_status cmd_model_tokenize(const fl_model *m, const char *text, size_t n, bool no_bos, uint32_t **ids,
                                        size_t *n_ids, fl_err *err);

#endif
