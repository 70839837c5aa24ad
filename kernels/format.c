/* SPDX-License-Identifier: Apache-2.0 */
/* The table of formats, expanded from formats.def, and the public functions that go through it. */
#include "kernels/format.h"

#include "kernels/encode.h"
#include "kernels/half.h"

static const struct mb_format_info infos[] = {
#define MB_FORMAT_ROW(id, gguf, name, block_k, block_bytes, coding, scale, activation, fallback,   \
                      bound, candidate)                                                            \
    {MB_FORMAT_##id,                                                                               \
     name,                                                                                         \
     block_k,                                                                                      \
     block_bytes,                                                                                  \
     MB_CODING_##coding,                                                                           \
     MB_SCALE_##scale,                                                                             \
     MB_ACTIVATION_##activation,                                                                   \
     MB_FORMAT_##fallback,                                                                         \
     bound,                                                                                        \
     8.0 * block_bytes / block_k,                                                                  \
     candidate,                                                                                    \
     false},
#include "mixbit/formats.def"
};

static const struct mb_format_ops *const ops[] = {
#define MB_FORMAT_ROW(id, ...) &mb_ops_##id,
#include "mixbit/formats.def"
};

static const struct mb_format_info codebooks[] = {
#define MB_CODEBOOK_FORMAT_ROW(id, number, name, bits)                                             \
    {MB_FORMAT_##id,      name,           1,     0,    MB_CODING_CB4, MB_SCALE_NONE,               \
     MB_ACTIVATION_I8G32, MB_FORMAT_##id, 0.012, bits, false,         true},
#include "mixbit/formats.def"
};

/* Positions in the tables by ggml's type id, plus one; 0 where there is no such format. */
enum position {
#define MB_FORMAT_ROW(id, ...) POSITION_##id,
#include "mixbit/formats.def"
    POSITION_COUNT
};

static const uint8_t positions[] = {
#define MB_FORMAT_ROW(id, ...) [MB_FORMAT_##id] = POSITION_##id + 1,
#include "mixbit/formats.def"
};

static int position_of(enum mb_format format)
{
    const int id = (int)format;
    return id >= 0 && (size_t)id < sizeof positions ? positions[id] - 1 : -1;
}

size_t mb_format_count(void) { return POSITION_COUNT; }

const struct mb_format_info *mb_format_at(size_t i)
{
    return i < POSITION_COUNT ? &infos[i] : NULL;
}

const struct mb_format_info *mb_any_format_at(size_t i)
{
    if (i < POSITION_COUNT)
        return &infos[i];
    i -= POSITION_COUNT;
    return i < sizeof codebooks / sizeof *codebooks ? &codebooks[i] : NULL;
}

const struct mb_format_info *mb_format_info(enum mb_format format)
{
    const int position = position_of(format);
    if (position >= 0)
        return &infos[position];
    for (size_t i = 0; i < sizeof codebooks / sizeof *codebooks; i++)
        if (codebooks[i].id == format)
            return &codebooks[i];
    return NULL;
}

bool mb_format_is_codebook(enum mb_format format)
{
    const struct mb_format_info *info = mb_format_info(format);
    return info != NULL && info->codebook;
}

const struct mb_format_ops *mb_format_ops(enum mb_format format)
{
    const int position = position_of(format);
    return position < 0 ? NULL : ops[position];
}

/* ASCII only: a locale must not change what a name means. */
static int lower(char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; }

static bool same_name(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b))
        a++, b++;
    return lower(*a) == lower(*b);
}

enum mb_format mb_format_by_name(const char *name)
{
    if (name)
        for (size_t i = 0; i < POSITION_COUNT; i++)
            if (same_name(infos[i].name, name))
                return infos[i].id;
    for (size_t i = 0; name && i < sizeof codebooks / sizeof *codebooks; i++)
        if (same_name(codebooks[i].name, name))
            return codebooks[i].id;
    return MB_FORMAT_NONE;
}

const char *mb_coding_name(enum mb_coding coding)
{
    static const char *const names[] = {
#define MB_CODING_ROW(id, name, ...) #name,
#include "mixbit/codings.def"
    };
    return (size_t)coding < MB_CODING_COUNT ? names[coding] : "unknown";
}

const char *mb_scale_kind_name(enum mb_scale_kind scale)
{
    static const char *const names[] = {
#define MB_SCALE_ROW(id, name, ...) #name,
#include "mixbit/codings.def"
    };
    return (size_t)scale < MB_SCALE_COUNT ? names[scale] : "unknown";
}

const char *mb_activation_name(enum mb_activation activation)
{
    static const char *const names[] = {
#define MB_ACTIVATION_ROW(id, name, ...) #name,
#include "mixbit/codings.def"
    };
    return (size_t)activation < MB_ACTIVATION_COUNT ? names[activation] : "unknown";
}

size_t mb_format_row_bytes(enum mb_format format, uint64_t k)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (!info || k % info->block_k)
        return 0;
    if (info->codebook)
        return k < UINT64_C(1) << 48 ? (size_t)((k * (uint64_t)(4 * info->bits) + 31) / 32) : 0;
    const uint64_t blocks = k / info->block_k;
    return blocks > SIZE_MAX / info->block_bytes ? 0 : (size_t)blocks * info->block_bytes;
}

enum mb_format mb_format_fit(enum mb_format format, uint64_t k)
{
    const struct mb_format_info *info = mb_format_info(format);
    while (info && k % info->block_k && info->fallback != info->id)
        info = mb_format_info(info->fallback);
    return info ? info->id : MB_FORMAT_NONE;
}

/* Shared checks of a conversion: *row_bytes is what one row takes in the format. */
static enum mb_status check_rows(enum mb_format format, size_t rows, size_t k, size_t *row_bytes)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (!info)
        return MB_ERR_ARGUMENT;
    if (info->codebook)
        return MB_ERR_UNSUPPORTED;
    *row_bytes = mb_format_row_bytes(format, k);
    if (k % info->block_k || (k && !*row_bytes) || k > SIZE_MAX / sizeof(float))
        return MB_ERR_SHAPE;
    if (k && (rows > SIZE_MAX / *row_bytes || rows > SIZE_MAX / sizeof(float) / k))
        return MB_ERR_SHAPE;
    return MB_OK;
}

enum mb_status mb_dequantize(enum mb_format format, const void *src, size_t rows, size_t k,
                             float *dst)
{
    size_t row_bytes;
    const enum mb_status status = check_rows(format, rows, k, &row_bytes);
    if (status != MB_OK || !k)
        return status;
    const struct mb_format_ops *functions = mb_format_ops(format);
    const uint8_t *row = src;
    for (size_t r = 0; r < rows; r++)
        functions->dequantize_row(row + r * row_bytes, dst + r * k, k);
    return MB_OK;
}

/* No exponent of all ones: an or over the row, which vectorises, instead of a branch per weight. */
static bool all_finite(const float *x, size_t k)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < k; i++)
        bad |= (mb_float_bits(x[i]) & 0x7fffffffu) >= 0x7f800000u;
    return !bad;
}

static bool all_non_negative(const float *x, size_t k)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < k; i++)
        bad |= !(x[i] >= 0.0f);
    return !bad;
}

enum mb_status mb_quantize_with(const struct mb_encode_ops *encode, enum mb_format format,
                                const float *src, size_t rows, size_t k, const float *importance,
                                void *dst)
{
    size_t row_bytes, good = 0;
    const enum mb_status status = check_rows(format, rows, k, &row_bytes);
    if (status != MB_OK || !k)
        return status;
    const struct mb_format_ops *functions = mb_format_ops(format);
    uint8_t *row = dst;
    if (!functions->search) {
        for (size_t r = 0; r < rows; r++)
            functions->quantize_row(src + r * k, row + r * row_bytes, k);
        return MB_OK;
    }
    if (importance && !(all_finite(importance, k) && all_non_negative(importance, k)))
        return MB_ERR_ARGUMENT;
    while (good < rows && all_finite(src + good * k, k))
        good++;
    encode->search_blocks(format, src, good * (k / mb_format_info(format)->block_k), importance, k,
                          dst);
    return good == rows ? MB_OK : MB_ERR_ARGUMENT;
}
