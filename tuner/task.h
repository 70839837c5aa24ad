/* SPDX-License-Identifier: Apache-2.0 */
/* What a tuner is asked to measure, checked and put in order: shapes without repeats, formats,
 * numbers of rows. The CPU's search (search.c) and that of other devices (accelerator.c) walk it.
 */
#ifndef MIXBIT_TUNER_TASK_H
#define MIXBIT_TUNER_TASK_H

#include "mixbit/profile.h"

#include <stdbool.h>

enum { MB_TUNE_FORMATS_MOST = 64, MB_TUNE_MS_MOST = 32 };

struct mb_tune_task {
    struct mb_shape *shapes; /* distinct, the largest share of the model first */
    size_t shape_count;
    double total_weights; /* that a token's pass walks through */
    const size_t *ms;
    size_t m_count, m_most;
    bool ms_are_ours; /* none were given */
    enum mb_format formats[MB_TUNE_FORMATS_MOST];
    size_t format_count;
};

/* Whether the options make sense: MB_ERR_ARGUMENT or MB_ERR_SHAPE and the reason. */
enum mb_status mb_tune_check(const struct mb_tune_options *options, struct mb_error *error);
/* Of checked options. Free with mb_tune_task_free, whatever comes back. */
enum mb_status mb_tune_task_init(struct mb_tune_task *task, const struct mb_tune_options *options,
                                 struct mb_error *error);
void mb_tune_task_free(struct mb_tune_task *task);

#endif
