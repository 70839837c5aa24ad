/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices in a model that is being opened. A file keeps them under a name and a type that
 * no other program multiplies by (docs/codebook-files.md); here they get back the name and the
 * shape that the rest of the library asks for. Headers and maps are checked now, so that sizes can
 * be relied on; the rest when a matrix is read (channelwise_blob.h). */
#include "model/channelwise_blob.h"
#include "model/gguf.h"

#include <inttypes.h>
#include <string.h>

static bool is_marked(const char *name)
{
    const size_t length = strlen(name), suffix = sizeof MB_CODEBOOK_SUFFIX - 1;
    return length > suffix && strcmp(name + length - suffix, MB_CODEBOOK_SUFFIX) == 0;
}

enum mb_status mb_codebook_tensor_wrong(const struct mb_model *model,
                                        const struct mb_tensor *tensor, size_t where,
                                        const char *what, struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_FILE, (int64_t)where,
                        "'%s': codebook tensor '%s', byte %zu of it: %s; the file is damaged",
                        model->path, mb_printable(tensor->name).text, where, what);
}

/* The records one behind the other: all of one shape, and nothing behind the last. */
static enum mb_status walk(const struct mb_model *model, const struct mb_tensor *tensor,
                           struct mb_blob_shape *shape, size_t *count, struct mb_error *error)
{
    struct mb_error inner = {0};
    *count = 0;
    for (size_t at = 0; at < tensor->bytes; ++*count) {
        struct mb_blob_shape next = {0};
        const enum mb_status status =
            mb_blob_measure((const uint8_t *)tensor->data + at, tensor->bytes - at, &next, &inner);
        if (status != MB_OK)
            return mb_codebook_tensor_wrong(model, tensor, at + (size_t)inner.where, inner.message,
                                            error);
        if (*count == 0)
            *shape = next;
        if (next.n != shape->n || next.k != shape->k || next.stacked != shape->stacked ||
            (*count > 0 && !next.stacked))
            return mb_codebook_tensor_wrong(
                model, tensor, at, "what follows the first matrix is none of its stack", error);
        at += next.bytes;
    }
    return MB_OK;
}

static enum mb_status mark(const struct mb_model *model, struct mb_tensor *tensor,
                           struct mb_gguf_info *info, struct mb_error *error)
{
    struct mb_blob_shape shape = {0};
    size_t count;
    if (tensor->type != MB_GGML_TYPE_I8 || tensor->dims != 1)
        return mb_codebook_tensor_wrong(model, tensor, 0,
                                        "it is not a one-dimensional tensor of I8", error);
    const enum mb_status status = walk(model, tensor, &shape, &count, error);
    if (status != MB_OK)
        return status;
    union {
        const char *read_only;
        char *owned; /* by the model, which gave it away to be read */
    } name = {.read_only = tensor->name};
    name.owned[strlen(name.owned) - (sizeof MB_CODEBOOK_SUFFIX - 1)] = '\0';
    tensor->dims = shape.stacked ? 3 : 2;
    tensor->ne[0] = tensor->k = shape.k;
    tensor->ne[1] = shape.n;
    tensor->ne[2] = count;
    tensor->n = shape.n * count; /* fewer than bits in the file */
    info->codebooks = count;
    return MB_OK;
}

enum mb_status mb_codebook_tensors_mark(struct mb_model *model, struct mb_error *error)
{
    if (mb_gguf_find(model, MB_CODEBOOK_VERSION_KEY) == NULL)
        return MB_OK;
    const uint64_t version = mb_model_uint(model, MB_CODEBOOK_VERSION_KEY, 0);
    if (version != MB_CODEBOOK_VERSION)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s' holds codebook matrices in version %" PRIu64
                            " of their layout, version %d is read; use the mixbit that wrote it",
                            model->path, version, MB_CODEBOOK_VERSION);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < model->tensor_count && status == MB_OK; i++)
        if (is_marked(model->tensors[i].name))
            status = mark(model, &model->tensors[i], &model->infos[i], error);
    return status;
}

size_t mb_codebook_matrices(const struct mb_model *model, size_t i)
{
    return model->infos[i].codebooks;
}

enum mb_status mb_codebook_tensors_refuse(const struct mb_model *model, struct mb_error *error)
{
    for (size_t i = 0; i < model->tensor_count; i++)
        if (model->infos[i].codebooks > 0)
            return mb_error_set(
                error, MB_ERR_UNSUPPORTED, -1,
                "'%s' holds codebook matrices (%.40s), which only 'mixbit eval' "
                "takes; give the model that it was made from",
                model->path,
                mb_printable(mb_model_string(model, MB_CODEBOOK_SCHEME_KEY, "of an unnamed scheme"))
                    .text);
    return MB_OK;
}
