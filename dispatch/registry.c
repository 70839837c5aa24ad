/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of every ISA level of this build, as one list in the order of isa.def. There is no
 * registration at run time: the list is the tables that the ISA files define, laid end to end. */
#include "dispatch/dispatch.h"

#include <string.h>

static const struct mb_kernel_table *const tables[MB_ISA_COUNT] = {
#define MB_ISA_ROW(id, name, ...) &mb_kernels_##name,
#include "kernels/isa.def"
};

size_t mb_registry_level_count(enum mb_isa isa)
{
    return isa < MB_ISA_COUNT ? tables[isa]->count : 0;
}

const struct mb_encode_ops *mb_registry_encode(enum mb_isa isa)
{
    return isa < MB_ISA_COUNT ? tables[isa]->encode : NULL;
}

size_t mb_registry_count(void)
{
    size_t count = 0;
    for (size_t i = 0; i < MB_ISA_COUNT; i++)
        count += tables[i]->count;
    return count;
}

const struct mb_kernel *mb_registry_at(size_t i)
{
    for (size_t t = 0; t < MB_ISA_COUNT; t++) {
        if (i < tables[t]->count)
            return &tables[t]->kernels[i];
        i -= tables[t]->count;
    }
    return NULL;
}

const struct mb_kernel *mb_registry_find(const char *name)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (strcmp(kernel->name, name) == 0)
            return kernel;
    return NULL;
}
