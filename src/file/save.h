/* file/save.h - a file appears whole or not at all: written as PATH.part, synced, renamed.
 *
 * write gets the open file and returns false with errno when it could not. Memory: allocates the path of the part.
 */
#ifndef FILE_SAVE_H
#define FILE_SAVE_H

#include "fl_err.h"

#include <stdbool.h>
#include <stdio.h>

/* Errors: FL_EIO (the partial file is removed), FL_ENOMEM. */
FL_CHECKED fl_status file_save(const char *path, bool (*write)(const void *user, FILE *f), const void *user,
                               fl_err *err);

#endif
