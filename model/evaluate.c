/* SPDX-License-Identifier: Apache-2.0 */
/* Perplexity and KL divergence over windows, llama.cpp's way: consecutive independent windows, the
 * second half of each is scored.
 *
 * Row t of a window predicts token t + 1, so rows window / 2 .. window - 2 are scored. Rows are
 * scored on all threads into an array and added up in order, so figures do not depend on the number
 * of threads. */
#include "model/network.h"

#include "model/reference.h"
#include "model/statistics.h"
#include "model/vector.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One network with what it needs to give logits of a chunk, block by block. */
struct side {
    struct mb_run *run;
    float *block;
};

struct evaluator {
    const struct mb_windows *windows;
    size_t first, scored; /* rows of a window: [first, first + scored) */
    size_t chunk;         /* windows */
    uint32_t *rows;
    struct side own, other;               /* other.run NULL: none, or logits are kept */
    struct mb_reference *kept, *recorded; /* compared with; filled */
    float *scratch;                       /* per thread, for kept */
    struct mb_file *saved;                /* every row goes there; NULL: none */
    uint8_t *encoded;                     /* of a block, as saved */
    struct mb_row_score *scores;          /* of a block */
    struct mb_sums nll, kl;               /* x: own nll, y: the reference's; x: kl, y: same top */
    float *kls;                           /* every token's, for the percentiles */
    struct mb_evaluation *result;
};

static void side_free(struct side *side)
{
    mb_run_destroy(side->run);
    mb_free_aligned(side->block);
}

static enum mb_status side_init(struct side *side, struct mb_network *network,
                                const struct evaluator *e, size_t block_rows,
                                struct mb_error *error)
{
    side->block = mb_alloc_aligned(block_rows * network->vocabulary * sizeof *side->block);
    if (side->block == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for logits");
    enum mb_status status = mb_run_create(network, e->chunk * e->windows->window,
                                          e->windows->window, &side->run, error);
    if (status != MB_OK)
        return status;
    side->run->tokens = e->windows->window;
    side->run->scored = e->rows;
    return MB_OK;
}

static enum mb_status side_run(struct side *side, const struct evaluator *e, size_t window0,
                               size_t count)
{
    side->run->ids = e->windows->tokens + window0 * e->windows->window;
    side->run->sequences = count;
    side->run->scored_count = count * e->scored;
    return mb_run_steps(side->run, 0, side->run->network->step_count);
}

/* ---- one block of rows ---- */

struct block {
    struct evaluator *e;
    size_t row0; /* within all scored rows */
    const float *own, *other;
};

static void score_rows(void *arg, size_t first, size_t last, size_t thread)
{
    const struct block *block = arg;
    const struct evaluator *e = block->e;
    const size_t vocabulary = e->own.run->network->vocabulary;
    const struct mb_vector *vector = e->own.run->vector;
    for (size_t i = first; i < last; i++) {
        const size_t row = block->row0 + i, window = row / e->scored;
        const size_t at = window * e->windows->window + e->first + row % e->scored;
        const float *own = block->own + i * vocabulary;
        const float *other = block->other ? block->other + i * vocabulary : NULL;
        const int target = e->windows->tokens[at + 1];
        if (e->kept != NULL)
            mb_reference_score(e->kept, vector, row, own, target,
                               e->scratch + thread * mb_reference_scratch(e->kept), &e->scores[i]);
        else
            mb_score_row(vector, own, other, other ? vector->log_sum_exp(other, vocabulary) : 0.0,
                         vocabulary, target, &e->scores[i]);
        if (e->recorded != NULL)
            mb_reference_keep(e->recorded, vector, row, own);
        if (e->saved != NULL)
            mb_logits_encode(own, vector->log_sum_exp(own, vocabulary), vocabulary,
                             e->encoded + i * mb_logits_row_bytes(vocabulary));
    }
}

static enum mb_status add_scores(struct evaluator *e, size_t row0, size_t count,
                                 struct mb_error *error)
{
    for (size_t i = 0; i < count; i++) {
        const struct mb_row_score *score = &e->scores[i];
        const size_t row = row0 + i, window = row / e->scored;
        if (!isfinite(score->nll) || !isfinite(score->kl) || !isfinite(score->reference_nll))
            return mb_error_set(error, MB_ERR_VERIFY, -1,
                                "window %zu, token %zu: the model's output is not finite; its "
                                "weights are damaged, or a format overflowed",
                                window, e->first + row % e->scored + 1);
        mb_sums_add(&e->nll, score->nll, score->reference_nll);
        mb_sums_add(&e->kl, score->kl, score->same_top);
        if (e->result == NULL)
            continue;
        e->result->window_nll[window] += score->nll / (double)e->scored;
        e->result->window_kl[window] += score->kl / (double)e->scored;
        e->kls[row] = (float)score->kl;
    }
    return MB_OK;
}

static enum mb_status score_chunk(struct evaluator *e, size_t window0, size_t count,
                                  struct mb_error *error)
{
    enum mb_status status = side_run(&e->own, e, window0, count);
    if (status == MB_OK && e->other.run != NULL)
        status = side_run(&e->other, e, window0, count);
    const size_t room = mb_head_rows(e->own.run->network), rows = count * e->scored;
    const size_t vocabulary = e->own.run->network->vocabulary;
    for (size_t row = 0; row < rows && status == MB_OK; row += room) {
        const size_t some = rows - row < room ? rows - row : room;
        struct block block = {e, window0 * e->scored + row, e->own.block, NULL};
        status = mb_run_head(e->own.run, row, some, e->own.block);
        if (status == MB_OK && e->other.run != NULL) {
            status = mb_run_head(e->other.run, row, some, e->other.block);
            block.other = e->other.block;
        }
        if (status != MB_OK)
            break;
        mb_split(e->own.run->network->threads, some, some * vocabulary * 8, score_rows, &block);
        status = add_scores(e, block.row0, some, error);
        if (status != MB_OK)
            return status;
        /* The reason of a write that failed is told when the file is committed. */
        if (e->saved != NULL &&
            mb_file_write(e->saved, e->encoded, some * mb_logits_row_bytes(vocabulary)) != MB_OK)
            return MB_ERR_IO;
    }
    if (status != MB_OK)
        mb_error_set(error, status, -1, "the forward pass failed: %s", mb_status_string(status));
    return status;
}

/* ---- all of them ---- */

static enum mb_status evaluator_init(struct evaluator *e, struct mb_network *network,
                                     struct mb_network *reference, const struct mb_windows *windows,
                                     struct mb_error *error)
{
    enum mb_status status = mb_windows_check(network, windows, error);
    if (status == MB_OK && windows->window < 4)
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1,
                              "a window of %zu tokens has nothing to score; 4 are the least",
                              windows->window);
    if (status == MB_OK && reference != NULL && reference->vocabulary != network->vocabulary)
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1,
                              "the reference has a vocabulary of %zu tokens, the model %zu; "
                              "compare quantizations of one model",
                              reference->vocabulary, network->vocabulary);
    if (status != MB_OK)
        return status;
    e->windows = windows;
    e->first = windows->window / 2;
    e->scored = windows->window - 1 - e->first;
    e->chunk = mb_windows_per_chunk(windows, 0);
    const size_t room = mb_head_rows(network);
    const size_t scratch = e->kept != NULL ? mb_reference_scratch(e->kept) : 0;
    e->rows = malloc(e->chunk * e->scored * sizeof *e->rows);
    e->scores = malloc(room * sizeof *e->scores);
    e->scratch = malloc((scratch * mb_threads_count(network->threads) + 1) * sizeof *e->scratch);
    if (e->rows == NULL || e->scores == NULL || e->scratch == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an evaluation");
    mb_scored_rows(e->chunk, windows->window, e->first, e->first + e->scored, e->rows);
    status = side_init(&e->own, network, e, room, error);
    if (status == MB_OK && reference != NULL)
        status = side_init(&e->other, reference, e, room, error);
    return status;
}

static void evaluator_free(struct evaluator *e)
{
    side_free(&e->own);
    side_free(&e->other);
    free(e->rows);
    free(e->scores);
    free(e->scratch);
    free(e->encoded);
    free(e->kls);
}

static enum mb_status run_windows(struct evaluator *e, const struct mb_progress *progress,
                                  struct mb_error *error)
{
    const size_t total = e->windows->count;
    for (size_t w = 0;; w += e->chunk) {
        const size_t done = w < total ? w : total;
        char note[64];
        snprintf(note, sizeof note, "window %zu of %zu", done, total);
        if (mb_progress_report(progress, (double)done, (double)total, note) != MB_OK)
            return mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                                "interrupted at window %zu of %zu; run it again", done, total);
        if (done == total)
            return MB_OK;
        const enum mb_status status =
            score_chunk(e, w, total - w < e->chunk ? total - w : e->chunk, error);
        if (status != MB_OK)
            return status;
    }
}

static void summarize(struct evaluator *e, struct mb_evaluation *r)
{
    r->windows = e->windows->count;
    r->window = e->windows->window;
    r->tokens = e->nll.count;
    r->perplexity = exp(mb_sums_mean_x(&e->nll));
    r->perplexity_error = r->perplexity * mb_sums_error_x(&e->nll);
    r->has_reference = e->other.run != NULL || e->kept != NULL;
    if (!r->has_reference)
        return;
    r->reference_perplexity = exp(mb_sums_mean_y(&e->nll));
    r->reference_perplexity_error = r->reference_perplexity * mb_sums_error_y(&e->nll);
    r->log_ratio = mb_sums_mean_x(&e->nll) - mb_sums_mean_y(&e->nll);
    r->log_ratio_error = mb_sums_error_difference(&e->nll);
    r->kl_mean = mb_sums_mean_x(&e->kl);
    r->kl_error = mb_sums_error_x(&e->kl);
    r->same_top = mb_sums_mean_y(&e->kl);
    r->same_top_error = mb_sums_error_y(&e->kl);
    const size_t n = e->kl.count;
    mb_sort_floats(e->kls, n);
    r->kl_max = mb_percentile(e->kls, n, 1.0);
    r->kl_p999 = mb_percentile(e->kls, n, 0.999);
    r->kl_p99 = mb_percentile(e->kls, n, 0.99);
    r->kl_p95 = mb_percentile(e->kls, n, 0.95);
    r->kl_p90 = mb_percentile(e->kls, n, 0.90);
    r->kl_median = mb_percentile(e->kls, n, 0.50);
    r->kl_p10 = mb_percentile(e->kls, n, 0.10);
    r->kl_p05 = mb_percentile(e->kls, n, 0.05);
    r->kl_p01 = mb_percentile(e->kls, n, 0.01);
    r->kl_p001 = mb_percentile(e->kls, n, 0.001);
    r->kl_min = mb_percentile(e->kls, n, 0.0);
}

/* ---- evaluations ---- */

static enum mb_status check_kept(const struct mb_network *network, const struct mb_reference *kept,
                                 const struct mb_windows *windows, struct mb_error *error)
{
    if (kept->vocabulary != network->vocabulary)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "the reference has a vocabulary of %zu tokens, the model %zu; compare "
                            "quantizations of one model",
                            kept->vocabulary, network->vocabulary);
    if (kept->windows != windows->count || kept->window != windows->window ||
        strcmp(kept->text_hash, windows->text_hash) != 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "the reference was made from other windows; make it from these");
    return MB_OK;
}

static enum mb_status allocate_results(struct evaluator *e, struct mb_error *error)
{
    const size_t windows = e->windows->count;
    e->kls = malloc(windows * e->scored * sizeof *e->kls);
    e->result->window_kl = calloc(windows, sizeof(double));
    e->result->window_nll = calloc(windows, sizeof(double));
    if (!e->kls || !e->result->window_kl || !e->result->window_nll)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an evaluation");
    return MB_OK;
}

static enum mb_status open_saved(struct evaluator *e, const struct mb_network *network,
                                 const char *path, struct mb_error *error)
{
    e->encoded = malloc(mb_head_rows(network) * mb_logits_row_bytes(network->vocabulary));
    if (e->encoded == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an evaluation");
    return mb_logits_create(path, e->windows, network->vocabulary, &e->saved, error);
}

/* The file appears when all of it was made; a write that failed says why. */
static enum mb_status close_saved(struct evaluator *e, enum mb_status status,
                                  struct mb_error *error)
{
    struct mb_file *file = e->saved;
    e->saved = NULL;
    if (file != NULL && (status == MB_OK || status == MB_ERR_IO))
        return mb_file_commit(file, error);
    mb_file_abandon(file);
    return status;
}

enum mb_status mb_evaluate_with(struct mb_network *network,
                                const struct mb_evaluate_options *options,
                                struct mb_evaluation *evaluation, struct mb_error *error)
{
    struct evaluator e = {.kept = options->reference, .result = evaluation};
    *evaluation = (struct mb_evaluation){.size = evaluation->size};
    enum mb_status status = MB_OK;
    if (e.kept != NULL && options->reference_network != NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "two references: one is compared with");
    if (e.kept != NULL)
        status = check_kept(network, e.kept, options->windows, error);
    if (status == MB_OK)
        status = evaluator_init(&e, network, options->reference_network, options->windows, error);
    if (status == MB_OK)
        status = allocate_results(&e, error);
    if (status == MB_OK && options->save_path != NULL)
        status = open_saved(&e, network, options->save_path, error);
    if (status == MB_OK) {
        status = run_windows(&e, options->progress, error);
        status = close_saved(&e, status, error);
    }
    if (status == MB_OK)
        summarize(&e, evaluation);
    else
        mb_evaluation_free(evaluation);
    evaluator_free(&e);
    return status;
}

enum mb_status mb_evaluate(struct mb_network *network, struct mb_network *reference,
                           const struct mb_windows *windows, const struct mb_progress *progress,
                           struct mb_evaluation *evaluation, struct mb_error *error)
{
    const struct mb_evaluate_options options = {.size = sizeof options,
                                                .windows = windows,
                                                .reference_network = reference,
                                                .progress = progress};
    return mb_evaluate_with(network, &options, evaluation, error);
}

enum mb_status mb_evaluate_against(struct mb_network *network, struct mb_reference *reference,
                                   const struct mb_windows *windows,
                                   const struct mb_progress *progress,
                                   struct mb_evaluation *evaluation, struct mb_error *error)
{
    const struct mb_evaluate_options options = {
        .size = sizeof options, .windows = windows, .reference = reference, .progress = progress};
    return mb_evaluate_with(network, &options, evaluation, error);
}

void mb_evaluation_free(struct mb_evaluation *evaluation)
{
    if (evaluation == NULL)
        return;
    free(evaluation->window_kl);
    free(evaluation->window_nll);
    evaluation->window_kl = NULL;
    evaluation->window_nll = NULL;
}

/* ---- references ---- */

enum mb_status mb_reference_create(struct mb_network *network, const struct mb_windows *windows,
                                   const struct mb_progress *progress,
                                   struct mb_reference **reference, struct mb_error *error)
{
    *reference = NULL;
    struct mb_reference *made = calloc(1, sizeof *made);
    if (made == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a reference");
    struct evaluator e = {.recorded = made};
    enum mb_status status = evaluator_init(&e, network, NULL, windows, error);
    if (status == MB_OK) {
        made->windows = windows->count;
        made->window = windows->window;
        made->vocabulary = network->vocabulary;
        memcpy(made->text_hash, windows->text_hash, sizeof made->text_hash);
        status = mb_reference_allocate(made, windows->count * e.scored, error);
    }
    if (status == MB_OK)
        status = run_windows(&e, progress, error);
    evaluator_free(&e);
    if (status != MB_OK) {
        mb_reference_destroy(made);
        return status;
    }
    *reference = made;
    return MB_OK;
}
