/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target for the readers of GGUF, imatrix and log-probability files and the tokenizers
 * (fuzz/exercise.h says what is done). Every input is given to all of them; run it from the source
 * folder, whose model with experts is the one that imatrix files are read for.
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

/* How many readers accept it. */
static int exercise_all(const char *path)
{
    static struct mb_model *experts;
    if (experts == NULL)
        exercise_require(mb_model_open("tests/golden/logits/odd-qwen3moe.gguf", &experts, NULL) ==
                         MB_OK);
    return exercise_file(path) + exercise_logits(path) + exercise_imatrix(path, experts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[64];
    const int descriptor = memfd_create("gguf", MFD_CLOEXEC);
    exercise_require(descriptor >= 0 && write(descriptor, data, bytes) == (ssize_t)bytes);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    (void)exercise_all(path);
    (void)close(descriptor);
    return 0;
}

#ifdef MIXBIT_FUZZ_REPLAY
int main(int count, char **paths)
{
    for (int i = 1; i < count; i++)
        (void)printf("%s: %s\n", paths[i], exercise_all(paths[i]) ? "accepted" : "refused");
    return 0;
}
#endif
