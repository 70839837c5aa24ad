/* SPDX-License-Identifier: Apache-2.0 */
/* Weight formats: what each stores, how many bytes it takes, and how rows of floats are turned into
 * it and back. The list itself is formats.def; enum values are ggml's type ids, so they can be
 * written to GGUF as they are. */
#ifndef MIXBIT_FORMAT_H
#define MIXBIT_FORMAT_H

#include "status.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum mb_format {
    MB_FORMAT_NONE = -1,
#define MB_FORMAT_ROW(id, gguf, ...) MB_FORMAT_##id = gguf,
#define MB_CODEBOOK_FORMAT_ROW(id, number, ...) MB_FORMAT_##id = (number),
#include "formats.def"
};

/* How a format's codes become unsigned bytes. bN: N-bit integers kept as bit planes; lut4 and the
 * like: codes into a table. The list is codings.def. */
enum mb_coding {
#define MB_CODING_ROW(id, ...) MB_CODING_##id,
#include "codings.def"
    MB_CODING_COUNT
};

/* Groups that share a scale. "x2": two levels, an integer sub-scale per group and an f16 scale per
 * 256 weights. "min": an offset per group as well; without it codes are centred on a bias. "s6":
 * sub-scales kept in 6 bits. The list is codings.def. */
enum mb_scale_kind {
#define MB_SCALE_ROW(id, ...) MB_SCALE_##id,
#include "codings.def"
    MB_SCALE_COUNT
};

/* Activations as kernels read them: f32, rounded to bf16, or int8 with one f32 scale per 32, per
 * 256 (llama.cpp's Q8_0/Q8_1 and Q8_K) or per row. The list is codings.def. */
enum mb_activation {
#define MB_ACTIVATION_ROW(id, ...) MB_ACTIVATION_##id,
#include "codings.def"
    MB_ACTIVATION_COUNT
};

/** What a tensor does in the network: presets and fall-backs depend on it. */
enum mb_role {
    MB_ROLE_OTHER, /* norms, biases, convolutions, anything that is never quantized or not known */
    MB_ROLE_EMBEDDING,
    MB_ROLE_OUTPUT,
    MB_ROLE_ATTN_Q,
    MB_ROLE_ATTN_K,
    MB_ROLE_ATTN_V,
    MB_ROLE_ATTN_QKV,
    MB_ROLE_ATTN_OUTPUT,
    MB_ROLE_FFN_GATE,
    MB_ROLE_FFN_UP,
    MB_ROLE_FFN_DOWN,
    MB_ROLE_SSM_IN,
    MB_ROLE_SSM_OUT,
    MB_ROLE_SSM_OTHER
};

struct mb_format_info {
    enum mb_format id;
    const char *name; /* as GGUF spells it */
    uint32_t block_k; /* weights per block */
    uint32_t block_bytes;
    enum mb_coding coding;
    enum mb_scale_kind scale;
    enum mb_activation activation; /* default activation type */
    enum mb_format fallback;       /* for rows whose length is no multiple of block_k */
    double error_bound;            /* see formats.def */
    double bits;                   /* per weight, everything included */
    bool candidate;                /* tried where no formats are named */
    bool codebook;                 /* of whole matrices (mixbit/codebook.h): there are no blocks of
                                      it, and what is about rows is refused. block_k is 1, block_bytes
                                      0, coding and scale say nothing */
};

/** Number of formats, and the i-th in the order of formats.def (NULL past the end); those of
 * codebook matrices are not among them. */
MB_API size_t mb_format_count(void);
MB_API const struct mb_format_info *mb_format_at(size_t i);
/** The i-th of all formats: those, then the ones of codebook matrices (NULL past the end). */
MB_API const struct mb_format_info *mb_any_format_at(size_t i);
/** Whether a format is one of codebook matrices. */
MB_API bool mb_format_is_codebook(enum mb_format format);
/** The row of a format; NULL when the id is none of ours. */
MB_API const struct mb_format_info *mb_format_info(enum mb_format format);
/** Look up by name, case-insensitively; MB_FORMAT_NONE when unknown. */
MB_API enum mb_format mb_format_by_name(const char *name);
/** Names of enum values as kernel names spell them ("b4", "g32min", "i8g32"). */
MB_API const char *mb_coding_name(enum mb_coding coding);
MB_API const char *mb_scale_kind_name(enum mb_scale_kind scale);
MB_API const char *mb_activation_name(enum mb_activation activation);

/** Bytes of one row of k weights; 0 when k is no multiple of the format's block or the product
 * overflows. Of codebook matrices: a row's part of what the encoder is told to reach, rounded up.
 */
MB_API size_t mb_format_row_bytes(enum mb_format format, uint64_t k);
/** The format llama.cpp would store: `format` itself, or its fall-back chain until the row length
 * fits. */
MB_API enum mb_format mb_format_fit(enum mb_format format, uint64_t k);

/**
 * Dequantize rows: dst[row][k] = f32 values of src, bit-exact with ggml.
 * Memory   src holds rows * mb_format_row_bytes() bytes, any alignment; dst is rows * k floats;
 * nothing is allocated. Threads  re-entrant.
 * @return MB_OK, MB_ERR_SHAPE, MB_ERR_ARGUMENT (unknown format), MB_ERR_UNSUPPORTED (codebooks).
 */
MB_API enum mb_status mb_dequantize(enum mb_format format, const void *src, size_t rows, size_t k,
                                    float *dst);

/**
 * Quantize rows of f32.
 * importance  k non-negative weights (mean squared activations, one per column) or NULL for plain
 * least squares. Numeric     root mean square error at most that of ggml's encoder for the format
 * (within 1 %); deterministic. Non-finite inputs give MB_ERR_ARGUMENT for block formats; f32 f16
 * bf16 keep them. Threads     re-entrant; callers split rows.
 */
MB_API enum mb_status mb_quantize(enum mb_format format, const float *src, size_t rows, size_t k,
                                  const float *importance, void *dst);

#ifdef __cplusplus
}
#endif
#endif
