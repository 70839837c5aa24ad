/* SPDX-License-Identifier: Apache-2.0 */
/* Which kernels serve a format.
 *
 * Reference fills every slot, then each allowed level overwrites what it has, in the order of
 * isa.def; a profile's choice comes on top, and a forced kernel (MIXBIT_KERNEL, the tuner) on top
 * of that. The result is cached per format until one of these changes. */
#include "dispatch/dispatch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As many slots as the largest format id needs: a union is as large as its largest member. */
union format_slots {
#define MB_FORMAT_ROW(id, gguf, ...) char id[gguf + 1];
#include "mixbit/formats.def"
};
enum { SLOTS = sizeof(union format_slots), GEMV_SLOTS = 8 };

/* Rows up to which weights are decoded in registers, once for each eight rows, instead of once into
 * a buffer. On Zen 4, where shifts and masks have pipes of their own beside the dots', AVX-512
 * multiplies codes 13 to 56 % faster so at 24 and 32 rows, 11 to 22 % at 64, up to 17 % at 128, f16
 * 13 to 26 % at 24 and 32; a CPU whose dots share their ports gains less, so the tuner goes further
 * where it pays. AVX2 gains at 24 and 32 for some formats and loses up to half for others. */
enum { CROSSOVER = 16, AVX512_CROSSOVER = 64, AVX512_FLOAT_CROSSOVER = 32 };

/* A decoded run of 32 columns is 32 KB of codes or 64 KB of floats. It streams linearly from L2;
 * runs of half that, which would leave room in L1 for the activations, measured some 4 % slower on
 * Zen 4. */
enum { INTEGER_K_BLOCK = 1024, FLOAT_K_BLOCK = 512 };

/* With several rows a line of weights lasts longer than hardware prefetchers look ahead: far ahead,
 * into L2 (on Zen 4 4 rows go from 100 to 145 GMAC/s a core; closer, or into L1, is worse). */
enum { PREFETCH_BYTES = 16384 };
/* One row is a plain rising stream, which newer prefetchers follow on their own: asking as well
 * hides the misses that train them and costs Zen 4 a quarter. Where AVX2 is the best level they are
 * of another time: Zen 1 multiplies codes from memory 10 to 65 % faster when asked, and from caches
 * as fast. Floats, with little to do between two lines, it reads faster unasked. */
enum { AVX2_ROW_PREFETCH_BYTES = 4096 };

struct entry {
    _Atomic bool ready;
    bool from_profile;
    struct mb_selection profile, chosen; /* chosen.gemv[0] NULL: the format can't be multiplied by
                                            activations of this type */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry entries[SLOTS][MB_ACTIVATION_COUNT];
static _Atomic int activations[SLOTS]; /* what a profile chose, plus 1; 0: the default */
static const struct mb_kernel *forced;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static struct mb_error environment_error;

/* Codebook matrices have one kernel a level (dispatch/alone.h) and nothing to select. */
static bool has_slots(enum mb_format format)
{
    const struct mb_format_info *info = mb_format_info(format);
    return info != NULL && !info->codebook;
}

/* Kinds that are the same once decoded share a gemm; bf16 pairs are not decoded for their own dots.
 */
static enum mb_scale_kind gemm_scale(const struct mb_format_info *info)
{
    const bool decoded = info->activation != MB_ACTIVATION_BF16;
    return info->scale == MB_SCALE_G16X2S6           ? MB_SCALE_G16X2
           : info->scale == MB_SCALE_G32E8           ? MB_SCALE_G32
           : info->scale == MB_SCALE_PAIR && decoded ? MB_SCALE_NONE
                                                     : info->scale;
}

struct mb_format_info mb_format_as(enum mb_format format, enum mb_activation activation)
{
    struct mb_format_info info = *mb_format_info(format);
    info.activation = activation;
    return info;
}

bool mb_kernel_fits(const struct mb_kernel *kernel, const struct mb_format_info *info)
{
    switch (kernel->op) {
    case MB_OP_PREPARE: return kernel->activation == info->activation;
    case MB_OP_DECODE: return kernel->coding == info->coding && kernel->scale == info->scale;
    case MB_OP_GEMV:
        return kernel->coding == info->coding && kernel->scale == info->scale &&
               kernel->activation == info->activation;
    case MB_OP_GEMM:
        if (kernel->scale != gemm_scale(info) || kernel->activation != info->activation)
            return false;
        if (mb_coding_is_float(info->coding))
            return true;
        return kernel->max_code >= mb_coding_max(info->coding) &&
               (!kernel->signed_codes || mb_coding_max(info->coding) == 255);
    case MB_OP_INTEGER:
    case MB_OP_CODEBOOK: return false; /* they have weights of their own */
    }
    return false;
}

/* Whether `kernel` serves m rows better than `old`, which came before it in the registry: a later
 * level always wins; within a level the smallest mr that takes all rows at once, then the largest
 * mr; of equals the later row. */
static bool better_gemv(const struct mb_kernel *kernel, const struct mb_kernel *old, unsigned m)
{
    if (old == NULL || old->isa != kernel->isa)
        return true;
    const bool whole = kernel->mr >= m, old_whole = old->mr >= m;
    if (whole != old_whole)
        return whole;
    return whole ? kernel->mr <= old->mr : kernel->mr >= old->mr;
}

static bool better_gemm(const struct mb_kernel *kernel, const struct mb_kernel *old)
{
    return old == NULL || old->isa != kernel->isa || kernel->max_code <= old->max_code;
}

static void place(struct mb_selection *selection, const struct mb_kernel *kernel, bool force)
{
    switch (kernel->op) {
    case MB_OP_PREPARE: selection->prepare = kernel; break;
    case MB_OP_DECODE: selection->gemm.decode = kernel; break;
    case MB_OP_GEMM:
        if (force || better_gemm(kernel, selection->gemm.gemm))
            selection->gemm.gemm = kernel;
        break;
    case MB_OP_GEMV:
        for (unsigned i = 0; i < GEMV_SLOTS; i++)
            if (force || better_gemv(kernel, selection->gemv[i], i + 1))
                selection->gemv[i] = kernel;
        break;
    case MB_OP_INTEGER:
    case MB_OP_CODEBOOK: break;
    }
}

static bool allowed(const struct mb_kernel *kernel, uint32_t mask)
{
    return kernel != NULL && (mask >> kernel->isa & 1) != 0;
}

/* What a profile chose replaces the default slot by slot, where its level is still allowed. */
static void apply_profile(struct mb_selection *selection, const struct mb_selection *profile,
                          uint32_t mask)
{
    if (allowed(profile->prepare, mask))
        selection->prepare = profile->prepare;
    for (size_t i = 0; i < GEMV_SLOTS; i++)
        if (allowed(profile->gemv[i], mask))
            selection->gemv[i] = profile->gemv[i];
    if (allowed(profile->gemm.decode, mask) && allowed(profile->gemm.gemm, mask))
        selection->gemm = profile->gemm;
    selection->crossover = profile->crossover;
    selection->prefetch = profile->prefetch;
    selection->row_prefetch = profile->row_prefetch;
    selection->gemv_step = profile->gemv_step;
    selection->gemm_step = profile->gemm_step;
}

static bool is_avx512(const struct mb_kernel *kernel)
{
    return kernel != NULL && (kernel->isa == MB_ISA_AVX512VNNI ||
                              kernel->isa == MB_ISA_AVX512VBMI || kernel->isa == MB_ISA_AVX512BF16);
}

/* `profile` NULL: without one. */
static struct mb_selection choose(const struct mb_format_info *info,
                                  const struct mb_selection *profile)
{
    const uint32_t mask = mb_isa_allowed_mask();
    struct mb_selection selection = {.activation = info->activation,
                                     .crossover = CROSSOVER,
                                     .prefetch = PREFETCH_BYTES,
                                     .gemv_step = 1,
                                     .gemm_step = 1};
    selection.gemm.k_block = mb_coding_is_float(info->coding) ? FLOAT_K_BLOCK : INTEGER_K_BLOCK;
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (allowed(kernel, mask) && mb_kernel_fits(kernel, info))
            place(&selection, kernel, false);
    if (selection.gemv[0] != NULL && selection.gemv[0]->isa == MB_ISA_AVX2 &&
        !mb_coding_is_float(info->coding))
        selection.row_prefetch = AVX2_ROW_PREFETCH_BYTES;
    if (is_avx512(selection.gemv[GEMV_SLOTS - 1]))
        selection.crossover =
            mb_coding_is_float(info->coding) ? AVX512_FLOAT_CROSSOVER : AVX512_CROSSOVER;
    if (profile != NULL)
        apply_profile(&selection, profile, mask);
    if (forced != NULL && mb_kernel_fits(forced, info))
        place(&selection, forced, true);
    return selection;
}

static void read_environment(void)
{
    const char *name = getenv("MIXBIT_KERNEL");
    if (mb_isa_environment(&environment_error) != MB_OK || name == NULL || name[0] == '\0')
        return;
    const struct mb_kernel *kernel = mb_registry_find(name);
    if (kernel == NULL)
        mb_error_set(&environment_error, MB_ERR_ARGUMENT, -1,
                     "MIXBIT_KERNEL: no kernel '%s' in this build; `mixbit probe --why` lists them",
                     name);
    else if (!mb_isa_is_supported(kernel->isa))
        mb_error_set(
            &environment_error, MB_ERR_UNSUPPORTED, -1,
            "MIXBIT_KERNEL: '%s' needs %s, which this machine lacks; unset it or name another",
            name, mb_isa_name(kernel->isa));
    else
        forced = kernel;
    if (environment_error.status != MB_OK)
        mb_log(MB_LOG_WARNING, "%s", environment_error.message);
}

enum mb_status mb_select_environment(struct mb_error *error)
{
    (void)pthread_once(&environment_once, read_environment);
    if (environment_error.status != MB_OK && error != NULL)
        *error = environment_error;
    return environment_error.status;
}

const struct mb_selection *mb_select_as(enum mb_format format, enum mb_activation activation)
{
    if (!has_slots(format) || (unsigned)activation >= MB_ACTIVATION_COUNT)
        return NULL;
    struct entry *entry = &entries[format][activation];
    if (!atomic_load_explicit(&entry->ready, memory_order_acquire)) {
        (void)mb_select_environment(NULL);
        (void)pthread_mutex_lock(&lock);
        if (!atomic_load_explicit(&entry->ready, memory_order_relaxed)) {
            const struct mb_format_info info = mb_format_as(format, activation);
            entry->chosen = choose(&info, entry->from_profile ? &entry->profile : NULL);
            atomic_store_explicit(&entry->ready, true, memory_order_release);
        }
        (void)pthread_mutex_unlock(&lock);
    }
    return entry->chosen.gemv[0] != NULL ? &entry->chosen : NULL;
}

enum mb_activation mb_matmul_activation(enum mb_format format)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (info == NULL)
        return MB_ACTIVATION_COUNT;
    if (info->codebook)
        return info->activation;
    const int chosen = atomic_load_explicit(&activations[format], memory_order_relaxed);
    return chosen > 0 ? (enum mb_activation)(chosen - 1) : info->activation;
}

bool mb_matmul_supports(enum mb_format format, enum mb_activation activation)
{
    return mb_select_as(format, activation) != NULL;
}

const struct mb_selection *mb_select(enum mb_format format)
{
    return mb_select_as(format, mb_matmul_activation(format));
}

struct mb_selection mb_select_default(enum mb_format format, enum mb_activation activation)
{
    const struct mb_format_info info = mb_format_as(format, activation);
    (void)mb_select_environment(NULL);
    (void)pthread_mutex_lock(&lock);
    const struct mb_selection selection = choose(&info, NULL);
    (void)pthread_mutex_unlock(&lock);
    return selection;
}

/* Whatever format it is asked of, the type alone decides: one that takes it is looked for. */
const struct mb_kernel *mb_select_prepare(enum mb_activation activation)
{
    const struct mb_format_info *info;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++) {
        const struct mb_selection *selection = mb_select_as(info->id, activation);
        if (selection != NULL)
            return selection->prepare;
    }
    return NULL;
}

/* In the order of isa.def, as for kernels; no profile has a say, since all give the same bits. */
const struct mb_encode_ops *mb_select_encode(void)
{
    const uint32_t mask = mb_isa_allowed_mask();
    const struct mb_encode_ops *chosen = NULL;
    for (size_t isa = 0; isa < MB_ISA_COUNT; isa++) {
        const struct mb_encode_ops *ops = mb_registry_encode((enum mb_isa)isa);
        if ((mask >> isa & 1) != 0 && ops != NULL)
            chosen = ops;
    }
    return chosen;
}

static void clear_locked(void)
{
    for (size_t i = 0; i < SLOTS; i++)
        for (size_t a = 0; a < MB_ACTIVATION_COUNT; a++)
            atomic_store_explicit(&entries[i][a].ready, false, memory_order_release);
}

void mb_select_clear(void)
{
    (void)pthread_mutex_lock(&lock);
    clear_locked();
    (void)pthread_mutex_unlock(&lock);
}

enum mb_status mb_select_override(const struct mb_kernel *kernel)
{
    (void)mb_select_environment(NULL); /* or MIXBIT_KERNEL would undo this later */
    if (kernel != NULL && !mb_isa_is_supported(kernel->isa))
        return MB_ERR_UNSUPPORTED;
    (void)pthread_mutex_lock(&lock);
    forced = kernel;
    clear_locked();
    (void)pthread_mutex_unlock(&lock);
    return MB_OK;
}

const struct mb_kernel *mb_select_forced(void)
{
    (void)mb_select_environment(NULL);
    (void)pthread_mutex_lock(&lock);
    const struct mb_kernel *kernel = forced;
    (void)pthread_mutex_unlock(&lock);
    return kernel;
}

void mb_select_set(enum mb_format format, const struct mb_selection *selection)
{
    if (!has_slots(format))
        return;
    (void)pthread_mutex_lock(&lock);
    for (size_t a = 0; a < MB_ACTIVATION_COUNT; a++) {
        struct entry *entry = &entries[format][a];
        entry->from_profile = selection != NULL && a == (size_t)selection->activation;
        if (entry->from_profile)
            entry->profile = *selection;
        atomic_store_explicit(&entry->ready, false, memory_order_release);
    }
    atomic_store_explicit(&activations[format],
                          selection != NULL ? (int)selection->activation + 1 : 0,
                          memory_order_relaxed);
    (void)pthread_mutex_unlock(&lock);
}
