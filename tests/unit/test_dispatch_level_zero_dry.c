/* SPDX-License-Identifier: Apache-2.0 */
/* The backend's own calls on Intel's real Level Zero driver, which in its capture mode records what
 * it would give to a GPU: devices, modules, kernels, memory, lists and waits are real, the loader
 * checks parameters, and nothing is computed, so no number is looked at. Three GPUs, each in a
 * process of its own. Without the driver (intel-opencl-icd) it is skipped, which ctest shows. */
#include "dispatch/level_zero_api.h"
#include "unit/opencl_support.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DONE = 0, WRONG = 1, SKIPPED = 77, WANTED_SUBGROUP = 16 };
static const struct mb_backend *const gpu = &mb_backend_level_zero;

struct target {
    const char *product, *configuration; /* what the driver's keys call it; NULL: by itself */
    const char *device_id;
    bool is_discrete;
    bool every_format; /* else some: building kernels takes its time */
};
static const struct target targets[] = {
    {"tgllp", NULL, NULL, false, false},
    {"dg2", "8x4x16", "0x56a0", true, true},
    {"pvc", "8x16x8", NULL, true, false},
};

/* ---- what the driver makes of kernels that are launched ---- */

static const struct mb_level_zero_api *real;
static struct mb_level_zero_api calls;
static size_t launches, bad_launches;

static ze_result_t inspect_launch(ze_command_list_handle_t list, ze_kernel_handle_t kernel,
                                  const ze_group_count_t *groups, ze_event_handle_t signal,
                                  uint32_t waits, ze_event_handle_t *events)
{
    ze_kernel_properties_t p = {.stype = ZE_STRUCTURE_TYPE_KERNEL_PROPERTIES};
    const ze_result_t code = real->KernelGetProperties(kernel, &p);
    launches++;
    if (code != ZE_RESULT_SUCCESS || p.spillMemSize > 0 ||
        p.requiredSubgroupSize != WANTED_SUBGROUP) {
        bad_launches++;
        (void)fprintf(stderr, "a kernel with subgroups of %u spills %u bytes\n",
                      p.requiredSubgroupSize, p.spillMemSize);
    }
    return real->CommandListAppendLaunchKernel(list, kernel, groups, signal, waits, events);
}

enum mb_status __real_mb_level_zero_api(const struct mb_level_zero_api **api,
                                        struct mb_error *error);
enum mb_status __wrap_mb_level_zero_api(const struct mb_level_zero_api **api,
                                        struct mb_error *error);
enum mb_status __wrap_mb_level_zero_api(const struct mb_level_zero_api **api,
                                        struct mb_error *error)
{
    const enum mb_status status = __real_mb_level_zero_api(&real, error);
    if (status == MB_OK)
        calls = *real;
    calls.CommandListAppendLaunchKernel = inspect_launch;
    *api = &calls;
    return status;
}

/* ---- the child ---- */

static bool failed(const char *what, const struct mb_error *error)
{
    (void)fprintf(stderr, "%s: %s\n", what, error->message);
    return false;
}

static bool record_product(struct mb_backend_device *device, const struct mb_format_info *info,
                           size_t m)
{
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    double busy_ns = 0;
    product_create(&p, info, 53, info->block_k == 1 ? 77 : 512, m);
    const bool made = device_create(gpu, device, &p, &on, &error) == MB_OK;
    const struct mb_backend_product product = {NULL, on.weights, on.input, on.output, m};
    const bool good = made && gpu->multiply(device, &product, &error) == MB_OK &&
                      gpu->finish(device, &busy_ns, &error) == MB_OK &&
                      gpu->output_read(on.output, p.y, p.n, m, &error) == MB_OK;
    device_free(gpu, &on);
    product_free(&p);
    if (!good)
        return failed(info->name, &error);
    return busy_ns > 0; /* the host's clock: a recording has no timestamps */
}

static bool record_all(struct mb_backend_device *device, const struct target *t)
{
    static const enum mb_format some[] = {MB_FORMAT_F16, MB_FORMAT_Q4_0, MB_FORMAT_Q6_K};
    bool good = true;
    for (size_t f = 0; t->every_format && f < mb_format_count() && good; f++)
        good = record_product(device, mb_format_at(f), 1);
    for (size_t f = 0; f < sizeof some / sizeof some[0] && good; f++)
        good = record_product(device, mb_format_info(some[f]), 5) &&
               record_product(device, mb_format_info(some[f]), 64);
    return good;
}

static int dry_run(const struct target *t)
{
    struct mb_backend_device *device;
    struct mb_device_info info = {.size = sizeof info};
    struct mb_error error = {0};
    if (gpu->describe(0, &info, &error) != MB_OK) {
        (void)failed("describe", &error);
        return WRONG;
    }
    (void)fprintf(stderr, "%s: %s (%s), %zu units, %s\n", t->product, info.name, info.features,
                  info.cores, info.os);
    const bool is_discrete = strstr(info.features, "discrete") != NULL;
    if (is_discrete != t->is_discrete || strstr(info.features, "subgroups-16") == NULL ||
        info.cores == 0 || gpu->open(0, &device, &error) != MB_OK) {
        (void)failed("open", &error);
        return WRONG;
    }
    const bool good = record_all(device, t);
    gpu->close(device);
    (void)fprintf(stderr, "%s: %zu launches, %zu bad\n", t->product, launches, bad_launches);
    return good && launches > 0 && bad_launches == 0 ? DONE : WRONG;
}

static void set_keys(const struct target *t)
{
    (void)setenv("NEOReadDebugKeys", "1", 1);
    (void)setenv("SetCommandStreamReceiver", "1", 1); /* record instead of run */
    (void)setenv("AUBDumpCaptureFileName", "/dev/null", 1);
    (void)setenv("ProductFamilyOverride", t->product, 1);
    if (t->configuration != NULL)
        (void)setenv("HardwareInfoOverride", t->configuration, 1);
    if (t->device_id != NULL)
        (void)setenv("ForceDeviceId", t->device_id, 1);
    (void)setenv("ZE_ENABLE_VALIDATION_LAYER", "1", 1);
    (void)setenv("ZE_ENABLE_PARAMETER_VALIDATION", "1", 1);
}

static void dry_run_in_child(const struct target *t)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        set_keys(t);
        _exit(dry_run(t));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), DONE);
}

static void test_integrated(void **state)
{
    (void)state;
    dry_run_in_child(&targets[0]);
}
static void test_discrete(void **state)
{
    (void)state;
    dry_run_in_child(&targets[1]);
}
static void test_data_centre(void **state)
{
    (void)state;
    dry_run_in_child(&targets[2]);
}

/* The validation layer is there and checks: a wrong enumeration is refused before the driver. */
static void test_parameters_are_checked(void **state)
{
    (void)state;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct mb_level_zero_device d;
        struct mb_error error;
        ze_context_handle_t context;
        ze_command_queue_handle_t queue;
        const ze_context_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_CONTEXT_DESC};
        const ze_command_queue_desc_t wrong = {.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC,
                                               .mode = (ze_command_queue_mode_t)77};
        set_keys(&targets[0]);
        _exit(mb_level_zero_find(0, &d, &error) == MB_OK &&
                      d.ze->ContextCreate(d.driver, &desc, &context) == ZE_RESULT_SUCCESS &&
                      d.ze->CommandQueueCreate(context, d.id, &wrong, &queue) ==
                          ZE_RESULT_ERROR_INVALID_ENUMERATION
                  ? DONE
                  : WRONG);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == DONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integrated),
        cmocka_unit_test(test_discrete),
        cmocka_unit_test(test_data_centre),
        cmocka_unit_test(test_parameters_are_checked),
    };
    /* In a process of its own as well: a driver that was opened once reads no keys again. */
    static const char *const needed[] = {"libze_loader.so.1", "libze_intel_gpu.so.1"};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        const pid_t child = fork();
        int status = 1;
        if (child == 0)
            _exit(dlopen(needed[i], RTLD_NOW) != NULL ? 0 : 1);
        (void)waitpid(child, &status, 0);
        if (status == 0)
            continue;
        (void)fprintf(stderr,
                      "SKIPPED %zu dry runs on Intel's driver: no %s (packages libze1, "
                      "intel-opencl-icd)\n",
                      sizeof tests / sizeof tests[0], needed[i]);
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
