/* SPDX-License-Identifier: Apache-2.0 */
/* The machine as users see it: one record of CPU, cores and caches, and the reasons behind every
 * kernel choice.
 *
 * The key is a digest of what must match for a cost table to be of this device: processor, usable
 * features, cores by kind, caches. Memory size, kernel release and compiler are not in it; they
 * make a profile stale, not foreign. */
#include "dispatch/dispatch.h"
#include "mixbit/codebook.h"
#include "support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct mb_device_info device;
static enum mb_status device_status;

static void make_key(struct mb_device_info *info)
{
    char text[1536];
    int used = snprintf(text, sizeof text, "%s/%s/%u/%u/%u/%s/%zu/%zu/%zu/%zu/%zu", info->vendor,
                        info->name, info->family, info->model, info->stepping, info->features,
                        info->threads, info->l1d_bytes, info->l2_bytes, info->l3_bytes,
                        info->l3_shared_by);
    for (size_t i = 0; i < info->core_kinds && used >= 0 && (size_t)used < sizeof text; i++)
        used += snprintf(text + used, sizeof text - (size_t)used, "/%s=%zu", info->kinds[i].name,
                         info->kinds[i].cores);
    mb_hash_bytes(text, strlen(text), info->key);
}

static void detect(void)
{
    device.size = sizeof device;
    snprintf(device.backend, sizeof device.backend, "cpu");
    mb_cpu_identify(&device);
    mb_cpu_feature_names(mb_cpu_features(), device.features, sizeof device.features);
    device_status = mb_topology_fill(&device);
    if (device.cores == 0) { /* hwloc failed: still a device, with one core */
        device.cores = device.threads = device.core_kinds = device.kinds[0].cores = 1;
        snprintf(device.kinds[0].name, sizeof device.kinds[0].name, "core");
    }
    snprintf(device.build, sizeof device.build,
             "mixbit %s, "
#if defined(__clang__)
             "clang %s",
             MIXBIT_VERSION, __clang_version__);
#else
             "gcc %s",
             MIXBIT_VERSION, __VERSION__);
#endif
    make_key(&device);
}

enum mb_status mb_device_info(struct mb_device_info *info)
{
    if (info == NULL || info->size != sizeof *info)
        return MB_ERR_ARGUMENT;
    (void)pthread_once(&once, detect);
    *info = device;
    return device_status;
}

const char *mb_kernel_for(enum mb_format format, size_t n, size_t k, size_t m)
{
    const struct mb_selection *selection = mb_select(format);
    if (mb_select_environment(NULL) != MB_OK || m == 0 || n == 0 || k == 0 ||
        mb_format_row_bytes(format, k) == 0)
        return NULL;
    if (mb_format_is_codebook(format))
        return mb_codebook_kernel();
    if (selection == NULL)
        return NULL;
    if (m > selection->crossover)
        return selection->gemm.gemm->name;
    return selection->gemv[m < 8 ? m - 1 : 7]->name;
}

/* Why a kernel that fits the format does not serve it; NULL when it does. */
static const char *rejection(const struct mb_kernel *kernel, const struct mb_selection *selection,
                             size_t m, char *text, size_t bytes)
{
    struct mb_isa_info isa;
    const struct mb_kernel *taken = NULL;
    (void)mb_isa_info(kernel->isa, &isa);
    if (!isa.allowed) {
        snprintf(text, bytes, "%s: %s", isa.name, isa.why);
        return text;
    }
    switch (kernel->op) {
    case MB_OP_PREPARE: taken = selection->prepare; break;
    case MB_OP_DECODE: taken = selection->gemm.decode; break;
    case MB_OP_GEMM: taken = selection->gemm.gemm; break;
    case MB_OP_GEMV: taken = selection->gemv[m < 8 ? m - 1 : 7]; break;
    case MB_OP_INTEGER:
    case MB_OP_CODEBOOK: return NULL; /* they serve no format */
    }
    if (taken == kernel)
        return NULL;
    if (taken->isa != kernel->isa)
        snprintf(text, bytes, "%s is preferred to %s", mb_isa_name(taken->isa), isa.name);
    else if (kernel->op == MB_OP_GEMM && taken->max_code < kernel->max_code)
        snprintf(text, bytes, "%s takes these codes with less work", taken->name);
    else
        snprintf(text, bytes, "%s is preferred for %zu row%s", taken->name, m, m == 1 ? "" : "s");
    return text;
}

void mb_kernel_explain(enum mb_format format, size_t m, void (*line)(void *user, const char *text),
                       void *user)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (info == NULL || m == 0 || line == NULL)
        return;
    if (info->codebook) {
        mb_codebook_explain(line, user);
        return;
    }
    const struct mb_selection *selection = mb_select(format);
    const struct mb_format_info as = mb_format_as(format, selection->activation);
    const bool gemv = m <= selection->crossover;
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++) {
        char text[384], why[256];
        const bool of_path = kernel->op == MB_OP_PREPARE || (kernel->op == MB_OP_GEMV) == gemv;
        if (!of_path || (kernel->op != MB_OP_GEMM && !mb_kernel_fits(kernel, &as)))
            continue;
        if (kernel->op == MB_OP_GEMM && !mb_kernel_fits(kernel, &as)) {
            if (kernel->activation != as.activation || kernel->scale != info->scale ||
                kernel->max_code >= mb_coding_max(info->coding))
                continue;
            snprintf(text, sizeof text, "%-44s rejected: takes codes up to %u, %s needs %u",
                     kernel->name, kernel->max_code, info->name, mb_coding_max(info->coding));
        } else if (rejection(kernel, selection, m, why, sizeof why) != NULL) {
            snprintf(text, sizeof text, "%-44s rejected: %s", kernel->name, why);
        } else {
            snprintf(text, sizeof text, "%-44s taken", kernel->name);
        }
        line(user, text);
    }
}
