/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers and strings out of GGUF values: little-endian bytes at any alignment, whose bounds the
 * parser has checked. */
#include "model/gguf.h"

#include <string.h>

uint64_t mb_gguf_little_endian(const uint8_t *p, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

size_t mb_gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[MB_GGUF_TYPE_COUNT] = {
        [MB_GGUF_U8] = 1,  [MB_GGUF_I8] = 1,  [MB_GGUF_U16] = 2, [MB_GGUF_I16] = 2,
        [MB_GGUF_U32] = 4, [MB_GGUF_I32] = 4, [MB_GGUF_F32] = 4, [MB_GGUF_BOOL] = 1,
        [MB_GGUF_U64] = 8, [MB_GGUF_I64] = 8, [MB_GGUF_F64] = 8,
    };
    return type < MB_GGUF_TYPE_COUNT ? bytes[type] : 0;
}

struct mb_gguf_number mb_gguf_number(uint32_t type, const uint8_t *value)
{
    const size_t bytes = mb_gguf_scalar_bytes(type);
    struct mb_gguf_number number = {.bits = mb_gguf_little_endian(value, bytes)};
    switch (type) {
    case MB_GGUF_F32: {
        const uint32_t word = (uint32_t)number.bits;
        float real;
        memcpy(&real, &word, sizeof real);
        number.real = (double)real;
        number.is_float = true;
        break;
    }
    case MB_GGUF_F64:
        memcpy(&number.real, &number.bits, sizeof number.real);
        number.is_float = true;
        break;
    case MB_GGUF_I8:
    case MB_GGUF_I16:
    case MB_GGUF_I32:
    case MB_GGUF_I64: {
        const unsigned unused = 64 - 8 * (unsigned)bytes;
        number.is_negative = number.bits >> (8 * bytes - 1) != 0;
        if (number.is_negative) /* two's complement by hand: no implementation-defined shift */
            number.real = -(double)(((~number.bits << unused) >> unused) + 1);
        else
            number.real = (double)number.bits;
        break;
    }
    default: number.real = (double)number.bits; break;
    }
    return number;
}

const char *mb_gguf_element_string(const struct mb_gguf_pair *pair, size_t i, size_t *bytes)
{
    *bytes = 0;
    if (pair->element != MB_GGUF_STRING || pair->offsets == NULL || i >= pair->count)
        return NULL;
    const uint8_t *length = pair->value + pair->offsets[i];
    *bytes = (size_t)mb_gguf_little_endian(length, 8);
    return (const char *)length + 8;
}

double mb_gguf_element_number(const struct mb_gguf_pair *pair, size_t i)
{
    return mb_gguf_number(pair->element, pair->value + i * mb_gguf_scalar_bytes(pair->element))
        .real;
}
