/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of w = d * t with t in -1, 0, 1: exact least squares.
 *
 * For the weights that are not 0 the best d is sum w |x| / sum w over them, and takes away
 * (sum w |x|)^2 / sum w of the error. Whatever d is, those weights are the largest ones (above
 * d / 2), so the best of all choices is among the 256 prefixes of the weights in falling order. */
#include "kernels/encode_search.h"

#include <stdlib.h>

struct ranked {
    float size, w;
    unsigned at;
};

/* Largest first; of equal ones the earlier, so that the order is the same everywhere. */
static int compare(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    if (a->size != b->size)
        return a->size > b->size ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

void mb_encode_ternary(const float *x, const float *importance, struct mb_block_fields *fields)
{
    struct sample s;
    struct ranked ranked[BLOCK_MAX];
    memset(fields, 0, sizeof *fields);
    memset(fields->code, 1, sizeof fields->code);
    if (!take_sample(x, importance, 256, &s))
        return;
    for (unsigned i = 0; i < 256; i++)
        ranked[i] = (struct ranked){fabsf(s.x[i]), s.w[i], i};
    qsort(ranked, 256, sizeof *ranked, compare);
    float xs = 0.0f, ws = 0.0f, best = 0.0f, scale = 0.0f;
    for (unsigned i = 0; i < 256; i++) {
        xs += ranked[i].w * ranked[i].size;
        ws += ranked[i].w;
        if (xs * xs > best * ws) {
            best = xs * xs / ws;
            scale = xs / ws;
        }
    }
    const float d = store_scale(scale, s.unit, &fields->d);
    for (unsigned i = 0; i < 256; i++)
        if (fabsf(s.x[i]) > 0.5f * d)
            fields->code[i] = s.x[i] < 0.0f ? 0 : 2;
}
