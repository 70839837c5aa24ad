/* SPDX-License-Identifier: Apache-2.0 */
/* Threads for products, shared with the host where the host has a team that can be shared. */
#ifndef MIXBIT_PLUGIN_GGML_TEAM_H
#define MIXBIT_PLUGIN_GGML_TEAM_H

#include "mixbit/matmul.h"

/* Pools by their number of threads: a host has one number for prompts and one for generation, and
 * goes to and fro between them. */
struct mb_ggml_team {
    struct mb_threads *pools[2]; /* the one used last, the one before */
};

/* The pool of `count` threads (0: one per core); NULL, the reason logged, when it can't be had:
 * work then runs on the calling thread. Belongs to the team. */
struct mb_threads *mb_ggml_team_pool(struct mb_ggml_team *team, size_t count);
/* Threads are joined. */
void mb_ggml_team_end(struct mb_ggml_team *team);

#endif
