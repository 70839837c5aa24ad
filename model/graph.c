/* SPDX-License-Identifier: Apache-2.0 */
/* What architectures build with: the table of them, hyperparameters, claimed and checked tensors,
 * the growing list of steps. Nothing a file says is used before it was checked against something
 * else the file holds. */
#include "model/gguf.h"
#include "model/network.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct mb_architecture *const architectures[] = {
    &mb_architecture_llama,        &mb_architecture_qwen3, &mb_architecture_qwen3moe,
    &mb_architecture_gemma3,       &mb_architecture_mamba, &mb_architecture_mamba2,
    &mb_architecture_granitehybrid};
enum { ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

enum mb_status mb_architecture_find(const struct mb_model *model,
                                    const struct mb_architecture **architecture,
                                    struct mb_error *error)
{
    const char *name = mb_model_architecture(model);
    char supported[256] = "";
    for (size_t i = 0; i < ARCHITECTURES; i++) {
        if (strcmp(name, architectures[i]->name) == 0) {
            *architecture = architectures[i];
            return MB_OK;
        }
        const size_t used = strlen(supported);
        snprintf(supported + used, sizeof supported - used, "%s%s", i ? ", " : "",
                 architectures[i]->name);
    }
    return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                        "%s: architecture '%.64s' is not supported yet (supported: %s)",
                        mb_model_path(model), name, supported);
}

static void full_key(const struct mb_network *network, const char *key, char out[128])
{
    snprintf(out, 128, "%.60s.%s", mb_model_architecture(network->model), key);
}

enum mb_status mb_graph_uint(const struct mb_network *network, const char *key, size_t low,
                             size_t high, size_t fallback, size_t *value, struct mb_error *error)
{
    const struct mb_model *model = network->model;
    char name[128];
    full_key(network, key, name);
    uint64_t found = mb_model_uint(model, name, fallback ? fallback : UINT64_MAX);
    const size_t entries = mb_model_array_count(model, name);
    for (size_t i = 0; i < entries; i++) {
        const double number = mb_model_array_number(model, name, i);
        if (!(number >= 0 && number < 1e15) || (i > 0 && (uint64_t)number != found))
            return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                                "%s: '%s' differs from layer to layer, which is not supported yet",
                                mb_model_path(model), name);
        found = (uint64_t)number;
    }
    if (found == UINT64_MAX)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: '%s' is missing or not a whole number; the file is incomplete, "
                            "convert the model again",
                            mb_model_path(model), name);
    if (found < low || found > high)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: '%s' is %llu, expected %zu to %zu; the file is damaged or of "
                            "another kind",
                            mb_model_path(model), name, (unsigned long long)found, low, high);
    *value = (size_t)found;
    return MB_OK;
}

enum mb_status mb_graph_layer_uint(const struct mb_network *network, const char *key, size_t layer,
                                   size_t low, size_t high, size_t fallback, size_t *value,
                                   struct mb_error *error)
{
    const struct mb_model *model = network->model;
    char name[128];
    full_key(network, key, name);
    const size_t entries = mb_model_array_count(model, name);
    if (entries == 0)
        return mb_graph_uint(network, key, low, high, fallback, value, error);
    if (entries != network->layers)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: '%s' has %zu entries, expected one for each of %zu layers",
                            mb_model_path(model), name, entries, network->layers);
    const double number = mb_model_array_number(model, name, layer);
    if (!(number >= (double)low && number <= (double)high) || number != floor(number))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: entry %zu of '%s' is %g, expected a whole number of %zu to %zu",
                            mb_model_path(model), layer, name, number, low, high);
    *value = (size_t)number;
    return MB_OK;
}

enum mb_status mb_graph_float(const struct mb_network *network, const char *key, double low,
                              double high, double fallback, double *value, struct mb_error *error)
{
    char name[128];
    full_key(network, key, name);
    *value = mb_model_float(network->model, name, fallback);
    if (isnan(*value))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: '%s' is missing or not a number; the file is incomplete, convert "
                            "the model again",
                            mb_model_path(network->model), name);
    if (!(*value >= low && *value <= high))
        return mb_error_set(error, MB_ERR_FILE, -1, "%s: '%s' is %g, expected %g to %g",
                            mb_model_path(network->model), name, *value, low, high);
    return MB_OK;
}

const char *mb_graph_string(const struct mb_network *network, const char *key, const char *fallback)
{
    char name[128];
    full_key(network, key, name);
    return mb_model_string(network->model, name, fallback);
}

/* Room for one more entry of `size` bytes. */
static bool grow(void **array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return true;
    const size_t more = *room ? 2 * *room : 64;
    void *grown = realloc(*array, more * size);
    if (grown == NULL)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static enum mb_status out_of_memory(struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while the network was built");
}

/* Index and row of a tensor; MB_ERR_FILE when it is not there, MB_ERR_UNSUPPORTED for foreign
 * types. Those of codebooks can be products only. */
static enum mb_status find_tensor(struct mb_network *network, const char *name, bool product,
                                  size_t *index, struct mb_error *error)
{
    const struct mb_model *model = network->model;
    const struct mb_tensor *tensor = mb_model_tensor_find(model, name);
    if (tensor == NULL)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: tensor '%s' is missing; the file is incomplete or of another kind",
                            mb_model_path(model), name);
    *index = (size_t)(tensor - mb_model_tensor_at(model, 0));
    if (tensor->format == MB_FORMAT_NONE && !(product && mb_codebook_matrices(model, *index) > 0))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: tensor '%s' has ggml type %d, which is not supported; convert the "
                            "model from a float or another quantized file",
                            mb_model_path(model), name, (int)tensor->type);
    network->claimed[*index] = true;
    return MB_OK;
}

/* What the mix makes of a tensor. */
static enum mb_format mixed_format(const struct mb_network *network, size_t index)
{
    if (network->formats != NULL && network->formats[index] != MB_FORMAT_NONE)
        return network->formats[index];
    return mb_model_tensor_at(network->model, index)->format;
}

/* Claim a tensor whose shape was checked. */
static enum mb_status add_matrix(struct mb_network *network, size_t index, size_t *matrix,
                                 struct mb_error *error)
{
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, index);
    const enum mb_format format = mixed_format(network, index);
    const bool codebooks = mb_codebook_matrices(network->model, index) > 0;
    if (codebooks && format != MB_FORMAT_NONE)
        return mb_codebook_tensors_refuse(network->model, error);
    if (!codebooks && mb_format_row_bytes(format, tensor->k) == 0)
        return mb_error_set(error, MB_ERR_SHAPE, -1,
                            "tensor '%s' has rows of %zu weights, which %s cannot hold; choose "
                            "another format for it",
                            tensor->name, tensor->k,
                            mb_format_info(format) ? mb_format_info(format)->name : "this format");
    void *array = network->matrices;
    if (!grow(&array, network->matrix_count, &network->matrix_room, sizeof *network->matrices))
        return out_of_memory(error);
    network->matrices = array;
    *matrix = network->matrix_count++;
    network->matrices[*matrix] =
        (struct mb_matrix){.tensor = index, .format = format, .n = tensor->n, .k = tensor->k};
    return MB_OK;
}

enum mb_status mb_graph_matrix(struct mb_network *network, const char *name, size_t n, size_t k,
                               size_t *matrix, struct mb_error *error)
{
    size_t index;
    enum mb_status status = find_tensor(network, name, true, &index, error);
    if (status != MB_OK)
        return status;
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, index);
    if (tensor->dims > 2 || tensor->n == 0 || tensor->k == 0 || (n && tensor->n != n) ||
        (k && tensor->k != k))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: tensor '%s' is %zu x %zu, expected %zu x %zu (0: any) from the "
                            "hyperparameters and the other tensors",
                            mb_model_path(network->model), name, tensor->k, tensor->n, k, n);
    return add_matrix(network, index, matrix, error);
}

enum mb_status mb_graph_experts(struct mb_network *network, const char *name, size_t experts,
                                size_t n, size_t k, size_t *matrix, struct mb_error *error)
{
    size_t index;
    enum mb_status status = find_tensor(network, name, true, &index, error);
    if (status != MB_OK)
        return status;
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, index);
    const size_t found = (size_t)tensor->ne[2];
    if (tensor->dims != 3 || tensor->k != k || tensor->ne[1] != n || found != experts)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: tensor '%s' is %zu rows of %zu, expected %zu experts of %zu x %zu",
                            mb_model_path(network->model), name, tensor->n, tensor->k, experts, k,
                            n);
    return add_matrix(network, index, matrix, error);
}

/* All rows of a tensor as the mix would hold them, in f32. */
static enum mb_status read_floats(const struct mb_tensor *tensor, enum mb_format format,
                                  float *values, struct mb_error *error)
{
    if (format == tensor->format)
        return mb_dequantize(format, tensor->data, tensor->n, tensor->k, values);
    const size_t bytes = mb_format_row_bytes(format, tensor->k);
    if (bytes == 0)
        return mb_error_set(error, MB_ERR_SHAPE, -1,
                            "tensor '%s' has rows of %zu entries, which the format asked for "
                            "cannot hold",
                            tensor->name, tensor->k);
    void *rows = malloc(tensor->n * bytes);
    if (rows == NULL)
        return out_of_memory(error);
    enum mb_status status = mb_rows_as(tensor, format, NULL, 0, tensor->n, values, rows);
    if (status == MB_OK)
        status = mb_dequantize(format, rows, tensor->n, tensor->k, values);
    free(rows);
    return status;
}

/* Room for one more vector of `entries` zeros, which the network owns. */
static enum mb_status add_vector(struct mb_network *network, size_t entries, int *vector,
                                 struct mb_error *error)
{
    void *array = network->vectors;
    if (!grow(&array, network->vector_count, &network->vector_room, sizeof *network->vectors))
        return out_of_memory(error);
    network->vectors = array;
    float *values = calloc(entries, sizeof *values);
    if (values == NULL)
        return out_of_memory(error);
    network->vectors[network->vector_count] = values;
    *vector = (int)network->vector_count++;
    return MB_OK;
}

enum mb_status mb_graph_vector(struct mb_network *network, const char *name, size_t n,
                               bool optional, int *vector, struct mb_error *error)
{
    *vector = MB_NO_VECTOR;
    if (optional && mb_model_tensor_find(network->model, name) == NULL)
        return MB_OK;
    return mb_graph_table(network, &(struct mb_graph_table){.name = name, .n = 1, .k = n}, vector,
                          error);
}

enum mb_status mb_graph_table(struct mb_network *network, const struct mb_graph_table *table,
                              int *vector, struct mb_error *error)
{
    size_t index;
    enum mb_status status = find_tensor(network, table->name, false, &index, error);
    if (status != MB_OK)
        return status;
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, index);
    const size_t n = table->n, k = table->k, pad = table->pad ? table->pad : 1;
    if (tensor->n != n || tensor->k != k)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: tensor '%s' is %zu x %zu, expected %zu x %zu",
                            mb_model_path(network->model), table->name, tensor->k, tensor->n, k, n);
    const size_t rows = table->transposed ? k : n, columns = table->transposed ? n : k,
                 stride = (columns + pad - 1) / pad * pad;
    float *values = malloc(n * k * sizeof *values);
    if (values == NULL)
        return out_of_memory(error);
    status = read_floats(tensor, mixed_format(network, index), values, error);
    if (status == MB_OK)
        status = add_vector(network, rows * stride, vector, error);
    for (size_t row = 0; row < rows && status == MB_OK; row++)
        for (size_t i = 0; i < columns; i++)
            network->vectors[*vector][row * stride + i] =
                values[table->transposed ? i * k + row : row * k + i];
    free(values);
    return status;
}

enum mb_status mb_graph_step(struct mb_network *network, struct mb_step step,
                             struct mb_error *error)
{
    void *array = network->steps;
    if (!grow(&array, network->step_count, &network->step_room, sizeof *network->steps))
        return out_of_memory(error);
    network->steps = array;
    network->steps[network->step_count++] = step;
    return MB_OK;
}

unsigned mb_step_reads(const struct mb_step *step)
{
    const unsigned in = 1u << step->in, out = 1u << step->out;
    switch (step->kind) {
    case MB_STEP_EMBED: return 0;
    case MB_STEP_NORM:
    case MB_STEP_PRODUCTS:
    case MB_STEP_CONVOLVE: return in;
    case MB_STEP_ROPE:
    case MB_STEP_SOFTPLUS:
    case MB_STEP_ROUTE: return out;
    case MB_STEP_EXPERTS: return in | 1u << MB_SLOT_ROUTED;
    case MB_STEP_ATTEND: return 1u << MB_SLOT_QUERY | 1u << MB_SLOT_KEY | 1u << MB_SLOT_VALUE;
    case MB_STEP_SCAN: return in | 1u << step->b.slot | 1u << step->c.slot | 1u << step->dt.slot;
    case MB_STEP_SCORE: return 1u << MB_SLOT_HIDDEN | in;
    case MB_STEP_ADD:
    case MB_STEP_SWIGLU:
    case MB_STEP_GEGLU:
    case MB_STEP_GATE: return in | out;
    }
    return 0;
}

unsigned mb_step_writes(const struct mb_step *step)
{
    unsigned out = 1u << step->out;
    if (step->kind == MB_STEP_SCORE)
        return 1u << MB_SLOT_HIDDEN | 1u << step->in;
    if (step->product_count > 0) {
        out = 0;
        for (size_t i = 0; i < step->product_count; i++)
            out |= 1u << step->products[i].out;
    }
    return out;
}

unsigned mb_slots_live(const struct mb_network *network, size_t from)
{
    unsigned live = 1u << MB_SLOT_NORMED; /* what the head reads */
    for (size_t i = network->step_count; i > from; i--)
        live = (live & ~mb_step_writes(&network->steps[i - 1])) |
               mb_step_reads(&network->steps[i - 1]);
    return live;
}

size_t mb_score_step(const struct mb_network *network)
{
    size_t i = 0;
    while (i < network->step_count && network->steps[i].kind != MB_STEP_SCORE)
        i++;
    return i;
}
