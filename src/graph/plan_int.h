/* graph/plan_int.h - shared by plan.c (places) and group.c (grouping). */
#ifndef GRAPH_PLAN_INT_H
#define GRAPH_PLAN_INT_H

#include "graph/plan.h"

/* Fills groups, n_groups and group_of for the plan's optimisation level. */
void graph_group_all(graph_plan *p);
/* Replaces group i by one group per op. */
void graph_group_split(graph_plan *p, uint32_t i);

size_t graph_plan_value_bytes(const graph_plan *p, graph_value v);

#endif
