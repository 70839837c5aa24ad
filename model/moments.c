/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments: collecting in passes, damping, factoring (moments.h).
 *
 * A unit is the input of one step's products that read the same columns, for one expert; or the
 * head's, weighed for one group of the output's rows. H is the mean of x^T x with parts of its own
 * diagonal and of the typical column's added to the diagonal (docs/method.md, Rounding). */
#include "model/moments.h"

#include "dispatch/dispatch.h"
#include "kernels/encode.h"
#include "kernels/gram.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/network.h"
#include "model/output_groups.h"
#include "support/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of a column's own mean square; of the typical one, with what so many rows leave unknown of so
 * many columns. */
static const float damping_own = 0.2f, damping_least = 0.001f;

enum { GRANULE = 32, NO_UNIT = -1, TRIALS = 4 };
/* A row counts for a group from this part of the mean of its weights so far; of a long text every
 * second, third ... row is looked at, as long as so many are left. */
static const double COUNTS = 0.1;
enum { GROUPED_ROWS = 16384 };

struct unit {
    size_t matrix, expert, step; /* the matrix that is looked at; step_count: the head */
    size_t group;                /* of the output's rows, from 1; 0: of all rows alike */
    size_t k, rows;
    double weight, squares; /* of a group's rows that count: sums */
    double met;             /* the sum over all `seen` */
    float *waiting;         /* of these, room for MB_GRAM_ROWS, weighed */
    size_t waiting_rows, seen;
    float *h; /* NULL: not collected now */
    bool wanted, ready, scarce;
};

struct mb_moments {
    struct mb_network *network;
    const struct mb_windows *windows;
    size_t limit, passes, scarce;
    size_t unit_count;
    struct unit *units; /* in the order of the file */
    int *first;         /* per matrix of the network: its unit, or that of its first expert */
    int *of_tensor;     /* per tensor: its matrix in the network, or -1 */
    bool divided;
    struct mb_output_groups groups; /* made when they are first needed */
    enum mb_status failed;          /* of what an observer did */
    float *packed, *sampled, *logits, *weights;
    struct unit *factored; /* whose factor is at hand */
    float *factor, *variances, *diagonal;
    struct mb_second_moments found;
};

/* ---- units ---- */

/* Where a matrix reads: its step and the first product of that step that reads as many columns. */
static bool find_input(const struct mb_network *network, size_t matrix, size_t *step, size_t *first)
{
    for (size_t s = 0; s < network->step_count; s++)
        for (size_t p = 0; p < network->steps[s].product_count; p++) {
            if (network->steps[s].products[p].matrix != matrix)
                continue;
            *step = s;
            for (size_t q = 0; q <= p; q++) {
                *first = network->steps[s].products[q].matrix;
                if (network->matrices[*first].k == network->matrices[matrix].k)
                    return true;
            }
        }
    *step = network->step_count;
    *first = matrix;
    return matrix == network->output;
}

static void add_units(struct mb_moments *m, size_t matrix)
{
    const struct mb_network *network = m->network;
    const struct mb_tensor *tensor =
        mb_model_tensor_at(network->model, network->matrices[matrix].tensor);
    size_t step, first;
    if (!tensor->quantizable || tensor->k % GRANULE != 0 ||
        !find_input(network, matrix, &step, &first))
        return;
    if (m->first[first] == NO_UNIT) {
        m->first[first] = (int)m->unit_count;
        for (size_t e = 0; e < mb_tensor_matrices(tensor); e++)
            m->units[m->unit_count++] =
                (struct unit){.matrix = first, .expert = e, .step = step, .k = tensor->k};
        for (size_t g = 0; first == network->output && g < mb_output_groups_most(network); g++)
            m->units[m->unit_count++] =
                (struct unit){.matrix = first, .group = g + 1, .step = step, .k = tensor->k};
    }
    m->first[matrix] = m->first[first];
}

static bool make_units(struct mb_moments *m)
{
    const struct mb_network *network = m->network;
    const size_t tensors = mb_model_tensor_count(network->model);
    size_t most = mb_output_groups_most(network), widest = 0;
    m->first = malloc((network->matrix_count + 1) * sizeof *m->first);
    m->of_tensor = malloc((tensors + 1) * sizeof *m->of_tensor);
    if (m->first == NULL || m->of_tensor == NULL)
        return false;
    for (size_t t = 0; t < tensors; t++)
        m->of_tensor[t] = -1;
    for (size_t i = 0; i < network->matrix_count; i++) {
        m->first[i] = NO_UNIT;
        m->of_tensor[network->matrices[i].tensor] = (int)i;
        most += mb_tensor_matrices(mb_model_tensor_at(network->model, network->matrices[i].tensor));
    }
    m->units = calloc(most + 1, sizeof *m->units);
    if (m->units == NULL)
        return false;
    for (size_t t = 0; t < tensors; t++)
        if (m->of_tensor[t] >= 0)
            add_units(m, (size_t)m->of_tensor[t]);
    for (size_t u = 0; u < m->unit_count; u++)
        widest = m->units[u].k > widest ? m->units[u].k : widest;
    m->packed = mb_alloc_aligned(mb_gram_packed(widest, MB_GRAM_ROWS) * sizeof *m->packed);
    m->variances = malloc((widest + 1) * sizeof *m->variances);
    m->diagonal = malloc((widest + 1) * sizeof *m->diagonal);
    return m->packed != NULL && m->variances != NULL && m->diagonal != NULL;
}

static void free_unit(struct unit *unit)
{
    mb_free_aligned(unit->h);
    mb_free_aligned(unit->waiting);
    unit->h = unit->waiting = NULL;
}

void mb_moments_destroy(struct mb_moments *m)
{
    if (m == NULL)
        return;
    for (size_t u = 0; u < m->unit_count; u++)
        free_unit(&m->units[u]);
    mb_output_groups_free(&m->groups);
    mb_free_aligned(m->packed);
    mb_free_aligned(m->sampled);
    mb_free_aligned(m->logits);
    mb_free_aligned(m->weights);
    mb_free_aligned(m->factor);
    free(m->units);
    free(m->first);
    free(m->of_tensor);
    free(m->variances);
    free(m->diagonal);
    free(m);
}

enum mb_status mb_moments_create(struct mb_network *network, const struct mb_windows *windows,
                                 size_t memory_limit, struct mb_moments **moments,
                                 struct mb_error *error)
{
    *moments = NULL;
    const enum mb_status status = mb_windows_check(network, windows, error);
    if (status != MB_OK)
        return status;
    struct mb_moments *m = calloc(1, sizeof *m);
    if (m != NULL) {
        m->network = network;
        m->windows = windows;
        m->limit = memory_limit > 0 ? memory_limit : mb_free_memory() / 2;
    }
    if (m == NULL || !make_units(m)) {
        mb_moments_destroy(m);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for second moments");
    }
    *moments = m;
    return MB_OK;
}

const struct mb_windows *mb_moments_windows(const struct mb_moments *m) { return m->windows; }
size_t mb_moments_passes(const struct mb_moments *m) { return m->passes; }
size_t mb_moments_scarce(const struct mb_moments *m) { return m->scarce; }

/* ---- collecting ---- */

struct addition {
    float *h;
    const float *packed;
    size_t stride, k, rows;
    float sign;
};

static void add_pairs(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct addition *a = arg;
    mb_select_encode()->gram_add(a->h, a->stride, a->k, a->packed, a->rows, a->sign, first, last);
}

static void add_rows(struct mb_threads *threads, const struct addition *a)
{
    mb_split(threads, mb_gram_pairs(a->k), a->rows * a->k * a->k / 2, add_pairs,
             (void *)(uintptr_t)a);
}

/* At most MB_GRAM_ROWS rows. */
static void add_batch(struct mb_moments *m, struct unit *unit, const float *x, size_t stride,
                      size_t rows)
{
    mb_gram_pack(x, stride, rows, unit->k, m->packed);
    const struct addition a = {unit->h, m->packed, unit->k, unit->k, rows, 1.0f};
    add_rows(m->network->threads, &a);
    unit->rows += rows;
}

static void add_waiting(struct mb_moments *m, struct unit *unit)
{
    add_batch(m, unit, unit->waiting, unit->k, unit->waiting_rows);
    unit->waiting_rows = 0;
}

/* The same for a group: rows that count, each by its weight, as many at a time. */
static void add_weighed(struct mb_moments *m, struct unit *unit, const float *x, size_t stride,
                        size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        const double weight = (double)m->weights[r * m->groups.count + unit->group - 1];
        unit->met += weight;
        unit->seen++;
        if (weight * (double)unit->seen < COUNTS * unit->met)
            continue;
        const float root = sqrtf((float)weight);
        for (size_t c = 0; c < unit->k; c++)
            unit->waiting[unit->waiting_rows * unit->k + c] = root * x[r * stride + c];
        unit->weight += weight;
        unit->squares += weight * weight;
        if (++unit->waiting_rows == MB_GRAM_ROWS)
            add_waiting(m, unit);
    }
}

static bool wants_groups(const struct mb_moments *m, const struct unit *whole)
{
    for (const struct unit *u = whole + 1; u < m->units + m->unit_count && u->group > 0; u++)
        if (u->wanted)
            return true;
    return false;
}

/* Rows of the head's input, `whole->rows` of which came before. */
static void observe_groups(struct mb_moments *m, struct unit *whole, struct mb_run *run,
                           const float *x, size_t stride, size_t rows)
{
    const size_t step = m->windows->count * m->windows->window / GROUPED_ROWS;
    for (size_t r = 0, count = 0; r < rows && m->failed == MB_OK; r++) {
        if (step < 2 || (whole->rows + r) % step == 0)
            memcpy(m->sampled + count++ * whole->k, x + r * stride, whole->k * sizeof *x);
        if (count == 0 || (count < MB_GRAM_ROWS && r + 1 < rows))
            continue;
        m->failed =
            mb_output_groups_weigh(&m->groups, run, m->sampled, count, m->logits, m->weights);
        for (size_t g = 1; m->failed == MB_OK && g <= m->groups.count; g++)
            if (whole[g].wanted)
                add_weighed(m, whole + g, m->sampled, whole->k, count);
        count = 0;
    }
}

static void observe(void *user, struct mb_run *run, size_t matrix, size_t expert, const float *x,
                    size_t stride, size_t rows)
{
    struct mb_moments *m = user;
    if (m->first[matrix] == NO_UNIT || m->failed != MB_OK)
        return;
    struct unit *unit = &m->units[(size_t)m->first[matrix] + expert];
    if (unit->matrix != matrix || !unit->wanted)
        return;
    if (wants_groups(m, unit))
        observe_groups(m, unit, run, x, stride, rows);
    for (size_t r = 0; r < rows; r += MB_GRAM_ROWS)
        add_batch(m, unit, x + r * stride, stride,
                  rows - r < MB_GRAM_ROWS ? rows - r : MB_GRAM_ROWS);
}

/* A pass in the middle of other work. */
struct within {
    const struct mb_progress *progress;
    double done, total;
};

static int report_within(void *user, double done, double total, const char *note)
{
    (void)done;
    (void)total;
    const struct within *w = user;
    return mb_progress_report(w->progress, w->done, w->total, note) != MB_OK;
}

static bool take_unit(struct mb_moments *m, struct unit *unit, size_t bytes, size_t *steps)
{
    unit->h = mb_alloc_aligned(bytes);
    if (unit->group > 0)
        unit->waiting = mb_alloc_aligned(MB_GRAM_ROWS * unit->k * sizeof *unit->waiting);
    if (unit->h == NULL || (unit->group > 0 && unit->waiting == NULL))
        return false;
    memset(unit->h, 0, bytes);
    unit->wanted = true;
    const size_t end = unit->step < m->network->step_count ? unit->step + 1 : unit->step;
    *steps = end > *steps ? end : *steps;
    return true;
}

/* Room for `from` (a group leans on the whole) and as many units behind it as the limit allows. */
static bool choose_units(struct mb_moments *m, size_t from, size_t *steps)
{
    const size_t whole = from - m->units[from].group;
    size_t used = 0;
    *steps = 0;
    for (size_t u = 0; u < m->unit_count; u++) {
        struct unit *unit = &m->units[u];
        free_unit(unit);
        unit->wanted = unit->ready = false;
        unit->rows = unit->seen = unit->waiting_rows = 0;
        unit->weight = unit->squares = unit->met = 0.0;
    }
    m->factored = NULL;
    for (size_t u = whole; u < m->unit_count; u = u < from ? from : u + 1) {
        struct unit *unit = &m->units[u];
        size_t bytes;
        if (unit->group > m->groups.count)
            continue;
        if (!mb_mul_size(unit->k, unit->k, &bytes) || !mb_mul_size(bytes, sizeof(float), &bytes))
            return false;
        if (u > from && (bytes > m->limit || used > m->limit - bytes))
            break;
        used += bytes;
        if (!take_unit(m, unit, bytes, steps))
            return false;
    }
    return true;
}

/* The output's groups, where they are asked for and not there yet. */
static enum mb_status make_groups(struct mb_moments *m, struct mb_error *error)
{
    const struct mb_network *network = m->network;
    const size_t most = mb_output_groups_most(network);
    if (!m->divided || m->groups.count > 0 || most == 0 || m->first[network->output] == NO_UNIT)
        return MB_OK;
    mb_free_aligned(m->sampled); /* of a try that had no memory */
    mb_free_aligned(m->logits);
    mb_free_aligned(m->weights);
    m->sampled =
        mb_alloc_aligned(MB_GRAM_ROWS * network->matrices[network->output].k * sizeof *m->sampled);
    m->logits = mb_alloc_aligned(MB_GRAM_ROWS * network->vocabulary * sizeof *m->logits);
    m->weights = mb_alloc_aligned(MB_GRAM_ROWS * most * sizeof *m->weights);
    enum mb_status status = m->sampled && m->logits && m->weights ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_output_groups_create(network, most, &m->groups);
    return status == MB_OK
               ? MB_OK
               : mb_error_set(error, status, -1, "the output's rows cannot be grouped: %s",
                              mb_status_string(status));
}

/* The arithmetic mean would be that of a few columns which first tokens make huge. */
static void damp(float *h, size_t k, size_t rows)
{
    double logarithms = 0.0, count = 0.0;
    for (size_t i = 0; i < k; i++) {
        logarithms += h[i * k + i] > 0.0f ? log((double)h[i * k + i]) : 0.0;
        count += h[i * k + i] > 0.0f;
    }
    const double typical = count > 0.0 ? exp(logarithms / count) : 0.0;
    const float shared = (damping_least + (float)k / (float)rows) * (float)typical;
    for (size_t i = 0; i < k; i++)
        h[i * k + i] += damping_own * h[i * k + i] + shared;
}

bool mb_moments_mean_of(float *h, size_t k, size_t *rows)
{
    const float inverse = 1.0f / (float)*rows;
    double trace = 0.0;
    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j <= i; j++)
            h[i * k + j] *= inverse;
        trace += (double)h[i * k + i];
    }
    if (!isfinite(trace) || trace > 1e30)
        return false;
    damp(h, k, *rows);
    mb_gram_mirror(h, k);
    if (!(trace > 1e-30 * (double)k))
        *rows = 0; /* nothing ever went through these columns */
    return true;
}

static enum mb_status collect(struct mb_moments *m, size_t from, const struct within *within,
                              struct mb_error *error)
{
    const struct mb_progress progress = {report_within, (void *)(uintptr_t)within};
    size_t steps;
    enum mb_status status = make_groups(m, error);
    if (status != MB_OK)
        return status;
    if (!choose_units(m, from, &steps))
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "out of memory for second moments; use a smaller --memory");
    m->passes++;
    m->failed = MB_OK;
    status = mb_observe(m->network, m->windows, steps, observe, m, &progress, error);
    if (status == MB_OK && m->failed != MB_OK)
        status =
            mb_error_set(error, m->failed, -1, "the head failed: %s", mb_status_string(m->failed));
    for (size_t u = 0; status == MB_OK && u < m->unit_count; u++)
        if (m->units[u].waiting_rows > 0)
            add_waiting(m, &m->units[u]);
    for (size_t u = 0; status != MB_OK && u < m->unit_count; u++)
        m->units[u].wanted = false; /* what a pass without an end has is not to be used */
    return status;
}

/* ---- factoring ---- */

static bool factor(struct mb_threads *threads, float *h, size_t k, float *packed)
{
    for (size_t row1 = k; row1 > 0;) {
        const size_t row0 = row1 > MB_GRAM_ROWS ? row1 - MB_GRAM_ROWS : 0;
        if (!mb_select_encode()->gram_factor_rows(h, k, row0, row1))
            return false;
        if (row0 > 0) {
            mb_gram_pack(h + row0 * k, k, row1 - row0, row0, packed);
            const struct addition a = {h, packed, k, row0, row1 - row0, -1.0f};
            add_rows(threads, &a);
        }
        row1 = row0;
    }
    mb_gram_unit(h, k);
    return true;
}

bool mb_moments_factor(struct mb_threads *threads, const float *h, size_t k, float *made,
                       float *packed)
{
    double trace = 0.0;
    for (size_t i = 0; i < k; i++)
        trace += (double)h[i * k + i];
    float more = 0.0f;
    for (int trial = 0; trial < TRIALS; trial++) {
        memcpy(made, h, k * k * sizeof *made);
        for (size_t i = 0; i < k; i++)
            made[i * k + i] += more;
        if (factor(threads, made, k, packed))
            return true;
        more = (more == 0.0f ? 0.01f * (float)(trace / (double)k) : more) * 10.0f;
    }
    return false;
}

static enum mb_status factor_unit(struct mb_moments *m, struct unit *unit, struct mb_error *error)
{
    const size_t k = unit->k;
    if (m->factored == unit)
        return MB_OK;
    m->factored = NULL;
    mb_free_aligned(m->factor);
    m->factor = mb_alloc_aligned(k * k * sizeof *m->factor);
    if (m->factor == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "out of memory for a factor of %zu x %zu numbers", k, k);
    if (!mb_moments_factor(m->network->threads, unit->h, k, m->factor, m->packed))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "the second moments of %zu columns have no factor: the model's "
                            "activations are out of f32's range",
                            k);
    m->factored = unit;
    return MB_OK;
}

/* ---- what is asked for ---- */

static enum mb_status describe(struct mb_moments *m, struct unit *unit, struct mb_error *error)
{
    const size_t k = unit->k;
    m->found = (struct mb_second_moments){.k = k, .diagonal = m->diagonal};
    for (size_t i = 0; i < k; i++)
        m->diagonal[i] = unit->h[i * k + i];
    if (unit->rows < k)
        return MB_OK;
    const enum mb_status status = factor_unit(m, unit, error);
    if (status == MB_OK) {
        m->found.h = unit->h;
        m->found.factor = m->factor;
        m->found.variances = m->variances;
        for (size_t i = 0; i < k; i++)
            m->variances[i] = m->factor[i * k + i];
    }
    return status;
}

/* From sums to means; false: not finite. What so few rows leave unknown of a group is taken from
 * all rows, as if these were k more. */
static bool finish(struct mb_moments *m, struct unit *unit)
{
    struct unit *whole = unit - unit->group;
    const size_t k = unit->k;
    if (unit->ready || unit->rows == 0)
        return true;
    if (unit == whole)
        return unit->ready = mb_moments_mean_of(unit->h, k, &unit->rows);
    if (!finish(m, whole))
        return false;
    unit->ready = true;
    const double rows = unit->weight > 0.0 ? unit->weight * unit->weight / unit->squares : 0.0;
    const float own = (float)(rows / (rows + (double)k));
    const float scale = own > 0.0f ? (float)((double)whole->rows / unit->weight) : 0.0f;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j <= i; j++)
            unit->h[i * k + j] *= scale;
    unit->rows = whole->rows;
    if (unit->rows == 0)
        return true;
    if (!mb_moments_mean_of(unit->h, k, &(size_t){unit->rows}))
        return unit->ready = false;
    for (size_t i = 0; i < k * k; i++)
        unit->h[i] = own * unit->h[i] + (1.0f - own) * whole->h[i];
    return true;
}

/* The unit of a matrix, its sums made and finished; NULL where there is none, or it met no rows. */
static enum mb_status find_unit(struct mb_moments *m, size_t tensor, size_t matrix,
                                const struct within *within, struct unit **found,
                                struct mb_error *error)
{
    *found = NULL;
    const int index = m->of_tensor[tensor];
    if (index < 0 || m->first[index] == NO_UNIT)
        return MB_OK;
    const size_t at = (size_t)m->first[index] + matrix;
    struct unit *unit = &m->units[at];
    const enum mb_status status = unit->wanted ? MB_OK : collect(m, at, within, error);
    if (status != MB_OK)
        return status;
    if (!finish(m, unit))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "the activations that tensor '%s' multiplies are not finite",
                            mb_printable(mb_model_tensor_at(m->network->model, tensor)->name).text);
    if (unit->rows < unit->k && unit->group == 0 && !unit->scarce) {
        unit->scarce = true;
        m->scarce++;
    }
    *found = unit->rows > 0 ? unit : NULL;
    return MB_OK;
}

enum mb_status mb_moments_get(struct mb_moments *m, size_t tensor, size_t matrix,
                              const struct mb_progress *progress, double done, double total,
                              const struct mb_second_moments **found, struct mb_error *error)
{
    struct unit *unit;
    *found = NULL;
    enum mb_status status =
        find_unit(m, tensor, matrix, &(struct within){progress, done, total}, &unit, error);
    if (status == MB_OK && unit != NULL) {
        status = describe(m, unit, error);
        *found = status == MB_OK ? &m->found : NULL;
    }
    return status;
}

void mb_moments_divide(struct mb_moments *m) { m->divided = true; }

enum mb_status mb_moments_parts(struct mb_moments *m, size_t tensor, struct mb_row_parts *parts,
                                struct mb_error *error)
{
    const struct mb_tensor *t = mb_model_tensor_at(m->network->model, tensor);
    *parts = (struct mb_row_parts){.count = mb_tensor_matrices(t), .each = (size_t)t->ne[1]};
    if (m->of_tensor[tensor] != (int)m->network->output)
        return MB_OK;
    const enum mb_status status = make_groups(m, error);
    if (status == MB_OK && m->groups.count > 0)
        *parts = (struct mb_row_parts){.count = m->groups.count,
                                       .matrix = 1,
                                       .order = m->groups.order,
                                       .ends = m->groups.ends};
    return status;
}

enum mb_status mb_moments_mean(struct mb_moments *m, size_t tensor, size_t matrix,
                               const struct mb_progress *progress, double done, double total,
                               const float **h, struct mb_error *error)
{
    struct unit *unit;
    const enum mb_status status =
        find_unit(m, tensor, matrix, &(struct within){progress, done, total}, &unit, error);
    *h = status == MB_OK && unit != NULL && unit->rows >= unit->k ? unit->h : NULL;
    return status;
}
