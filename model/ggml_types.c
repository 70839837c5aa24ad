/* SPDX-License-Identifier: Apache-2.0 */
/* Every tensor type that a GGUF file may name: block size, and the general.file_type of a file that
 * is mostly made of it. A file with types that are none of ours still opens and can be copied.
 * Source: ggml's type ids, which are part of the file format and never reused. */
#include "model/gguf.h"

static const struct mb_ggml_type types[] = {
    [0] = {"f32", 1, 4, 0},
    [1] = {"f16", 1, 2, 1},
    [2] = {"q4_0", 32, 18, 2},
    [3] = {"q4_1", 32, 20, 3},
    [6] = {"q5_0", 32, 22, 8},
    [7] = {"q5_1", 32, 24, 9},
    [8] = {"q8_0", 32, 34, 7},
    [9] = {"q8_1", 32, 36, -1},
    [10] = {"q2_K", 256, 84, 10},
    [11] = {"q3_K", 256, 110, 11}, /* the "small" presets: one type, few exceptions */
    [12] = {"q4_K", 256, 144, 14},
    [13] = {"q5_K", 256, 176, 16},
    [14] = {"q6_K", 256, 210, 18},
    [15] = {"q8_K", 256, 292, -1},
    [16] = {"iq2_xxs", 256, 66, 19},
    [17] = {"iq2_xs", 256, 74, 20},
    [18] = {"iq3_xxs", 256, 98, 23},
    [19] = {"iq1_s", 256, 50, 24},
    [20] = {"iq4_nl", 32, 18, 25},
    [21] = {"iq3_s", 256, 110, 26},
    [22] = {"iq2_s", 256, 82, 28},
    [23] = {"iq4_xs", 256, 136, 30},
    [24] = {"i8", 1, 1, -1},
    [25] = {"i16", 1, 2, -1},
    [26] = {"i32", 1, 4, -1},
    [27] = {"i64", 1, 8, -1},
    [28] = {"f64", 1, 8, -1},
    [29] = {"iq1_m", 256, 56, 31},
    [30] = {"bf16", 1, 2, 32},
    [34] = {"tq1_0", 256, 54, 36},
    [35] = {"tq2_0", 256, 66, 37},
    [39] = {"mxfp4", 32, 17, 38},
    [40] = {"nvfp4", 64, 36, 39},
    [41] = {"q1_0", 128, 18, 40},
    [42] = {"q2_0", 64, 18, 41},
};

const struct mb_ggml_type *mb_ggml_type(int32_t id)
{
    if (id < 0 || (size_t)id >= sizeof types / sizeof types[0] || types[id].name == NULL)
        return NULL;
    return &types[id];
}
