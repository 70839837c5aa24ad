/* SPDX-License-Identifier: Apache-2.0 */
/* Schemes in the command line: eval --schemes measures what each way of quantizing costs a model in
 * quality, at how many bits; quantize --scheme writes a file of one. */
#ifndef MIXBIT_CLI_SCHEMES_H
#define MIXBIT_CLI_SCHEMES_H

#include "cli/steps.h"
#include "model/schemes.h"

struct mb_scheme_request {
    const char *schemes, *bits; /* lists as typed; bits NULL: the usual ones */
    const char *text, *calibration;
    size_t window, windows, threads;
};
/* Measure and print; the model is the verb's first positional. */
enum mb_status mb_eval_schemes(struct mb_cli *cli, const struct mb_scheme_request *request);

/* ---- files (quantize_scheme.c) ---- */

/* Usage errors: no such scheme, one without kernels, bits that are none. */
enum mb_status mb_scheme_check_stored(struct mb_cli *cli, const char *name, double bits);

struct mb_scheme_file_request {
    const struct mb_scheme *scheme;
    double bits;
    const struct mb_importance *importance;    /* NULL: collected on the calibration's text */
    struct mb_calibration_options calibration; /* text NULL: the one that comes with mixbit */
    const char *sensed_hash;                   /* as in struct mb_convert_request */
    struct mb_threads *threads;
    const char *output;
};
/* Calibrate, write and print. */
enum mb_status mb_quantize_scheme(struct mb_cli *cli, struct mb_model *model,
                                  const struct mb_scheme_file_request *request);

#endif
