/* SPDX-License-Identifier: Apache-2.0 */
/* eval --schemes: what each way of quantizing costs a model in quality, at how many bits. */
#ifndef MIXBIT_CLI_SCHEMES_H
#define MIXBIT_CLI_SCHEMES_H

#include "cli/cli.h"

struct mb_scheme_request {
    const char *schemes, *bits; /* lists as typed; bits NULL: the usual ones */
    const char *text, *calibration;
    size_t window, windows, threads;
};
/* Measure and print; the model is the verb's first positional. */
enum mb_status mb_eval_schemes(struct mb_cli *cli, const struct mb_scheme_request *request);

#endif
