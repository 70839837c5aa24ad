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

/* gguf_write.c: the header, pairs and tensor infos of a file that stores tensor i as types[i], to
 * be followed by the data of each tensor, padded to the alignment. */
struct mb_gguf_output {
    struct mb_file *file;
    uint32_t alignment;
};
enum mb_status mb_gguf_write_header(struct mb_gguf_output *output, const struct mb_model *model,
                                    const int32_t *types, int32_t file_type,
                                    const char *const *extra_keys, struct mb_error *error);
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
