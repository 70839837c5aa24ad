/* SPDX-License-Identifier: Apache-2.0 */
/* What other runtimes load, and what their quantize tools make.
 *
 * Facts, looked up in their sources: llama.cpp's src/llama-quant.cpp (tensor_allows_quantization,
 * tensor_requires_imatrix), ik_llama.cpp's src/llama-quantize.cpp and ggml.h. Fall-backs for row
 * lengths need no rule here: a plan names what is stored, which fits already. */
#include "mixbit/plan.h"

#include <string.h>

const char *const mb_runtime_names[MB_RUNTIME_COUNT + 1] = {"llama.cpp", "ik_llama.cpp", NULL};

/* ggml type ids of these three mean other formats in ik_llama.cpp, or nothing. */
static const enum mb_format not_in_ik[] = {MB_FORMAT_TQ1_0, MB_FORMAT_TQ2_0, MB_FORMAT_NVFP4};

/* Parts of the names of tensors that are never converted, whatever a pattern says; those of
 * architectures that we know. */
static const char *const never[] = {"_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d",
                                    "shortconv.conv.weight"};

/* Formats that a tool refuses to make without an importance matrix; `spared`: but not of the
 * embedding and of the output. (llama.cpp's tool spares those two for every format, and its encoder
 * then aborts on three: ggml_quantize_requires_imatrix.) */
static const struct {
    enum mb_runtime runtime;
    enum mb_format format;
    int spared;
} refused[] = {
    {MB_RUNTIME_LLAMA_CPP, MB_FORMAT_IQ3_XXS, 1},    {MB_RUNTIME_LLAMA_CPP, MB_FORMAT_IQ2_XXS, 0},
    {MB_RUNTIME_LLAMA_CPP, MB_FORMAT_IQ2_XS, 0},     {MB_RUNTIME_LLAMA_CPP, MB_FORMAT_IQ2_S, 1},
    {MB_RUNTIME_LLAMA_CPP, MB_FORMAT_IQ1_M, 1},      {MB_RUNTIME_LLAMA_CPP, MB_FORMAT_IQ1_S, 0},
    {MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_IQ2_XXS, 0}, {MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_IQ2_XS, 0},
    {MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_IQ2_S, 0},   {MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_IQ1_S, 0},
    {MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_IQ1_M, 1},
};

int mb_runtime_loads(enum mb_runtime runtime, enum mb_format format)
{
    if (mb_format_info(format) == NULL || mb_format_is_codebook(format))
        return 0;
    for (size_t i = 0; i < sizeof not_in_ik / sizeof *not_in_ik; i++)
        if (runtime == MB_RUNTIME_IK_LLAMA_CPP && not_in_ik[i] == format)
            return 0;
    return 1;
}

int mb_runtime_converts(enum mb_runtime runtime, const char *tensor)
{
    static const char ending[] = "weight";
    const size_t length = strlen(tensor), tail = strlen(ending);
    (void)runtime; /* alike in both, for the architectures that we know */
    int converts = length >= tail && strcmp(tensor + length - tail, ending) == 0;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        converts = converts && strstr(tensor, never[i]) == NULL;
    return converts;
}

int mb_runtime_needs_importance(enum mb_runtime runtime, const char *tensor, enum mb_format format)
{
    const int spared =
        strcmp(tensor, "token_embd.weight") == 0 || strcmp(tensor, "output.weight") == 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i].runtime == runtime && refused[i].format == format)
            return !(spared && refused[i].spared);
    return 0;
}
