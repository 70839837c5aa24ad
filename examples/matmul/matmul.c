/* SPDX-License-Identifier: Apache-2.0 */
/* The third door in thirty lines: quantize a matrix, pack it once, multiply, and see the error
 * against plain floats. */
#include <math.h>
#include <mixbit/mixbit.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 256, K = 512 };

int main(void)
{
    static float w[N * K], x[K], y[N];
    for (int i = 0; i < N * K; i++)
        w[i] = sinf((float)i) * 0.1f;
    for (int i = 0; i < K; i++)
        x[i] = cosf((float)i);

    /* GGUF bytes, as a file holds them; then the panel layout that the kernels read. */
    size_t bytes = 0;
    void *blocks = malloc(N * mb_format_row_bytes(MB_FORMAT_Q4_K, K));
    if (mb_quantize(MB_FORMAT_Q4_K, w, N, K, NULL, blocks) != MB_OK ||
        mb_pack_size(MB_FORMAT_Q4_K, N, K, &bytes) != MB_OK)
        return 1;
    struct mb_weights packed;
    void *panels = aligned_alloc(64, bytes);
    if (mb_weights_init(&packed, MB_FORMAT_Q4_K, N, K, panels) != MB_OK ||
        mb_pack_rows(&packed, blocks, 0, N) != MB_OK)
        return 1;

    /* One token; NULL threads means this thread. A runtime with its own pool calls mb_matmul_range
     * instead. */
    if (mb_matmul(NULL, &packed, x, 1, K, y, N) != MB_OK)
        return 1;

    double error = 0, norm = 0;
    for (int n = 0; n < N; n++) {
        double exact = 0;
        for (int k = 0; k < K; k++)
            exact += (double)w[n * K + k] * x[k];
        error += (y[n] - exact) * (y[n] - exact), norm += exact * exact;
    }
    printf("mixbit %s, %s: %zu weights in %zu bytes, relative error %.4f\n", mb_version(),
           mb_kernel_for(MB_FORMAT_Q4_K, N, K, 1), (size_t)N * K, bytes, sqrt(error / norm));
    free(panels), free(blocks);
    return sqrt(error / norm) < 0.2 ? 0 : 1;
}
