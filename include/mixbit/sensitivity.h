/* SPDX-License-Identifier: Apache-2.0 */
/* The sensitivity table: what each tensor loses in each format. One table, one file format,
 * whatever the method. */
#ifndef MIXBIT_SENSITIVITY_H
#define MIXBIT_SENSITIVITY_H

#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One measured loss, nats per token. */
struct mb_loss {
    int known;           /* 0: not probed */
    double mean;         /* KL(base || probe), mean over scored tokens */
    double low, high;    /* 95 % confidence interval over windows */
    double weight_error; /* RMS(w - w') / RMS(w), importance-weighted when importance was given */
};

/** Units (tensors) x formats. Plain data: fill it, read it. */
struct mb_sensitivity {
    char model_hash[33], text_hash[33];
    char method[32];   /* "kl" */
    char numerics[16]; /* of the probed tensor: "f32" or "kernel" */
    size_t windows, window, tokens;
    double noise_floor; /* KL of the probe path against itself, nats per token */
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

#ifdef __cplusplus
}
#endif
#endif
