/* SPDX-License-Identifier: Apache-2.0 */
/* The public way into the encoders: those of the best ISA level that is allowed. All levels give
 * the same bits. */
#include "dispatch/dispatch.h"
#include "kernels/encode.h"

enum mb_status mb_quantize(enum mb_format format, const float *src, size_t rows, size_t k,
                           const float *importance, void *dst)
{
    return mb_quantize_with(mb_select_encode(), format, src, rows, k, importance, dst);
}
