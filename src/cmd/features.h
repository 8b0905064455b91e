/* cmd/features.h - what a chat template takes, found by rendering it: a text put into one place and looked for in the
 * output. A template that refuses a place, or leaves it out, lacks the feature. */
#ifndef CMD_FEATURES_H
#define CMD_FEATURES_H

#include "flambeau.h"

typedef struct {
    bool system;    /* a system message reaches the model */
    bool tools;     /* the list of tools does */
    bool calls;     /* the assistant's tool calls and their results do */
    bool reasoning; /* the template knows of reasoning: a switch, kept thoughts, or a begun one */
    char why[200];  /* not empty: it cannot render even a plain question, and this is why */
} cmd_features;

void cmd_features_find(const fl_model *m, cmd_features *out);

#endif
