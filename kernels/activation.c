/* SPDX-License-Identifier: Apache-2.0 */
/* Where the parts of an activation row record stand (kernel.h, struct mb_activation_layout): codes
 * first, then arrays by falling alignment. A record's length is an odd multiple of 64 bytes, so
 * that the same column of several rows, which a tile reads together, never falls into one L1 set.
 */
#include "kernels/kernel.h"

struct mb_activation_layout mb_activation_layout(enum mb_activation type, size_t k)
{
    const size_t run = mb_activation_run(type), group = mb_activation_group(type);
    struct mb_activation_layout at = {.padded_k = (k + run - 1) / run * run};
    size_t bytes = at.padded_k * (type == MB_ACTIVATION_BF16 ? sizeof(uint16_t) : sizeof(float));
    if (group > 0) {
        at.scale = at.padded_k;
        at.scaled_sum = at.scale + at.padded_k / group * sizeof(float);
        at.sum32 =
            at.scaled_sum + (type == MB_ACTIVATION_I8G32 ? at.padded_k / 32 * sizeof(float) : 0);
        at.sum16 = at.sum32 + at.padded_k / 32 * sizeof(int16_t);
        bytes = at.sum16 + at.padded_k / 16 * sizeof(int16_t);
    }
    at.row_bytes = (bytes + 63) / 64 * 64;
    if (at.row_bytes / 64 % 2 == 0)
        at.row_bytes += 64;
    return at;
}
