/* SPDX-License-Identifier: Apache-2.0 */
/* Quantization schemes on a whole model, simulated: every quantizable matrix is replaced by what a
 * scheme would read back, as f32, so that schemes without a kernel are measured beside formats that
 * have one. schemes.def is the list of schemes. */
#ifndef MIXBIT_MODEL_SCHEMES_H
#define MIXBIT_MODEL_SCHEMES_H

#include "model/codebook_products.h"
#include "model/integer.h"
#include "model/moments.h"
#include "model/rounding.h"

struct mb_encoder;

struct mb_scheme {
    const char *name, *what;
    bool one_width; /* codes of floor(bits) bits */
    struct mb_channelwise_options options;
};
size_t mb_scheme_count(void);
const struct mb_scheme *mb_scheme_at(size_t i);
const struct mb_scheme *mb_scheme_by_name(const char *name); /* NULL: none */
/* Whether products can be made from what it stores (model/codebook_products.h). */
bool mb_scheme_has_kernel(const struct mb_scheme *scheme);

enum { MB_SCHEME_PARTS = 6 };
/* What all quantizable weights of a model take. */
struct mb_scheme_size {
    double weights;
    double bytes[MB_SCHEME_PARTS]; /* by part, mb_scheme_parts names them; plain formats: codes are
                                      all */
    size_t unreached;     /* matrices whose cheapest widths take more than was asked for, or whose
                             dearest take less */
    double error;         /* RMS over all matrices of the relative error of their outputs */
    double square_errors; /* what it is made of: a sum over so many matrices */
    size_t matrices;
};
extern const char *const mb_scheme_parts[MB_SCHEME_PARTS];
double mb_scheme_bits(const struct mb_scheme_size *size);
/* Add what an encoded matrix takes, by part. */
void mb_scheme_count_parts(struct mb_scheme_size *size, const struct mb_channelwise *encoded);

/* What a tensor is encoded by. */
struct mb_scheme_job {
    const struct mb_scheme *scheme;
    double bits;
    bool within;                /* no more than the bits: what a format promises */
    const float *importance;    /* of the tensor; NULL: none */
    struct mb_moments *moments; /* for schemes with feedback; NULL: none */
    /* Of a tensor of one matrix, in place of its own rows and of what the moments say of all rows;
     * NULL: those. */
    const float *rows, *h;
    struct mb_threads *threads;
    const struct mb_progress *progress; /* of moments being collected, at `done` of `total` */
    double done, total;
};
/* Encode matrix `matrix` of tensor `index`, given as rows[ne[1]][k]. As mb_channelwise_encode, and
 * what mb_moments_mean fails with. */
enum mb_status mb_scheme_encode(const struct mb_scheme_job *job, const struct mb_tensor *tensor,
                                size_t index, size_t matrix, const float *rows,
                                struct mb_channelwise *encoded, struct mb_error *error);

/**
 * Encode all matrices of a tensor of the model: what a file has of it, one record behind the other
 * (channelwise_blob.h).
 *
 * Memory   one matrix in floats and what its encoder needs. *records, *bytes long, is the caller's
 *          (free).
 * `size` (NULL: not wanted) grows by what they take.
 * @return MB_OK; MB_ERR_INTERRUPTED; MB_ERR_ARGUMENT: weights are not finite; MB_ERR_MEMORY;
 * MB_ERR_UNSUPPORTED: the scheme has no kernel, and so no record.
 */
enum mb_status mb_scheme_records(const struct mb_scheme_job *job, const struct mb_tensor *tensor,
                                 size_t index, uint8_t **records, size_t *bytes,
                                 struct mb_scheme_size *size, struct mb_error *error);
/* The scheme of formats of codebook matrices; `draft`: one of as many bits that is quickly made,
 * for timing. */
const struct mb_scheme *mb_scheme_of_codebooks(bool draft);
/* What a tensor is encoded by in such a format, without feedback. */
struct mb_scheme_job mb_codebook_job(enum mb_format format, bool draft, const float *importance,
                                     struct mb_threads *threads);

/* ---- files (convert_scheme.c) ---- */

struct mb_scheme_file_options {
    const struct mb_scheme *scheme; /* of all quantizable tensors, */
    double bits;
    const enum mb_format *formats; /* unless there is a mix, as mb_convert takes it, */
    struct mb_encoder *encoder; /* and who rounds it; NULL: search, and moments where there are */
    const float *const *importance; /* as in mb_convert */
    struct mb_moments *moments;     /* for schemes with feedback */
    struct mb_threads *threads;
    const struct mb_progress *progress;
    const char *const *extra_keys; /* as in mb_convert */
    int force;
};
/**
 * Write a model whose quantizable tensors, or those of a mix that are to be, are codebook matrices
 * (docs/codebook-files.md); the file appears whole or not at all. `size` is of the tensors that
 * were encoded here, by no encoder.
 *
 * Memory   one tensor's records, one matrix in floats, and what its encoder needs.
 * @return as mb_convert; MB_ERR_UNSUPPORTED: a scheme that no kernel multiplies by, whose matrices
 * have no record.
 */
enum mb_status mb_convert_scheme(struct mb_model *model, const char *out_path,
                                 const struct mb_scheme_file_options *options,
                                 struct mb_scheme_size *size, struct mb_error *error);

/* ---- simulation ---- */

/* A model in f32 whose weights are exchanged. */
struct mb_simulation;
enum mb_status mb_simulation_create(struct mb_model *model, struct mb_threads *threads,
                                    struct mb_simulation **simulation, struct mb_error *error);
void mb_simulation_destroy(struct mb_simulation *simulation);
/* To run it, with the weights that were put in last: those of the file at first. */
struct mb_network *mb_simulation_network(struct mb_simulation *simulation);

/* How weights are stored: by a scheme of `bits` per weight, or in a format (where it does not fit,
 * in what llama.cpp stores instead); neither: as they are. And what products read: floats, or
 * rounded. */
struct mb_weight_choice {
    const struct mb_scheme *scheme;
    enum mb_format format, feed_forward; /* feed_forward: of gate, up and down; MB_FORMAT_NONE: the
                                            same, and products of all read rounded activations */
    double bits;
    const struct mb_rounding_scheme *activations; /* NULL: floats */
    bool kernel;  /* products of `scheme` are made by its kernels; bytes are those of packed
                     matrices, all under the first part */
    bool integer; /* instead of all of this: int8 weights with a scale per row, in products of
                     integers alone (model/integer.h) */
};
/* What static activation scales, integer-only products and error feedback go by; they stay the
 * caller's, and are NULL where no choice needs them. Moments are those of a network of their own,
 * whose weights stay; without them schemes with feedback round every weight by itself. */
void mb_simulation_calibrate(struct mb_simulation *simulation, const struct mb_ranges *ranges,
                             const struct mb_integer_ranges *integer_ranges,
                             struct mb_moments *moments);
/* Put weights in, and round what products read from now on. `importance` as in mb_convert; NULL:
 * all columns matter alike. Interrupted or failed: part of the weights are new. */
enum mb_status mb_simulation_store(struct mb_simulation *simulation,
                                   const struct mb_weight_choice *choice,
                                   const float *const *importance,
                                   const struct mb_progress *progress, struct mb_scheme_size *size,
                                   struct mb_error *error);

#endif
