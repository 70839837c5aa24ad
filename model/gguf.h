/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the GGUF reader and writer, for model/ and its tests.
 *
 *   file = header | key-value pairs | tensor infos | padding to `alignment` | tensor data
 *
 * The reader keeps every pair's raw bytes (from its key's length to the end of its value), so the
 * writer can copy pairs that it knows nothing about. Values stay in the mapping; names, keys and
 * string scalars are copied, to end in NUL. */
#ifndef MIXBIT_GGUF_H
#define MIXBIT_GGUF_H

#include "mixbit/model.h"
#include "support/support.h"

enum mb_gguf_type {
    MB_GGUF_U8,
    MB_GGUF_I8,
    MB_GGUF_U16,
    MB_GGUF_I16,
    MB_GGUF_U32,
    MB_GGUF_I32,
    MB_GGUF_F32,
    MB_GGUF_BOOL,
    MB_GGUF_STRING,
    MB_GGUF_ARRAY,
    MB_GGUF_U64,
    MB_GGUF_I64,
    MB_GGUF_F64,
    MB_GGUF_TYPE_COUNT
};

enum {
    MB_GGUF_VERSION = 3,
    MB_GGUF_HEADER_BYTES = 24,
    MB_GGUF_MAX_DIMS = 4,
    MB_GGUF_DEFAULT_ALIGNMENT = 32
};

struct mb_gguf_pair {
    char *key;
    uint32_t type;    /* enum mb_gguf_type */
    uint32_t element; /* type of an array's elements; `type` itself for scalars */
    uint64_t count;   /* elements; 1 for scalars */
    const uint8_t *raw, *value;
    size_t raw_bytes, value_bytes; /* of an array: the elements alone */
    char *text;                    /* a string scalar, copied */
    uint64_t *offsets;             /* an array of strings: where each one's length field is, from
                                      `value` */
};

struct mb_gguf_part {
    struct mb_mapping mapping;
    char *path;
    uint64_t pair_count, tensor_count; /* as its header says */
};

/* Where a tensor's info is in its file, and where its data is in the data section. */
struct mb_gguf_info {
    uint64_t at, offset;
    size_t codebooks; /* matrices of codebooks that it is; 0: it is none of those */
};

struct mb_model {
    char *path;
    struct mb_gguf_part *parts;
    size_t part_count;
    uint32_t alignment;
    struct mb_gguf_pair *pairs; /* of the first part, in the file's order */
    size_t pair_count;
    struct mb_tensor *tensors;  /* of all parts, in the files' order */
    struct mb_gguf_info *infos; /* per tensor */
    size_t tensor_count, tensor_room, info_room;
    size_t *by_name; /* tensor indices, sorted by name */
    char hash[33];   /* "" until asked for */
};

/* A type id that GGUF files may hold: ggml's list, ours among it. */
struct mb_ggml_type {
    const char *name; /* NULL: removed or never assigned */
    uint32_t block_k, block_bytes;
    int32_t file_type; /* general.file_type of a file that is mostly this type; -1: none */
};
/* NULL when the id is unknown to ggml or no longer in use. */
const struct mb_ggml_type *mb_ggml_type(int32_t id);

/* gguf_parse.c: parse one mapped part. Its tensors are appended to the model's; part 0's pairs
 * become the model's, of those of other parts only what says how the model is split is kept. */
struct mb_gguf_split {
    uint64_t number, count, tensors;
};
enum mb_status mb_gguf_parse_part(struct mb_model *model, size_t part, struct mb_gguf_split *split,
                                  struct mb_error *error);

/* gguf_value.c: a scalar of any number type. `real` is its value; `bits` its integer value when it
 * is neither a float nor negative. */
struct mb_gguf_number {
    uint64_t bits;
    double real;
    bool is_float, is_negative;
};
struct mb_gguf_number mb_gguf_number(uint32_t type, const uint8_t *value);
size_t mb_gguf_scalar_bytes(uint32_t type); /* 0: strings and arrays */
uint64_t mb_gguf_little_endian(const uint8_t *p, size_t bytes);
/* Elements of an array of strings (not NUL-terminated; NULL out of range) and of numbers. */
const char *mb_gguf_element_string(const struct mb_gguf_pair *pair, size_t i, size_t *bytes);
double mb_gguf_element_number(const struct mb_gguf_pair *pair, size_t i);

/* The pair of a key; NULL when there is none. */
const struct mb_gguf_pair *mb_gguf_find(const struct mb_model *model, const char *key);
void mb_gguf_free_pairs(struct mb_gguf_pair *pairs, size_t count);

/* Hostile names go into messages: printable ASCII only, at most 60 characters. */
struct mb_printable {
    char text[64];
};
struct mb_printable mb_printable(const char *text);

/* roles.c: role, layer, quantizable of a tensor whose name and dimensions are set. */
void mb_tensor_classify(struct mb_tensor *tensor, const char *architecture);

/* codebook_tensors.c: tensors of codebook matrices (docs/codebook-files.md), known by their names.
 * Marking gives them the name, dimensions and role of the matrix that they stand for; data and
 * bytes are those of its records, type and format stay what no product takes. */
#define MB_CODEBOOK_SUFFIX ".cmpq"
#define MB_CODEBOOK_VERSION_KEY "mixbit.cmpq.version"
#define MB_CODEBOOK_SCHEME_KEY "mixbit.cmpq.scheme"
#define MB_CODEBOOK_BITS_KEY "mixbit.cmpq.bits"
#define MB_CODEBOOK_ARCHITECTURE "mixbit" /* in general.architecture, so that others refuse it */
#define MB_CODEBOOK_ARCHITECTURE_KEY "mixbit.architecture"
enum { MB_CODEBOOK_VERSION = 1, MB_GGML_TYPE_I8 = 24 };
enum mb_status mb_codebook_tensors_mark(struct mb_model *model, struct mb_error *error);
/* MB_ERR_FILE: `what` is wrong with byte `where` of a codebook tensor. */
enum mb_status mb_codebook_tensor_wrong(const struct mb_model *model,
                                        const struct mb_tensor *tensor, size_t where,
                                        const char *what, struct mb_error *error);
/* How many matrices of codebooks tensor i is; 0: it is of another kind. */
size_t mb_codebook_matrices(const struct mb_model *model, size_t i);
/* MB_ERR_UNSUPPORTED for a model with such tensors, for whoever needs weights to encode anew. */
enum mb_status mb_codebook_tensors_refuse(const struct mb_model *model, struct mb_error *error);

/* Whether a tensor can be stored in a format, and if not why (convert.c). */
enum mb_status mb_check_change(const struct mb_model *model, const struct mb_tensor *t,
                               enum mb_format format, struct mb_error *error);
/* convert.c: MB_ERR_IO when `path` is a part of the model, or a file that mixbit did not write. */
enum mb_status mb_gguf_check_target(const struct mb_model *model, const char *path, int force,
                                    struct mb_error *error);

/* gguf_write.c: the header, pairs and tensor infos of a file that stores tensor i as types[i], to
 * be followed by the data of each tensor, padded to the alignment. */
struct mb_gguf_output {
    struct mb_file *file;
    uint32_t alignment;
    uint32_t codebook_version; /* for MB_CODEBOOK_VERSION_KEY; 0: no such tensor is in it */
    uint64_t infos_at;         /* where the infos are */
};
enum mb_status mb_gguf_write_header(struct mb_gguf_output *output, const struct mb_model *model,
                                    const int32_t *types, int32_t file_type,
                                    const char *const *extra_keys, struct mb_error *error);
/* The infos once more, at output->infos_at: of sizes that were not known before the data was. */
enum mb_status mb_gguf_write_infos(struct mb_gguf_output *output, const struct mb_model *model,
                                   const int32_t *types, struct mb_error *error);
/* Pieces of a header, for files that are made from nothing; errors are kept until commit. */
void mb_gguf_put_number(struct mb_file *file, uint64_t value, size_t bytes);
void mb_gguf_put_string(struct mb_file *file, const char *text);
void mb_gguf_put_u32_pair(struct mb_file *file, const char *key, uint32_t value);
void mb_gguf_put_string_pair(struct mb_file *file, const char *key, const char *value);
/* Zeros up to the next multiple of the alignment. */
enum mb_status mb_gguf_write_padding(struct mb_gguf_output *output);
/* Bytes of a tensor stored as `type`; false when its row length does not fit or it overflows. */
bool mb_gguf_tensor_bytes(const struct mb_tensor *tensor, int32_t type, size_t *bytes);

#endif
