/* SPDX-License-Identifier: Apache-2.0 */
/* What takes time when a model is encoded (encode.h, feedback.h), as every CPU of the architecture
 * can run it: the bodies are those of kernels/simd/, as for the other ISA levels, which give the
 * same bits. */
#include "kernels/encode.h"

#include "kernels/gram.h"
#include "kernels/simd/encode.h"
#include "kernels/simd/feedback.h"
#include "kernels/simd/refine.h"

bool mb_feedback_by_code(enum mb_format format)
{
    switch (mb_format_info(format)->coding) {
    case MB_CODING_B2:
    case MB_CODING_B3:
    case MB_CODING_B4:
    case MB_CODING_B5:
    case MB_CODING_B6:
    case MB_CODING_B8:
    case MB_CODING_LUT4:
    case MB_CODING_E2M1: return true;
    default: return false;
    }
}

/* Of 16 rows: errors and gradients, each as rows and, for a while, as lanes. */
size_t mb_feedback_scratch(size_t k) { return 4 * MB_FEEDBACK_LANES * k; }

void mb_feedback_rows(enum mb_format format, const float *w, size_t rows,
                      const struct mb_second_moments *moments, void *dst, float *scratch)
{
    feedback_rows(format, w, rows, moments, dst, scratch);
}

void mb_refine_rows(enum mb_format format, const float *w, size_t rows,
                    const struct mb_second_moments *moments, size_t sweeps, void *blocks,
                    double *errors, float *scratch)
{
    refine_rows(format, w, rows, moments, sweeps, blocks, errors, scratch);
}

const struct mb_encode_ops mb_encode_reference = {
    search_blocks, mb_gram_add,      mb_gram_cross, mb_gram_factor_rows,
    mb_gram_solve, mb_feedback_rows, mb_refine_rows};
