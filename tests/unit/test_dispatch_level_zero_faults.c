/* SPDX-License-Identifier: Apache-2.0 */
/* What can go wrong with Level Zero: no loader, no driver, a driver that fails, no GPU, modules
 * that do not build, memory that is not there, a device that is lost, weights larger than the
 * largest buffer. Each is a status and one line, nothing is left, and the process lives.
 *
 * And that the test driver notices what a real one may let pass: the linker puts
 * __wrap_mb_level_zero_api in the place of the table of calls, where a test leaves one out. */
#include "dispatch/level_zero_api.h"
#include "unit/level_zero_support.h"
#include "unit/opencl_support.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct mb_backend *const gpu = &mb_backend_level_zero;
static struct mb_level_zero_api calls, real;
static bool is_wrapped; /* real is known */

enum mb_status __real_mb_level_zero_api(const struct mb_level_zero_api **api,
                                        struct mb_error *error);
enum mb_status __wrap_mb_level_zero_api(const struct mb_level_zero_api **api,
                                        struct mb_error *error);
enum mb_status __wrap_mb_level_zero_api(const struct mb_level_zero_api **api,
                                        struct mb_error *error)
{
    if (!is_wrapped)
        return __real_mb_level_zero_api(api, error);
    *api = &calls;
    return MB_OK;
}

/* ---- without any device: each in a process of its own, where no loader was opened ---- */

struct situation {
    const char *loader, *driver; /* what names them; NULL: the usual one */
    bool init_fails;
    const char *words; /* of the reason */
};

static void expect_in_child(const struct situation *s)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct mb_error error = {0};
        size_t count = 7;
        if (s->loader != NULL)
            (void)setenv("MIXBIT_LEVEL_ZERO", s->loader, 1);
        (void)setenv("ZE_ENABLE_ALT_DRIVERS", s->driver != NULL ? s->driver : MIXBIT_TEST_DRIVER,
                     1);
        if (s->init_fails) {
            void *library = dlopen(MIXBIT_TEST_DRIVER, RTLD_NOW);
            struct test_driver_control *c = dlsym(library, "test_driver_control");
            c->failing_call = "Init";
            c->failure = ZE_RESULT_ERROR_DEVICE_LOST;
        }
        const enum mb_status status = gpu->list(&count, &error);
        struct mb_device_info info = {.size = sizeof info};
        struct mb_backend_device *opened = NULL;
        const bool right = status == MB_ERR_UNSUPPORTED && count == 0 &&
                           strstr(error.message, s->words) != NULL &&
                           gpu->describe(0, &info, &error) == MB_ERR_UNSUPPORTED &&
                           gpu->open(0, &opened, &error) == MB_ERR_UNSUPPORTED;
        if (!right)
            (void)fprintf(stderr, "status %d: %s\n", (int)status, error.message);
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_no_loader(void **state)
{
    (void)state;
    expect_in_child(&(struct situation){"/nonexistent/libze_loader.so", NULL, false,
                                        "no Level Zero loader: /nonexistent/libze_loader.so"});
    expect_in_child(
        &(struct situation){"libm.so.6", NULL, false, "the Level Zero loader has no zeInit"});
}

static void test_no_driver(void **state)
{
    (void)state;
    expect_in_child(&(struct situation){NULL, "/nonexistent/driver.so", false,
                                        "zeInit says ZE_RESULT_ERROR_UNINITIALIZED"});
}

static void test_driver_that_fails(void **state)
{
    (void)state;
    expect_in_child(&(struct situation){NULL, NULL, true, "zeInit says ZE_RESULT_ERROR_"});
}

/* ---- on the test driver ---- */

static int start(void **state)
{
    calls = real;
    return driver_reset(state);
}

static void inject(const char *call, ze_result_t failure, unsigned after)
{
    driver->failing_call = call;
    driver->failure = failure;
    driver->failing_after = after;
}

/* What a call's failure makes of a product; nothing is left of it. */
static void expect(const char *call, ze_result_t failure, unsigned after, enum mb_status expected,
                   const char *words)
{
    struct mb_error error;
    inject(call, failure, after);
    const enum mb_status status = open_and_multiply(gpu, &error);
    if (status != expected || strstr(error.message, words) == NULL)
        fail_msg("%s fails: status %d, %s", call, (int)status, error.message);
    assert_non_null(strstr(error.message, "level-zero"));
    assert_null(strchr(error.message, '\n'));
    inject(NULL, ZE_RESULT_SUCCESS, 0);
    assert_int_equal(driver_is_clean(NULL), 0);
}

static void test_no_gpu(void **state)
{
    struct mb_error error = {0};
    struct mb_backend_device *device;
    size_t count = 7;
    driver->no_device = true;
    assert_int_equal(gpu->list(&count, &error), MB_ERR_UNSUPPORTED);
    assert_int_equal(count, 0);
    assert_non_null(strstr(error.message, "1 Level Zero driver without a GPU"));
    (void)driver_reset(state);
    driver->not_a_gpu = true;
    assert_int_equal(gpu->open(0, &device, &error), MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "1 Level Zero driver without a GPU"));
    (void)driver_reset(state);
    inject("DriverGet", ZE_RESULT_ERROR_DEVICE_LOST, 0);
    assert_int_equal(gpu->list(&count, &error), MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "lists no driver (ZE_RESULT_ERROR_DEVICE_LOST)"));
}

static void test_cannot_be_opened(void **state)
{
    (void)state;
    static const char *const needed[] = {
        "ContextCreate",      "DeviceGetCommandQueueGroupProperties",
        "CommandQueueCreate", "CommandListCreate",
        "EventPoolCreate",    "EventCreate"};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        expect(needed[i], ZE_RESULT_ERROR_DEVICE_LOST, 0, MB_ERR_DEVICE,
               "cannot be opened: ZE_RESULT_ERROR_DEVICE_LOST");
    expect("EventCreate", ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY, 3, MB_ERR_MEMORY, "cannot be opened");
    driver->is_discrete = true;
    expect("MemAllocHost", ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY, 0, MB_ERR_MEMORY,
           "cannot be opened: ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY");
}

static void test_build_failure(void **state)
{
    (void)state;
    expect(
        "ModuleCreate", ZE_RESULT_ERROR_MODULE_BUILD_FAILURE, 0, MB_ERR_UNSUPPORTED,
        "a kernel does not build: ZE_RESULT_ERROR_MODULE_BUILD_FAILURE: error: out of registers");
    expect("KernelCreate", ZE_RESULT_ERROR_INVALID_MODULE_UNLINKED, 0, MB_ERR_UNSUPPORTED,
           "a kernel does not build: ZE_RESULT_ERROR_INVALID_MODULE_UNLINKED: no build log");
    expect("ModuleCreate", ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY, 0, MB_ERR_MEMORY,
           "no memory for a kernel");
}

static void test_out_of_memory(void **state)
{
    (void)state;
    static const char *const what[] = {"weights", "activations", "results"};
    for (int discrete = 0; discrete < 2; discrete++)
        for (unsigned i = 0; i < 3; i++) {
            driver->is_discrete = discrete != 0;
            expect(discrete != 0 ? "MemAllocDevice" : "MemAllocShared",
                   ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY, i, MB_ERR_MEMORY, what[i]);
        }
}

static void test_lost_device(void **state)
{
    (void)state;
    static const char *const waiting[] = {"CommandQueueSynchronize",
                                          "CommandQueueExecuteCommandLists", "CommandListClose"};
    static const char *const starting[] = {"CommandListAppendLaunchKernel",
                                           "CommandListAppendBarrier", "KernelSetGroupSize",
                                           "KernelSetArgumentValue"};
    for (int discrete = 0; discrete < 2; discrete++) {
        driver->is_discrete = discrete != 0;
        for (size_t i = 0; i < sizeof waiting / sizeof waiting[0]; i++)
            expect(waiting[i], ZE_RESULT_ERROR_DEVICE_LOST, 0, MB_ERR_DEVICE,
                   "ZE_RESULT_ERROR_DEVICE_LOST");
    }
    for (size_t i = 0; i < sizeof starting / sizeof starting[0]; i++) {
        driver->is_discrete = false;
        expect(starting[i], ZE_RESULT_ERROR_DEVICE_LOST, 0, MB_ERR_DEVICE,
               "starting a kernel: ZE_RESULT_ERROR_DEVICE_LOST");
    }
    driver->is_discrete = true;
    expect("CommandListAppendMemoryCopy", ZE_RESULT_ERROR_DEVICE_LOST, 0, MB_ERR_DEVICE,
           "uploading weights");
}

/* A device that fails at a wait stays failed, however much is asked of it. */
static void test_lost_for_good(void **state)
{
    (void)state;
    struct mb_backend_device *device;
    struct product p;
    struct on_device on;
    struct mb_error error;
    assert_int_equal(gpu->open(0, &device, &error), MB_OK);
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 16, 64, 1);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    const struct mb_backend_product product = {NULL, on.weights, on.input, on.output, 1};
    inject("CommandQueueSynchronize", ZE_RESULT_ERROR_DEVICE_LOST, 0);
    enum mb_status status = MB_OK;
    for (int i = 0; i < 500; i++)
        status = gpu->multiply(device, &product, &error);
    assert_int_equal(status, MB_ERR_DEVICE);
    assert_int_equal(gpu->finish(device, NULL, &error), MB_ERR_DEVICE);
    device_free(gpu, &on);
    gpu->close(device);
    product_free(&p);
    inject(NULL, ZE_RESULT_SUCCESS, 0);
    assert_int_equal(driver_is_clean(NULL), 0);
}

/* Seven panels, two a buffer, and a limit that one panel exceeds. */
static void test_allocation_limit(void **state)
{
    (void)state;
    struct mb_backend_device *device;
    struct product p;
    struct on_device on;
    struct mb_error error;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_K), 100, 512, 4);
    const size_t panel = mb_panel_bytes(MB_FORMAT_Q4_K, 512);
    driver->largest_buffer = 2 * panel + 63;
    assert_int_equal(gpu->open(0, &device, &error), MB_OK);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    assert_int_equal(driver->live[LIVE_MEMORY], 4 + 2);
    assert_int_equal(device_multiply(gpu, device, &p, &on, NULL, 4, &error), MB_OK);
    for (size_t i = 0; i < 4 * p.n; i++)
        assert_float_equal(p.y[i], p.expected[i], 1e-4);
    assert_int_equal(driver->launches, 4);
    device_free(gpu, &on);
    gpu->close(device);
    driver->largest_buffer = panel - 1;
    assert_int_equal(gpu->open(0, &device, &error), MB_OK);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_ERR_MEMORY);
    assert_non_null(strstr(error.message, "the largest buffer has"));
    gpu->close(device);
    product_free(&p);
    assert_int_equal(driver_is_clean(NULL), 0);
}

/* Tiles whose kernels spill are not taken unasked; when all do, the usual one is. */
static void test_spilling_kernels(void **state)
{
    struct mb_backend_device *device;
    struct product p;
    struct on_device on;
    struct mb_error error;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 16, 64, 20);
    for (unsigned spilling = 0; spilling < 3; spilling++) {
        (void)start(state);
        driver->spilling = spilling;
        assert_int_equal(gpu->open(0, &device, &error), MB_OK);
        assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
        assert_int_equal(device_multiply(gpu, device, &p, &on, NULL, 20, &error), MB_OK);
        assert_memory_equal(p.y, p.expected, 20 * p.n * sizeof *p.y);
        /* Gemm of 8 rows, then of 4, then there are no more. */
        assert_int_equal(driver->live[LIVE_KERNEL], spilling == 0 ? 1 : 2);
        assert_int_equal(driver->last_groups, spilling == 1 ? 2 : 1);
        device_free(gpu, &on);
        gpu->close(device);
        assert_int_equal(driver_is_clean(NULL), 0);
    }
    product_free(&p);
}

static void test_too_little_local_memory(void **state)
{
    (void)state;
    struct mb_error error;
    driver->local_bytes = 8;
    assert_int_equal(open_and_multiply(gpu, &error), MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "no kernel fits"));
    assert_int_equal(driver_is_clean(NULL), 0);
}

/* ---- that the test driver notices ---- */

static ze_result_t no_barrier(ze_command_list_handle_t list, ze_event_handle_t signal,
                              uint32_t waits, ze_event_handle_t *events)
{
    (void)list;
    (void)signal;
    (void)waits;
    (void)events;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t no_wait(ze_command_queue_handle_t queue, uint64_t timeout)
{
    (void)queue;
    (void)timeout;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t no_free(ze_context_handle_t context, void *memory)
{
    (void)context;
    (void)memory;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t no_close(ze_command_list_handle_t list)
{
    (void)list;
    return ZE_RESULT_SUCCESS;
}

static void *allocated;
static ze_result_t noted_memory(ze_context_handle_t context, const ze_device_mem_alloc_desc_t *desc,
                                size_t bytes, size_t alignment, ze_device_handle_t device,
                                void **memory)
{
    const ze_result_t code = real.MemAllocDevice(context, desc, bytes, alignment, device, memory);
    allocated = *memory;
    return code;
}

/* A product on a discrete device comes out right. */
static bool is_right(void)
{
    struct mb_backend_device *device;
    struct product p;
    struct on_device on;
    struct mb_error error;
    assert_int_equal(gpu->open(0, &device, &error), MB_OK);
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 16, 64, 1);
    bool right = device_create(gpu, device, &p, &on, &error) == MB_OK &&
                 device_multiply(gpu, device, &p, &on, NULL, 1, &error) == MB_OK;
    for (size_t i = 0; i < p.n; i++)
        right = right && p.y[i] > p.expected[i] - 1e-4f && p.y[i] < p.expected[i] + 1e-4f;
    device_free(gpu, &on);
    gpu->close(device);
    product_free(&p);
    return right;
}

static void test_driver_is_strict(void **state)
{
    driver->is_discrete = true;
    assert_true(is_right());
    calls.CommandListAppendBarrier = no_barrier;
    assert_false(is_right());
    assert_int_equal(driver->complaints, 0); /* only the numbers tell */
    (void)start(state);
    driver->is_discrete = true;
    calls.CommandQueueSynchronize = no_wait;
    assert_false(is_right());
    (void)start(state);
    calls.CommandListClose = no_close;
    assert_false(is_right());
    assert_non_null(strstr(driver->complaint, "executed an open list"));
    (void)start(state);
    calls.MemFree = no_free;
    assert_true(is_right());
    assert_int_equal(driver->live[LIVE_MEMORY], 3);
    (void)start(state);
}

/* What a discrete GPU's memory does to a host that touches it. */
static void test_memory_is_closed(void **state)
{
    (void)state;
    struct mb_backend_device *device;
    struct mb_backend_output *output;
    struct mb_error error;
    driver->is_discrete = true;
    calls.MemAllocDevice = noted_memory;
    assert_int_equal(gpu->open(0, &device, &error), MB_OK);
    assert_int_equal(gpu->output_create(device, 1, 16, &output, &error), MB_OK);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)signal(SIGSEGV, SIG_DFL);
        *(volatile float *)allocated = 1;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    gpu->output_free(output);
    gpu->close(device);
}

int main(void)
{
    const struct mb_level_zero_api *found;
    struct mb_error error;
#define TEST(name) cmocka_unit_test_setup(name, start)
    const struct CMUnitTest without[] = {cmocka_unit_test(test_no_loader)};
    const struct CMUnitTest on_loader[] = {cmocka_unit_test(test_no_driver),
                                           cmocka_unit_test(test_driver_that_fails)};
    const struct CMUnitTest with[] = {
        TEST(test_no_gpu),
        TEST(test_cannot_be_opened),
        TEST(test_build_failure),
        TEST(test_out_of_memory),
        TEST(test_lost_device),
        TEST(test_lost_for_good),
        TEST(test_allocation_limit),
        TEST(test_spilling_kernels),
        TEST(test_too_little_local_memory),
        TEST(test_driver_is_strict),
        TEST(test_memory_is_closed),
    };
    int failed = cmocka_run_group_tests(without, NULL, NULL);
    void *loader = dlopen("libze_loader.so.1", RTLD_NOW);
    if (loader == NULL)
        (void)fprintf(stderr, "SKIPPED %zu tests of the Level Zero loader: %s\n",
                      sizeof on_loader / sizeof on_loader[0], dlerror());
    else
        failed += cmocka_run_group_tests(on_loader, NULL, NULL);
    if (!driver_open(sizeof with / sizeof with[0]))
        return failed != 0 ? failed : 77;
    assert_int_equal(mb_level_zero_api(&found, &error), MB_OK);
    real = calls = *found;
    is_wrapped = true;
    return failed + cmocka_run_group_tests(with, NULL, NULL);
}
