/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the front part of a GGUF file: header, pairs, tensor infos. Pairs are copied as the raw
 * bytes they were read from, but for those that describe the file rather than the model: its type,
 * how it was split, and what an earlier run of mixbit said about it. */
#include "model/gguf.h"

#include <string.h>

enum { QUANTIZATION_VERSION = 2 };

void mb_gguf_put_number(struct mb_file *file, uint64_t value, size_t bytes)
{
    uint8_t little[8];
    for (size_t i = 0; i < bytes; i++)
        little[i] = (uint8_t)(value >> (8 * i));
    (void)mb_file_write(file, little, bytes);
}

void mb_gguf_put_string(struct mb_file *file, const char *text)
{
    mb_gguf_put_number(file, strlen(text), 8);
    (void)mb_file_write(file, text, strlen(text));
}

void mb_gguf_put_u32_pair(struct mb_file *file, const char *key, uint32_t value)
{
    mb_gguf_put_string(file, key);
    mb_gguf_put_number(file, MB_GGUF_U32, 4);
    mb_gguf_put_number(file, value, 4);
}

void mb_gguf_put_string_pair(struct mb_file *file, const char *key, const char *value)
{
    mb_gguf_put_string(file, key);
    mb_gguf_put_number(file, MB_GGUF_STRING, 4);
    mb_gguf_put_string(file, value);
}

static bool is_extra(const char *const *extra_keys, const char *key)
{
    for (size_t i = 0; extra_keys != NULL && extra_keys[i] != NULL; i += 2)
        if (strcmp(extra_keys[i], key) == 0)
            return true;
    return false;
}

static bool is_kept(const char *key, const char *const *extra_keys)
{
    static const char *const about_the_file[] = {"general.file_type",
                                                 "general.quantization_version", "split.no",
                                                 "split.count", "split.tensors.count"};
    for (size_t i = 0; i < sizeof about_the_file / sizeof about_the_file[0]; i++)
        if (strcmp(key, about_the_file[i]) == 0)
            return false;
    return strncmp(key, "mixbit.", 7) != 0 && !is_extra(extra_keys, key);
}

static enum mb_status check_extra(const char *const *extra_keys, struct mb_error *error)
{
    for (size_t i = 0; extra_keys != NULL && extra_keys[i] != NULL; i += 2) {
        const char *key = extra_keys[i];
        if (extra_keys[i + 1] == NULL || key[0] == '\0' || strcmp(key, "general.alignment") == 0 ||
            strcmp(key, "general.file_type") == 0 ||
            strcmp(key, "general.quantization_version") == 0 || is_extra(extra_keys + i + 2, key))
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "the extra metadata key '%s' has no value, occurs twice or is "
                                "reserved",
                                mb_printable(key).text);
    }
    return MB_OK;
}

bool mb_gguf_tensor_bytes(const struct mb_tensor *tensor, int32_t type, size_t *bytes)
{
    const struct mb_ggml_type *t = mb_ggml_type(type);
    size_t row;
    return t != NULL && tensor->k % t->block_k == 0 &&
           mb_mul_size(tensor->k / t->block_k, t->block_bytes, &row) &&
           mb_mul_size(row, tensor->n, bytes);
}

enum mb_status mb_gguf_write_infos(struct mb_gguf_output *output, const struct mb_model *model,
                                   const int32_t *types, struct mb_error *error)
{
    size_t offset = 0;
    mb_file_seek(output->file, output->infos_at);
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct mb_tensor *tensor = &model->tensors[i];
        mb_gguf_put_string(output->file, tensor->name);
        mb_gguf_put_number(output->file, tensor->dims, 4);
        for (size_t d = 0; d < tensor->dims; d++)
            mb_gguf_put_number(output->file, tensor->ne[d], 8);
        mb_gguf_put_number(output->file, (uint32_t)types[i], 4);
        mb_gguf_put_number(output->file, offset, 8);
        size_t bytes;
        if (!mb_gguf_tensor_bytes(tensor, types[i], &bytes) ||
            !mb_add_size(offset, bytes, &offset) ||
            !mb_add_size(offset, output->alignment - 1, &offset))
            return mb_error_set(error, MB_ERR_SHAPE, -1,
                                "tensor '%s' with rows of %zu weights cannot be stored as %s",
                                mb_printable(tensor->name).text, tensor->k,
                                mb_ggml_type(types[i]) == NULL ? "that type"
                                                               : mb_ggml_type(types[i])->name);
        offset -= offset % output->alignment;
    }
    return MB_OK;
}

enum mb_status mb_gguf_write_header(struct mb_gguf_output *output, const struct mb_model *model,
                                    const int32_t *types, int32_t file_type,
                                    const char *const *extra_keys, struct mb_error *error)
{
    enum mb_status status = check_extra(extra_keys, error);
    if (status != MB_OK)
        return status;
    output->alignment = model->alignment;
    const bool says_version = is_extra(extra_keys, "mixbit.version");
    uint64_t pairs = 1 + (file_type >= 0) + !says_version /* 1: the quantization version */
                     + (output->codebook_version > 0);
    for (size_t i = 0; i < model->pair_count; i++)
        pairs += is_kept(model->pairs[i].key, extra_keys);
    for (size_t i = 0; extra_keys != NULL && extra_keys[i] != NULL; i += 2)
        pairs++;

    struct mb_file *file = output->file;
    (void)mb_file_write(file, "GGUF", 4);
    mb_gguf_put_number(file, MB_GGUF_VERSION, 4);
    mb_gguf_put_number(file, model->tensor_count, 8);
    mb_gguf_put_number(file, pairs, 8);
    for (size_t i = 0; i < model->pair_count; i++)
        if (is_kept(model->pairs[i].key, extra_keys))
            (void)mb_file_write(file, model->pairs[i].raw, model->pairs[i].raw_bytes);
    mb_gguf_put_u32_pair(file, "general.quantization_version", QUANTIZATION_VERSION);
    if (file_type >= 0)
        mb_gguf_put_u32_pair(file, "general.file_type", (uint32_t)file_type);
    if (!says_version)
        mb_gguf_put_string_pair(file, "mixbit.version", MIXBIT_VERSION);
    if (output->codebook_version > 0)
        mb_gguf_put_u32_pair(file, MB_CODEBOOK_VERSION_KEY, output->codebook_version);
    for (size_t i = 0; extra_keys != NULL && extra_keys[i] != NULL; i += 2)
        mb_gguf_put_string_pair(file, extra_keys[i], extra_keys[i + 1]);
    output->infos_at = mb_file_tell(file);
    status = mb_gguf_write_infos(output, model, types, error);
    if (status == MB_OK)
        status = mb_gguf_write_padding(output);
    return status;
}

enum mb_status mb_gguf_write_padding(struct mb_gguf_output *output)
{
    static const uint8_t zeros[256];
    size_t left = (size_t)(mb_file_tell(output->file) % output->alignment);
    enum mb_status status = MB_OK;
    for (left = left == 0 ? 0 : output->alignment - left; left > 0 && status == MB_OK;) {
        const size_t step = left < sizeof zeros ? left : sizeof zeros;
        status = mb_file_write(output->file, zeros, step);
        left -= step;
    }
    return status;
}
