/* SPDX-License-Identifier: Apache-2.0 */
/* See settings.h. A word that is not known is an error, wherever it stands: a default in its place
 * would only show in results. */
#include "settings.h"

#include <stdlib.h>
#include <string.h>

static const char variable[] = "MIXBIT_ONNXRUNTIME_ACCURACY";

/* The first of two entries that the session has into `text`; *key: which one, NULL for none. */
static struct ort_status *read_entry(const struct ort_api *api,
                                     const struct ort_session_options *options,
                                     const char *const keys[2], char *text, size_t bytes,
                                     const char **key)
{
    struct ort_status *status = NULL;
    *key = NULL;
    for (size_t i = 0; i < 2 && *key == NULL && status == NULL; i++) {
        int has = 0;
        if (keys[i] != NULL)
            status = api->HasSessionConfigEntry(options, keys[i], &has);
        *key = has != 0 ? keys[i] : NULL;
    }
    return status == NULL && *key != NULL ? api->GetSessionConfigEntry(options, *key, text, &bytes)
                                          : status;
}

struct ort_status *mb_ort_read_accuracy(const struct ort_api *api,
                                        const struct ort_session_options *options,
                                        const char *option, enum mb_ort_accuracy *wish)
{
    static const char *const names[] = {"node", "int8", "f16", "int16", "f32"};
    const char *const keys[2] = {option, "mixbit.accuracy"};
    const char *environment = getenv(variable), *key = NULL;
    char text[32] = "";
    struct ort_status *status = read_entry(api, options, keys, text, sizeof text, &key);
    if (status != NULL)
        return status;
    if (key == NULL && environment != NULL)
        memcpy(text, environment, strnlen(environment, sizeof text - 1));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0) {
            *wish = (enum mb_ort_accuracy)i;
            return NULL;
        }
    *wish = MB_ORT_AS_NODE;
    return text[0] == '\0' ? NULL
                           : mb_ort_error(api, ORT_INVALID_ARGUMENT,
                                          "%s '%s' is none of node, int8, f16, int16 and f32",
                                          key != NULL ? key : variable, text);
}

struct ort_status *mb_ort_try_product(const struct ort_api *api)
{
    enum { K = 32 };
    static const float zeros[K];
    _Alignas(64) uint8_t record[1024];
    struct mb_activations one;
    enum mb_status status = mb_activations_init(&one, MB_ACTIVATION_I8G32, 1, K, record);
    if (status == MB_OK)
        status = one.row_bytes > sizeof record ? MB_ERR_UNSUPPORTED
                                               : mb_activations_prepare(&one, zeros, K, 0, 1);
    return status == MB_OK
               ? NULL
               : mb_ort_error(api, ORT_FAIL, "mixbit can't run here: %s (look at MIXBIT_ISA)",
                              mb_status_string(status));
}
