/* SPDX-License-Identifier: Apache-2.0 */
/* References in memory and in files.
 *
 * A file's rows are scored as llama.cpp scores them, so that figures are the same: rounded
 * probabilities p are used as they are, though they don't sum to 1, and those of e^-16 or less are
 * left out: KL = sum p (ln p - ln q). */
#include "model/reference.h"

#include "model/network.h"
#include "model/vector.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ln p at and below which llama.cpp leaves a token out; what stands for one that is left out: its
 * probability is 0, and 0 times it is 0. */
#define LEFT_OUT (-16.0f)
#define NOTHING (-1000.0f)

enum mb_status mb_reference_allocate(struct mb_reference *reference, size_t rows,
                                     struct mb_error *error)
{
    size_t bytes = 0;
    if (mb_mul_size(rows, reference->vocabulary * sizeof(float), &bytes)) {
        reference->logits = mb_alloc_aligned(bytes);
        reference->sums = malloc(rows * sizeof *reference->sums);
    }
    if (reference->logits == NULL || reference->sums == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "out of memory for the reference's logits (%zu tokens x %zu words); "
                            "use fewer windows",
                            rows, reference->vocabulary);
    return MB_OK;
}

void mb_reference_destroy(struct mb_reference *reference)
{
    if (reference == NULL)
        return;
    mb_logits_close(&reference->file);
    mb_free_aligned(reference->logits);
    free(reference->sums);
    free(reference);
}

void mb_reference_keep(struct mb_reference *reference, const struct mb_vector *vector, size_t row,
                       const float *logits)
{
    const size_t vocabulary = reference->vocabulary;
    memcpy(reference->logits + row * vocabulary, logits, vocabulary * sizeof *logits);
    reference->sums[row] = vector->log_sum_exp(logits, vocabulary);
}

size_t mb_reference_scratch(const struct mb_reference *reference)
{
    return reference->logits == NULL ? reference->vocabulary : 0;
}

static void score_stored(const struct mb_reference *reference, const struct mb_vector *vector,
                         size_t row, const float *y, int target, float *log_p,
                         struct mb_row_score *score)
{
    const size_t vocabulary = reference->vocabulary;
    mb_logits_decode(&reference->file, row, log_p);
    const double reference_nll = -(double)log_p[target];
    for (size_t i = 0; i < vocabulary; i++)
        log_p[i] = log_p[i] > LEFT_OUT ? log_p[i] : NOTHING;
    mb_score_row(vector, y, log_p, 0.0, vocabulary, target, score);
    /* What is scored there takes the probabilities' sum to be 1. */
    const double log_sum = score->nll + (double)y[target];
    score->kl += (exp(vector->log_sum_exp(log_p, vocabulary)) - 1.0) * log_sum;
    score->reference_nll = reference_nll;
}

void mb_reference_score(const struct mb_reference *reference, const struct mb_vector *vector,
                        size_t row, const float *y, int target, float *scratch,
                        struct mb_row_score *score)
{
    if (reference->logits == NULL)
        score_stored(reference, vector, row, y, target, scratch, score);
    else
        mb_score_row(vector, y, reference->logits + row * reference->vocabulary,
                     reference->sums[row], reference->vocabulary, target, score);
}

/* ---- files ---- */

int mb_reference_is_file(const char *path)
{
    char start[8];
    FILE *file = fopen(path, "rb");
    const bool is = file != NULL && fread(start, 1, sizeof start, file) == sizeof start &&
                    memcmp(start, "_logits_", sizeof start) == 0;
    if (file != NULL)
        (void)fclose(file);
    return is;
}

/* The file has the text's own first tokens; what runs starts with BOS where the model wants it. */
static enum mb_status take_windows(const struct mb_logits_file *file, const struct mb_model *model,
                                   size_t count, struct mb_windows *windows, struct mb_error *error)
{
    struct mb_tokenizer *tokenizer;
    enum mb_status status = mb_tokenizer_create(model, &tokenizer, error);
    if (status != MB_OK)
        return status;
    const int32_t bos = mb_tokenizer_bos(tokenizer);
    mb_tokenizer_destroy(tokenizer);
    windows->tokens = malloc(count * file->window * sizeof *windows->tokens);
    if (windows->tokens == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokens of a file");
    for (size_t i = 0; i < count * file->window; i++)
        windows->tokens[i] = i % file->window == 0 && bos >= 0 ? bos : mb_logits_token(file, i);
    windows->count = count;
    windows->window = file->window;
    mb_hash_bytes(file->tokens, count * file->window * sizeof(int32_t), windows->text_hash);
    return MB_OK;
}

enum mb_status mb_reference_open(const char *path, const struct mb_model *model, size_t max_windows,
                                 struct mb_windows *windows, struct mb_reference **reference,
                                 struct mb_error *error)
{
    *reference = NULL;
    *windows = (struct mb_windows){.count = 0};
    struct mb_reference *made = calloc(1, sizeof *made);
    if (made == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a reference");
    enum mb_status status = mb_logits_open(path, &made->file, error);
    if (status == MB_OK) {
        const struct mb_logits_file *file = &made->file;
        made->windows =
            max_windows > 0 && max_windows < file->windows ? max_windows : file->windows;
        made->window = file->window;
        made->vocabulary = file->vocabulary;
        status = take_windows(file, model, made->windows, windows, error);
        memcpy(made->text_hash, windows->text_hash, sizeof made->text_hash);
    }
    if (status != MB_OK) {
        mb_reference_destroy(made);
        mb_windows_free(windows);
        return status;
    }
    *reference = made;
    return MB_OK;
}
