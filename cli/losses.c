/* SPDX-License-Identifier: Apache-2.0 */
/* Evaluations as entries of a journal (model/journal.h): the name of one is a hash of the mix and
 * of how it was rounded, its numbers are those of the evaluation, windows last. */
#include "cli/losses.h"

#include "model/encoder.h"
#include "model/importance.h"
#include "model/journal.h"
#include "support/support.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Raised when a change of arithmetic makes earlier figures other ones. */
enum { LOSSES_REVISION = 1 };

#define AT(field) offsetof(struct mb_evaluation, field)
static const size_t figures[] = {AT(perplexity),
                                 AT(perplexity_error),
                                 AT(reference_perplexity),
                                 AT(reference_perplexity_error),
                                 AT(kl_mean),
                                 AT(kl_error),
                                 AT(kl_max),
                                 AT(kl_p999),
                                 AT(kl_p99),
                                 AT(kl_p95),
                                 AT(kl_p90),
                                 AT(kl_median),
                                 AT(kl_p10),
                                 AT(kl_p05),
                                 AT(kl_p01),
                                 AT(kl_p001),
                                 AT(kl_min),
                                 AT(log_ratio),
                                 AT(log_ratio_error),
                                 AT(same_top),
                                 AT(same_top_error)};
enum { FIGURES = sizeof figures / sizeof figures[0], COUNTS = 1 };

struct mb_losses {
    struct mb_journal *journal;
    const struct mb_model *model;
    size_t windows, window;
    char importance[33];
};

static size_t value_count(size_t windows) { return COUNTS + FIGURES + 2 * windows; }

static double *figure(const struct mb_evaluation *evaluation, size_t i)
{
    return (double *)(void *)((char *)(uintptr_t)evaluation + figures[i]);
}

/* The activation types that a profile chose are part of what a mix loses. */
static void describe(const struct mb_losses_request *request, const char *importance,
                     char *settings, size_t bytes)
{
    const struct mb_windows *windows = request->windows;
    const struct mb_format_info *info;
    char tokens[33], activations[33], types[1024] = "";
    size_t at = 0;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL && at < sizeof types; i++)
        at += (size_t)snprintf(types + at, sizeof types - at, "%s %s ", info->name,
                               mb_activation_name(mb_matmul_activation(info->id)));
    mb_hash_bytes(types, strlen(types), activations);
    mb_hash_bytes(windows->tokens, windows->count * windows->window * sizeof *windows->tokens,
                  tokens);
    (void)snprintf(settings, bytes,
                   "losses revision %d, model %s, tokens %s, windows %zu x %zu, importance %s, "
                   "activations %s, device %s",
                   LOSSES_REVISION, mb_model_hash(request->model), tokens, windows->count,
                   windows->window, importance, activations, request->device);
}

enum mb_status mb_losses_open(const struct mb_losses_request *request, struct mb_losses **losses,
                              struct mb_error *error)
{
    char settings[512];
    struct mb_losses *made = calloc(1, sizeof *made);
    *losses = NULL;
    if (made == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory");
    *made = (struct mb_losses){.model = request->model,
                               .windows = request->windows->count,
                               .window = request->windows->window};
    mb_importance_hash(request->model, request->importance, made->importance);
    describe(request, made->importance, settings, sizeof settings);
    const size_t values = value_count(made->windows);
    enum mb_status status = mb_journal_open(request->path, settings, values, &made->journal, error);
    if (status == MB_ERR_STALE && remove(request->path) == 0) {
        *error = (struct mb_error){0};
        status = mb_journal_open(request->path, settings, values, &made->journal, error);
    }
    if (status == MB_OK)
        *losses = made;
    else
        mb_losses_close(made);
    return status;
}

void mb_losses_close(struct mb_losses *losses)
{
    if (losses == NULL)
        return;
    mb_journal_close(losses->journal);
    free(losses);
}

static enum mb_status name_of(const struct mb_losses *losses, const enum mb_format *formats,
                              const struct mb_encoder *encoder, char name[33])
{
    const size_t count = mb_model_tensor_count(losses->model);
    const char *rounding = encoder != NULL ? mb_encoder_hash(encoder) : "search";
    const size_t text = strlen(rounding);
    char *key = malloc(text + count * 2 + 1);
    if (key == NULL)
        return MB_ERR_MEMORY;
    memcpy(key, rounding, text);
    for (size_t i = 0; i < count; i++) {
        const enum mb_format format = formats[i] != MB_FORMAT_NONE
                                          ? formats[i]
                                          : mb_model_tensor_at(losses->model, i)->format;
        key[text + 2 * i] = (char)(format & 0xff);
        key[text + 2 * i + 1] = (char)(format >> 8);
    }
    mb_hash_bytes(key, text + 2 * count, name);
    free(key);
    return MB_OK;
}

bool mb_losses_find(const struct mb_losses *losses, const enum mb_format *formats,
                    const struct mb_encoder *encoder, struct mb_evaluation *evaluation)
{
    char name[33];
    const size_t windows = losses->windows;
    const double *values = name_of(losses, formats, encoder, name) == MB_OK
                               ? mb_journal_values(losses->journal, name, MB_FORMAT_F32)
                               : NULL;
    double *kl = values != NULL ? malloc(windows * sizeof *kl) : NULL;
    double *nll = values != NULL ? malloc(windows * sizeof *nll) : NULL;
    if (kl == NULL || nll == NULL) {
        free(kl);
        free(nll);
        return false;
    }
    *evaluation = (struct mb_evaluation){.size = evaluation->size,
                                         .windows = windows,
                                         .window = losses->window,
                                         .tokens = (size_t)values[0],
                                         .has_reference = 1,
                                         .window_kl = kl,
                                         .window_nll = nll};
    for (size_t i = 0; i < FIGURES; i++)
        *figure(evaluation, i) = values[COUNTS + i];
    memcpy(kl, values + COUNTS + FIGURES, windows * sizeof *kl);
    memcpy(nll, values + COUNTS + FIGURES + windows, windows * sizeof *nll);
    return true;
}

enum mb_status mb_losses_keep(struct mb_losses *losses, const enum mb_format *formats,
                              const struct mb_encoder *encoder,
                              const struct mb_evaluation *evaluation, struct mb_error *error)
{
    char name[33];
    const struct mb_loss loss = {1, evaluation->kl_mean, evaluation->kl_mean, evaluation->kl_mean,
                                 0};
    const size_t windows = losses->windows;
    double *values = malloc(value_count(windows) * sizeof *values);
    enum mb_status status =
        values != NULL ? name_of(losses, formats, encoder, name) : MB_ERR_MEMORY;
    if (status == MB_OK) {
        values[0] = (double)evaluation->tokens;
        for (size_t i = 0; i < FIGURES; i++)
            values[COUNTS + i] = *figure(evaluation, i);
        memcpy(values + COUNTS + FIGURES, evaluation->window_kl, windows * sizeof *values);
        memcpy(values + COUNTS + FIGURES + windows, evaluation->window_nll,
               windows * sizeof *values);
        status = mb_journal_append(losses->journal, name, MB_FORMAT_F32, &loss, values, error);
    } else {
        status = mb_error_set(error, status, -1, "out of memory");
    }
    free(values);
    return status;
}
