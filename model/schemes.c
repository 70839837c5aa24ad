/* SPDX-License-Identifier: Apache-2.0 */
/* Storing a model's weights by a scheme, in memory: dequantized, encoded, read back, packed in f32
 * into one network that serves all schemes in turn. */
#include "model/schemes.h"

#include "model/importance.h"
#include "support/support.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const struct mb_scheme schemes[] = {
#define MB_SCHEME_ROW(scheme_name, fixed, says, ...)                                               \
    {.name = scheme_name, .one_width = fixed, .what = says, .options = {__VA_ARGS__}},
#include "model/schemes.def"
};

const char *const mb_scheme_parts[MB_SCHEME_PARTS] = {"codes",    "codebooks", "scales",
                                                      "outliers", "map",       "header"};

size_t mb_scheme_count(void) { return sizeof schemes / sizeof schemes[0]; }

const struct mb_scheme *mb_scheme_at(size_t i) { return &schemes[i]; }

const struct mb_scheme *mb_scheme_by_name(const char *name)
{
    for (size_t i = 0; i < mb_scheme_count(); i++)
        if (strcmp(schemes[i].name, name) == 0)
            return &schemes[i];
    return NULL;
}

bool mb_scheme_has_kernel(const struct mb_scheme *scheme)
{
    return mb_codebook_has_kernel(&scheme->options, scheme->one_width);
}

double mb_scheme_bits(const struct mb_scheme_size *size)
{
    double bytes = 0;
    for (size_t i = 0; i < MB_SCHEME_PARTS; i++)
        bytes += size->bytes[i];
    return size->weights > 0 ? 8 * bytes / size->weights : NAN;
}

/* ---- the model ---- */

struct mb_simulation {
    struct mb_network *network;
    struct mb_rounder rounder;
    const struct mb_ranges *ranges;
    const struct mb_integer_ranges *integer_ranges;
    struct mb_integer_products *products; /* of the last choice that was integer; NULL: none */
    struct mb_codebook_products *books;   /* of the last choice with kernels; likewise */
    struct mb_moments *moments;
    bool *rounded; /* per matrix: reads rounded activations, where there are any */
};

void mb_simulation_calibrate(struct mb_simulation *simulation, const struct mb_ranges *ranges,
                             const struct mb_integer_ranges *integer_ranges,
                             struct mb_moments *moments)
{
    simulation->ranges = ranges;
    simulation->integer_ranges = integer_ranges;
    simulation->moments = moments;
    if (moments != NULL)
        mb_moments_divide(moments);
}

struct mb_network *mb_simulation_network(struct mb_simulation *simulation)
{
    return simulation->network;
}

void mb_simulation_destroy(struct mb_simulation *simulation)
{
    if (simulation == NULL)
        return;
    mb_integer_products_free(simulation->products);
    mb_codebook_products_free(simulation->books);
    mb_network_destroy(simulation->network);
    free(simulation->rounded);
    free(simulation);
}

/* An embedding that the file has in f32 is read in place there; here it gets rows of its own. */
static bool own_rows(struct mb_network *network)
{
    struct mb_matrix *matrix = &network->matrices[network->embedding];
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, matrix->tensor);
    if (!tensor->quantizable || matrix->owned_rows != NULL)
        return true;
    const size_t bytes = matrix->n * mb_format_row_bytes(matrix->format, matrix->k);
    matrix->owned_rows = malloc(bytes);
    if (matrix->owned_rows == NULL)
        return false;
    memcpy(matrix->owned_rows, tensor->data, bytes);
    matrix->rows = matrix->owned_rows;
    return true;
}

enum mb_status mb_simulation_create(struct mb_model *model, struct mb_threads *threads,
                                    struct mb_simulation **simulation, struct mb_error *error)
{
    const size_t count = mb_model_tensor_count(model);
    enum mb_format *formats = malloc((count + 1) * sizeof *formats);
    struct mb_simulation *made = calloc(1, sizeof *made);
    enum mb_status status = formats && made ? MB_OK : MB_ERR_MEMORY;
    *simulation = NULL;
    for (size_t i = 0; status == MB_OK && i < count; i++)
        formats[i] = mb_model_tensor_at(model, i)->quantizable ? MB_FORMAT_F32 : MB_FORMAT_NONE;
    if (status != MB_OK)
        (void)mb_error_set(error, status, -1, "out of memory for a simulation");
    if (status == MB_OK)
        status = mb_network_create_mix(model, formats, NULL, MB_NUMERICS_F32, threads, NULL,
                                       &made->network, error);
    if (status == MB_OK) {
        made->rounded = calloc(made->network->matrix_count + 1, sizeof *made->rounded);
        if (made->rounded == NULL || !own_rows(made->network))
            status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a simulation");
    }
    free(formats);
    if (status == MB_OK)
        *simulation = made;
    else
        mb_simulation_destroy(made);
    return status;
}

/* ---- one tensor ---- */

/* A tensor's rows as they are read back, and what they take. */
struct storing {
    const struct mb_tensor *tensor;
    size_t index; /* of the tensor */
    const struct mb_weight_choice *choice;
    const float *importance;              /* of the tensor; NULL: none */
    struct mb_moments *moments;           /* NULL: none */
    struct mb_integer_products *products; /* NULL: products of floats */
    struct mb_codebook_products *books;   /* likewise */
    size_t matrix;
    struct mb_threads *threads;
    const struct mb_progress *progress; /* of all tensors: `done` of `total` */
    double done, total;
    struct mb_error *error;
    float *rows; /* [n][k], as they are; replaced */
    struct mb_scheme_size *size;
    atomic_int status;
};

/* The format of this tensor, where all are stored in formats. */
static enum mb_format format_of(const struct mb_weight_choice *choice,
                                const struct mb_tensor *tensor)
{
    const bool feeds = tensor->role == MB_ROLE_FFN_GATE || tensor->role == MB_ROLE_FFN_UP ||
                       tensor->role == MB_ROLE_FFN_DOWN;
    const bool other = feeds && choice->feed_forward != MB_FORMAT_NONE;
    return mb_format_fit(other ? choice->feed_forward : choice->format, tensor->k);
}

static void format_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct storing *s = arg;
    const enum mb_format format = format_of(s->choice, s->tensor);
    const struct mb_encoding encoding = {.importance = s->importance};
    enum { ROWS = 16 }; /* what encoders take at once, at least */
    void *stored = malloc(ROWS * mb_format_row_bytes(format, s->tensor->k));
    enum mb_status status = stored ? MB_OK : MB_ERR_MEMORY;
    for (size_t row = first; row < last && status == MB_OK; row += ROWS) {
        const size_t end = last - row < ROWS ? last : row + ROWS;
        float *floats = s->rows + row * s->tensor->k;
        status = mb_quantize_rows(s->tensor, format, &encoding, row, end, floats, stored);
        if (status == MB_OK)
            status = mb_dequantize(format, stored, end - row, s->tensor->k, floats);
    }
    free(stored);
    if (status != MB_OK)
        atomic_store(&s->status, (int)status);
}

static enum mb_status store_format(struct storing *s)
{
    const struct mb_tensor *tensor = s->tensor;
    const enum mb_format format = format_of(s->choice, tensor);
    mb_split(s->threads, tensor->n, 64 * tensor->n * tensor->k, format_rows, s);
    s->size->bytes[0] += (double)(tensor->n * mb_format_row_bytes(format, tensor->k));
    return (enum mb_status)atomic_load(&s->status);
}

/* Where moments of groups of rows come from. */
struct group_source {
    const struct mb_scheme_job *job;
    size_t tensor, matrix; /* of the first group */
    struct mb_error *error;
};

static enum mb_status moments_of_group(void *user, size_t group, const float **h)
{
    const struct group_source *s = user;
    return mb_moments_mean(s->job->moments, s->tensor, s->matrix + group, s->job->progress,
                           s->job->done, s->job->total, h, s->error);
}

enum mb_status mb_scheme_encode(const struct mb_scheme_job *job, const struct mb_tensor *tensor,
                                size_t index, size_t matrix, const float *rows,
                                struct mb_channelwise *encoded, struct mb_error *error)
{
    const size_t each = (size_t)tensor->ne[1];
    struct mb_channelwise_options options = job->scheme->options;
    options.bits = job->bits;
    options.within = job->within;
    if (job->scheme->one_width) {
        const double width = floor(options.bits);
        options.palette = 1u << (width < 1                   ? 1
                                 : width > MB_MOST_CODE_BITS ? MB_MOST_CODE_BITS
                                                             : (unsigned)width);
    }
    enum mb_status status = MB_OK;
    struct mb_row_parts parts = {.count = 0};
    struct group_source source = {.job = job, .tensor = index, .error = error};
    struct mb_row_groups groups = {.moments = moments_of_group, .user = &source};
    float *whole = NULL; /* moments of all rows, where those of groups are asked for later */
    if (job->moments != NULL && options.feedback)
        status = mb_moments_parts(job->moments, index, &parts, error);
    if (status == MB_OK && job->moments != NULL && options.feedback && job->h == NULL)
        status = mb_moments_mean(job->moments, index, matrix, job->progress, job->done, job->total,
                                 &options.moments, error);
    if (options.feedback && job->h != NULL)
        options.moments = job->h;
    if (status == MB_OK && parts.order != NULL && options.moments != NULL) {
        const size_t bytes = tensor->k * tensor->k * sizeof *whole;
        whole = malloc(bytes);
        status = whole != NULL ? MB_OK : MB_ERR_MEMORY;
        if (whole != NULL)
            options.moments = memcpy(whole, options.moments, bytes);
        groups.count = parts.count;
        groups.order = parts.order;
        groups.ends = parts.ends;
        source.matrix = parts.matrix;
        options.groups = &groups;
    }
    const float *importance = mb_importance_of(tensor, job->importance, matrix * each);
    float *own = NULL; /* the mean squares of activations, out of the moments */
    if (status == MB_OK && importance == NULL && options.moments != NULL) {
        importance = own = malloc(tensor->k * sizeof *own);
        status = own != NULL ? MB_OK : MB_ERR_MEMORY;
    }
    for (size_t c = 0; own != NULL && c < tensor->k; c++)
        own[c] = options.moments[c * tensor->k + c];
    if (status == MB_OK)
        status = mb_channelwise_encode(rows, each, tensor->k, importance, &options, job->threads,
                                       encoded);
    free(own);
    free(whole);
    return status;
}

void mb_scheme_count_parts(struct mb_scheme_size *size, const struct mb_channelwise *encoded)
{
    const struct mb_channelwise_bytes *b = &encoded->bytes;
    const size_t parts[MB_SCHEME_PARTS] = {b->codes,    b->codebooks, b->scales,
                                           b->outliers, b->map,       b->header};
    for (size_t i = 0; i < MB_SCHEME_PARTS; i++)
        size->bytes[i] += (double)parts[i];
}

/* What an encoded matrix takes, by part; packed for kernels, all in one. */
static enum mb_status count_encoded(struct storing *s, size_t row,
                                    const struct mb_channelwise *encoded)
{
    size_t packed = 0;
    if (s->books != NULL) {
        const enum mb_status status =
            mb_codebook_products_store(s->books, s->matrix, row, encoded, &packed);
        if (status != MB_OK)
            return status;
    }
    s->size->bytes[0] += (double)packed;
    if (packed == 0)
        mb_scheme_count_parts(s->size, encoded);
    s->size->unreached += !s->choice->scheme->one_width && !encoded->reached;
    return MB_OK;
}

/* Each matrix of a stack of experts is encoded by itself. */
static enum mb_status store_scheme(struct storing *s)
{
    const struct mb_tensor *tensor = s->tensor;
    const size_t each = (size_t)tensor->ne[1];
    const struct mb_scheme_job job = {.scheme = s->choice->scheme,
                                      .bits = s->choice->bits,
                                      .importance = s->importance,
                                      .moments = s->moments,
                                      .threads = s->threads,
                                      .progress = s->progress,
                                      .done = s->done,
                                      .total = s->total};
    enum mb_status status = MB_OK;
    for (size_t row = 0; row < tensor->n && status == MB_OK; row += each) {
        struct mb_channelwise encoded;
        float *rows = s->rows + row * tensor->k;
        status = mb_scheme_encode(&job, tensor, s->index, row / each, rows, &encoded, s->error);
        if (status != MB_OK)
            break;
        mb_channelwise_decode(&encoded, 0, each, rows);
        status = count_encoded(s, row, &encoded);
        mb_channelwise_free(&encoded);
    }
    return status;
}

/* int8 with a scale per row, and 16 bytes a row of what a product starts from and ends with. */
static enum mb_status store_integer(struct storing *s)
{
    const size_t n = s->tensor->n, k = s->tensor->k;
    for (size_t row = 0; row < n; row++)
        mb_round_int8(s->rows + row * k, k, 0, s->rows + row * k);
    s->size->bytes[0] += (double)(n * (k + 16));
    const enum mb_status status = mb_integer_products_store(s->products, s->matrix, s->rows);
    s->size->unreached += status == MB_ERR_UNSUPPORTED;
    return status == MB_ERR_UNSUPPORTED ? MB_OK : status;
}

/* sum of squares of the difference, and of the rows as they are, columns weighing as they do. */
static double relative_error(const struct storing *s, const float *before)
{
    const size_t k = s->tensor->k;
    double error = 0, square = 0;
    for (size_t row = 0; row < s->tensor->n; row++) {
        const float *importance = mb_importance_of(s->tensor, s->importance, row);
        for (size_t c = 0; c < k; c++) {
            const double weight = importance ? (double)importance[c] : 1.0;
            const double w = (double)before[row * k + c], off = w - (double)s->rows[row * k + c];
            error += weight * off * off;
            square += weight * w * w;
        }
    }
    return square > 0 ? error / square : 0;
}

static enum mb_status store_matrix(struct storing *s, struct mb_matrix *matrix, double *error)
{
    const struct mb_tensor *tensor = s->tensor;
    const size_t weights = tensor->n * tensor->k;
    float *before = malloc(weights * sizeof *before);
    s->rows = malloc(weights * sizeof *s->rows);
    enum mb_status status = s->rows && before ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_dequantize(tensor->format, tensor->data, tensor->n, tensor->k, s->rows);
    if (status == MB_OK) {
        memcpy(before, s->rows, weights * sizeof *before);
        s->size->weights += (double)weights;
        if (s->products != NULL)
            status = store_integer(s);
        else if (s->choice->scheme != NULL)
            status = store_scheme(s);
        else if (s->choice->format != MB_FORMAT_NONE)
            status = store_format(s);
        else
            s->size->bytes[0] += (double)tensor->bytes;
    }
    if (status == MB_OK)
        *error = relative_error(s, before);
    if (status == MB_OK && matrix->weights.data != NULL)
        status = mb_pack_rows(&matrix->weights, s->rows, 0, matrix->n);
    if (status == MB_OK && matrix->owned_rows != NULL)
        memcpy(matrix->owned_rows, s->rows, weights * sizeof *s->rows);
    free(before);
    free(s->rows);
    return status;
}

enum mb_status mb_simulation_store(struct mb_simulation *simulation,
                                   const struct mb_weight_choice *choice,
                                   const float *const *importance,
                                   const struct mb_progress *progress, struct mb_scheme_size *size,
                                   struct mb_error *error)
{
    struct mb_network *network = simulation->network;
    network->rounding = NULL;
    *size = (struct mb_scheme_size){0};
    mb_integer_products_free(simulation->products);
    mb_codebook_products_free(simulation->books);
    simulation->products = NULL;
    simulation->books = NULL;
    if (choice->integer && mb_integer_products_create(network, simulation->integer_ranges,
                                                      &simulation->products) != MB_OK)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for products of integers");
    if (choice->kernel && mb_codebook_products_create(network, &simulation->books) != MB_OK)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for products by codebook");
    double errors = 0, total = 0, done = 0;
    size_t matrices = 0;
    for (size_t i = 0; i < network->matrix_count; i++)
        total += (double)network->matrices[i].n * (double)network->matrices[i].k;
    for (size_t i = 0; i < network->matrix_count; i++) {
        struct mb_matrix *matrix = &network->matrices[i];
        const struct mb_tensor *tensor = mb_model_tensor_at(network->model, matrix->tensor);
        if (!tensor->quantizable)
            continue;
        if (mb_progress_report(progress, done, total, tensor->name) != MB_OK)
            return mb_error_set(error, MB_ERR_INTERRUPTED, -1, "interrupted at tensor '%s'",
                                tensor->name);
        double off = 0;
        struct storing storing = {.tensor = tensor,
                                  .index = matrix->tensor,
                                  .choice = choice,
                                  .importance = importance ? importance[matrix->tensor] : NULL,
                                  .moments = simulation->moments,
                                  .products = simulation->products,
                                  .books = simulation->books,
                                  .matrix = i,
                                  .threads = network->threads,
                                  .progress = progress,
                                  .done = done,
                                  .total = total,
                                  .error = error,
                                  .size = size};
        const enum mb_status status = store_matrix(&storing, matrix, &off);
        if (status == MB_ERR_INTERRUPTED)
            return status;
        if (status != MB_OK)
            return mb_error_set(
                error, status, -1, "tensor '%s' cannot be stored: %s%s", tensor->name,
                mb_status_string(status),
                status == MB_ERR_ARGUMENT ? " (it holds infinite or undefined weights)" : "");
        simulation->rounded[i] =
            choice->feed_forward == MB_FORMAT_NONE ||
            format_of(choice, tensor) == mb_format_fit(choice->format, tensor->k);
        errors += off;
        matrices++;
        done += (double)matrix->n * (double)matrix->k;
    }
    size->error = matrices > 0 ? sqrt(errors / (double)matrices) : 0;
    if (choice->activations != NULL) {
        mb_rounder_init(&simulation->rounder, network, choice->activations, simulation->ranges,
                        simulation->rounded);
        network->rounding = &simulation->rounder.rounding;
    }
    if (simulation->products != NULL)
        network->rounding = mb_integer_products_rounding(simulation->products);
    if (simulation->books != NULL)
        network->rounding = mb_codebook_products_rounding(simulation->books);
    return MB_OK;
}
