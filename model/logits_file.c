/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes llama.cpp's log-probability files (logits_file.h has the layout). The size of
 * the file follows from its three counts, so a file of any other size is refused before anything is
 * believed. */
#include "model/logits_file.h"

#include "model/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { MAGIC_BYTES = 8, HEADER_BYTES = MAGIC_BYTES + 12, ROW_HEADER_BYTES = 8, LEAST_WINDOW = 4 };
static const char magic[MAGIC_BYTES + 1] = "_logits_";

/* Below the likeliest token; what ln p at most can be above 0 by rounding. */
#define SPAN 16.0f
#define SLACK 0.01

size_t mb_logits_row_bytes(size_t vocabulary)
{
    return ROW_HEADER_BYTES + (vocabulary + 1) / 2 * 2 * sizeof(uint16_t);
}

/* ---- reading ---- */

static double float_at(const uint8_t *p) { return mb_gguf_number(MB_GGUF_F32, p).real; }

/* Bytes that a file of these counts has; false: more than there can be. */
static bool file_bytes(const struct mb_logits_file *f, size_t *tokens, size_t *all)
{
    size_t rows, data;
    return mb_mul_size(f->windows, f->window, tokens) &&
           mb_mul_size(*tokens, sizeof(int32_t), tokens) &&
           mb_mul_size(f->windows, f->scored, &rows) && mb_mul_size(rows, f->row_bytes, &data) &&
           mb_add_size(*tokens, data, all) && mb_add_size(*all, HEADER_BYTES, all);
}

static enum mb_status check_rows(const char *path, const struct mb_logits_file *f,
                                 struct mb_error *error)
{
    for (size_t row = 0; row < f->windows * f->scored; row++) {
        const uint8_t *at = f->rows + row * f->row_bytes;
        const double scale = float_at(at), least = float_at(at + 4);
        if (!(scale >= 0 && scale <= 1) || !(least <= SLACK && least > -1e6) ||
            !(least + 65535 * scale <= SLACK)) {
            const int64_t where = at - f->mapping.data;
            return mb_error_set(error, MB_ERR_FILE, where,
                                "'%s', byte %" PRId64 ": row %zu of window %zu has scale %g and "
                                "least ln p %g, which are no log-probabilities; the file is "
                                "damaged",
                                path, where, row % f->scored, row / f->scored, scale, least);
        }
    }
    return MB_OK;
}

static enum mb_status parse(const char *path, struct mb_logits_file *f, struct mb_error *error)
{
    const uint8_t *data = f->mapping.data;
    if (f->mapping.bytes < HEADER_BYTES || memcmp(data, magic, MAGIC_BYTES) != 0)
        return mb_error_set(error, MB_ERR_FILE, 0,
                            "'%s' is no file of log-probabilities (no \"%s\" at its beginning)",
                            path, magic);
    const uint64_t counts[3] = {mb_gguf_little_endian(data + 8, 4),
                                mb_gguf_little_endian(data + 12, 4),
                                mb_gguf_little_endian(data + 16, 4)};
    if (counts[0] < LEAST_WINDOW || counts[0] > INT32_MAX || counts[1] == 0 ||
        counts[1] > INT32_MAX || counts[2] == 0 || counts[2] > INT32_MAX)
        return mb_error_set(error, MB_ERR_FILE, MAGIC_BYTES,
                            "'%s' claims %" PRIu64 " windows of %" PRIu64 " tokens and %" PRIu64
                            " words; it was not finished, or is damaged",
                            path, counts[2], counts[0], counts[1]);
    f->window = (size_t)counts[0];
    f->vocabulary = (size_t)counts[1];
    f->windows = (size_t)counts[2];
    f->scored = f->window - 1 - f->window / 2;
    f->row_bytes = mb_logits_row_bytes(f->vocabulary);
    size_t tokens = 0, all = 0;
    if (!file_bytes(f, &tokens, &all) || all != f->mapping.bytes)
        return mb_error_set(error, MB_ERR_FILE, (int64_t)f->mapping.bytes,
                            "'%s' has %zu bytes; %zu windows of %zu tokens and %zu words need %zu; "
                            "it was not finished, or is damaged",
                            path, f->mapping.bytes, f->windows, f->window, f->vocabulary, all);
    f->tokens = data + HEADER_BYTES;
    f->rows = f->tokens + tokens;
    return check_rows(path, f, error);
}

enum mb_status mb_logits_open(const char *path, struct mb_logits_file *file, struct mb_error *error)
{
    *file = (struct mb_logits_file){.window = 0};
    enum mb_status status = mb_mapping_open(path, &file->mapping, error);
    if (status == MB_OK)
        status = parse(path, file, error);
    if (status != MB_OK)
        mb_logits_close(file);
    return status;
}

void mb_logits_close(struct mb_logits_file *file)
{
    mb_mapping_close(&file->mapping);
    *file = (struct mb_logits_file){.window = 0};
}

int32_t mb_logits_token(const struct mb_logits_file *file, size_t i)
{
    const uint64_t bits = mb_gguf_little_endian(file->tokens + 4 * i, 4);
    return bits > INT32_MAX ? -1 : (int32_t)bits;
}

void mb_logits_decode(const struct mb_logits_file *file, size_t row, float *log_p)
{
    const uint8_t *at = file->rows + row * file->row_bytes;
    const float scale = (float)float_at(at), least = (float)float_at(at + 4);
    at += ROW_HEADER_BYTES;
    for (size_t i = 0; i < file->vocabulary; i++, at += 2)
        log_p[i] = scale * (float)(at[0] | at[1] << 8) + least;
}

/* ---- writing ---- */

static void put_float(uint8_t *at, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    for (size_t i = 0; i < 4; i++)
        at[i] = (uint8_t)(bits >> (8 * i));
}

void mb_logits_encode(const float *logits, double log_sum, size_t vocabulary, uint8_t *row)
{
    float most = logits[0], least = logits[0];
    for (size_t i = 1; i < vocabulary; i++) {
        most = logits[i] > most ? logits[i] : most;
        least = logits[i] < least ? logits[i] : least;
    }
    least = least > most - SPAN ? least : most - SPAN;
    const float scale = (most - least) / 65535.0f;
    put_float(row, scale);
    put_float(row + 4, (float)((double)least - log_sum));
    row += ROW_HEADER_BYTES;
    for (size_t i = 0; i < vocabulary; i++) {
        const float code = scale > 0 ? rintf((logits[i] - least) / scale) : 0.0f;
        const uint32_t bits = code > 0 ? (code < 65535.0f ? (uint32_t)code : 65535u) : 0u;
        row[2 * i] = (uint8_t)bits;
        row[2 * i + 1] = (uint8_t)(bits >> 8);
    }
    if (vocabulary % 2 != 0)
        row[2 * vocabulary] = row[2 * vocabulary + 1] = 0;
}

enum mb_status mb_logits_create(const char *path, const struct mb_windows *windows,
                                size_t vocabulary, struct mb_file **file, struct mb_error *error)
{
    if (windows->window > INT32_MAX || windows->count > INT32_MAX || vocabulary > INT32_MAX)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "'%s': a file of log-probabilities counts in 31 bits; use fewer "
                            "windows",
                            path);
    const enum mb_status status = mb_file_create(path, file, error);
    if (status != MB_OK)
        return status;
    (void)mb_file_write(*file, magic, MAGIC_BYTES);
    mb_gguf_put_number(*file, windows->window, 4);
    mb_gguf_put_number(*file, vocabulary, 4);
    mb_gguf_put_number(*file, windows->count, 4);
    for (size_t i = 0; i < windows->count * windows->window; i++)
        mb_gguf_put_number(*file, (uint32_t)windows->tokens[i], 4);
    return MB_OK;
}
