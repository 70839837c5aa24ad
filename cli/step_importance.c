/* SPDX-License-Identifier: Apache-2.0 */
/* Importance in the verbs that round weights: one option, one note, and what belongs together
 * checked by hash, so that a mix is written as it was measured. */
#include "cli/steps.h"

#include <string.h>

enum mb_status mb_step_importance(struct mb_cli *cli, const struct mb_model *model,
                                  const char *path, struct mb_importance **importance)
{
    *importance = NULL;
    if (path == NULL)
        return MB_OK;
    const enum mb_status status = mb_importance_load(path, model, importance, &cli->error);
    if (status != MB_OK)
        return status;
    size_t known = 0, all = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        known += (*importance)->weights[i] != NULL;
        all += mb_model_tensor_at(model, i)->quantizable != 0;
    }
    mb_note(cli, "%s: importance for %zu of %zu tensors", path, known, all);
    return MB_OK;
}

const float *const *mb_step_weights(const struct mb_importance *importance)
{
    return importance != NULL ? (const float *const *)importance->weights : NULL;
}

enum mb_status mb_step_check_importance(struct mb_cli *cli, const char *what, const char *hash,
                                        const struct mb_importance *importance)
{
    const char *given = importance != NULL ? importance->hash : "";
    if (strcmp(hash, given) == 0)
        return MB_OK;
    if (given[0] == '\0')
        return mb_error_set(&cli->error, MB_ERR_STALE, -1,
                            "%s was made with an imatrix (hash %.8s); give the same with --imatrix",
                            what, hash);
    if (hash[0] == '\0')
        return mb_error_set(&cli->error, MB_ERR_STALE, -1,
                            "%s was made without an imatrix: leave out --imatrix, or sense again "
                            "with it",
                            what);
    return mb_error_set(&cli->error, MB_ERR_STALE, -1,
                        "%s was made with another imatrix (hash %.8s, given %.8s)", what, hash,
                        given);
}
