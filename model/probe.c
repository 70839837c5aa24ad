/* SPDX-License-Identifier: Apache-2.0 */
/* The prober: what is kept of the base, and restarting from it.
 *
 * The store holds slots of all windows as they are before step `at`. With room for all slots it
 * stands right behind the probed step, and a probe costs one product plus what follows; without, it
 * stands where the layer starts and a probe runs up to its step first. Everything goes chunk by
 * chunk through one run's buffers. */
#include "model/probe.h"

#include "model/measures.h"
#include "model/statistics.h"
#include "model/vector.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mb_prober {
    struct mb_network *network;
    const struct mb_windows *windows;
    size_t chunk; /* windows at a time */
    size_t *offsets;
    uint32_t *scored; /* per scored row: its row within its chunk */
    size_t tokens, score_step;
    struct mb_run *run;
    /* the store */
    float *slots[MB_SLOT_COUNT];
    unsigned kept;  /* slots that have room */
    unsigned valid; /* slots that hold what they held before step `at` */
    size_t at;
    int economy;
    /* the base's end */
    float *normed; /* [tokens][width] */
    float *logits; /* [tokens][vocabulary], NULL: made anew */
    double *sums;
    float *block, *base_block;
    double *measures; /* the caller's */
    /* what one product puts out unchanged, for product errors */
    struct mb_target product;
    float *output;      /* [rows][n]; NULL: none is kept */
    double *row_errors; /* per row of all windows */
};

struct mb_target mb_target_of(const struct mb_network *network, size_t matrix)
{
    struct mb_target target = {.kind = MB_TARGET_HEAD, .step = network->step_count};
    if (matrix == network->embedding)
        return (struct mb_target){.kind = MB_TARGET_EMBEDDING};
    for (size_t s = 0; s < network->step_count; s++)
        for (size_t p = 0; p < network->steps[s].product_count; p++)
            if (network->steps[s].products[p].matrix == matrix)
                return (struct mb_target){MB_TARGET_PRODUCT, s, p};
    return target;
}

size_t mb_prober_tokens(const struct mb_prober *prober) { return prober->tokens; }
const size_t *mb_prober_offsets(const struct mb_prober *prober) { return prober->offsets; }
int mb_prober_economy(const struct mb_prober *prober) { return prober->economy; }
size_t mb_prober_position(const struct mb_prober *prober, size_t i)
{
    return prober->scored[i] % prober->windows->window;
}

/* ---- which rows are scored ---- */

size_t mb_prober_spread(size_t tokens, size_t windows, size_t w)
{
    return tokens / windows * w + tokens % windows * w / windows;
}

/* Second halves as in an evaluation; fewer tokens are spread evenly over them; more tokens than
 * they have score everything but each window's first token. Every window gets at least one. */
static enum mb_status choose_rows(struct mb_prober *p, size_t wanted, struct mb_error *error)
{
    const size_t windows = p->windows->count, window = p->windows->window;
    size_t first = window / 2, each = window - 1 - first;
    if (wanted > windows * each) {
        first = 0;
        each = window - 1;
        wanted = windows * each;
    }
    if (wanted == 0)
        wanted = windows * each;
    if (wanted < windows)
        wanted = windows;
    p->offsets = malloc((windows + 1) * sizeof *p->offsets);
    p->scored = malloc(wanted * sizeof *p->scored);
    if (p->offsets == NULL || p->scored == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    p->tokens = wanted;
    for (size_t w = 0; w <= windows; w++)
        p->offsets[w] = mb_prober_spread(wanted, windows, w);
    for (size_t w = 0; w < windows; w++) {
        const size_t count = p->offsets[w + 1] - p->offsets[w];
        for (size_t i = 0; i < count; i++)
            p->scored[p->offsets[w] + i] =
                (uint32_t)(w % p->chunk * window + first + (2 * i + 1) * each / (2 * count));
    }
    return MB_OK;
}

/* ---- memory ---- */

static size_t slot_bytes(const struct mb_prober *p, unsigned mask)
{
    const size_t rows = p->windows->count * p->windows->window;
    size_t bytes = 0;
    for (size_t s = 0; s < MB_SLOT_COUNT; s++)
        if (mask & 1u << s)
            bytes += rows * p->network->slot_width[s] * sizeof(float);
    return bytes;
}

/* What restarts anywhere in a layer need from its start. */
static unsigned live_at_layers(const struct mb_network *network)
{
    unsigned live = 0;
    for (size_t s = 1; s < network->step_count; s++)
        if (network->steps[s].layer != network->steps[s - 1].layer)
            live |= mb_slots_live(network, s);
    return live;
}

/* Keep as much as the limit allows: finer slots go first, since making them again costs part of a
 * layer; base logits next, which cost the head. */
static enum mb_status allocate(struct mb_prober *p, size_t limit, struct mb_error *error)
{
    const struct mb_network *network = p->network;
    const unsigned all = (1u << MB_SLOT_COUNT) - 1, coarse = live_at_layers(network);
    const size_t normed = p->tokens * network->slot_width[MB_SLOT_NORMED] * sizeof(float);
    const size_t least = slot_bytes(p, coarse) + normed;
    size_t logits;
    if (limit == 0)
        limit = mb_free_memory() / 2;
    if (!mb_mul_size(p->tokens, network->vocabulary * sizeof(float), &logits))
        logits = SIZE_MAX / 2;
    if (least > limit)
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "sensing %zu windows of %zu tokens needs at least %zu MiB and may use "
                            "%zu; use fewer windows or a larger limit",
                            p->windows->count, p->windows->window, (least >> 20) + 1, limit >> 20);
    p->economy = limit - least >= logits ? 1 : 2;
    if (p->economy == 1 && limit - least - logits >= slot_bytes(p, all & ~coarse))
        p->economy = 0;
    p->kept = p->economy == 0 ? all : coarse;
    bool complete = (p->normed = mb_alloc_aligned(normed)) != NULL;
    for (size_t s = 0; s < MB_SLOT_COUNT; s++)
        if (p->kept & 1u << s)
            complete = complete && (p->slots[s] = mb_alloc_aligned(slot_bytes(p, 1u << s))) != NULL;
    const size_t block = mb_head_rows(network) * network->vocabulary * sizeof(float);
    if (p->economy < 2)
        complete = complete && (p->logits = mb_alloc_aligned(logits)) != NULL;
    else
        complete = complete && (p->base_block = mb_alloc_aligned(block)) != NULL;
    complete = complete && (p->block = mb_alloc_aligned(block)) != NULL &&
               (p->sums = malloc(p->tokens * sizeof *p->sums)) != NULL;
    return complete ? MB_OK
                    : mb_error_set(error, MB_ERR_MEMORY, -1,
                                   "out of memory for sensing; use fewer windows or a smaller "
                                   "memory limit");
}

/* ---- chunks ---- */

static void set_batch(struct mb_prober *p, size_t window0)
{
    const size_t left = p->windows->count - window0, window = p->windows->window;
    struct mb_run *run = p->run;
    run->sequences = left < p->chunk ? left : p->chunk;
    run->tokens = window;
    run->ids = p->windows->tokens + window0 * window;
    run->scored = p->scored + p->offsets[window0];
    run->scored_count = p->offsets[window0 + run->sequences] - p->offsets[window0];
}

/* Copy slots of a chunk between the store, as it is before `step`, and the run. */
static void copy_slots(struct mb_prober *p, size_t window0, size_t step, unsigned mask, bool load)
{
    const bool compact = step > p->score_step;
    struct mb_run *run = p->run;
    const size_t row0 = compact ? p->offsets[window0] : window0 * p->windows->window;
    const size_t rows = compact ? run->scored_count : run->sequences * run->tokens;
    if (load)
        run->rows = rows;
    for (size_t s = 0; s < MB_SLOT_COUNT; s++) {
        const size_t width = p->network->slot_width[s];
        if (!(mask & 1u << s))
            continue;
        float *kept = p->slots[s] + row0 * width;
        memcpy(load ? run->slots[s] : kept, load ? kept : run->slots[s],
               rows * width * sizeof(float));
    }
}

static enum mb_status failed(enum mb_status status, struct mb_error *error)
{
    if (status == MB_OK)
        return MB_OK;
    return mb_error_set(error, status, -1, "the forward pass failed: %s", mb_status_string(status));
}

/* Move the store from `at` to before step `to`, keeping `also` beside what is live there. */
static enum mb_status advance(struct mb_prober *p, size_t to, unsigned also, struct mb_error *error)
{
    const unsigned load = mb_slots_live(p->network, p->at) & p->kept;
    const unsigned keep = (mb_slots_live(p->network, to) | also) & p->kept;
    if (to <= p->at)
        return MB_OK;
    enum mb_status status = MB_OK;
    for (size_t w = 0; w < p->windows->count && status == MB_OK; w += p->chunk) {
        set_batch(p, w);
        if (p->at > 0)
            copy_slots(p, w, p->at, load, true);
        status = mb_run_steps(p->run, p->at, to);
        if (status == MB_OK)
            copy_slots(p, w, to, keep, false);
    }
    p->at = to;
    p->valid = keep;
    return failed(status, error);
}

enum mb_status mb_prober_seek(struct mb_prober *p, const struct mb_target *target,
                              struct mb_error *error)
{
    const struct mb_network *network = p->network;
    if (target->kind != MB_TARGET_PRODUCT)
        return MB_OK;
    if (p->economy == 0)
        return advance(p, target->step + 1, mb_step_reads(&network->steps[target->step]), error);
    size_t start = target->step;
    while (start > 1 && network->steps[start - 1].layer == network->steps[target->step].layer)
        start--;
    return advance(p, start, 0, error);
}

/* ---- the end of the base ---- */

static enum mb_status check_sums(const struct mb_prober *p, size_t row0, size_t rows,
                                 struct mb_error *error)
{
    for (size_t i = row0; i < row0 + rows; i++)
        if (!isfinite(p->sums[i]))
            return mb_error_set(error, MB_ERR_VERIFY, -1,
                                "the model's own output is not finite at position %zu of a window; "
                                "its weights are damaged",
                                mb_prober_position(p, i));
    return MB_OK;
}

struct sums_task {
    struct mb_prober *p;
    const float *logits;
    size_t row0;
};

static void sum_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct sums_task *task = arg;
    const size_t vocabulary = task->p->network->vocabulary;
    for (size_t i = first; i < last; i++)
        task->p->sums[task->row0 + i] =
            task->p->run->vector->log_sum_exp(task->logits + i * vocabulary, vocabulary);
}

static enum mb_status finish_base(struct mb_prober *p, const struct mb_progress *progress,
                                  struct mb_error *error)
{
    const struct mb_network *network = p->network;
    const size_t room = mb_head_rows(network), width = network->slot_width[MB_SLOT_NORMED];
    enum mb_status status = MB_OK;
    for (size_t w = 0; w < p->windows->count && status == MB_OK; w += p->chunk) {
        if (mb_progress_report(progress, (double)w, (double)p->windows->count,
                               "base distribution") != MB_OK)
            return mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                                "interrupted; run it again to go on");
        set_batch(p, w);
        status = mb_run_steps(p->run, 0, network->step_count);
        const size_t row0 = p->offsets[w], rows = p->run->scored_count;
        if (status == MB_OK)
            memcpy(p->normed + row0 * width, p->run->slots[MB_SLOT_NORMED],
                   rows * width * sizeof *p->normed);
        for (size_t row = row0; row < row0 + rows && status == MB_OK; row += room) {
            const size_t left = row0 + rows - row, some = left < room ? left : room;
            float *logits = p->logits ? p->logits + row * network->vocabulary : p->block;
            struct sums_task task = {p, logits, row};
            status = mb_run_head_of(p->run, p->normed + row * width, some, logits);
            if (status != MB_OK)
                break;
            mb_split(network->threads, some, some * network->vocabulary * 8, sum_rows, &task);
            if (check_sums(p, row, some, error) != MB_OK)
                return MB_ERR_VERIFY;
        }
    }
    return failed(status, error);
}

enum mb_status mb_prober_create(struct mb_network *network, const struct mb_prober_options *options,
                                struct mb_prober **prober, struct mb_error *error)
{
    *prober = NULL;
    enum mb_status status = mb_windows_check(network, options->windows, error);
    if (status == MB_OK && options->windows->window < 4)
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1,
                              "a window of %zu tokens has nothing to score; 4 are the least",
                              options->windows->window);
    if (status != MB_OK)
        return status;
    struct mb_prober *made = calloc(1, sizeof *made);
    if (made == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    made->network = network;
    made->windows = options->windows;
    made->measures = options->measures;
    made->chunk = mb_windows_per_chunk(options->windows, 0);
    made->score_step = mb_score_step(network);
    status = choose_rows(made, options->score_tokens, error);
    if (status == MB_OK)
        status = allocate(made, options->memory_limit_bytes, error);
    if (status == MB_OK)
        status = mb_run_create(network, made->chunk * options->windows->window,
                               options->windows->window, &made->run, error);
    if (status == MB_OK)
        status = finish_base(made, options->progress, error);
    if (status != MB_OK) {
        mb_prober_destroy(made);
        return status;
    }
    *prober = made;
    return MB_OK;
}

void mb_prober_destroy(struct mb_prober *p)
{
    if (p == NULL)
        return;
    for (size_t s = 0; s < MB_SLOT_COUNT; s++)
        mb_free_aligned(p->slots[s]);
    mb_run_destroy(p->run);
    mb_free_aligned(p->normed);
    mb_free_aligned(p->logits);
    mb_free_aligned(p->block);
    mb_free_aligned(p->base_block);
    mb_free_aligned(p->output);
    free(p->row_errors);
    free(p->sums);
    free(p->offsets);
    free(p->scored);
    free(p);
}

/* ---- one probe ---- */

double mb_prober_cost(const struct mb_prober *p, const struct mb_target *target)
{
    const struct mb_network *network = p->network;
    const double all = (double)(p->windows->count * p->windows->window);
    const struct mb_matrix *output = &network->matrices[network->output];
    double cost = (double)p->tokens * (double)output->n * (double)output->k;
    for (size_t s = target->step; s < network->step_count; s++)
        for (size_t i = 0; i < network->steps[s].product_count; i++) {
            const struct mb_matrix *m = &network->matrices[network->steps[s].products[i].matrix];
            if (target->kind == MB_TARGET_PRODUCT && s == target->step && i != target->product)
                continue;
            const double part = network->steps[s].kind == MB_STEP_EXPERTS
                                    ? (double)network->experts_used / (double)network->experts
                                    : 1.0;
            cost +=
                part * (s > p->score_step ? (double)p->tokens : all) * (double)m->n * (double)m->k;
        }
    return cost;
}

/* The run holds what the target's step reads, and what its other products put out. */
static enum mb_status load_step(struct mb_prober *p, size_t window0, const struct mb_target *target)
{
    const struct mb_step *step = &p->network->steps[target->step];
    unsigned load = mb_slots_live(p->network, p->at);
    if (p->economy == 0)
        load = (load & ~(1u << step->products[target->product].out)) | mb_step_reads(step);
    p->run->replacement = NULL;
    copy_slots(p, window0, p->at, load & p->valid, true);
    return p->economy > 0 ? mb_run_steps(p->run, p->at, target->step + 1) : MB_OK;
}

/* The run holds NORMED of a chunk with the replacement applied. */
static enum mb_status run_changed(struct mb_prober *p, size_t window0,
                                  const struct mb_target *target,
                                  const struct mb_replacement *replacement)
{
    const struct mb_network *network = p->network;
    struct mb_run *run = p->run;
    if (target->kind == MB_TARGET_HEAD)
        return MB_OK;
    if (target->kind == MB_TARGET_EMBEDDING) {
        run->replacement = replacement;
        return mb_run_steps(run, 0, network->step_count);
    }
    enum mb_status status = load_step(p, window0, target);
    run->replacement = replacement;
    if (status == MB_OK)
        status = mb_run_products(run, target->step, 1u << target->product);
    if (status == MB_OK)
        status = mb_run_steps(run, target->step + 1, network->step_count);
    return status;
}

struct kl_task {
    struct mb_prober *p;
    size_t row0;
    const float *base, *changed;
    double *kl;
};

static void measure_row(const struct kl_task *task, size_t i, double kl)
{
    const struct mb_prober *p = task->p;
    const size_t vocabulary = p->network->vocabulary, row = task->row0 + i;
    size_t window = 0;
    while (p->offsets[window + 1] <= row)
        window++;
    const size_t target = window * p->windows->window + mb_prober_position(p, row) + 1;
    double measures[MB_ROW_MEASURES];
    mb_measure_row(p->run->vector, task->base + i * vocabulary, p->sums[row],
                   task->changed + i * vocabulary, vocabulary, p->windows->tokens[target], kl,
                   measures);
    for (size_t m = 0; m < MB_ROW_MEASURES; m++)
        p->measures[m * p->tokens + row] = measures[m];
}

static void score_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct kl_task *task = arg;
    const size_t vocabulary = task->p->network->vocabulary;
    for (size_t i = first; i < last; i++) {
        struct mb_row_score score;
        mb_score_row(task->p->run->vector, task->changed + i * vocabulary,
                     task->base + i * vocabulary, task->p->sums[task->row0 + i], vocabulary, -1,
                     &score);
        task->kl[task->row0 + i] = score.kl;
        if (task->p->measures != NULL)
            measure_row(task, i, score.kl);
    }
}

static enum mb_status score_changed(struct mb_prober *p, size_t window0, const float *normed,
                                    const struct mb_replacement *replacement, double *kl)
{
    const struct mb_network *network = p->network;
    const size_t room = mb_head_rows(network), width = network->slot_width[MB_SLOT_NORMED];
    const size_t row0 = p->offsets[window0], rows = p->run->scored_count;
    for (size_t row = 0; row < rows; row += room) {
        const size_t some = rows - row < room ? rows - row : room;
        struct kl_task task = {p, row0 + row, NULL, p->block, kl};
        p->run->replacement = replacement;
        enum mb_status status = mb_run_head_of(p->run, normed + row * width, some, p->block);
        p->run->replacement = NULL;
        task.base = p->logits ? p->logits + (row0 + row) * network->vocabulary : p->base_block;
        if (status == MB_OK && p->logits == NULL)
            status = mb_run_head_of(p->run, p->normed + (row0 + row) * width, some, p->base_block);
        if (status != MB_OK)
            return status;
        mb_split(network->threads, some, some * network->vocabulary * 16, score_rows, &task);
    }
    return MB_OK;
}

enum mb_status mb_prober_run(struct mb_prober *p, const struct mb_target *target,
                             const struct mb_replacement *replacement, mb_part_fn part, void *user,
                             double *kl, struct mb_error *error)
{
    const size_t width = p->network->slot_width[MB_SLOT_NORMED], windows = p->windows->count;
    for (size_t w = 0; w < windows; w += p->chunk) {
        set_batch(p, w);
        enum mb_status status = run_changed(p, w, target, replacement);
        const float *normed = target->kind == MB_TARGET_HEAD ? p->normed + p->offsets[w] * width
                                                             : p->run->slots[MB_SLOT_NORMED];
        if (status == MB_OK)
            status = score_changed(p, w, normed, replacement, kl);
        p->run->replacement = NULL;
        if (status != MB_OK)
            return failed(status, error);
        const size_t done = w + p->chunk < windows ? w + p->chunk : windows;
        if (part != NULL && part(user, (double)done / (double)windows) != 0)
            return mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                                "interrupted; run it again to go on");
    }
    return MB_OK;
}

/* ---- one product ---- */

struct error_task {
    const float *base, *changed;
    size_t n;
    double *errors;
};

static void compare_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct error_task *task = arg;
    for (size_t row = first; row < last; row++) {
        const float *base = task->base + row * task->n, *changed = task->changed + row * task->n;
        double error = 0, square = 0;
        for (size_t i = 0; i < task->n; i++) {
            const double difference = (double)changed[i] - (double)base[i];
            error += difference * difference;
            square += (double)base[i] * (double)base[i];
        }
        task->errors[row] = error > 0 ? error / square : error;
    }
}

/* The product of every chunk with the replacement applied: into `output`, or, when `rows` is
 * given, compared with it; *rows counts them. */
static enum mb_status run_product(struct mb_prober *p, const struct mb_target *target,
                                  const struct mb_replacement *replacement, size_t *rows)
{
    const enum mb_slot out = p->network->steps[target->step].products[target->product].out;
    const size_t n = p->network->slot_width[out];
    enum mb_status status = MB_OK;
    size_t row = 0;
    for (size_t w = 0; w < p->windows->count && status == MB_OK; w += p->chunk) {
        set_batch(p, w);
        status = load_step(p, w, target);
        p->run->replacement = replacement;
        if (status == MB_OK)
            status = mb_run_products(p->run, target->step, 1u << target->product);
        p->run->replacement = NULL;
        const size_t some = p->run->rows;
        struct error_task task = {p->output + row * n, p->run->slots[out], n, p->row_errors + row};
        if (rows != NULL)
            mb_split(p->network->threads, some, 4 * some * n, compare_rows, &task);
        else
            memcpy(p->output + row * n, p->run->slots[out], some * n * sizeof *p->output);
        row += some;
    }
    if (rows != NULL)
        *rows = row;
    return status;
}

/* The output of the unchanged product, made when another product is asked for. */
static enum mb_status keep_output(struct mb_prober *p, const struct mb_target *target)
{
    const size_t rows = p->windows->count * p->windows->window;
    const enum mb_slot out = p->network->steps[target->step].products[target->product].out;
    if (p->output != NULL && p->product.step == target->step &&
        p->product.product == target->product)
        return MB_OK;
    mb_free_aligned(p->output);
    p->output = mb_alloc_aligned(rows * p->network->slot_width[out] * sizeof *p->output);
    if (p->row_errors == NULL)
        p->row_errors = malloc(rows * sizeof *p->row_errors);
    if (p->output == NULL || p->row_errors == NULL)
        return MB_ERR_MEMORY;
    p->product = *target;
    return run_product(p, target, NULL, NULL);
}

enum mb_status mb_prober_product_error(struct mb_prober *p, const struct mb_target *target,
                                       const struct mb_replacement *replacement, double *error,
                                       struct mb_error *told)
{
    size_t rows = 0;
    double sum = 0;
    enum mb_status status = keep_output(p, target);
    if (status == MB_OK)
        status = run_product(p, target, replacement, &rows);
    for (size_t i = 0; status == MB_OK && i < rows; i++)
        sum += p->row_errors[i];
    *error = sum / (double)rows;
    return failed(status, told);
}
