/* SPDX-License-Identifier: Apache-2.0 */
/* What the words of instances.def stand for: the words of a row are pasted into a kernel's name
 * and, through these constants, into its descriptor and the constants that its inlined body folds
 * on. */
#ifndef MIXBIT_KERNELS_WORDS_H
#define MIXBIT_KERNELS_WORDS_H

#include "kernels/kernel.h"

enum {
#define MB_CODING_ROW(id, word, ...) MB_CODING_OF_##word = MB_CODING_##id,
#define MB_SCALE_ROW(id, word, ...) MB_SCALE_OF_##word = MB_SCALE_##id,
#define MB_ACTIVATION_ROW(id, word, ...) MB_ACTIVATION_OF_##word = MB_ACTIVATION_##id,
#include "mixbit/codings.def"
    /* Decoded codes by their largest value. */
    MB_MAX_CODE_OF_f32 = 0,
    MB_MAX_CODE_OF_bf16 = 0,
    MB_MAX_CODE_OF_u4 = 15,
    MB_MAX_CODE_OF_u5 = 31,
    MB_MAX_CODE_OF_u6 = 63,
    MB_MAX_CODE_OF_u7 = 127,
    MB_MAX_CODE_OF_u8 = 255,
};

/* i8row has the records of i8g256, so kernels of those appear a second time under its name: the
 * macro, for one's own arguments and then the type and the type of its records, or nothing. */
#define MB_TWIN_OF_f32(macro, ...)
#define MB_TWIN_OF_bf16(macro, ...)
#define MB_TWIN_OF_i8g32(macro, ...)
#define MB_TWIN_OF_i8g256(macro, ...) macro(__VA_ARGS__, i8row, i8g256)

#endif
