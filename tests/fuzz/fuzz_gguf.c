/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target for the GGUF reader and the tokenizers (fuzz/exercise.h says what is done).
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. -Iinclude -Itests \
 *       tests/fuzz/fuzz_gguf.c libmixbit.a -lpcre2-8 -ljansson -lxxhash ... -o fuzz_gguf
 *   ./fuzz_gguf -max_len=8192 corpus/ tests/fuzz/seeds/
 *
 * (libmixbit.a built by the same clang with the same sanitizers.) With -DMIXBIT_FUZZ_REPLAY it is
 * an ordinary program that runs each file named on its command line once, for crash files and for
 * compilers without libFuzzer. */
#include "fuzz/exercise.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[64];
    const int descriptor = memfd_create("gguf", MFD_CLOEXEC);
    exercise_require(descriptor >= 0 && write(descriptor, data, bytes) == (ssize_t)bytes);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    (void)exercise_file(path);
    (void)close(descriptor);
    return 0;
}

#ifdef MIXBIT_FUZZ_REPLAY
int main(int count, char **paths)
{
    for (int i = 1; i < count; i++)
        (void)printf("%s: %s\n", paths[i], exercise_file(paths[i]) ? "accepted" : "refused");
    return 0;
}
#endif
