/* SPDX-License-Identifier: Apache-2.0 */
/* The provider's kernels: MatMulNBits for activations in f32 and in f16. A kernel is the one that
 * the library of operators has (kernel.h); what differs is that the host asks it to pack, node
 * after node when all kernels were created, and frees its own copy as it goes. */
#include "kernel.h"
#include "provider.h"

#include <malloc.h>
#include <stdlib.h>

struct provider_kernel {
    struct ort_kernel table;            /* first: the host hands out pointers to it */
    const struct ort_kernel_info *info; /* the host keeps it as long as the kernel */
    void *kernel;
};

/* ---- a kernel -------------------------------------------------------------------------------- */

static struct provider_kernel *kernel_of(struct ort_kernel *table)
{
    return (struct provider_kernel *)(void *)table;
}

static struct ort_status *compute(struct ort_kernel *table, struct ort_kernel_context *context)
{
    return mb_ort_compute(kernel_of(table)->kernel, context);
}

static void release(struct ort_kernel *table)
{
    mb_ort_destroy_kernel(kernel_of(table)->kernel);
    free(table);
}

/* Blocks that glibc has once had from the system it keeps when they are freed, up to some 32 MB
 * each: of a model in one file, weights that the host no longer has would still be resident. */
static void give_back_freed(void)
{
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
}

/* B is there in every node, and the first: all that goes with it is still there, too. */
static struct ort_status *pack_weight(struct ort_kernel *table, const struct ort_value *value,
                                      int input, struct ort_allocator *allocator,
                                      struct ort_shared_weights *shared, bool *is_packed)
{
    struct provider_kernel *self = kernel_of(table);
    (void)value;
    (void)allocator;
    (void)shared;
    struct ort_status *status = NULL;
    if (input == MB_ORT_SCALES) /* B, and all of the node before, is free by now */
        give_back_freed();
    if (input == MB_ORT_B && !mb_ort_has_packed(self->kernel, MB_ORT_B))
        status = mb_ort_pack_kernel(self->kernel, self->info);
    *is_packed = status == NULL && mb_ort_has_packed(self->kernel, (size_t)input);
    return status;
}

static struct ort_status *create_kernel(void *state, const struct ort_kernel_info *info,
                                        struct ort_kernel **created)
{
    const struct mb_ort_definition *definition = state;
    const struct mb_ort_provider *provider = definition->provider;
    struct provider_kernel *self = calloc(1, sizeof *self);
    *created = NULL;
    if (self == NULL)
        return mb_ort_error(&provider->host->api, ORT_FAIL, "MatMulNBits: out of memory");
    self->table = (struct ort_kernel){.version = ORT_PROVIDER_VERSION,
                                      .compute = compute,
                                      .release = release,
                                      .pack_weight = pack_weight};
    self->info = info;
    struct ort_status *status =
        mb_ort_create_kernel(provider->host->table, info, definition->type, provider->wish,
                             provider->packs_early, &self->kernel);
    if (status == NULL)
        *created = &self->table;
    else
        free(self);
    return status;
}

/* ---- definitions ----------------------------------------------------------------------------- */

static struct ort_status *build(const struct ort_provider_api *host, int type,
                                struct ort_definition_builder *builder,
                                struct ort_definition **built)
{
    const struct ort_data_type *data_type = NULL;
    struct ort_status *status = host->GetTensorDataType(type, &data_type);
    if (status == NULL)
        status = host->KernelDefBuilder_SetOperatorType(builder, "MatMulNBits");
    if (status == NULL)
        status = host->KernelDefBuilder_SetDomain(builder, "com.microsoft");
    if (status == NULL)
        status = host->KernelDefBuilder_SetSinceVersion(builder, 1, 1);
    if (status == NULL)
        status = host->KernelDefBuilder_SetExecutionProvider(builder, MB_ORT_PROVIDER);
    if (status == NULL)
        status = host->KernelDefBuilder_AddTypeConstraint(builder, "T1", &data_type, 1);
    return status != NULL ? status : host->KernelDefBuilder_Build(builder, built);
}

static struct ort_status *add_definition(struct mb_ort_provider *provider,
                                         struct mb_ort_definition *definition)
{
    const struct ort_provider_api *host = &provider->host->provider;
    struct ort_definition_builder *builder = NULL;
    struct ort_definition *built = NULL;
    struct ort_status *status = host->CreateKernelDefBuilder(&builder);
    if (status == NULL)
        status = build(host, definition->type, builder, &built);
    if (status == NULL)
        status =
            host->KernelRegistry_AddKernel(provider->registry, built, create_kernel, definition);
    if (built != NULL)
        host->ReleaseKernelDef(built);
    if (builder != NULL)
        host->ReleaseKernelDefBuilder(builder);
    return status;
}

struct ort_status *mb_ort_make_registry(struct mb_ort_provider *provider)
{
    static const int types[MB_ORT_TYPES] = {ORT_TYPE_FLOAT, ORT_TYPE_FLOAT16};
    struct ort_status *status = provider->host->provider.CreateKernelRegistry(&provider->registry);
    for (size_t i = 0; i < MB_ORT_TYPES && status == NULL; i++) {
        provider->definitions[i] = (struct mb_ort_definition){provider, types[i]};
        status = add_definition(provider, &provider->definitions[i]);
    }
    return status;
}
