# SPDX-License-Identifier: Apache-2.0
"""The mutations of scripts/mutate: (file, text on one line, replacement). Each is a mistake somebody could make."""

MUTATIONS = [
    # kernels: layouts, decoding, arithmetic, loop nest
    ("include/mixbit/codings.def", "0, 1, 0, 1, 0, 63,", "0, 1, 0, 1, 0, 31,"),
    ("kernels/fields.h", "dst[i] = scale * (float)(code[i] - bias);", "dst[i] = scale * (float)(code[i] - bias - 1);"),
    ("kernels/fields.h", "mb_scale_two_level(kind) ? -(dmin * (float)fields->sub_min[g]) : dmin;",
     "mb_scale_two_level(kind) ? (dmin * (float)fields->sub_min[g]) : dmin;"),
    ("kernels/simd/decode.h", "(int)q - bits), v_bytes(1 << bits)", "(int)q - bits + 1), v_bytes(1 << bits)"),
    ("kernels/simd/decode.h", "v_bytes(3 << bits)", "v_bytes(1 << bits)"),
    ("kernels/simd/decode.h", "v_shift(planes->plane3[2], 2), v_bytes(0x30)", "v_shift(planes->plane3[2], 2), v_bytes(0x10)"),
    ("dispatch/codebook_pack.c", "j / 4 * mb_coding_quad_table(coding) + (j % 4 << run->bits)", "j / 4 * mb_coding_quad_table(coding) + j % 4"),
    ("model/channelwise_refit.c", "picked[level[j]] += own[j] * scale[j];", "picked[level[j]] += own[j];"),
    ("kernels/x86/verbs_common.h", "bias = _mm256_set1_epi8(32)", "bias = _mm256_set1_epi8(31)"),
    ("kernels/simd/prepare.h", "scale[at_k / group] = amax / 127.0f;", "scale[at_k / group] = amax / 128.0f;"),
    ("kernels/simd/gemv.h", "finer ? d : v_mul(d, v_broadcast_float(row[r].scale + k / 256))",
     "finer ? d : v_mul(d, v_broadcast_float(row[r].scale + k / 512))"),
    ("dispatch/matmul.c", "out[r * groups + g] = -bias * total;", "out[r * groups] = -bias * total;"),
    ("dispatch/matmul.c", "args.panels += n0 / MB_PANEL_ROWS * args.panel_bytes;", "args.panels += (n0 ? 1 : 0) * args.panel_bytes;"),
    ("kernels/panel.c", "get_plane(at, lane + at->plane1, 1, 4 * mb_coding_plane4(c) + 2",
     "get_plane(at, lane + at->plane1, 1, 4 * mb_coding_plane4(c) + 1"),
    ("kernels/gemm.c", "tile.first = tile.k0 == 0;", "tile.first = true;"),
    ("kernels/simd/prepare.h", "sum32[k0 / 32] = (int16_t)(low + high);", "sum32[k0 / 32] = (int16_t)(low - high);"),
    # solver
    ("solver/latency.c", "*ns = load.products * (cost.median_ns - prepare + prepare / (double)share);",
     "*ns = load.products * cost.median_ns;"),
    ("solver/latency.c", "candidate.prefill_ns *= scale_of(options, MB_QUANTITY_PREFILL) / PREFILL_TOKENS;", "candidate.prefill_ns *= scale_of(options, MB_QUANTITY_PREFILL);"),
    ("solver/front.c", "while (at < kept && front->list[at].total[front->against] < used)",
     "while (at < kept && front->list[at].total[front->against] > used)"),
    ("solver/knapsack.c", "if (knapsack->found && cost >= knapsack->best_cost)", "if (knapsack->found && cost <= knapsack->best_cost)"),
    ("solver/knapsack.c", "if (a->use[r] > b->use[r])", "if (a->use[r] < b->use[r])"),
    ("solver/dual.c", "value -= lambda[r] * knapsack->capacity[r];", "value -= lambda[r] * knapsack->capacity[0];"),
    # GGUF
    ("model/gguf_parse.c", "if (left(c) < pair->value_bytes)", "if (left(c) + 8 < pair->value_bytes)"),
    ("model/gguf_parse.c", "t->bytes > c->bytes - start - (size_t)info->offset)", "t->bytes > c->bytes - start)"),
    ("model/gguf_parse.c", "if (pair->count > left(c) / each)", "if (pair->count > left(c))"),
    ("model/gguf_parse.c", "if (dims > MB_GGUF_MAX_DIMS)", "if (dims > MB_GGUF_MAX_DIMS + 1)"),
    ("model/gguf_parse.c", "if (info->offset < end)", "if (info->offset + 32 < end)"),
    ("model/gguf_parse.c", "start -= start % alignment;", "start -= start % 16;"),
    # KL and perplexity
    ("model/statistics.c", "score->nll = sum - (double)y[target];", "score->nll = sum - (double)y[0];"),
    ("model/statistics.c", "return (mean(ab, count) - mean(a, count) * mean(b, count)) / (double)(count - 1);",
     "return (mean(ab, count) - mean(a, count) * mean(b, count)) / (double)count;"),
    ("model/statistics.c", "y, vocabulary) + (sum - reference_sum);", "y, vocabulary) - (sum - reference_sum);"),
    ("model/statistics.c", "return mb_student(count - 1) * sqrt(squares", "return mb_student(count) * sqrt(squares"),
    ("model/statistics.c", "const double rank = fraction * (double)(count - 1);", "const double rank = fraction * (double)count;"),
]
