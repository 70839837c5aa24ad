/* SPDX-License-Identifier: Apache-2.0 */
/* llama.cpp's file of log-probabilities, the base that --kl-divergence compares with:
 *
 *   "_logits_" | i32 window | i32 vocabulary | i32 windows | i32 tokens[windows][window] | rows
 *   row: f32 scale | f32 least | u16 code[vocabulary, padded to even]      ln p = scale * code +
 * least
 *
 * A row is there for every scored position of every window: window / 2 .. window - 2. Codes span at
 * most 16 nats below the likeliest token; what is less likely has code 0. So ln p is off by up to
 * 8 / 65535 nats, and the probability that code 0 stands for is lost. */
#ifndef MIXBIT_MODEL_LOGITS_FILE_H
#define MIXBIT_MODEL_LOGITS_FILE_H

#include "mixbit/model.h"
#include "support/support.h"

#include <stdbool.h>

struct mb_logits_file {
    struct mb_mapping mapping; /* data NULL: none is open */
    size_t window, vocabulary, windows;
    size_t scored, row_bytes; /* rows per window; bytes of each */
    const uint8_t *tokens, *rows;
};

/* Every count, size and row's scale is checked. */
enum mb_status mb_logits_open(const char *path, struct mb_logits_file *file,
                              struct mb_error *error);
void mb_logits_close(struct mb_logits_file *file);
int32_t mb_logits_token(const struct mb_logits_file *file, size_t i);
/* ln p of every token, as stored. */
void mb_logits_decode(const struct mb_logits_file *file, size_t row, float *log_p);

size_t mb_logits_row_bytes(size_t vocabulary);
/* One row as stored, from logits and their log-sum-exp. */
void mb_logits_encode(const float *logits, double log_sum, size_t vocabulary, uint8_t *row);
/* Everything before the rows; they follow in order, then mb_file_commit. */
enum mb_status mb_logits_create(const char *path, const struct mb_windows *windows,
                                size_t vocabulary, struct mb_file **file, struct mb_error *error);

#endif
