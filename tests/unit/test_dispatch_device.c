/* SPDX-License-Identifier: Apache-2.0 */
/* What is said of the machine holds against what the operating system says in other ways. */
#include "dispatch/dispatch.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static struct mb_device_info device(void)
{
    struct mb_device_info info = {.size = sizeof info};
    assert_int_equal(mb_device_info(&info), MB_OK);
    return info;
}

static void test_arguments(void **state)
{
    (void)state;
    struct mb_device_info info = {.size = 8};
    assert_int_equal(mb_device_info(NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_device_info(&info), MB_ERR_ARGUMENT);
    assert_int_equal(mb_isa_info(0, NULL), MB_ERR_ARGUMENT);
    struct mb_isa_info isa;
    assert_int_equal(mb_isa_info(MB_ISA_COUNT, &isa), MB_ERR_ARGUMENT);
}

static void test_record(void **state)
{
    (void)state;
    const struct mb_device_info info = device(), again = device();
    assert_memory_equal(&info, &again, sizeof info);
    assert_true(info.name[0] != '\0' && info.vendor[0] != '\0' && info.build[0] != '\0');
    assert_int_equal(strlen(info.key), 32);
    assert_int_equal(strspn(info.key, "0123456789abcdef"), 32);
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_true(info.threads >= 1 && info.threads <= (size_t)CPU_COUNT(&set));
    assert_true(info.cores >= 1 && info.cores <= info.threads);
    size_t cores = 0;
    for (size_t i = 0; i < info.core_kinds; i++) {
        assert_true(info.kinds[i].name[0] != '\0');
        cores += info.kinds[i].cores;
    }
    assert_true(info.core_kinds >= 1 && info.core_kinds <= MB_MAX_CORE_KINDS);
    assert_true(cores >= info.cores);
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    assert_true(info.memory_bytes > 0 && info.memory_bytes / 2 <= (size_t)pages * (size_t)page);
    struct utsname os;
    assert_int_equal(uname(&os), 0);
    assert_non_null(strstr(info.os, os.sysname));
}

#if defined(__x86_64__) && defined(__linux__)
/* /proc/cpuinfo lists what the kernel enabled: an oracle that does not use CPUID here. */
static void test_features_against_the_kernel(void **state)
{
    (void)state;
    static const char *const names[] = {"avx2",        "fma",         "f16c",       "avx_vnni",
                                        "avx512f",     "avx512bw",    "avx512vl",   "avx512dq",
                                        "avx512_vnni", "avx512_vbmi", "avx512_bf16"};
    /* the kernel writes avx512vbmi without an underscore */
    static const char *const kernel_names[] = {
        "avx2",     "fma",      "f16c",        "avx_vnni",   "avx512f",    "avx512bw",
        "avx512vl", "avx512dq", "avx512_vnni", "avx512vbmi", "avx512_bf16"};
    static char line[16384], flags[16384];
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL)
        skip();
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "flags", 5) == 0)
            snprintf(flags, sizeof flags, " %.*s ", (int)strcspn(strchr(line, ':') + 2, "\n"),
                     strchr(line, ':') + 2);
    fclose(file);
    const struct mb_device_info info = device();
    char features[520];
    snprintf(features, sizeof features, " %s ", info.features);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char ours[32], theirs[32];
        snprintf(ours, sizeof ours, " %s ", names[i]);
        snprintf(theirs, sizeof theirs, " %s ", kernel_names[i]);
        if ((strstr(features, ours) != NULL) != (strstr(flags, theirs) != NULL))
            fail_msg("%s: we say %d, the kernel says %d", names[i], strstr(features, ours) != NULL,
                     strstr(flags, theirs) != NULL);
    }
}
#endif

/* A process that may use one CPU has one. Detection is done once, so a child asks. */
static void test_affinity_is_respected(void **state)
{
    (void)state;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        cpu_set_t set, one;
        struct mb_device_info info = {.size = sizeof info};
        if (sched_getaffinity(0, sizeof set, &set) != 0)
            _exit(1);
        CPU_ZERO(&one);
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &set)) {
                CPU_SET(cpu, &one);
                break;
            }
        if (sched_setaffinity(0, sizeof one, &one) != 0)
            _exit(2);
        if (mb_device_info(&info) != MB_OK)
            _exit(3);
        _exit(info.threads == 1 && info.cores == 1 && info.kinds[0].cores == 1 ? 0 : 4);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_feature_names(void **state)
{
    (void)state;
    char text[64];
    mb_cpu_feature_names(MB_CPU_FMA | MB_CPU_AVX2, text, sizeof text);
    assert_string_equal(text, "avx2 fma");
    mb_cpu_feature_names(0, text, sizeof text);
    assert_string_equal(text, "");
    mb_cpu_feature_names(UINT32_MAX, text, 12); /* what does not fit is left out, nothing is cut */
    assert_string_equal(text, "avx2 fma");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_affinity_is_respected), /* first: its child must detect on its own */
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_record),
#if defined(__x86_64__) && defined(__linux__)
        cmocka_unit_test(test_features_against_the_kernel),
#endif
        cmocka_unit_test(test_feature_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
