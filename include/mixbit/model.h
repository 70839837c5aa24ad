/* SPDX-License-Identifier: Apache-2.0 */
/* Models: GGUF files in and out, tokens, evaluation, sensing. Files are hostile by assumption. */
#ifndef MIXBIT_MODEL_H
#define MIXBIT_MODEL_H

#include "format.h"
#include "matmul.h"
#include "sensitivity.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the file
 * -------------------------------------------------------------------------------------------------
 */

/** An open GGUF (v2, v3; split files): metadata and a read-only mapping of the tensors. */
struct mb_model;

struct mb_tensor {
    const char *name;
    int32_t type;          /* ggml type id, possibly one that is none of our formats */
    enum mb_format format; /* MB_FORMAT_NONE when the type is none of ours; and for matrices of
                              codebooks (docs/codebook-files.md), whose bytes are their records */
    uint32_t dims;
    uint64_t ne[4]; /* GGUF order: ne[0] is the row length */
    size_t n, k;    /* as a matrix: k = ne[0], n = all others multiplied */
    size_t bytes;
    const void *data; /* into the mapping */
    enum mb_role role;
    int layer;       /* of "blk.N."; -1 elsewhere */
    int quantizable; /* llama.cpp's rule: what a uniform file would convert */
};

/**
 * Open and validate a GGUF file (the first part of a split model opens all parts).
 * Memory   maps the file; metadata is copied. Every count, offset and size is checked against the
 * file.
 * @return MB_OK, MB_ERR_IO, MB_ERR_FILE (with the byte offset), MB_ERR_MEMORY.
 */
MB_API enum mb_status mb_model_open(const char *path, struct mb_model **model,
                                    struct mb_error *error);
MB_API void mb_model_close(struct mb_model *model);

MB_API const char *mb_model_path(const struct mb_model *model);
MB_API const char *
mb_model_architecture(const struct mb_model *model); /* "" when the file has none */
MB_API uint64_t mb_model_file_bytes(const struct mb_model *model);
/** 32 hex digits over metadata and tensor data; computed at the first call (reads the whole file
 * once). */
MB_API const char *mb_model_hash(struct mb_model *model);
MB_API size_t mb_model_tensor_count(const struct mb_model *model);
MB_API const struct mb_tensor *mb_model_tensor_at(const struct mb_model *model, size_t i);
MB_API const struct mb_tensor *mb_model_tensor_find(const struct mb_model *model, const char *name);
/** Whether token_embd also serves as the output matrix (no output.weight in the file). */
MB_API int mb_model_tied(const struct mb_model *model);

/* Metadata; a missing key or another type gives the fallback. */
MB_API uint64_t mb_model_uint(const struct mb_model *model, const char *key, uint64_t fallback);
MB_API double mb_model_float(const struct mb_model *model, const char *key, double fallback);
MB_API const char *mb_model_string(const struct mb_model *model, const char *key,
                                   const char *fallback);
MB_API size_t mb_model_array_count(const struct mb_model *model, const char *key);
MB_API const char *mb_model_array_string(const struct mb_model *model, const char *key, size_t i,
                                         size_t *bytes);
MB_API double mb_model_array_number(const struct mb_model *model, const char *key, size_t i);

/* ---- tokens
 * ---------------------------------------------------------------------------------------------------
 */

struct mb_tokenizer;
/** MB_ERR_UNSUPPORTED names the model's tokenizer or pre-split when it is none of ours: never a
 * guess. */
MB_API enum mb_status mb_tokenizer_create(const struct mb_model *model,
                                          struct mb_tokenizer **tokenizer, struct mb_error *error);
MB_API void mb_tokenizer_destroy(struct mb_tokenizer *tokenizer);
/** Token ids of a text (as llama.cpp tokenizes a whole file), BOS in front when the model wants it.
 * free(*ids). */
MB_API enum mb_status mb_tokenize(const struct mb_tokenizer *tokenizer, const char *text,
                                  size_t bytes, int32_t **ids, size_t *count,
                                  struct mb_error *error);
MB_API int32_t
mb_tokenizer_bos(const struct mb_tokenizer *tokenizer); /* -1: none, or not to be added */

/* ---- writing
 * --------------------------------------------------------------------------------------------------
 */

struct mb_moments; /* second moments of activations: model/moments.h */
struct mb_encoder; /* tensors rounded by them: model/encoder.h */

struct mb_convert_options {
    uint32_t size;
    struct mb_threads *threads;         /* NULL: this thread */
    const struct mb_progress *progress; /* NULL allowed */
    const float *const *importance; /* as in struct mb_importance: per tensor its weights, or NULL;
                                       the array itself may be NULL */
    const char *const
        *extra_keys; /* NULL-terminated pairs key, value: string metadata to add (provenance) */
    int force;       /* replace an existing file that mixbit did not write */
    struct mb_moments *moments; /* round with feedback, by what matrices multiply; NULL: weight by
                                   weight */
    size_t sweeps;              /* with moments: of coordinate descent after rounding, 0: none */
    struct mb_encoder *encoder; /* in place of moments: rows that it has are not made again; NULL */
    struct mb_model *source; /* with moments, which are its own: tensors that keep their format are
                                brought nearer to the same tensors of this model; NULL: copied */
    size_t *refined; /* with source, counted: tensors for which that was done; NULL allowed */
};

/**
 * Write a GGUF with tensor i stored as formats[i] (MB_FORMAT_NONE: unchanged, byte for byte).
 * Unknown metadata is kept verbatim; general.file_type follows llama.cpp's meaning where one
 * exists. Memory   streams: a few rows per thread, whatever the model's size; with moments or an
 * encoder the blocks of a tensor. The file appears whole or not at all.
 * @return also MB_ERR_SHAPE (a row length the format cannot hold), MB_ERR_UNSUPPORTED (a source
 * type we cannot read), MB_ERR_IO (exists and not ours, no space ...), MB_ERR_INTERRUPTED.
 */
MB_API enum mb_status mb_convert(struct mb_model *model, const enum mb_format *formats,
                                 const char *out_path, const struct mb_convert_options *options,
                                 struct mb_error *error);

/* ---- evaluation
 * -----------------------------------------------------------------------------------------------
 */

/* Token windows, llama.cpp's way: consecutive, independent; BOS overwrites the first token of each
 * when the model wants BOS; the second half is scored (tokens window/2 + 1 .. window - 1). */
struct mb_windows {
    int32_t *tokens; /* [count][window] */
    size_t count, window;
    char text_hash[33];
};
/**
 * Read a text, tokenize, cut into windows. window 0: 512, or the model's context when that is
 * shorter. max_windows 0: all. MB_ERR_FILE when the text is shorter than one window (says how many
 * tokens it has and how many it needs).
 */
MB_API enum mb_status mb_windows_load(const struct mb_model *model, const char *text_path,
                                      size_t window, size_t max_windows, struct mb_windows *windows,
                                      struct mb_error *error);
/** The same from token ids in decimal, with anything between them; every one is checked against the
 * vocabulary, and nothing is overwritten by BOS. */
MB_API enum mb_status mb_windows_load_tokens(const struct mb_model *model, const char *path,
                                             size_t window, size_t max_windows,
                                             struct mb_windows *windows, struct mb_error *error);
enum { MB_MADE_WINDOWS = 64 };
/** `count` windows (0: MB_MADE_WINDOWS) of random tokens, all that stand for text alike; BOS in
 * front when the model wants it. The same for a seed everywhere. */
MB_API enum mb_status mb_windows_random(const struct mb_model *model, size_t window, size_t count,
                                        uint64_t seed, struct mb_windows *windows,
                                        struct mb_error *error);
MB_API void mb_windows_free(struct mb_windows *windows);

/** A model made ready to run: weights packed, buffers allocated. One evaluation at a time. */
struct mb_network;

enum mb_numerics {
    MB_NUMERICS_KERNEL = 0,
    MB_NUMERICS_F32 = 1
}; /* each format's own kernel; dequantized in f32 */
MB_API extern const char *const mb_numerics_names[]; /* "kernel", "f32", NULL */
MB_API const char *mb_numerics_name(enum mb_numerics numerics);

/**
 * Pack a model for running. MB_ERR_UNSUPPORTED names an architecture or tensor type that is none of
 * ours, MB_ERR_FILE a damaged matrix of codebooks. Memory   the packed weights (mb_network_bytes)
 * plus activations; the model must stay open.
 */
MB_API enum mb_status mb_network_create(struct mb_model *model, enum mb_numerics numerics,
                                        struct mb_threads *threads, struct mb_network **network,
                                        struct mb_error *error);
/** As above, with tensor i requantized on the fly to formats[i] first (MB_FORMAT_NONE: as in the
 * file): measures a mix without writing it. The bits equal those of the file that mb_convert writes
 * with the same importance (NULL: none). */
MB_API enum mb_status mb_network_create_mix(struct mb_model *model, const enum mb_format *formats,
                                            const float *const *importance,
                                            enum mb_numerics numerics, struct mb_threads *threads,
                                            const struct mb_progress *progress,
                                            struct mb_network **network, struct mb_error *error);
MB_API void mb_network_destroy(struct mb_network *network);
MB_API size_t mb_network_bytes(const struct mb_network *network); /* packed weights */

/** Windows that the model writes itself, each from a random token on, drawn at temperature 1.
 * Source: arXiv 2305.17888, section 3.1. MB_ERR_INTERRUPTED when progress says stop. */
MB_API enum mb_status mb_windows_generate(struct mb_network *network, size_t window, size_t count,
                                          uint64_t seed, const struct mb_progress *progress,
                                          struct mb_windows *windows, struct mb_error *error);

/** One window's logits: callback gets rows for positions first..first+count-1, valid during the
 * call only. Non-zero stops. */
typedef int (*mb_logits_fn)(void *user, size_t window, size_t first, size_t count,
                            const float *logits, size_t vocabulary);
/** Logits of every position from `from_position` on, window by window, streamed. */
MB_API enum mb_status mb_network_logits(struct mb_network *network,
                                        const struct mb_windows *windows, size_t from_position,
                                        mb_logits_fn logits, void *user, struct mb_error *error);

/** llama.cpp's statistics. KL is KL(reference || this) in nats per token; "error" fields are
 * standard errors. */
struct mb_evaluation {
    uint32_t size;
    size_t windows, window, tokens; /* tokens: scored */
    double perplexity, perplexity_error;
    int has_reference;
    double reference_perplexity, reference_perplexity_error;
    double kl_mean, kl_error, kl_max, kl_p999, kl_p99, kl_p95, kl_p90, kl_median, kl_p10, kl_p05,
        kl_p01, kl_p001, kl_min;
    double log_ratio, log_ratio_error; /* ln(PPL / PPL reference), covariance-aware */
    double same_top, same_top_error;   /* share of positions with the same first choice */
    double *window_kl, *window_nll; /* per window means, [windows]; free with mb_evaluation_free */
};
/**
 * Perplexity, and KL against a reference run on the same windows (NULL: none). Log-sum-exp in f64.
 * Memory   logits are streamed one window at a time; nothing grows with the number of windows but
 * two doubles each, and one float per scored token for the percentiles.
 */
MB_API enum mb_status mb_evaluate(struct mb_network *network, struct mb_network *reference,
                                  const struct mb_windows *windows,
                                  const struct mb_progress *progress,
                                  struct mb_evaluation *evaluation, struct mb_error *error);
MB_API void mb_evaluation_free(struct mb_evaluation *evaluation);

struct mb_reference;
struct mb_evaluate_options {
    uint32_t size;
    const struct mb_windows *windows;
    struct mb_network *reference_network; /* run beside; NULL: none */
    struct mb_reference *reference;       /* or one that is kept: not both */
    const char *save_path; /* also write every scored row as llama.cpp's log-probabilities; the file
                              appears whole or not at all; NULL: don't */
    const struct mb_progress *progress;
};
/** mb_evaluate and mb_evaluate_against, with all that can be asked for. */
MB_API enum mb_status mb_evaluate_with(struct mb_network *network,
                                       const struct mb_evaluate_options *options,
                                       struct mb_evaluation *evaluation, struct mb_error *error);
/** Logits of a reference kept between evaluations (f32 logits of the scored positions),
 * so that many mixes are compared with one reference run. NULL-safe free. */
MB_API enum mb_status mb_reference_create(struct mb_network *network,
                                          const struct mb_windows *windows,
                                          const struct mb_progress *progress,
                                          struct mb_reference **reference, struct mb_error *error);
MB_API void mb_reference_destroy(struct mb_reference *reference);
/** Whether a file is one of llama.cpp's log-probabilities ("_logits_", what llama-perplexity's
 * --kl-divergence-base names). */
MB_API int mb_reference_is_file(const char *path);
/**
 * Such a file as a reference, and its tokens as the windows to evaluate on (max_windows 0: all).
 * Memory   maps the file; rows are decoded when they are scored. Numeric   log-probabilities have
 * 16 bits there, and those of e^-16 or less are left out, as llama.cpp does:
 * docs/llama-cpp-files.md has what that costs. MB_ERR_FILE with the byte where a count, size or
 * scale is wrong.
 */
MB_API enum mb_status mb_reference_open(const char *path, const struct mb_model *model,
                                        size_t max_windows, struct mb_windows *windows,
                                        struct mb_reference **reference, struct mb_error *error);
MB_API enum mb_status mb_evaluate_against(struct mb_network *network,
                                          struct mb_reference *reference,
                                          const struct mb_windows *windows,
                                          const struct mb_progress *progress,
                                          struct mb_evaluation *evaluation, struct mb_error *error);

/** Speed, ns per token: decode at the end of `context` tokens, prefill of 512 tokens (several
 * sequences when the model's context is shorter), with the logits of every position unless
 * last_logits says otherwise. `matmul` parts
 * are the time inside matrix products, the rest is the fixed part. Figures are medians of the best
 * of several sweeps; the mad fields are its spread. */
struct mb_speed {
    uint32_t size;
    int last_logits; /* the caller's, like size: prefill makes the logits of each sequence's last
                        token alone, as a runtime does for a prompt */
    size_t context;
    double decode_ns, decode_mad_ns, decode_matmul_ns;
    double prefill_ns, prefill_mad_ns, prefill_matmul_ns;
    size_t weight_bytes, kv_bytes;
    /* ns per token of each round of all sweeps, disturbed rounds included. Networks of one call
     * took turns: round i of one and round i of another are neighbours in time and compare as a
     * pair. Free with mb_speed_free. */
    double *decode_rounds, *prefill_rounds;
    size_t decode_round_count, prefill_round_count;
};
struct mb_speed_options {
    uint32_t size;
    size_t context, repeats;
    int decode_only;
    int paced; /* sample the first network before every other sample as well, and count each in
                  those: for networks that take so long that the machine's speed changes within a
                  round. Twice the time. Figures are then medians of all rounds, at the machine's
                  median speed, and so are the rounds */
    const struct mb_progress *progress;
};
/**
 * Time decode and prefill of `count` networks in turns, so that they compare fairly: several sweeps
 * of at least `repeats` rounds of prefill and four times as many of decode each; where a run takes
 * long, fewer, but at least `repeats` in all. speeds[i].size and .last_logits are the caller's; the
 * other fields are filled, earlier contents are not freed. Memory   activations of 512 tokens and a
 * key-value cache of `context` for each network.
 * @return MB_OK; MB_ERR_ARGUMENT, MB_ERR_MEMORY, MB_ERR_INTERRUPTED, MB_ERR_DEVICE: nothing to
 * free.
 */
MB_API enum mb_status mb_network_speed(struct mb_network *const *networks, size_t count,
                                       const struct mb_speed_options *options,
                                       struct mb_speed *speeds, struct mb_error *error);
/**
 * The figures of speeds already measured anew, with decode_only those of decode alone: what is
 * close can be told apart by more rounds. Speeds of which nothing but size and last_logits is set
 * will do. Memory and errors are those of mb_network_speed; on failure the earlier figures stay.
 */
MB_API enum mb_status mb_network_speed_again(struct mb_network *const *networks, size_t count,
                                             const struct mb_speed_options *options,
                                             struct mb_speed *speeds, struct mb_error *error);
/**
 * Brings the speeds of a turn to an earlier turn's phase of the machine, whose frequency and
 * neighbours change: first and again are `known` speeds of the same networks, then and in this turn
 * (again may be speeds). Decode and prefill, whole and products alone, are each divided by the
 * geometric mean of again over first; rounds and mads like the whole. They compare with the earlier
 * turn's figures, and ratios within the turn stay. A figure that is 0 was not timed and tells
 * nothing; where nothing is told, the factor is 1.
 * @return the factor of decode; above 1 the machine was slower in this turn.
 */
MB_API double mb_speed_bring_back(struct mb_speed *speeds, size_t count,
                                  const struct mb_speed *first, const struct mb_speed *again,
                                  size_t known);
MB_API void mb_speed_free(struct mb_speed *speed);

/* ---- importance
 * -----------------------------------------------------------------------------------------------
 */

/** Mean squared activation of every column of every matrix's input, llama.cpp's "imatrix": how much
 * a weight of that column matters when it is rounded. A stack of experts has weights for each of
 * its matrices. Plain data of one model. */
struct mb_importance {
    size_t tensor_count;
    float **weights; /* per tensor [matrices][k]; NULL: unknown, rounded as if all mattered alike */
    size_t **rows;   /* per tensor [matrices]: rows of activations behind them; 0: an expert that
                        none reached, whose weights are 1 */
    size_t chunks, chunk; /* windows that were run and tokens in each; 0: unknown */
    char hash[33];        /* of the weights: sensitivity tables and plans name it */
    char text_hash[33];   /* of the text they were collected on; "": unknown */
};
/** Collect by forward passes over the windows, every position counted. */
MB_API enum mb_status mb_importance_collect(struct mb_network *network,
                                            const struct mb_windows *windows,
                                            const struct mb_progress *progress,
                                            struct mb_importance **importance,
                                            struct mb_error *error);
/**
 * Read an imatrix of llama.cpp: GGUF (general.type "imatrix") or the older binary. Tensors that it
 * does not have stay without importance, names that the model does not have are told of in a
 * warning; one that has no tensor of the model is refused, as is one of other row lengths. Memory
 * one float per column of every quantizable matrix; every count and size is checked against the
 * file.
 * @return MB_OK, MB_ERR_IO, MB_ERR_FILE, MB_ERR_MEMORY.
 */
MB_API enum mb_status mb_importance_load(const char *path, const struct mb_model *model,
                                         struct mb_importance **importance, struct mb_error *error);
/** Write llama.cpp's GGUF imatrix; `dataset` names the text in it. The file appears whole or not at
 * all. */
MB_API enum mb_status mb_importance_save(const struct mb_importance *importance,
                                         struct mb_model *model, const char *path,
                                         const char *dataset, struct mb_error *error);
MB_API void mb_importance_free(struct mb_importance *importance);

/* ---- sensing
 * --------------------------------------------------------------------------------------------------
 */

struct mb_sense_options {
    uint32_t size;
    enum mb_numerics numerics; /* of the probed tensor: in f32, what storing it loses; with the
                                  format's own kernel, what running it loses, rounded activations
                                  included. All others run in f32. */
    const struct mb_windows *windows;
    const enum mb_format
        *formats; /* candidates; per tensor the fall-back applies, duplicates are probed once */
    size_t format_count;
    size_t score_tokens;      /* scored positions in all; 0: the second half of every window; fewer
                                 than those: evenly spread over them; more: all but the first */
    const char *journal_path; /* append-only state; NULL: none. A journal of another job is refused
                                 (MB_ERR_STALE) */
    const float *const *importance; /* as in mb_convert; NULL allowed */
    struct mb_encoder *encoder;     /* round with feedback, as mb_convert does with moments; of the
                                       same model and importance. NULL: weight by weight */
    size_t memory_limit_bytes; /* caps cached activations and logits; 0: half of what is free */
    struct mb_threads *threads;
    const struct mb_progress *progress;
    enum mb_method method;   /* any other than KL, weight error and surrogate: see mb_method */
    size_t surrogate_probes; /* of MB_METHOD_SURROGATE, per tensor; 0: MB_SURROGATE_PROBES */
    size_t shard, shards;    /* this run's part, 1-based: every shards-th tensor; 0: all */
};
/**
 * KL(base || one tensor quantized) for every quantizable tensor x format; the base is f32
 * arithmetic on the given weights. Restarts at the tensor's layer from cached activations. Fills a
 * new table (mb_sensitivity_free). State    every finished probe is appended to the journal with a
 * checksum: an interrupted run loses at most one probe. Source   docs/method.md "sensitivity";
 * restart and interval are ours, the KL is KL Lens's, forward direction.
 */
MB_API enum mb_status mb_sense(struct mb_model *model, const struct mb_sense_options *options,
                               struct mb_sensitivity **table, struct mb_error *error);

#ifdef __cplusplus
}
#endif
#endif
