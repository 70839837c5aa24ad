/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring assignments side by side: see compare.h. What the figures say of each other is in
 * compare_judge.c. */
#include "cli/compare.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void mb_comparison_init(struct mb_comparison *comparison, struct mb_model *model)
{
    *comparison = (struct mb_comparison){.model = model};
}

void mb_comparison_free(struct mb_comparison *comparison)
{
    for (size_t i = 0; i < comparison->count; i++) {
        mb_mix_free(&comparison->rows[i].mix);
        mb_evaluation_free(&comparison->rows[i].evaluation);
        mb_speed_free(&comparison->rows[i].speed);
    }
    for (size_t i = 0; i < comparison->trial_count; i++)
        mb_mix_free(&comparison->trials[i].mix);
    free(comparison->trials);
    free(comparison->rows);
    *comparison = (struct mb_comparison){.model = NULL};
}

/* For one more row. */
static bool make_room(struct mb_comparison *comparison)
{
    if (comparison->count < comparison->capacity)
        return true;
    const size_t capacity = comparison->capacity ? 2 * comparison->capacity : 32;
    struct mb_assignment *rows = realloc(comparison->rows, capacity * sizeof *rows);
    if (!rows)
        return false;
    comparison->rows = rows;
    comparison->capacity = capacity;
    return true;
}

enum mb_status mb_comparison_add(struct mb_comparison *comparison, struct mb_mix *mix,
                                 enum mb_row_kind kind, const struct mb_forecast *forecast,
                                 size_t *index)
{
    for (size_t i = 0; i < comparison->count; i++) {
        if (mb_mix_same(comparison->model, &comparison->rows[i].mix, mix)) {
            mb_mix_free(mix);
            if (index)
                *index = i;
            return MB_OK;
        }
    }
    if (!make_room(comparison)) {
        mb_mix_free(mix);
        return MB_ERR_MEMORY;
    }
    if (index)
        *index = comparison->count;
    struct mb_assignment *row = &comparison->rows[comparison->count++];
    *row = (struct mb_assignment){.mix = *mix, .kind = kind, .kl_search = NAN};
    *mix = (struct mb_mix){.formats = NULL};
    row->bytes = mb_mix_bytes(comparison->model, &row->mix);
    mb_forecast_mix(forecast, &row->mix, row->predicted);
    row->predicted_decode_matmul_ns =
        row->predicted[MB_QUANTITY_DECODE] - forecast->fixed.decode_ns;
    row->predicted_prefill_matmul_ns =
        row->predicted[MB_QUANTITY_PREFILL] - forecast->fixed.prefill_ns;
    return MB_OK;
}

/* ---- measuring
 * ------------------------------------------------------------------------------------------------
 */

/* Where a stage over rows stands. */
struct within {
    struct mb_cli *cli;
    size_t row, count;
};

static enum mb_status report_row(struct mb_cli *cli, double row, size_t count, const char *note)
{
    return mb_progress_report(mb_stage_progress(cli), row, (double)count * 1.25, note);
}

static int report_within(void *user, double done, double total, const char *note)
{
    const struct within *w = user;
    return report_row(w->cli, (double)w->row + 0.5 * done / fmax(total, 1.0), w->count, note) !=
           MB_OK;
}

/* A draft is for timing alone. */
enum draft { EVALUATED, DRAFT };

/* `row`: of the stage, whose bar shows whole ones; encoding may take most of a row's time. */
static enum mb_status create_network(struct mb_cli *cli, const struct mb_comparison *comparison,
                                     const struct mb_compare_options *options,
                                     const struct mb_mix *mix, size_t row, enum draft draft,
                                     struct mb_network **network)
{
    const enum mb_format *formats = mix->formats;
    const struct within within = {cli, row, comparison->count};
    const struct mb_progress progress = {report_within, (void *)(uintptr_t)&within};
    enum mb_status status;
    if (comparison->encoder == NULL)
        status =
            mb_network_create_mix(comparison->model, formats, comparison->importance,
                                  MB_NUMERICS_KERNEL, options->threads, NULL, network, &cli->error);
    else if (draft == DRAFT)
        status = mb_network_create_draft(comparison->model, formats, comparison->encoder,
                                         options->threads, &progress, network, &cli->error);
    else
        status = mb_network_create_encoded(comparison->model, formats, comparison->encoder,
                                           MB_NUMERICS_KERNEL, options->threads, &progress, network,
                                           &cli->error);
    return status == MB_OK ? mb_network_offload(*network, options->target, &cli->error) : status;
}

/* A later turn may meet the machine in another phase. What was timed in an earlier one as well
 * tells by how much: the figures of all are brought to that one, so that they compare with its
 * rows. */
static void bring_back(struct mb_cli *cli, struct mb_speed *speeds, size_t count,
                       const struct mb_speed *first, const struct mb_speed *again, size_t known)
{
    const double noticed = 1.1, drift = mb_speed_bring_back(speeds, count, first, again, known);
    if (drift > noticed || drift < 1 / noticed)
        mb_warn(cli,
                "this machine is %.0f %% %s than when the rows before were timed: the times of "
                "these are brought to what it was then",
                100 * fabs(drift - 1), drift > 1 ? "slower" : "faster");
}

/* `count` networks in turns, and with them the anchor, whose place is behind them. */
static enum mb_status time_batch(struct mb_cli *cli, struct mb_comparison *comparison,
                                 const struct mb_compare_options *options,
                                 struct mb_network **networks, size_t count,
                                 struct mb_speed *speeds)
{
    const size_t row = options->anchor != NULL ? *options->anchor : SIZE_MAX;
    const struct mb_assignment *anchor =
        row < comparison->count && comparison->rows[row].measured ? &comparison->rows[row] : NULL;
    enum mb_status status = MB_OK;
    if (anchor != NULL)
        status =
            create_network(cli, comparison, options, &anchor->mix, row, DRAFT, &networks[count]);
    if (status != MB_OK)
        return status;
    for (size_t s = 0; s <= count; s++)
        speeds[s] = (struct mb_speed){.size = sizeof speeds[s]};
    const struct mb_speed_options timing = {.size = sizeof timing,
                                            .context = options->context,
                                            .repeats = options->repeats,
                                            .paced = options->paced};
    status = mb_network_speed(networks, count + (anchor != NULL), &timing, speeds, &cli->error);
    if (status != MB_OK)
        return status;
    comparison->turns++;
    if (anchor != NULL) {
        bring_back(cli, speeds, count, &anchor->speed, &speeds[count], 1);
        mb_speed_free(&speeds[count]);
    }
    return MB_OK;
}

/* The reference is run when the first row needs it. */
static enum mb_status run_reference(struct mb_cli *cli, const struct mb_comparison *comparison,
                                    const struct mb_compare_options *options,
                                    struct mb_reference **reference)
{
    struct mb_network *base = NULL;
    if (*reference != NULL)
        return MB_OK;
    enum mb_status status =
        mb_network_create(comparison->model, MB_NUMERICS_F32, options->threads, &base, &cli->error);
    if (status == MB_OK)
        status = mb_reference_create(base, options->windows, NULL, reference, &cli->error);
    mb_network_destroy(base);
    return status;
}

/* What a row loses that is rounded by `encoder`, and not known from before. */
static enum mb_status evaluate(struct mb_cli *cli, const struct mb_comparison *comparison,
                               const struct mb_compare_options *options,
                               const struct mb_assignment *row, const struct mb_encoder *encoder,
                               struct mb_network *network, struct mb_reference **reference,
                               struct mb_evaluation *evaluation)
{
    enum mb_status status = run_reference(cli, comparison, options, reference);
    if (status == MB_OK)
        status = mb_evaluate_against(network, *reference, options->windows, NULL, evaluation,
                                     &cli->error);
    if (status == MB_OK && comparison->losses != NULL)
        status =
            mb_losses_keep(comparison->losses, row->mix.formats, encoder, evaluation, &cli->error);
    return status;
}

static bool is_known(const struct mb_comparison *comparison, const struct mb_assignment *row,
                     const struct mb_encoder *encoder, struct mb_evaluation *evaluation)
{
    return comparison->losses != NULL &&
           mb_losses_find(comparison->losses, row->mix.formats, encoder, evaluation);
}

/* Rows [first, last) whose networks fit the memory limit together: evaluated one by one, timed in
 * turns. */
static enum mb_status measure_batch(struct mb_cli *cli, struct mb_comparison *comparison,
                                    const struct mb_compare_options *options,
                                    struct mb_reference **reference, size_t first, size_t *last)
{
    enum { BATCH = 64 };
    struct mb_network *networks[BATCH + 1] = {NULL}; /* the anchor last */
    struct mb_speed speeds[BATCH + 1];
    size_t batch[BATCH], count = 0, bytes = 0;
    enum mb_status status = MB_OK;
    size_t i = first;
    for (; i < comparison->count && count < BATCH; i++) {
        struct mb_assignment *row = &comparison->rows[i];
        if (row->measured)
            continue;
        if (count && bytes + (size_t)row->bytes > options->memory_limit_bytes)
            break;
        row->evaluation.size = sizeof row->evaluation;
        const bool known = is_known(comparison, row, comparison->encoder, &row->evaluation);
        status = create_network(cli, comparison, options, &row->mix, i, known ? DRAFT : EVALUATED,
                                &networks[count]);
        if (status != MB_OK)
            goto out;
        batch[count] = i;
        bytes += mb_network_bytes(networks[count]);
        if (!known)
            status = evaluate(cli, comparison, options, row, comparison->encoder, networks[count],
                              reference, &row->evaluation);
        count++;
        if (status == MB_OK)
            status = report_row(cli, (double)(i + 1), comparison->count, row->mix.name);
        if (status != MB_OK)
            goto out;
    }
    *last = i;
    if (!count)
        goto out;
    status = time_batch(cli, comparison, options, networks, count, speeds);
    for (size_t s = 0; s < count && status == MB_OK; s++) {
        comparison->rows[batch[s]].speed = speeds[s];
        comparison->rows[batch[s]].measured = 1;
        comparison->rows[batch[s]].turn = comparison->turns;
    }
out:
    for (size_t s = 0; s <= count; s++)
        if (networks[s])
            mb_network_destroy(networks[s]);
    return status;
}

enum mb_status mb_comparison_measure(struct mb_cli *cli, struct mb_comparison *comparison,
                                     const struct mb_compare_options *options)
{
    struct mb_reference *reference = NULL;
    size_t due = 0;
    for (size_t i = 0; i < comparison->count; i++)
        due += !comparison->rows[i].measured;
    if (due == 0)
        return MB_OK;
    mb_stage_begin(cli, "measuring %zu assignments", due);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < comparison->count && status == MB_OK;)
        status = measure_batch(cli, comparison, options, &reference, i, &i);
    mb_reference_destroy(reference);
    mb_stage_end(cli);
    /* They took turns: what one met, all did. */
    if (status == MB_OK && comparison->count > 0)
        mb_step_check_quiet(cli, &comparison->rows[comparison->count - 1].speed);
    return status;
}

static bool is_searched(const struct mb_assignment *row, double most_bytes)
{
    return (row->kind == MB_ROW_UNIFORM || row->kind == MB_ROW_PRESET) && row->bytes <= most_bytes;
}

static enum mb_status evaluate_search(struct mb_cli *cli, const struct mb_comparison *comparison,
                                      const struct mb_compare_options *options,
                                      struct mb_reference **reference, struct mb_assignment *row)
{
    struct mb_network *network = NULL;
    struct mb_evaluation evaluation = {.size = sizeof evaluation};
    enum mb_status status = MB_OK;
    if (!is_known(comparison, row, NULL, &evaluation)) {
        status = mb_network_create_mix(comparison->model, row->mix.formats, comparison->importance,
                                       MB_NUMERICS_KERNEL, options->threads, NULL, &network,
                                       &cli->error);
        if (status == MB_OK)
            status = evaluate(cli, comparison, options, row, NULL, network, reference, &evaluation);
    }
    if (status == MB_OK)
        row->kl_search = evaluation.kl_mean;
    mb_evaluation_free(&evaluation);
    mb_network_destroy(network);
    return status;
}

enum mb_status mb_comparison_search(struct mb_cli *cli, struct mb_comparison *comparison,
                                    const struct mb_compare_options *options, double most_bytes)
{
    struct mb_reference *reference = NULL;
    size_t due = 0;
    for (size_t i = 0; i < comparison->count && comparison->encoder != NULL; i++)
        due += is_searched(&comparison->rows[i], most_bytes);
    if (due == 0)
        return MB_OK;
    mb_stage_begin(cli, "measuring %zu of them as search rounds them", due);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < comparison->count && status == MB_OK; i++) {
        struct mb_assignment *row = &comparison->rows[i];
        if (is_searched(row, most_bytes))
            status = evaluate_search(cli, comparison, options, &reference, row);
        if (status == MB_OK)
            status = mb_progress_report(mb_stage_progress(cli), (double)(i + 1),
                                        (double)comparison->count, row->mix.name);
    }
    mb_reference_destroy(reference);
    mb_stage_end(cli);
    return status;
}

static double *copy_of(const double *values, size_t count)
{
    double *copy = malloc((count + 1) * sizeof *copy);
    if (copy != NULL && count > 0)
        memcpy(copy, values, count * sizeof *copy);
    return copy;
}

enum mb_status mb_comparison_round_again(struct mb_cli *cli, struct mb_comparison *comparison,
                                         const struct mb_compare_options *options, size_t row,
                                         struct mb_encoder *encoder, enum mb_row_kind kind)
{
    struct mb_comparison other = *comparison; /* as if its encoder were this one */
    struct mb_reference *reference = NULL;
    struct mb_network *network = NULL;
    struct mb_evaluation evaluation = {.size = sizeof evaluation};
    enum mb_status status = MB_OK;
    other.encoder = encoder;
    if (!is_known(comparison, &comparison->rows[row], encoder, &evaluation)) {
        mb_stage_begin(cli, "measuring what is written");
        status = create_network(cli, &other, options, &comparison->rows[row].mix, row, EVALUATED,
                                &network);
        if (status == MB_OK)
            status = evaluate(cli, comparison, options, &comparison->rows[row], encoder, network,
                              &reference, &evaluation);
        mb_network_destroy(network);
        mb_reference_destroy(reference);
        mb_stage_end(cli);
    }
    if (status == MB_OK && !make_room(comparison))
        status = MB_ERR_MEMORY;
    if (status != MB_OK) {
        mb_evaluation_free(&evaluation);
        return status;
    }
    const struct mb_assignment *like = &comparison->rows[row];
    struct mb_assignment *made = &comparison->rows[comparison->count];
    *made = *like;
    made->kind = kind;
    made->evaluation = evaluation;
    made->predicted[MB_QUANTITY_LOSS] = made->kl_search = NAN;
    made->recommended = 0;
    made->mix.formats = malloc((like->mix.count + 1) * sizeof *made->mix.formats);
    made->speed.decode_rounds = copy_of(like->speed.decode_rounds, like->speed.decode_round_count);
    made->speed.prefill_rounds =
        copy_of(like->speed.prefill_rounds, like->speed.prefill_round_count);
    comparison->count++; /* it is freed like the others, whatever it lacks */
    if (!made->mix.formats || !made->speed.decode_rounds || !made->speed.prefill_rounds)
        return MB_ERR_MEMORY;
    memcpy(made->mix.formats, like->mix.formats, like->mix.count * sizeof *made->mix.formats);
    return MB_OK;
}

/* Drafts of some mixes, in turns. Earlier figures in speeds are replaced. */
static enum mb_status time_drafts(struct mb_cli *cli, const struct mb_comparison *comparison,
                                  const struct mb_compare_options *options,
                                  const struct mb_mix *const *mixes, size_t count,
                                  struct mb_speed *speeds)
{
    struct mb_network **networks = calloc(count + 1, sizeof(struct mb_network *));
    enum mb_status status = networks ? MB_OK : MB_ERR_MEMORY;
    for (size_t i = 0; i < count && status == MB_OK; i++)
        status = create_network(cli, comparison, options, mixes[i], i, DRAFT, &networks[i]);
    const struct mb_speed_options timing = {.size = sizeof timing,
                                            .context = options->context,
                                            .repeats = options->repeats,
                                            .decode_only = !options->prefill,
                                            .progress = mb_stage_progress(cli)};
    if (status == MB_OK)
        status = mb_network_speed_again(networks, count, &timing, speeds, &cli->error);
    for (size_t i = 0; networks && i < count; i++)
        mb_network_destroy(networks[i]);
    free(networks);
    return status;
}

enum mb_status mb_comparison_time_again(struct mb_cli *cli, struct mb_comparison *comparison,
                                        const struct mb_compare_options *options,
                                        const size_t *rows, size_t count)
{
    const struct mb_mix **mixes = calloc(count + 1, sizeof(const struct mb_mix *));
    struct mb_speed *speeds = calloc(count + 1, sizeof *speeds),
                    *first = calloc(count + 1, sizeof *first); /* its rounds are freed meanwhile */
    enum mb_status status = mixes && speeds && first ? MB_OK : MB_ERR_MEMORY;
    double bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += comparison->rows[rows[i]].bytes;
    if (status != MB_OK || bytes > (double)options->memory_limit_bytes)
        goto out;
    for (size_t i = 0; i < count; i++) {
        mixes[i] = &comparison->rows[rows[i]].mix;
        first[i] = speeds[i] = comparison->rows[rows[i]].speed;
    }
    mb_stage_begin(cli, "timing the %zu that are close to each other", count);
    status = time_drafts(cli, comparison, options, mixes, count, speeds);
    comparison->turns++;
    if (status == MB_OK)
        bring_back(cli, speeds, count, first, speeds, count);
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        comparison->rows[rows[i]].speed = speeds[i];
        comparison->rows[rows[i]].turn = comparison->turns;
    }
    mb_stage_end(cli);
out:
    free(first);
    free(mixes);
    free(speeds);
    return status;
}

/* ---- trials
 * ----------------------------------------------------------------------------------------------
 */

/* What a mix takes over the anchor, and what its products took, had it been timed when the anchor
 * first was: the rest of a token is the same for both. */
static struct mb_trial_time trial_time(const struct mb_speed *mix, const struct mb_speed *anchor,
                                       const struct mb_speed *first, enum mb_quantity quantity)
{
    const bool decode = quantity == MB_QUANTITY_DECODE;
    struct mb_trial_time time;
    mb_compare_rounds(mix, anchor, quantity, &time.ratio, &time.low, &time.high);
    time.products_ns = (decode ? first->decode_matmul_ns : first->prefill_matmul_ns) +
                       (time.ratio - 1) * (decode ? first->decode_ns : first->prefill_ns);
    return time;
}

/* Those of `count` mixes that fit the memory limit beside the anchor, one at least. */
static size_t fitting(const struct mb_comparison *comparison,
                      const struct mb_compare_options *options, const struct mb_assignment *anchor,
                      const struct mb_mix *mixes, size_t count)
{
    double bytes = anchor->bytes;
    size_t fit = 0;
    while (fit < count) {
        bytes += mb_mix_bytes(comparison->model, &mixes[fit]);
        if (fit > 0 && bytes > (double)options->memory_limit_bytes)
            break;
        fit++;
    }
    return fit;
}

static enum mb_status try_batch(struct mb_cli *cli, struct mb_comparison *comparison,
                                const struct mb_compare_options *options,
                                const struct mb_assignment *anchor, struct mb_mix *mixes,
                                size_t count)
{
    const struct mb_mix **timed = calloc(count + 1, sizeof(const struct mb_mix *));
    struct mb_speed *speeds = calloc(count + 1, sizeof *speeds);
    enum mb_status status = timed && speeds ? MB_OK : MB_ERR_MEMORY;
    for (size_t i = 0; i <= count && status == MB_OK; i++) {
        speeds[i].size = sizeof speeds[i];
        timed[i] = i < count ? &mixes[i] : &anchor->mix;
    }
    if (status == MB_OK)
        status = time_drafts(cli, comparison, options, timed, count + 1, speeds);
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        struct mb_trial *trial = &comparison->trials[comparison->trial_count++];
        *trial = (struct mb_trial){.mix = mixes[i]};
        mixes[i] = (struct mb_mix){.formats = NULL};
        for (int q = MB_QUANTITY_DECODE; q <= MB_QUANTITY_PREFILL; q++)
            if (q == MB_QUANTITY_DECODE || options->prefill)
                trial->time[q] =
                    trial_time(&speeds[i], &speeds[count], &anchor->speed, (enum mb_quantity)q);
    }
    for (size_t i = 0; speeds && i <= count; i++)
        mb_speed_free(&speeds[i]);
    free(timed);
    free(speeds);
    return status;
}

enum mb_status mb_comparison_try(struct mb_cli *cli, struct mb_comparison *comparison,
                                 const struct mb_compare_options *options, struct mb_mix *mixes,
                                 size_t count)
{
    const struct mb_assignment *anchor = &comparison->rows[*options->anchor];
    struct mb_trial *trials =
        realloc(comparison->trials, (comparison->trial_count + count + 1) * sizeof *trials);
    if (!trials)
        return MB_ERR_MEMORY;
    comparison->trials = trials;
    enum mb_status status = MB_OK;
    for (size_t first = 0, batch; first < count && status == MB_OK; first += batch) {
        batch = fitting(comparison, options, anchor, &mixes[first], count - first);
        status = try_batch(cli, comparison, options, anchor, &mixes[first], batch);
    }
    return status;
}
