/* SPDX-License-Identifier: Apache-2.0 */
/* What the user of a session has set, and whether the library runs under it. */
#ifndef MIXBIT_PLUGIN_ORT_SETTINGS_H
#define MIXBIT_PLUGIN_ORT_SETTINGS_H

#include "node.h"

/* The user's word on accuracy: the session's entry `option` (NULL: there is none), else its entry
 * mixbit.accuracy, else the environment's. */
struct ort_status *mb_ort_read_accuracy(const struct ort_api *api,
                                        const struct ort_session_options *options,
                                        const char *option, enum mb_ort_accuracy *wish);
/* Settings that are wrong (MIXBIT_ISA) show in the first product; better here than in a run. */
struct ort_status *mb_ort_try_product(const struct ort_api *api);

#endif
