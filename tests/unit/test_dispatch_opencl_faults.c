/* SPDX-License-Identifier: Apache-2.0 */
/* What can go wrong with OpenCL: no loader, no platform, no device, sources that do not build,
 * memory that is not there, a device that is lost, weights larger than the largest buffer. Each is
 * a status and one line, and the process lives.
 *
 * The linker puts __wrap_mb_opencl_api in the place of the loader: a table of calls, the real ones
 * where there is an OpenCL, in which a test replaces those that are to fail. */
#include "dispatch/opencl_api.h"
#include "unit/opencl_support.h"

#include <sys/wait.h>
#include <unistd.h>

static const struct mb_backend *const opencl = &mb_backend_opencl;
static struct mb_opencl_api calls, real;

enum mb_status __real_mb_opencl_api(const struct mb_opencl_api **api, struct mb_error *error);
enum mb_status __wrap_mb_opencl_api(const struct mb_opencl_api **api, struct mb_error *error);
enum mb_status __wrap_mb_opencl_api(const struct mb_opencl_api **api, struct mb_error *error)
{
    (void)error;
    *api = &calls;
    return MB_OK;
}

/* ---- calls that fail ---- */

static cl_int CL_API_CALL no_platform(cl_uint room, cl_platform_id *at, cl_uint *count)
{
    (void)room;
    (void)at;
    *count = 0;
    return -1001;
}

static cl_int CL_API_CALL one_platform(cl_uint room, cl_platform_id *at, cl_uint *count)
{
    static int platform;
    if (room > 0)
        at[0] = (cl_platform_id)(void *)&platform;
    *count = 1;
    return CL_SUCCESS;
}

static cl_int CL_API_CALL no_device(cl_platform_id platform, cl_device_type type, cl_uint room,
                                    cl_device_id *at, cl_uint *count)
{
    (void)platform;
    (void)type;
    (void)room;
    (void)at;
    (void)count;
    return CL_DEVICE_NOT_FOUND;
}

static cl_context CL_API_CALL no_context(
    const cl_context_properties *properties, cl_uint devices, const cl_device_id *at,
    void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *), void *user, cl_int *code)
{
    (void)properties;
    (void)devices;
    (void)at;
    (void)notify;
    (void)user;
    *code = CL_DEVICE_NOT_AVAILABLE;
    return NULL;
}

static cl_mem CL_API_CALL no_buffer(cl_context context, cl_mem_flags flags, size_t bytes,
                                    void *host, cl_int *code)
{
    (void)context;
    (void)flags;
    (void)bytes;
    (void)host;
    *code = CL_MEM_OBJECT_ALLOCATION_FAILURE;
    return NULL;
}

/* The second buffer and those behind it: what was made before must go again. */
static int buffers_left, buffers_alive;
static cl_mem CL_API_CALL few_buffers(cl_context context, cl_mem_flags flags, size_t bytes,
                                      void *host, cl_int *code)
{
    if (buffers_left-- <= 0)
        return no_buffer(context, flags, bytes, host, code);
    buffers_alive++;
    return real.clCreateBuffer(context, flags, bytes, host, code);
}

static cl_int CL_API_CALL counted_release(cl_mem buffer)
{
    buffers_alive--;
    return real.clReleaseMemObject(buffer);
}

static cl_int CL_API_CALL wrong_options(cl_program program, cl_uint devices, const cl_device_id *at,
                                        const char *options,
                                        void(CL_CALLBACK *notify)(cl_program, void *), void *user)
{
    (void)options;
    return real.clBuildProgram(program, devices, at, "-DGEMV -DROWS=oops", notify, user);
}

static cl_int CL_API_CALL lost(cl_command_queue queue)
{
    (void)queue;
    return CL_OUT_OF_RESOURCES;
}

static cl_int CL_API_CALL failed_event(cl_event event, cl_event_info what, size_t bytes,
                                       void *value, size_t *length)
{
    (void)event;
    (void)what;
    (void)length;
    assert_true(bytes == sizeof(cl_int));
    *(cl_int *)value = CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
    return CL_SUCCESS;
}

static cl_int CL_API_CALL no_launch(cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                                    const size_t *offset, const size_t *global, const size_t *local,
                                    cl_uint waits, const cl_event *wait, cl_event *event)
{
    (void)queue;
    (void)kernel;
    (void)dimensions;
    (void)offset;
    (void)global;
    (void)local;
    (void)waits;
    (void)wait;
    (void)event;
    return CL_INVALID_WORK_GROUP_SIZE;
}

static size_t largest_buffer, local_bytes;
static cl_int CL_API_CALL small_device(cl_device_id id, cl_device_info what, size_t bytes,
                                       void *value, size_t *length)
{
    const cl_int code = real.clGetDeviceInfo(id, what, bytes, value, length);
    const cl_ulong buffer = largest_buffer, local = local_bytes;
    if (what == CL_DEVICE_MAX_MEM_ALLOC_SIZE && largest_buffer > 0)
        memcpy(value, &buffer, sizeof buffer);
    if (what == CL_DEVICE_LOCAL_MEM_SIZE && local_bytes > 0)
        memcpy(value, &local, sizeof local);
    return code;
}

/* ---- without any device ---- */

/* In a process of its own, where the real loader has not been opened. */
static void expect_in_child(const char *library, const char *words)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct mb_opencl_api *api;
        struct mb_error error = {0};
        (void)setenv("MIXBIT_OPENCL", library, 1);
        const enum mb_status status = __real_mb_opencl_api(&api, &error);
        const bool right = status == MB_ERR_UNSUPPORTED && strstr(error.message, words) != NULL;
        if (!right)
            (void)fprintf(stderr, "status %d: %s\n", (int)status, error.message);
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_loader(void **state)
{
    (void)state;
    expect_in_child("/nonexistent/libOpenCL.so", "no OpenCL loader: /nonexistent/libOpenCL.so");
    expect_in_child("libm.so.6", "the OpenCL loader has no clGetPlatformIDs");
}

static void expect_no_devices(enum mb_status expected, const char *words)
{
    struct mb_backend_device *device = NULL;
    struct mb_device_info info = {.size = sizeof info};
    struct mb_error error = {0};
    size_t count = 7;
    assert_int_equal(opencl->list(&count, &error), expected);
    assert_int_equal(count, 0);
    assert_non_null(strstr(error.message, words));
    assert_int_equal(opencl->open(0, &device, &error), expected);
    assert_int_equal(opencl->describe(0, &info, &error), expected);
    assert_null(device);
}

static void test_no_platform(void **state)
{
    (void)state;
    calls.clGetPlatformIDs = no_platform;
    expect_no_devices(MB_ERR_UNSUPPORTED, "CL_PLATFORM_NOT_FOUND_KHR");
}

static void test_no_device(void **state)
{
    (void)state;
    calls.clGetPlatformIDs = one_platform;
    calls.clGetDeviceIDs = no_device;
    expect_no_devices(MB_ERR_UNSUPPORTED, "1 OpenCL platform without a device");
}

/* ---- on a real one ---- */

static int with_real_calls(void **state)
{
    (void)state;
    calls = real;
    return 0;
}

static struct mb_backend_device *open_device(void)
{
    struct mb_backend_device *device = NULL;
    struct mb_error error = {0};
    if (opencl->open(0, &device, &error) != MB_OK)
        fail_msg("%s", error.message);
    return device;
}

static void test_index_past_the_end(void **state)
{
    (void)state;
    struct mb_backend_device *device = NULL;
    struct mb_error error;
    assert_int_equal(opencl->open(31, &device, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "there is no opencl:31"));
}

static void test_no_context(void **state)
{
    (void)state;
    struct mb_backend_device *device = NULL;
    struct mb_error error;
    calls.clCreateContext = no_context;
    assert_int_equal(opencl->open(0, &device, &error), MB_ERR_DEVICE);
    assert_non_null(strstr(error.message, "CL_DEVICE_NOT_AVAILABLE"));
    assert_null(device);
}

static enum mb_status multiply_once(struct mb_error *error)
{
    return open_and_multiply(opencl, error);
}

static void test_build_failure(void **state)
{
    (void)state;
    struct mb_error error;
    calls.clBuildProgram = wrong_options;
    assert_int_equal(multiply_once(&error), MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "a kernel does not build: CL_BUILD_PROGRAM_FAILURE"));
    assert_null(strstr(error.message, "no build log"));
    assert_null(strchr(error.message, '\n'));
}

static void test_launch_failure(void **state)
{
    (void)state;
    struct mb_error error;
    calls.clEnqueueNDRangeKernel = no_launch;
    assert_int_equal(multiply_once(&error), MB_ERR_DEVICE);
    assert_non_null(strstr(error.message, "CL_INVALID_WORK_GROUP_SIZE"));
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct mb_error error;
    calls.clCreateBuffer = no_buffer;
    assert_int_equal(multiply_once(&error), MB_ERR_MEMORY);
    assert_non_null(strstr(error.message, "no memory for weights"));
    calls.clCreateBuffer = few_buffers;
    calls.clReleaseMemObject = counted_release;
    for (buffers_left = 1; buffers_left < 3;) {
        const int allowed = buffers_left;
        assert_int_equal(multiply_once(&error), MB_ERR_MEMORY);
        assert_non_null(strstr(error.message, allowed == 1 ? "activations" : "results"));
        assert_int_equal(buffers_alive, 0);
        buffers_left = allowed + 1;
    }
}

static void test_lost_device(void **state)
{
    (void)state;
    struct mb_error error;
    calls.clFinish = lost;
    assert_int_equal(multiply_once(&error), MB_ERR_DEVICE);
    assert_non_null(strstr(error.message, "the device failed at its work: CL_OUT_OF_RESOURCES"));
    calls.clFinish = real.clFinish;
    calls.clGetEventInfo = failed_event;
    assert_int_equal(multiply_once(&error), MB_ERR_DEVICE);
}

/* 100 rows of three panels a buffer, and a limit that one panel exceeds. */
static void test_weights_in_parts(void **state)
{
    (void)state;
    struct product p;
    struct on_device on;
    struct mb_error error;
    static const size_t ms[] = {1, 40};
    calls.clGetDeviceInfo = small_device;
    calls.clCreateBuffer = few_buffers;
    calls.clReleaseMemObject = counted_release;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_K), 100, 256, 40);
    const size_t panel = mb_panel_bytes(MB_FORMAT_Q4_K, 256);
    largest_buffer = 3 * panel + 63;
    /* Activations and results have to fit as well. */
    assert_true(largest_buffer < 40 * 100 * sizeof(float));
    struct mb_backend_device *device = open_device();
    buffers_left = 100;
    assert_int_equal(device_create(opencl, device, &p, &on, &error), MB_ERR_MEMORY);
    device_free(opencl, &on);
    opencl->close(device);
    largest_buffer = 40 * 100 * sizeof(float);
    const size_t most = largest_buffer / panel;
    assert_true(most < 7);
    device = open_device();
    buffers_left = 100;
    assert_int_equal(device_create(opencl, device, &p, &on, &error), MB_OK);
    assert_int_equal(buffers_alive, 2 + (int)((7 + most - 1) / most));
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(device_multiply(opencl, device, &p, &on, NULL, ms[i], &error), MB_OK);
        assert_memory_equal(p.y, p.expected, ms[i] * p.n * sizeof *p.y);
    }
    device_free(opencl, &on);
    opencl->close(device);
    assert_int_equal(buffers_alive, 0);
    largest_buffer = panel - 1;
    device = open_device();
    assert_int_equal(device_create(opencl, device, &p, &on, &error), MB_ERR_MEMORY);
    assert_non_null(strstr(error.message, "the largest buffer has"));
    device_free(opencl, &on);
    opencl->close(device);
    largest_buffer = 0;
    product_free(&p);
}

static void test_too_little_local_memory(void **state)
{
    (void)state;
    struct product p;
    struct on_device on;
    struct mb_error error;
    calls.clGetDeviceInfo = small_device;
    local_bytes = 8;
    struct mb_backend_device *device = open_device();
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 16, 64, 16);
    assert_int_equal(device_create(opencl, device, &p, &on, &error), MB_OK);
    assert_int_equal(device_multiply(opencl, device, &p, &on, NULL, 16, &error),
                     MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "no kernel fits"));
    device_free(opencl, &on);
    opencl->close(device);
    product_free(&p);
    local_bytes = 0;
}

int main(void)
{
    const struct mb_opencl_api *found;
    struct mb_error error = {0};
    size_t count = 0;
    bool has_device = false; /* the real OpenCL has one */
#define TEST(name) cmocka_unit_test_setup(name, with_real_calls)
    const struct CMUnitTest without[] = {
        cmocka_unit_test(test_loader),
        cmocka_unit_test(test_no_platform),
        cmocka_unit_test(test_no_device),
    };
    const struct CMUnitTest with[] = {
        TEST(test_index_past_the_end), TEST(test_no_context),
        TEST(test_build_failure),      TEST(test_launch_failure),
        TEST(test_out_of_memory),      TEST(test_lost_device),
        TEST(test_weights_in_parts),   TEST(test_too_little_local_memory),
    };
    int failed = cmocka_run_group_tests(without, NULL, NULL);
    if (__real_mb_opencl_api(&found, &error) == MB_OK) {
        real = calls = *found;
        has_device = opencl->list(&count, &error) == MB_OK;
    }
    if (!has_device)
        (void)fprintf(stderr, "SKIPPED %zu tests of a failing device: %s\n",
                      sizeof with / sizeof with[0], error.message);
    else
        failed += cmocka_run_group_tests(with, NULL, NULL);
    return failed != 0 ? failed : has_device ? 0 : 77;
}
