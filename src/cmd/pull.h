/* cmd/pull.h - models by name. */
#ifndef CMD_PULL_H
#define CMD_PULL_H

#include "fl_err.h"

/* The path of a model of the catalogue, a cache or a hub's repository, which is pulled when it is missing. *path is the
 * caller's (base_free). Errors: FL_EINVAL for a name nobody knows, those of the download. */
FL_CHECKED fl_status cmd_pull_find(const char *name, char **path, fl_err *err);

#endif
