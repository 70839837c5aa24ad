/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of second moments and of encoders share: a model ready to run over windows, and
 * its moments. Include after cmocka.h. */
#ifndef MIXBIT_TESTS_MOMENTS_SUPPORT_H
#define MIXBIT_TESTS_MOMENTS_SUPPORT_H

#include "model/moments.h"
#include "unit/network_support.h"

struct ms_calibration {
    struct mb_model *model;
    struct mb_threads *threads;
    struct mb_windows windows;
    struct mb_network *network;
    struct mb_moments *moments;
};

/* Over windows of tokens below `vocabulary`; limit: bytes of moments, 0: what is free. */
static inline void ms_set_up(struct ms_calibration *c, const char *path, size_t windows,
                             size_t window, size_t vocabulary, size_t threads, size_t limit)
{
    struct mb_error error;
    *c = (struct ms_calibration){.model = ns_open(path),
                                 .windows = ns_windows(windows, window, vocabulary)};
    if (threads > 0)
        assert_int_equal(mb_threads_create(threads, &c->threads), MB_OK);
    c->network = ns_network(c->model, NULL, MB_NUMERICS_F32, c->threads);
    assert_int_equal(mb_moments_create(c->network, &c->windows, limit, &c->moments, &error), MB_OK);
}

/* What is added to entry i of the diagonal, `stride` apart, of moments over `rows` rows. */
static inline double ms_damping(const double *diagonal, size_t stride, size_t k, double rows,
                                size_t i)
{
    double logarithms = 0, count = 0;
    for (size_t c = 0; c < k; c++) {
        logarithms += diagonal[c * stride] > 0 ? log(diagonal[c * stride]) : 0;
        count += diagonal[c * stride] > 0;
    }
    return 0.2 * diagonal[i * stride] + (0.001 + (double)k / rows) * exp(logarithms / count);
}

static inline void ms_tear_down(struct ms_calibration *c)
{
    mb_moments_destroy(c->moments);
    mb_network_destroy(c->network);
    mb_windows_free(&c->windows);
    mb_threads_destroy(c->threads);
    mb_model_close(c->model);
}

#endif
