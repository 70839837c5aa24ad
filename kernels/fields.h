/* SPDX-License-Identifier: Apache-2.0 */
/* The values of a block from its fields: one formula for every integer format.
 *
 *   one level     w = d * (code - bias)              w = d * code + min
 *   two levels    w = (d * sc) * (code - bias)       w = (d * sc) * code - (dmin * m)
 *
 * Codings with a table put table[code] where code stands; d is the stored scale times the coding's
 * unit. Each product and sum is rounded to f32 in just
 * this order: that makes the values equal to ggml's bit for bit. */
#ifndef MIXBIT_KERNELS_FIELDS_H
#define MIXBIT_KERNELS_FIELDS_H

#include "kernels/half.h"
#include "kernels/panel.h"

/* The scale of group g of a block, in f32 as it is stored; two levels have one for all groups. */
static inline float mb_fields_scale(const struct mb_block_fields *fields, enum mb_scale_kind kind,
                                    unsigned g)
{
    switch (mb_scale_number(kind)) {
    case MB_NUMBER_E8M0: return mb_e8m0_to_float((uint8_t)fields->sub_scale[g]);
    case MB_NUMBER_UE4M3: return mb_ue4m3_to_float((uint8_t)fields->sub_scale[g]);
    default: return mb_half_to_float(fields->d);
    }
}

/* What the codes of group g are multiplied by, and what is added then. */
static inline void mb_fields_group(const struct mb_block_fields *fields, enum mb_coding coding,
                                   enum mb_scale_kind kind, unsigned g, float *scale, float *offset)
{
    const float d = mb_fields_scale(fields, kind, g) * mb_coding_unit(coding);
    const float dmin = mb_scale_has_min(kind) ? mb_half_to_float(fields->dmin) : 0.0f;
    *scale = mb_scale_two_level(kind) ? d * (float)fields->sub_scale[g] : d;
    *offset = mb_scale_two_level(kind) ? -(dmin * (float)fields->sub_min[g]) : dmin;
}

static inline void mb_fields_dequantize(const struct mb_block_fields *fields, unsigned weights,
                                        enum mb_coding coding, enum mb_scale_kind kind, float *dst)
{
    const unsigned group = mb_scale_group(kind);
    const int bias = mb_coding_bias(coding, kind);
    const uint8_t *table = mb_coding_table(coding);
    for (unsigned g = 0; g < weights / group; g++, dst += group) {
        const uint8_t *code = fields->code + g * group;
        float scale, offset;
        mb_fields_group(fields, coding, kind, g, &scale, &offset);
        if (table != NULL) {
            for (unsigned i = 0; i < group; i++)
                dst[i] = scale * (float)(table[code[i]] - bias);
        } else if (!mb_scale_has_min(kind)) {
            for (unsigned i = 0; i < group; i++)
                dst[i] = scale * (float)(code[i] - bias);
        } else {
            /* a - b and a + (-b) are the same operation, so one loop serves both signs of the
             * offset */
            for (unsigned i = 0; i < group; i++)
                dst[i] = scale * (float)code[i] + offset;
        }
    }
}

/* A row of blocks: what a format's dequantize_row is, given its split. */
#define MB_DEFINE_DEQUANTIZE_ROW(name, weights, coding, kind)                                      \
    static void name##_dequantize_row(const void *src, float *dst, size_t k)                       \
    {                                                                                              \
        const struct mb_block_##name *block = src;                                                 \
        struct mb_block_fields fields;                                                             \
        for (size_t i = 0; i < k; i += (weights), block++) {                                       \
            name##_split(block, &fields);                                                          \
            mb_fields_dequantize(&fields, weights, coding, kind, dst + i);                         \
        }                                                                                          \
    }

#endif
