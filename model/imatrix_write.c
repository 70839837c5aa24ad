/* SPDX-License-Identifier: Apache-2.0 */
/* Writes importance as llama.cpp's GGUF imatrix: sums and counts, ordered by name as its own tool
 * does, and what they were collected from. */
#include "model/gguf.h"
#include "model/importance.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = MB_GGUF_DEFAULT_ALIGNMENT, PAIRS = 7 };

/* Tensors with weights, by name. */
struct order {
    const struct mb_tensor **tensors;
    size_t count;
};

static int by_name(const void *a, const void *b)
{
    const struct mb_tensor *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static bool sort(const struct mb_importance *importance, const struct mb_model *model,
                 struct order *order)
{
    *order = (struct order){calloc(importance->tensor_count + 1, sizeof *order->tensors), 0};
    if (order->tensors == NULL)
        return false;
    for (size_t i = 0; i < importance->tensor_count; i++)
        if (importance->weights[i] != NULL)
            order->tensors[order->count++] = mb_model_tensor_at(model, i);
    qsort(order->tensors, order->count, sizeof *order->tensors, by_name);
    return true;
}

static void put_info(struct mb_file *file, const char *name, const char *suffix, size_t k,
                     size_t matrices, size_t *offset)
{
    mb_gguf_put_number(file, strlen(name) + strlen(suffix), 8);
    (void)mb_file_write(file, name, strlen(name));
    (void)mb_file_write(file, suffix, strlen(suffix));
    mb_gguf_put_number(file, 2, 4);
    mb_gguf_put_number(file, k, 8);
    mb_gguf_put_number(file, matrices, 8);
    mb_gguf_put_number(file, MB_FORMAT_F32, 4);
    mb_gguf_put_number(file, *offset, 8);
    *offset += (matrices * k * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_float(struct mb_file *file, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    mb_gguf_put_number(file, bits, 4);
}

static void put_header(struct mb_gguf_output *output, const struct mb_importance *importance,
                       struct mb_model *model, const char *dataset, const struct order *order)
{
    struct mb_file *file = output->file;
    size_t offset = 0;
    (void)mb_file_write(file, "GGUF", 4);
    mb_gguf_put_number(file, MB_GGUF_VERSION, 4);
    mb_gguf_put_number(file, 2 * order->count, 8);
    mb_gguf_put_number(file, PAIRS, 8);
    mb_gguf_put_string_pair(file, "general.type", "imatrix");
    mb_gguf_put_string(file, "imatrix.datasets");
    mb_gguf_put_number(file, MB_GGUF_ARRAY, 4);
    mb_gguf_put_number(file, MB_GGUF_STRING, 4);
    mb_gguf_put_number(file, 1, 8);
    mb_gguf_put_string(file, dataset);
    mb_gguf_put_u32_pair(file, "imatrix.chunk_count", (uint32_t)importance->chunks);
    mb_gguf_put_u32_pair(file, "imatrix.chunk_size", (uint32_t)importance->chunk);
    mb_gguf_put_string_pair(file, "mixbit.version", MIXBIT_VERSION);
    mb_gguf_put_string_pair(file, "mixbit.source", mb_model_hash(model));
    mb_gguf_put_string_pair(file, "mixbit.text", importance->text_hash);
    for (size_t i = 0; i < order->count; i++) {
        const struct mb_tensor *t = order->tensors[i];
        put_info(file, t->name, ".in_sum2", t->k, mb_tensor_matrices(t), &offset);
        put_info(file, t->name, ".counts", 1, mb_tensor_matrices(t), &offset);
    }
    (void)mb_gguf_write_padding(output);
}

static void put_data(struct mb_gguf_output *output, const float *weights, const size_t *rows,
                     size_t k, size_t matrices)
{
    for (size_t i = 0; i < matrices * k; i++)
        put_float(output->file, (float)((double)weights[i] * (double)rows[i / k]));
    (void)mb_gguf_write_padding(output);
    for (size_t m = 0; m < matrices; m++)
        put_float(output->file, (float)rows[m]);
    (void)mb_gguf_write_padding(output);
}

enum mb_status mb_importance_save(const struct mb_importance *importance, struct mb_model *model,
                                  const char *path, const char *dataset, struct mb_error *error)
{
    struct mb_gguf_output output = {.alignment = ALIGNMENT};
    struct order order;
    if (importance->tensor_count != mb_model_tensor_count(model))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "the importance is that of another model than '%s'",
                            mb_model_path(model));
    if (!sort(importance, model, &order))
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an imatrix");
    enum mb_status status = mb_file_create(path, &output.file, error);
    if (status == MB_OK) {
        put_header(&output, importance, model, dataset, &order);
        for (size_t i = 0; i < order.count; i++) {
            const struct mb_tensor *t = order.tensors[i];
            const size_t index = (size_t)(t - mb_model_tensor_at(model, 0));
            put_data(&output, importance->weights[index], importance->rows[index], t->k,
                     mb_tensor_matrices(t));
        }
        status = mb_file_commit(output.file, error);
    }
    free(order.tensors);
    return status;
}
