/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of recipe: what its check tells. */
#ifndef MIXBIT_CLI_RECIPE_H
#define MIXBIT_CLI_RECIPE_H

#include "cli/cli.h"

#include <jansson.h>

struct mb_recipe_check {
    size_t listed;       /* tensors that the tool spoke of */
    json_t *differences; /* of {tensor, planned, made}; json_decref() */
};
/* Run llama-quantize --dry-run on the model with the recipe at `path`, and compare. */
enum mb_status mb_recipe_check(struct mb_cli *cli, const struct mb_plan *plan, const char *path,
                               const char *model, struct mb_recipe_check *check);

#endif
