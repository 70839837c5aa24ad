/* SPDX-License-Identifier: Apache-2.0 */
/* See task.h. */
#include "tuner/task.h"

#include <stdlib.h>

static const size_t default_ms[] = {1, 512};

enum mb_status mb_tune_check(const struct mb_tune_options *o, struct mb_error *error)
{
    if (o == NULL || o->size != sizeof *o || o->shapes == NULL || o->shape_count == 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "nothing to tune: no shapes were given");
    for (size_t i = 0; i < o->shape_count; i++)
        if (o->shapes[i].n == 0 || o->shapes[i].k == 0)
            return mb_error_set(error, MB_ERR_SHAPE, -1, "cannot tune a shape of n %zu, k %zu",
                                o->shapes[i].n, o->shapes[i].k);
    if (!(o->max_error >= 0 && o->max_error <= 1000))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "cannot tune to %g times the usual error",
                            o->max_error);
    if (!(o->total_weights >= 0 && o->total_weights < 1e15 && o->other_bytes >= 0 &&
          o->other_bytes < 1e15))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "cannot tune a model of %g weights and %g bytes besides",
                            o->total_weights, o->other_bytes);
    for (size_t i = 0; o->ms != NULL && i < o->m_count; i++)
        if (o->ms[i] == 0 || i == MB_TUNE_MS_MOST)
            return mb_error_set(error, MB_ERR_SHAPE, -1,
                                i == MB_TUNE_MS_MOST ? "cannot tune more than 32 values of m"
                                                     : "cannot tune m 0");
    return MB_OK;
}

struct share {
    struct mb_shape shape;
    double weights; /* of all its occurrences */
};

static int compare_shares(const void *a, const void *b)
{
    const struct share *left = a, *right = b;
    return (left->weights < right->weights) - (left->weights > right->weights);
}

static enum mb_status collect_shapes(struct mb_tune_task *task, const struct mb_tune_options *o)
{
    struct share *shares = calloc(o->shape_count, sizeof *shares);
    task->shapes = calloc(o->shape_count, sizeof *task->shapes);
    size_t count = 0;
    if (shares == NULL || task->shapes == NULL) {
        free(shares);
        return MB_ERR_MEMORY;
    }
    for (size_t i = 0; i < o->shape_count; i++) {
        const struct mb_shape shape = o->shapes[i];
        const double weights = (double)shape.n * (double)shape.k;
        size_t at = 0;
        while (at < count && (shares[at].shape.n != shape.n || shares[at].shape.k != shape.k))
            at++;
        shares[at].shape = shape;
        shares[at].weights += weights;
        count = at == count ? count + 1 : count;
        task->total_weights += weights;
    }
    qsort(shares, count, sizeof *shares, compare_shares);
    for (size_t i = 0; i < count; i++)
        task->shapes[i] = shares[i].shape;
    task->shape_count = count;
    if (o->total_weights > 0)
        task->total_weights = o->total_weights;
    free(shares);
    return MB_OK;
}

static enum mb_status collect_formats(struct mb_tune_task *task, const struct mb_tune_options *o,
                                      struct mb_error *error)
{
    const size_t count = o->formats != NULL ? o->format_count : mb_format_count();
    if (count == 0 || count > MB_TUNE_FORMATS_MOST)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "cannot tune %zu formats", count);
    for (size_t i = 0; i < count; i++) {
        task->formats[i] = o->formats != NULL ? o->formats[i] : mb_format_at(i)->id;
        if (mb_format_info(task->formats[i]) == NULL)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "cannot tune unknown format %d",
                                (int)task->formats[i]);
    }
    task->format_count = count;
    return MB_OK;
}

enum mb_status mb_tune_task_init(struct mb_tune_task *task, const struct mb_tune_options *options,
                                 struct mb_error *error)
{
    *task = (struct mb_tune_task){.ms = options->ms, .m_count = options->m_count};
    task->ms_are_ours = options->ms == NULL || options->m_count == 0;
    if (task->ms_are_ours) {
        task->ms = default_ms;
        task->m_count = sizeof default_ms / sizeof default_ms[0];
    }
    for (size_t i = 0; i < task->m_count; i++)
        task->m_most = task->ms[i] > task->m_most ? task->ms[i] : task->m_most;
    const enum mb_status status = collect_formats(task, options, error);
    return status == MB_OK ? collect_shapes(task, options) : status;
}

void mb_tune_task_free(struct mb_tune_task *task)
{
    free(task->shapes);
    *task = (struct mb_tune_task){0};
}
