/* SPDX-License-Identifier: Apache-2.0 */
/* See alone.h: one kernel per level and operation, so a table of them is all that selection is. */
#include "dispatch/alone.h"

#include <pthread.h>
#include <stdio.h>

enum { OPS = MB_OP_CODEBOOK + 1 };

static const struct mb_kernel *of_level[OPS][MB_ISA_COUNT];
static pthread_once_t of_level_once = PTHREAD_ONCE_INIT;

static void find_kernels(void)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        of_level[kernel->op][kernel->isa] = kernel;
}

const struct mb_kernel *mb_select_alone(enum mb_op op)
{
    const struct mb_kernel *forced = mb_select_forced();
    const uint32_t mask = mb_isa_allowed_mask();
    (void)pthread_once(&of_level_once, find_kernels);
    if (forced != NULL && forced->op == op)
        return forced;
    for (size_t isa = MB_ISA_COUNT; isa-- > MB_ISA_REFERENCE + 1;)
        if ((mask >> isa & 1) != 0 && of_level[op][isa] != NULL)
            return of_level[op][isa];
    return of_level[op][MB_ISA_REFERENCE];
}

void mb_explain_alone(enum mb_op op, void (*line)(void *user, const char *text), void *user)
{
    const struct mb_kernel *kernel, *taken = mb_select_alone(op);
    for (size_t i = 0; line != NULL && (kernel = mb_registry_at(i)) != NULL; i++) {
        struct mb_isa_info isa;
        char text[384];
        if (kernel->op != op)
            continue;
        (void)mb_isa_info(kernel->isa, &isa);
        if (kernel == taken)
            snprintf(text, sizeof text, "%-44s taken", kernel->name);
        else if (!isa.allowed)
            snprintf(text, sizeof text, "%-44s rejected: %s: %s", kernel->name, isa.name, isa.why);
        else
            snprintf(text, sizeof text, "%-44s rejected: %s is preferred to %s", kernel->name,
                     mb_isa_name(taken->isa), isa.name);
        line(user, text);
    }
}

struct split {
    struct mb_threads *threads;
    size_t panels, step;
    mb_panels_fn run;
    void *arg;
};

static void run_part(void *arg, size_t index, size_t count)
{
    const struct split *s = arg;
    size_t begin = 0, end = s->panels;
    if (count == 1)
        s->run(s->arg, index, begin, end);
    else
        while (mb_threads_claim(s->threads, index, s->step, &begin, &end))
            s->run(s->arg, index, begin, end);
}

void mb_split_panels(struct mb_threads *threads, size_t panels, size_t step, size_t macs,
                     mb_panels_fn run, void *arg)
{
    enum { ALONE_MACS = 1 << 16 }; /* as other products: done before a thread has heard of it */
    struct split split = {threads, panels, step, run, arg};
    if (mb_threads_count(threads) == 1 || macs <= ALONE_MACS) {
        run_part(&split, 0, 1);
        return;
    }
    mb_threads_split(threads, panels);
    mb_threads_offer(threads, run_part, &split);
}
