/* SPDX-License-Identifier: Apache-2.0 */
/* The search space: which ways of computing one product are worth timing.
 *
 * A candidate is a complete selection for the dispatch layer: the one kernel that makes it
 * different from the others (which fixes the ISA level and the tile), and the knobs it runs with.
 * Kernels are compared at the default knobs first; then each knob is moved along its row of values,
 * the best so far being held. A kernel is for one activation type: those of another type are
 * candidates of a contest of their own, since their results differ (mb_profile_settle decides). */
#ifndef MIXBIT_TUNER_SPACE_H
#define MIXBIT_TUNER_SPACE_H

#include "dispatch/dispatch.h"
#include "mixbit/profile.h"

enum { MB_CANDIDATES_MAX = 32 };

struct mb_tune_candidate {
    const struct mb_kernel *kernel;
    size_t knobs[MB_KNOB_COUNT]; /* as an entry's: 0 where one says nothing about the kernel */
    struct mb_selection selection;
    unsigned revision;
    double bound_ns; /* no machine with these limits is faster; 0: limits unknown */
};

/* Whether the kernel can be the main body of format's product at m rows (gemv: m <= 128, in
 * chunks).
 */
bool mb_space_fits(const struct mb_kernel *kernel, enum mb_format format, size_t m);

/* The selection that runs format through `kernel` at m rows: the kernel in its slot, the decode of
 * its own level beside it, the knobs that say something about it (NULL: the default ones). False
 * when the kernel does not fit. */
bool mb_space_selection(const struct mb_kernel *kernel, enum mb_format format, size_t m,
                        const size_t knobs[MB_KNOB_COUNT], struct mb_selection *selection);
/* The knobs of a selection as far as they say something about `kernel` at m rows. */
void mb_space_knobs(const struct mb_selection *selection, const struct mb_kernel *kernel, size_t m,
                    size_t knobs[MB_KNOB_COUNT]);

/* A candidate of its own; knobs NULL: the default ones. False when the kernel does not fit. */
bool mb_space_candidate(const struct mb_kernel *kernel, enum mb_format format,
                        const struct mb_shape *shape, size_t m, const size_t knobs[MB_KNOB_COUNT],
                        const struct mb_limits *limits, enum mb_residency residency,
                        struct mb_tune_candidate *candidate);
/* `from` with one knob at its other values, those left out that make no difference to this shape on
 * so many threads. Returns how many were written. */
size_t mb_space_variants(const struct mb_tune_candidate *from, enum mb_knob knob,
                         enum mb_format format, const struct mb_shape *shape, size_t m,
                         size_t threads, struct mb_tune_candidate variants[MB_CANDIDATES_MAX]);

/* What an entry's `revision` means: the sum of the revisions of the bodies that take part (main,
 * decode, prepare of that level). Each only ever rises, so any change shows. Independent of the
 * allowed levels. */
unsigned mb_space_revision(const struct mb_kernel *kernel, enum mb_format format);

/* All candidates with activations of this type on allowed levels, the reference only when there is
 * nothing else; the most promising bound first. Returns how many were written. */
size_t mb_space_candidates(enum mb_format format, enum mb_activation activation,
                           const struct mb_shape *shape, size_t m, const struct mb_limits *limits,
                           enum mb_residency residency,
                           struct mb_tune_candidate candidates[MB_CANDIDATES_MAX]);

/* Lower bound of the time and what sets it, for a kernel of this level and format. 0 when the
 * limits needed are unknown. */
double mb_space_bound_ns(const struct mb_kernel *kernel, enum mb_format format,
                         const struct mb_shape *shape, size_t m, const struct mb_limits *limits,
                         enum mb_residency residency, bool *reads);

#endif
