/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile GGUF file gets done to it, in the fuzzer and in the tests: opened, and if that
 * works, everything in it read - every metadata value, every byte of every tensor, the tokenizer.
 * The only demand is that nothing crashes and that every refusal has a one-line reason. */
#ifndef MIXBIT_TESTS_EXERCISE_H
#define MIXBIT_TESTS_EXERCISE_H

#include "mixbit/model.h"
#include "model/channelwise_blob.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/logits_file.h"

#include <math.h>

#include <stdlib.h>
#include <string.h>

static inline void exercise_require(int condition)
{
    if (!condition)
        abort();
}

static inline void exercise_error(const struct mb_error *error, enum mb_status status)
{
    exercise_require(error->status == status);
    exercise_require(error->message[0] != '\0' && strlen(error->message) < sizeof error->message);
    for (const char *at = error->message; *at != '\0'; at++)
        exercise_require(*at >= ' ' && *at <= '~');
}

static inline double exercise_metadata(const struct mb_model *model)
{
    double sum = 0.0;
    for (size_t i = 0; i < model->pair_count; i++) {
        const char *key = model->pairs[i].key;
        sum += (double)(mb_model_uint(model, key, 1) & 1) + mb_model_float(model, key, 0.0) +
               (double)strlen(mb_model_string(model, key, ""));
        for (size_t e = 0; e < mb_model_array_count(model, key); e++) {
            size_t bytes = 0;
            const char *text = mb_model_array_string(model, key, e, &bytes);
            for (size_t b = 0; b < bytes; b++)
                sum += (double)text[b];
            sum += mb_model_array_number(model, key, e);
        }
    }
    return sum;
}

/* Codebook matrices: what is accepted decodes to numbers. */
static inline void exercise_codebooks(const struct mb_model *model, size_t i)
{
    const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
    size_t at = 0;
    for (size_t m = 0; m < mb_codebook_matrices(model, i); m++) {
        struct mb_channelwise c;
        struct mb_blob_shape shape;
        struct mb_error error = {.message = ""};
        const uint8_t *record = (const uint8_t *)tensor->data + at;
        exercise_require(mb_blob_measure(record, tensor->bytes - at, &shape, NULL) == MB_OK);
        const enum mb_status status = mb_blob_read(record, tensor->bytes - at, &c, &error);
        if (status != MB_OK) {
            exercise_error(&error, status);
            return;
        }
        float *row = malloc(c.k * sizeof *row);
        exercise_require(row != NULL);
        for (size_t r = 0; r < c.n; r++) {
            mb_channelwise_decode(&c, r, r + 1, row);
            for (size_t column = 0; column < c.k; column++)
                exercise_require(isfinite(row[column]) != 0);
        }
        free(row);
        at += shape.bytes;
        mb_channelwise_free(&c);
    }
    exercise_require(mb_codebook_matrices(model, i) == 0 || at == tensor->bytes);
}

static inline unsigned exercise_tensors(const struct mb_model *model)
{
    unsigned sum = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const uint8_t *data = tensor->data;
        for (size_t b = 0; b < tensor->bytes; b++)
            sum += data[b];
        exercise_require(mb_model_tensor_find(model, tensor->name) == tensor);
        exercise_require(tensor->n > 0 && tensor->k > 0);
        exercise_codebooks(model, i);
        if (tensor->format != MB_FORMAT_NONE)
            exercise_require(mb_format_row_bytes(tensor->format, tensor->k) * tensor->n ==
                             tensor->bytes);
    }
    return sum;
}

/* Returns whether the file was accepted. */
static inline int exercise_file(const char *path)
{
    struct mb_model *model = NULL;
    struct mb_error error = {.message = ""};
    enum mb_status status = mb_model_open(path, &model, &error);
    if (status != MB_OK) {
        exercise_require(model == NULL);
        exercise_error(&error, status);
        return 0;
    }
    volatile double sink = exercise_metadata(model) + (double)exercise_tensors(model);
    (void)sink;
    exercise_require(strlen(mb_model_hash(model)) == 32);
    struct mb_tokenizer *tokenizer = NULL;
    status = mb_tokenizer_create(model, &tokenizer, &error);
    if (status == MB_OK) {
        static const char text[] = "the other <s> \xf0\x9f\x98\x80 ab  \n 123 \xff";
        int32_t *ids = NULL;
        size_t count = 0;
        const size_t tokens = mb_model_array_count(model, "tokenizer.ggml.tokens");
        exercise_require(mb_tokenize(tokenizer, text, sizeof text - 1, &ids, &count, &error) ==
                         MB_OK);
        for (size_t i = 0; i < count; i++)
            exercise_require(ids[i] >= 0 && (size_t)ids[i] < tokens);
        free(ids);
        mb_tokenizer_destroy(tokenizer);
    } else {
        exercise_error(&error, status);
    }
    mb_model_close(model);
    return 1;
}

/* An imatrix for `model`: what is accepted has sound weights for whole tensors. */
static inline int exercise_imatrix(const char *path, const struct mb_model *model)
{
    struct mb_importance *importance = NULL;
    struct mb_error error = {.message = ""};
    const enum mb_status status = mb_importance_load(path, model, &importance, &error);
    if (status != MB_OK) {
        exercise_require(importance == NULL);
        exercise_error(&error, status);
        return 0;
    }
    size_t known = 0;
    for (size_t i = 0; i < importance->tensor_count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const float *weights = importance->weights[i];
        for (size_t c = 0; weights != NULL && c < mb_tensor_matrices(tensor) * tensor->k; c++)
            exercise_require(isfinite(weights[c]) && weights[c] >= 0);
        known += weights != NULL;
    }
    exercise_require(known > 0 && strlen(importance->hash) == 32);
    mb_importance_free(importance);
    return 1;
}

/* A file of log-probabilities: what is accepted has every row, and no probability above 1. */
static inline int exercise_logits(const char *path)
{
    struct mb_logits_file file;
    struct mb_error error = {.message = ""};
    const enum mb_status status = mb_logits_open(path, &file, &error);
    if (status != MB_OK) {
        exercise_error(&error, status);
        return 0;
    }
    float *log_p = malloc(file.vocabulary * sizeof *log_p);
    exercise_require(log_p != NULL);
    for (size_t row = 0; row < file.windows * file.scored; row++) {
        mb_logits_decode(&file, row, log_p);
        for (size_t i = 0; i < file.vocabulary; i++)
            exercise_require(log_p[i] < 0.02f && log_p[i] > -2e6f);
    }
    for (size_t i = 0; i < file.windows * file.window; i++)
        exercise_require(mb_logits_token(&file, i) >= -1);
    free(log_p);
    mb_logits_close(&file);
    return 1;
}

#endif
