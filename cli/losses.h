/* SPDX-License-Identifier: Apache-2.0 */
/* What whole mixes lose on a text, kept in a journal.
 *
 * `plan` evaluates dozens of mixes, a minute each on a model that is not small. What a mix loses
 * follows from model, text, rounding and arithmetic, so it is measured once: a stopped run goes on
 * at the mix it was at, and a later one with other budgets evaluates only what is new in it. */
#ifndef MIXBIT_CLI_LOSSES_H
#define MIXBIT_CLI_LOSSES_H

#include "mixbit/model.h"

#include <stdbool.h>

struct mb_encoder;
struct mb_losses;

/* What evaluations depend on besides the mix and how it is rounded. */
struct mb_losses_request {
    const char *path; /* of the journal; one of another model, text or arithmetic starts anew, a
                         file that is no journal is refused */
    struct mb_model *model;
    const struct mb_windows *windows;
    const float *const *importance; /* of weights that are rounded by search; NULL: none */
    const char *device;             /* that runs the products */
};
enum mb_status mb_losses_open(const struct mb_losses_request *request, struct mb_losses **losses,
                              struct mb_error *error);
void mb_losses_close(struct mb_losses *losses); /* NULL allowed */

/* A mix as mb_network_create_mix takes it, rounded by `encoder`, NULL: by search. True: known, and
 * *evaluation is filled, to be freed with mb_evaluation_free. */
bool mb_losses_find(const struct mb_losses *losses, const enum mb_format *formats,
                    const struct mb_encoder *encoder, struct mb_evaluation *evaluation);
/* On disk when it returns. */
enum mb_status mb_losses_keep(struct mb_losses *losses, const enum mb_format *formats,
                              const struct mb_encoder *encoder,
                              const struct mb_evaluation *evaluation, struct mb_error *error);

#endif
