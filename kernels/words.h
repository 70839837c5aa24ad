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
#include "mixbit/codings.def"
    MB_ACTIVATION_OF_f32 = MB_ACTIVATION_F32,
    MB_ACTIVATION_OF_i8g32 = MB_ACTIVATION_I8G32,
    MB_ACTIVATION_OF_i8g256 = MB_ACTIVATION_I8G256,
    /* Decoded codes by their largest value. */
    MB_MAX_CODE_OF_f32 = 0,
    MB_MAX_CODE_OF_u4 = 15,
    MB_MAX_CODE_OF_u5 = 31,
    MB_MAX_CODE_OF_u6 = 63,
    MB_MAX_CODE_OF_u7 = 127,
    MB_MAX_CODE_OF_u8 = 255,
};

#endif
