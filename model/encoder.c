/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding a whole tensor with feedback, and keeping the blocks (encoder.h).
 *
 * Rows go to the encoder 16 at a time, its own batch, and those batches to threads; some million
 * weights lie between two looks at whether to go on. */
#include "model/encoder.h"

#include "model/gguf.h"
#include "model/importance.h"
#include "model/network.h"
#include "model/schemes.h"
#include "support/support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16, WEIGHTS_AT_ONCE = 1 << 20 };
/* Raised when a change of arithmetic makes earlier blocks other ones. */
enum { ENCODER_REVISION = 4 };

struct entry {
    size_t tensor;
    enum mb_format format;
    bool draft; /* rounded by search */
    void *rows; /* or records */
    size_t bytes;
};

struct mb_encoder {
    struct mb_encoder *base; /* has what is not made here; NULL: it is made here */
    struct mb_model *model;
    struct mb_moments *moments;
    const float *const *importance;
    struct mb_threads *threads;
    size_t sweeps, limit, bytes;
    size_t count, room;
    struct entry *entries;
    void *spare; /* of the last call, when the limit left no room for it */
    char hash[33];
};

struct mb_encoder *mb_encoder_create(struct mb_model *model, struct mb_moments *moments,
                                     const float *const *importance, size_t sweeps,
                                     size_t memory_limit, struct mb_threads *threads)
{
    struct mb_encoder *e = calloc(1, sizeof *e);
    const struct mb_windows *windows = mb_moments_windows(moments);
    char of[33], settings[200];
    if (e == NULL)
        return NULL;
    *e = (struct mb_encoder){.model = model,
                             .moments = moments,
                             .importance = importance,
                             .threads = threads,
                             .sweeps = sweeps,
                             .limit = memory_limit > 0 ? memory_limit : mb_free_memory() / 4};
    mb_moments_divide(moments);
    mb_importance_hash(model, importance, of);
    const int length =
        snprintf(settings, sizeof settings,
                 "feedback %d, text %s, windows %zu x %zu, importance %s, sweeps %zu",
                 ENCODER_REVISION, windows->text_hash, windows->count, windows->window, of, sweeps);
    mb_hash_bytes(settings, (size_t)length, e->hash);
    return e;
}

struct mb_encoder *mb_encoder_create_over(struct mb_encoder *base, const char *what)
{
    struct mb_encoder *e = malloc(sizeof *e);
    char settings[200];
    if (e == NULL)
        return NULL;
    *e = (struct mb_encoder){.base = base,
                             .model = base->model,
                             .moments = base->moments,
                             .importance = base->importance,
                             .threads = base->threads,
                             .sweeps = base->sweeps,
                             .limit = SIZE_MAX};
    const int length = snprintf(settings, sizeof settings, "%.150s, over %s", what, base->hash);
    mb_hash_bytes(settings, (size_t)length, e->hash);
    return e;
}

void mb_encoder_destroy(struct mb_encoder *encoder)
{
    if (encoder == NULL)
        return;
    for (size_t i = 0; i < encoder->count; i++)
        mb_free_aligned(encoder->entries[i].rows);
    mb_free_aligned(encoder->spare);
    free(encoder->entries);
    free(encoder);
}

const char *mb_encoder_hash(const struct mb_encoder *encoder) { return encoder->hash; }

const struct mb_windows *mb_encoder_windows(const struct mb_encoder *encoder)
{
    return mb_moments_windows(encoder->moments);
}

/* ---- one tensor ---- */

struct job {
    const struct mb_tensor *tensor;
    enum mb_format format;
    bool draft;
    struct mb_encoding encoding;            /* a draft has no moments */
    const struct mb_correction *correction; /* NULL: none */
    const size_t *order; /* the tensor's rows as they are made; NULL: as they are */
    float *own, *moved;  /* with a correction: rows row0 to row1 as they are, and what it adds */
    float *errors;       /* [n][k], where rows answer for those before them: target - made */
    size_t row0, row1;   /* the rows to make */
    uint8_t *out;        /* of the whole tensor */
    atomic_int status;
};

/* Rows [row0, row1) in the job's order. */
static enum mb_status read_rows(const struct job *job, size_t row0, size_t row1, float *out)
{
    const struct mb_tensor *tensor = job->tensor;
    const size_t k = tensor->k, bytes = mb_format_row_bytes(tensor->format, k);
    const uint8_t *data = tensor->data;
    if (job->order == NULL)
        return mb_dequantize(tensor->format, data + row0 * bytes, row1 - row0, k, out);
    enum mb_status status = MB_OK;
    for (size_t r = row0; r < row1 && status == MB_OK; r++)
        status =
            mb_dequantize(tensor->format, data + job->order[r] * bytes, 1, k, out + (r - row0) * k);
    return status;
}

static void read_own(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const enum mb_status status =
        read_rows(job, job->row0 + first, job->row0 + last, job->own + first * job->tensor->k);
    if (status != MB_OK)
        atomic_store(&job->status, (int)status);
}

static void add_moved(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct job *job = arg;
    const size_t k = job->tensor->k;
    const float *added = job->correction->added;
    for (size_t r = first; r < last; r++) {
        const size_t row = job->order != NULL ? job->order[job->row0 + r] : job->row0 + r;
        for (size_t i = 0; i < k; i++)
            job->own[r * k + i] +=
                job->moved[r * k + i] + (added != NULL ? added[row * k + i] : 0.0f);
    }
}

/* own = w + w by + added, for rows [row0, row1). */
static enum mb_status correct_rows(struct mb_encoder *e, struct job *job)
{
    const size_t rows = job->row1 - job->row0, k = job->tensor->k;
    mb_split(e->threads, rows, rows * k, read_own, job);
    enum mb_status status = (enum mb_status)atomic_load(&job->status);
    if (status == MB_OK)
        status = mb_matmul(e->threads, job->correction->by, job->own, rows, k, job->moved, k);
    if (status == MB_OK)
        mb_split(e->threads, rows, rows * k, add_moved, job);
    return status;
}

/* Columns [first, last) of rows [row0, row1), with between = N: own += N_BB^-1 N_B< e, for the rows
 * B at hand and the errors e of those before. errors gets what own was. */
static void answer(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct job *job = arg;
    const size_t n = job->tensor->n, k = job->tensor->k, columns = last - first;
    for (size_t r = job->row0; r < job->row1; r++) {
        const float *factor = job->correction->between + r * n;
        float *own = job->own + (r - job->row0) * k + first;
        float *asked = job->moved + (r - job->row0) * k + first;
        memset(asked, 0, columns * sizeof *asked);
        for (size_t i = 0; i < r; i++) {
            const float *e = i < job->row0 ? job->errors + i * k : job->moved + (i - job->row0) * k;
            const float scale = i < job->row0 ? factor[i] : -factor[i];
            for (size_t c = 0; c < columns; c++)
                asked[c] += scale * e[first + c];
        }
        memcpy(job->errors + r * k + first, own, columns * sizeof *own);
        for (size_t c = 0; c < columns; c++)
            own[c] += asked[c];
    }
}

/* errors = what they were to be - what they are, for rows [row0, row1). */
static void keep_errors(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const size_t k = job->tensor->k, bytes = mb_format_row_bytes(job->format, k);
    for (size_t r = first; r < last; r++) {
        float *made = job->moved + r * k, *errors = job->errors + (job->row0 + r) * k;
        const enum mb_status status =
            mb_dequantize(job->format, job->out + (job->row0 + r) * bytes, 1, k, made);
        if (status != MB_OK)
            atomic_store(&job->status, (int)status);
        for (size_t c = 0; c < k; c++)
            errors[c] -= made[c];
    }
}

static void encode_batches(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const struct mb_tensor *tensor = job->tensor;
    const size_t row_bytes = mb_format_row_bytes(job->format, tensor->k);
    float *read = mb_alloc_aligned(BATCH * tensor->k * sizeof *read);
    uint8_t *made = mb_alloc_aligned(BATCH * row_bytes);
    enum mb_status status = read != NULL && made != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t batch = first; batch < last && status == MB_OK; batch++) {
        const size_t row0 = job->row0 + batch * BATCH;
        const size_t row1 = row0 + BATCH < job->row1 ? row0 + BATCH : job->row1;
        const float *floats = read;
        if (job->correction != NULL)
            floats = job->own + batch * BATCH * tensor->k;
        else
            status = read_rows(job, row0, row1, read);
        if (status == MB_OK)
            status =
                mb_quantize_rows(tensor, job->format, &job->encoding, row0, row1, floats, made);
        for (size_t r = row0; r < row1 && status == MB_OK; r++)
            memcpy(job->out + (job->order != NULL ? job->order[r] : r) * row_bytes,
                   made + (r - row0) * row_bytes, row_bytes);
    }
    if (status != MB_OK)
        atomic_store(&job->status, (int)status);
    mb_free_aligned(read);
    mb_free_aligned(made);
}

/* Between two looks at whether to go on. Rows that answer for those before them do so a batch
 * at a time where there are few, and not all at once where there are many: threads want work. */
static size_t batches_of(const struct job *job)
{
    const size_t few = job->tensor->n / (BATCH * BATCH);
    if (job->errors != NULL)
        return few > 1 ? few : 1;
    return WEIGHTS_AT_ONCE / (BATCH * job->tensor->k) + 1;
}

/* Rows [job->row0, end) in the job's order, all under one matrix's moments. */
static enum mb_status encode_matrix(struct mb_encoder *e, struct job *job, size_t end,
                                    const struct mb_progress *progress, double done, double total,
                                    struct mb_error *error)
{
    const struct mb_tensor *tensor = job->tensor;
    const size_t batches = batches_of(job), k = tensor->k;
    char note[128];
    (void)snprintf(note, sizeof note, "%s %s%s", mb_printable(tensor->name).text,
                   mb_format_info(job->format)->name, job->draft ? "" : ", with feedback");
    for (; job->row0 < end; job->row0 = job->row1) {
        if (mb_progress_report(progress, done, total, note) != MB_OK)
            return mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                                "interrupted while tensor '%s' was rounded",
                                mb_printable(tensor->name).text);
        job->row1 = end - job->row0 < batches * BATCH ? end : job->row0 + batches * BATCH;
        const size_t rows = job->row1 - job->row0;
        enum mb_status status = job->correction != NULL ? correct_rows(e, job) : MB_OK;
        if (status == MB_OK) {
            if (job->errors != NULL)
                mb_split(e->threads, k, job->row1 * rows * k, answer, job);
            mb_split(e->threads, (rows + BATCH - 1) / BATCH, SIZE_MAX, encode_batches, job);
            if (job->errors != NULL)
                mb_split(e->threads, rows, rows * k, keep_errors, job);
            status = (enum mb_status)atomic_load(&job->status);
        }
        if (status != MB_OK)
            return mb_error_set(
                error, status, -1, "tensor '%s' cannot be quantized to %s: %s%s",
                mb_printable(tensor->name).text, mb_format_info(job->format)->name,
                mb_status_string(status),
                status == MB_ERR_ARGUMENT ? " (it holds infinite or undefined weights)" : "");
    }
    return MB_OK;
}

/* Part after part. `given`: moments of all there is, but for groups of rows, which have the
 * encoder's; NULL: the encoder's. */
static enum mb_status encode_tensor(struct mb_encoder *e, size_t index, struct job *job,
                                    const struct mb_second_moments *given,
                                    const struct mb_progress *progress, double done, double total,
                                    struct mb_error *error)
{
    struct mb_row_parts parts = {.count = 1, .each = job->tensor->n}; /* a draft's */
    enum mb_status status = job->draft ? MB_OK : mb_moments_parts(e->moments, index, &parts, error);
    job->order = parts.order;
    job->encoding.moments = given;
    for (size_t i = 0; i < parts.count && status == MB_OK; i++) {
        if (!job->draft && (given == NULL || parts.order != NULL))
            status = mb_moments_get(e->moments, index, parts.matrix + i, progress, done, total,
                                    &job->encoding.moments, error);
        if (status == MB_OK)
            status = encode_matrix(e, job, mb_part_end(&parts, i), progress, done, total, error);
    }
    return status;
}

/* ---- what is kept ---- */

static struct entry *find(const struct mb_encoder *e, size_t tensor, enum mb_format format)
{
    for (size_t i = 0; i < e->count; i++)
        if (e->entries[i].tensor == tensor && e->entries[i].format == format)
            return &e->entries[i];
    return NULL;
}

/* Takes over the rows, in the place of a draft where there is one; false: out of memory. */
static bool keep(struct mb_encoder *e, size_t tensor, enum mb_format format, bool draft, void *rows,
                 size_t bytes)
{
    struct entry *entry = find(e, tensor, format);
    mb_free_aligned(e->spare);
    e->spare = NULL;
    if (entry != NULL) {
        mb_free_aligned(entry->rows);
        entry->rows = rows;
        entry->bytes = bytes;
        entry->draft = draft;
        return true;
    }
    if (bytes > e->limit - e->bytes) {
        e->spare = rows;
        return true;
    }
    if (e->count == e->room) {
        const size_t room = e->room > 0 ? 2 * e->room : 64;
        struct entry *entries = realloc(e->entries, room * sizeof *entries);
        if (entries == NULL) {
            mb_free_aligned(rows);
            return false;
        }
        e->entries = entries;
        e->room = room;
    }
    e->entries[e->count++] = (struct entry){tensor, format, draft, rows, bytes};
    e->bytes += bytes;
    return true;
}

/* Room for a tensor's blocks, in the job that makes them. */
static enum mb_status begin(struct mb_encoder *e, size_t tensor, enum mb_format format,
                            struct job *job, size_t *bytes, struct mb_error *error)
{
    const struct mb_tensor *t = mb_model_tensor_at(e->model, tensor);
    const size_t row_bytes = mb_format_row_bytes(format, t->k);
    job->tensor = t;
    job->format = format;
    job->encoding = (struct mb_encoding){.importance = e->importance ? e->importance[tensor] : NULL,
                                         .sweeps = e->sweeps};
    if (row_bytes == 0)
        return mb_error_set(error, MB_ERR_SHAPE, -1, "tensor '%s' has no rows of %s",
                            mb_printable(t->name).text, mb_format_info(format)->name);
    if (mb_mul_size(t->n, row_bytes, bytes))
        job->out = mb_alloc_aligned(*bytes);
    if (job->out == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for tensor '%s'",
                            mb_printable(t->name).text);
    return MB_OK;
}

/* Keeps what was made, unless it failed. */
static enum mb_status end(struct mb_encoder *e, size_t tensor, struct job *job, size_t bytes,
                          enum mb_status status, struct mb_error *error)
{
    if (status != MB_OK)
        mb_free_aligned(job->out);
    else if (!keep(e, tensor, job->format, job->draft, job->out, bytes))
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for encoded tensors");
    return status;
}

static enum mb_status kept_or_made(struct mb_encoder *e, size_t tensor, enum mb_format format,
                                   bool draft, const struct mb_progress *progress, double done,
                                   double total, const void **rows, struct mb_error *error)
{
    const struct entry *kept = find(e, tensor, format);
    const struct mb_tensor *t = mb_model_tensor_at(e->model, tensor);
    struct job job = {.draft = draft};
    size_t bytes;
    *rows = t->data;
    if (format == t->format)
        return MB_OK;
    if (kept != NULL && (draft || !kept->draft)) {
        *rows = kept->rows;
        return MB_OK;
    }
    if (e->base != NULL)
        return kept_or_made(e->base, tensor, format, draft, progress, done, total, rows, error);
    enum mb_status status = begin(e, tensor, format, &job, &bytes, error);
    if (status == MB_OK)
        status = end(e, tensor, &job, bytes,
                     encode_tensor(e, tensor, &job, NULL, progress, done, total, error), error);
    if (status == MB_OK)
        *rows = job.out;
    return status;
}

enum mb_status mb_encoder_rows(struct mb_encoder *e, size_t tensor, enum mb_format format,
                               const struct mb_progress *progress, double done, double total,
                               const void **rows, struct mb_error *error)
{
    return kept_or_made(e, tensor, format, false, progress, done, total, rows, error);
}

enum mb_status mb_encoder_draft(struct mb_encoder *e, size_t tensor, enum mb_format format,
                                const struct mb_progress *progress, double done, double total,
                                const void **rows, struct mb_error *error)
{
    return kept_or_made(e, tensor, format, true, progress, done, total, rows, error);
}

/* ---- codebook matrices ---- */

/* The job's, made and kept; those of a draft have no moments. */
static enum mb_status make_records(struct mb_encoder *e, size_t tensor, enum mb_format format,
                                   bool draft, struct mb_scheme_job *job, const void **records,
                                   size_t *bytes, struct mb_error *error)
{
    uint8_t *made;
    job->moments = draft ? NULL : e->moments;
    enum mb_status status = mb_scheme_records(job, mb_model_tensor_at(e->model, tensor), tensor,
                                              &made, bytes, NULL, error);
    if (status != MB_OK)
        return status;
    void *kept = mb_alloc_aligned(*bytes);
    if (kept != NULL)
        memcpy(kept, made, *bytes);
    free(made);
    *records = kept;
    return kept != NULL && keep(e, tensor, format, draft, kept, *bytes)
               ? MB_OK
               : mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for encoded tensors");
}

enum mb_status mb_encoder_stored(struct mb_encoder *e, size_t tensor, enum mb_format format,
                                 bool draft, const struct mb_progress *progress, double done,
                                 double total, const void **data, size_t *bytes,
                                 struct mb_error *error)
{
    const struct mb_tensor *t = mb_model_tensor_at(e->model, tensor);
    if (!mb_format_is_codebook(format)) {
        *bytes = t->n * mb_format_row_bytes(format, t->k);
        return kept_or_made(e, tensor, format, draft, progress, done, total, data, error);
    }
    const struct entry *kept = find(e, tensor, format);
    if (kept != NULL && (draft || !kept->draft)) {
        *data = kept->rows;
        *bytes = kept->bytes;
        return MB_OK;
    }
    if (e->base != NULL)
        return mb_encoder_stored(e->base, tensor, format, draft, progress, done, total, data, bytes,
                                 error);
    struct mb_scheme_job job =
        mb_codebook_job(format, draft, e->importance ? e->importance[tensor] : NULL, e->threads);
    job.progress = progress;
    job.done = done;
    job.total = total;
    return make_records(e, tensor, format, draft, &job, data, bytes, error);
}

/* ---- corrected ---- */

/* What columns weigh is in the moments. Rows do not answer for each other: codes are chosen row by
 * row, under codebooks of all. */
static enum mb_status make_corrected_records(struct mb_encoder *e, size_t tensor,
                                             enum mb_format format, struct job *job,
                                             const struct mb_second_moments *moments,
                                             const struct mb_progress *progress, double done,
                                             double total, struct mb_error *error)
{
    const void *records;
    size_t bytes;
    struct mb_scheme_job records_job = mb_codebook_job(format, false, NULL, e->threads);
    job->tensor = mb_model_tensor_at(e->model, tensor);
    job->row1 = job->tensor->n;
    const size_t floats = job->tensor->n * job->tensor->k;
    job->own = mb_alloc_aligned(floats * sizeof *job->own);
    job->moved = mb_alloc_aligned(floats * sizeof *job->moved);
    enum mb_status status =
        job->own != NULL && job->moved != NULL ? correct_rows(e, job) : MB_ERR_MEMORY;
    mb_free_aligned(job->moved);
    records_job.rows = job->own;
    records_job.h = moments->h;
    records_job.progress = progress;
    records_job.done = done;
    records_job.total = total;
    status = status == MB_OK
                 ? make_records(e, tensor, format, false, &records_job, &records, &bytes, error)
                 : mb_error_set(error, status, -1, "tensor '%s' cannot be corrected: %s",
                                mb_printable(job->tensor->name).text, mb_status_string(status));
    mb_free_aligned(job->own);
    return status;
}

enum mb_status mb_encoder_make(struct mb_encoder *e, size_t tensor, enum mb_format format,
                               const struct mb_second_moments *moments,
                               const struct mb_correction *correction,
                               const struct mb_progress *progress, double done, double total,
                               struct mb_error *error)
{
    struct job job = {.correction = correction};
    size_t bytes;
    if (mb_format_is_codebook(format))
        return make_corrected_records(e, tensor, format, &job, moments, progress, done, total,
                                      error);
    enum mb_status status = begin(e, tensor, format, &job, &bytes, error);
    if (status != MB_OK)
        return status;
    const bool answers = correction->between != NULL;
    if (answers)
        job.errors = mb_alloc_aligned(job.tensor->n * job.tensor->k * sizeof *job.errors);
    const size_t floats = batches_of(&job) * BATCH * job.tensor->k;
    job.own = mb_alloc_aligned(floats * sizeof *job.own);
    job.moved = mb_alloc_aligned(floats * sizeof *job.moved);
    status = job.own != NULL && job.moved != NULL && answers == (job.errors != NULL)
                 ? encode_tensor(e, tensor, &job, moments, progress, done, total, error)
                 : mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for tensor '%s'",
                                mb_printable(job.tensor->name).text);
    mb_free_aligned(job.own);
    mb_free_aligned(job.moved);
    mb_free_aligned(job.errors);
    return end(e, tensor, &job, bytes, status, error);
}
