/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels with weights of their own (integer, codebook) share, which serve no format: their
 * selection by level, and their products spread over threads. */
#ifndef MIXBIT_DISPATCH_ALONE_H
#define MIXBIT_DISPATCH_ALONE_H

#include "dispatch/dispatch.h"

/* The kernel of the last allowed level that has one of this operation, or the forced one; reference
 * always has one. */
const struct mb_kernel *mb_select_alone(enum mb_op op);
/* Why each of them was taken or rejected, a line each. */
void mb_explain_alone(enum mb_op op, void (*line)(void *user, const char *text), void *user);

/* Panels [begin, end) on thread `index`. */
typedef void (*mb_panels_fn)(void *arg, size_t index, size_t begin, size_t end);
/* run() over all panels, in pieces of multiples of `step`; on this thread alone where so few
 * multiplications do not pay for others. */
void mb_split_panels(struct mb_threads *threads, size_t panels, size_t step, size_t macs,
                     mb_panels_fn run, void *arg);

#endif
