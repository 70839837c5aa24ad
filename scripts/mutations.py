# SPDX-License-Identifier: Apache-2.0
"""The mutations of scripts/mutate: (file, text on one line, replacement). Each is a mistake somebody could make."""

MUTATIONS = [
    # kernels: layouts, decoding, arithmetic, loop nest
    ("kernels/panel.h", "case MB_CODING_B6: return 63;", "case MB_CODING_B6: return 31;"),
    ("kernels/fields.h", "@", "@"),
    ("kernels/x86/decode.h", "v_shift(bits, bit - 4), v_bytes(16)", "v_shift(bits, bit - 3), v_bytes(16)"),
    ("kernels/x86/decode.h", "v_shift(pairs, pair - 4), v_bytes(48)", "v_shift(pairs, pair - 4), v_bytes(16)"),
    ("kernels/x86/decode.h", "v_int_up(high2, 4)), -32)", "v_int_up(high2, 4)), -31)"),
    ("kernels/x86/prepare.h", "scale[at_k / group] = amax / 127.0f;", "scale[at_k / group] = amax / 128.0f;"),
    ("kernels/x86/matmul.h", "f[r][v] = v_fma(s[r][v], v_mul(d,", "f[r][v] = v_fma(s[r][v], v_mul(s[r][v],"),
    ("dispatch/matmul.c", "out[r * groups + g] = -bias * sum[g];", "out[r * groups + g] = -bias * sum[0];"),
    # solver
    ("solver/knapsack.c", "if (total[q] > knapsack->limit[q]) {", "if (total[q] > knapsack->limit[q] * 1.001) {"),
    ("solver/knapsack.c", "if (knapsack->found && cost >= knapsack->best_cost)", "if (knapsack->found && cost <= knapsack->best_cost)"),
    ("solver/knapsack.c", "if (a->use[r] > b->use[r])", "if (a->use[r] < b->use[r])"),
    ("solver/dual.c", "value -= lambda[r] * knapsack->capacity[r];", "value -= lambda[r] * knapsack->capacity[0];"),
    # GGUF
    ("model/gguf_parse.c", "if (length > left(c))", "if (length > left(c) + 8)"),
    ("model/gguf_parse.c", "if (pair->count > left(c) / each)", "if (pair->count > left(c))"),
    ("model/gguf_parse.c", "if (dims > MB_GGUF_MAX_DIMS)", "if (dims > MB_GGUF_MAX_DIMS + 1)"),
    ("model/gguf_parse.c", "if (info->offset < end)", "if (info->offset + 32 < end)"),
    ("model/gguf_parse.c", "start -= start % alignment;", "start -= start % 16;"),
    # KL and perplexity
    ("model/statistics.c", "score->nll = sum - (double)y[target];", "score->nll = sum - (double)y[0];"),
    ("model/statistics.c", "return (mean(ab, count) - mean(a, count) * mean(b, count)) / (double)(count - 1);",
     "return (mean(ab, count) - mean(a, count) * mean(b, count)) / (double)count;"),
    ("model/statistics.c", "y, vocabulary) + (sum - reference_sum);", "y, vocabulary) - (sum - reference_sum);"),
    ("model/statistics.c", "const double rank = fraction * (double)(count - 1);", "const double rank = fraction * (double)count;"),
]
