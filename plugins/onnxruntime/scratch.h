/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the duration of a call, shared by all nodes: a model has hundreds of them, and a few
 * run at a time. */
#ifndef MIXBIT_PLUGIN_ORT_SCRATCH_H
#define MIXBIT_PLUGIN_ORT_SCRATCH_H

#include <stddef.h>

/* 64-byte aligned; its owner until it is returned is the one who borrowed it. */
struct mb_ort_scratch {
    struct mb_ort_scratch *next;
    size_t bytes;
    void *data;
};

/* Users of scratch: what was returned is kept until the last one leaves. Thread-safe, all four. */
void mb_ort_scratch_join(void);
void mb_ort_scratch_leave(void);
/* At least `bytes`; NULL: out of memory. */
struct mb_ort_scratch *mb_ort_borrow(size_t bytes);
void mb_ort_return(struct mb_ort_scratch *scratch); /* NULL does nothing */

#endif
