/* SPDX-License-Identifier: Apache-2.0 */
/* The sensitivity table: what each tensor loses in each format. One table, one file format,
 * whatever the method. */
#ifndef MIXBIT_SENSITIVITY_H
#define MIXBIT_SENSITIVITY_H

#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What a table's losses are. All are 0 for no change; tables of different methods don't compare.
 */
enum mb_method {
    MB_METHOD_KL,           /* KL(base || probe), nats per token */
    MB_METHOD_REVERSE,      /* KL(probe || base) */
    MB_METHOD_JS,           /* Jensen-Shannon divergence */
    MB_METHOD_SQNR,         /* noise over signal of the logits: 10^(-SQNR in dB / 10) */
    MB_METHOD_COSINE,       /* 1 - cosine of the logits */
    MB_METHOD_PPL,          /* ln(perplexity / the base's), 0 where it fell */
    MB_METHOD_WEIGHT_ERROR, /* squared error over squares of the weights, weighted by activations */
    MB_METHOD_SURROGATE, /* KL of a few formats per tensor, the others by their products' error */
    MB_METHOD_COUNT
};
#define MB_SURROGATE_PROBES 2 /* per tensor, where nothing else is asked for */
/** "kl" "reverse" "js" "sqnr" "cosine" "ppl" "weight-error" "surrogate", then NULL. */
MB_API extern const char *const mb_method_names[MB_METHOD_COUNT + 1];
/** One of them; NULL past the end. */
MB_API const char *mb_method_name(enum mb_method method);
/** What a table of this method says of it: the name, the surrogate's with its number of probes (0:
 * the usual one). */
MB_API void mb_method_describe(enum mb_method method, size_t surrogate_probes, char text[32]);

/** One measured loss; nats per token unless the method says otherwise. */
struct mb_loss {
    int known;           /* 0: not probed */
    double mean;         /* mean over scored tokens */
    double low, high;    /* 95 % confidence interval over windows */
    double weight_error; /* RMS(w - w') / RMS(w), importance-weighted when importance was given */
};

/** Units (tensors) x formats. Plain data: fill it, read it. */
struct mb_sensitivity {
    char model_hash[33], text_hash[33];
    char importance_hash[33]; /* what the formats were rounded by; "": nothing */
    char feedback_hash[33];   /* with which feedback; "": weight by weight */
    char method[32];          /* a method's name; "surrogate 2": with two probes per tensor */
    char numerics[16];        /* of the probed tensor: "f32" or "kernel" */
    size_t windows, window, tokens;
    double noise_floor;   /* KL of the probe path against itself, nats per token */
    size_t shard, shards; /* 1-based; rows of other shards are unknown. 0: a whole table */
    size_t unit_count, format_count;
    char **units; /* tensor names */
    enum mb_format *formats;
    struct mb_loss *losses; /* [unit_count][format_count] */
};

MB_API enum mb_status mb_sensitivity_create(size_t units, const char *const *names, size_t formats,
                                            const enum mb_format *format_list,
                                            struct mb_sensitivity **table);
MB_API void mb_sensitivity_free(struct mb_sensitivity *table);
/** The entry of a unit and format; NULL when the table has no such row or column. */
MB_API struct mb_loss *mb_sensitivity_at(const struct mb_sensitivity *table, const char *unit,
                                         enum mb_format format);

/** JSON, written atomically; numbers round-trip exactly. */
MB_API enum mb_status mb_sensitivity_save(const struct mb_sensitivity *table, const char *path,
                                          struct mb_error *error);
/** All or nothing; refuses another schema, unknown formats, non-finite or negative numbers, with
 * the key that is wrong. */
MB_API enum mb_status mb_sensitivity_load(const char *path, struct mb_sensitivity **table,
                                          struct mb_error *error);

/** One table of the `count` shards of one job, all of them given, in any order. The result is, byte
 * for byte when saved, the table of a run without shards. MB_ERR_ARGUMENT says which shard is
 * missing, given twice or of another job; `names` (file names, for messages) may be NULL. */
MB_API enum mb_status mb_sensitivity_merge(const struct mb_sensitivity *const *shards, size_t count,
                                           const char *const *names, struct mb_sensitivity **table,
                                           struct mb_error *error);

#ifdef __cplusplus
}
#endif
#endif
