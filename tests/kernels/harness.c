/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one check with crashes caught, and words its failures. A signal in the kernel jumps back
 * here; guard pages that the interrupted check held are given up, since the run is short and has
 * failed anyway. */
#include "kernels/harness.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

static sigjmp_buf landing;
static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
enum { CAUGHT = sizeof caught / sizeof *caught };

static void on_crash(int signal) { siglongjmp(landing, signal); }

static void describe(const struct harness *harness, char *text, size_t bytes)
{
    const struct harness_case *at = &harness->at;
    const struct mb_format_info *info = mb_format_info(at->format);
    snprintf(text, bytes, "%s: %s%sm=%zu n=%zu k=%zu, %s%s%s", harness->kernel->name,
             info != NULL ? info->name : "", info != NULL ? ", " : "", at->m, at->n, at->k,
             fill_name(at->fill), at->what != NULL ? ", " : "", at->what != NULL ? at->what : "");
}

bool harness_fail(struct harness *harness, const char *format, ...)
{
    char where[256], what[160];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    describe(harness, where, sizeof where);
    if (harness->failure[0] == '\0')
        snprintf(harness->failure, sizeof harness->failure, "%s: %s (seed %llu)", where, what,
                 (unsigned long long)harness->seed);
    return false;
}

static const char *signal_name(int signal)
{
    switch (signal) {
    case SIGSEGV: return "SIGSEGV: read or wrote outside its operands, or misaligned";
    case SIGBUS: return "SIGBUS";
    case SIGILL: return "SIGILL: an instruction that its ISA level does not grant";
    case SIGFPE: return "SIGFPE";
    default: return "a trap";
    }
}

static bool check(struct harness *harness)
{
    switch (harness->kernel->op) {
    case MB_OP_PREPARE: return harness_check_prepare(harness);
    case MB_OP_DECODE: return harness_check_decode(harness);
    case MB_OP_GEMV: return harness_check_gemv(harness);
    case MB_OP_GEMM: return harness_check_gemm(harness);
    case MB_OP_INTEGER: return harness_check_integer(harness);
    case MB_OP_CODEBOOK: return harness_check_codebook(harness);
    }
    return harness_fail(harness, "unknown operation %d", (int)harness->kernel->op);
}

bool harness_check(struct harness *harness, const struct mb_kernel *kernel, uint64_t seed)
{
    struct sigaction old[CAUGHT], action = {.sa_handler = on_crash, .sa_flags = SA_NODEFER};
    *harness = (struct harness){.kernel = kernel, .seed = seed, .at = {.format = MB_FORMAT_NONE}};
    for (size_t i = 0; i < CAUGHT; i++)
        sigaction(caught[i], &action, &old[i]);
    volatile bool good = false;
    const int signal = sigsetjmp(landing, 1);
    if (signal == 0)
        good = check(harness);
    else
        harness_fail(harness, "%s", signal_name(signal));
    data_destroy(&harness->data);
    for (size_t i = 0; i < CAUGHT; i++)
        sigaction(caught[i], &old[i], NULL);
    return good;
}

bool harness_compare(struct harness *harness, const float *y, size_t y_stride,
                     const float *expected, size_t expected_stride, size_t m, size_t n)
{
    for (size_t r = 0; r < m; r++)
        for (size_t j = 0; j < n; j++) {
            const float *got = y + r * y_stride + j, *want = expected + r * expected_stride + j;
            if (memcmp(got, want, sizeof *got) != 0)
                return harness_fail(harness, "y[%zu][%zu] is %a (%.9g), expected %a (%.9g)", r, j,
                                    (double)*got, (double)*got, (double)*want, (double)*want);
        }
    return true;
}
