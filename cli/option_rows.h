/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows that several verbs share, so that one option has one spelling, one letter and one
 * meaning everywhere. `type` is the verb's options struct and `field` its member; what an option is
 * for in this verb is the help. */
#ifndef MIXBIT_CLI_OPTION_ROWS_H
#define MIXBIT_CLI_OPTION_ROWS_H

#include "cli/steps.h"

#include <stddef.h>

#define MB_THREADS_ROW(type, field)                                                                \
    {                                                                                              \
        .name = "threads", .letter = 't', .kind = MB_OPTION_COUNT,                                 \
        .offset = offsetof(type, field), .value = "N",                                             \
        .help = "threads (default: one per physical core)", .minimum = 1                           \
    }

#define MB_CONTEXT_ROW(type, field)                                                                \
    {                                                                                              \
        .name = "ctx", .letter = 'c', .kind = MB_OPTION_COUNT, .offset = offsetof(type, field),    \
        .value = "TOKENS", .help = "context at whose end decoding is timed", .fallback = "512",    \
        .minimum = 1                                                                               \
    }

#define MB_REPEATS_ROW(type, field, usual)                                                         \
    {                                                                                              \
        .name = "repeats", .kind = MB_OPTION_COUNT, .offset = offsetof(type, field), .value = "N", \
        .help = "rounds of timing in each of three sweeps", .fallback = usual, .minimum = 1        \
    }

#define MB_FORMATS_ROW(type, field, says)                                                          \
    {                                                                                              \
        .name = "formats", .kind = MB_OPTION_FORMATS, .offset = offsetof(type, field),             \
        .value = "LIST", .help = says                                                              \
    }

#define MB_TEXT_ROW(type, field, says)                                                             \
    {                                                                                              \
        .name = "text", .kind = MB_OPTION_TEXT, .offset = offsetof(type, field), .value = "FILE",  \
        .help = says "; or tokens:FILE, random:SEED, generated:SEED"                               \
    }

#define MB_WINDOW_ROW(type, field, usual)                                                          \
    {                                                                                              \
        .name = "window", .kind = MB_OPTION_COUNT, .offset = offsetof(type, field),                \
        .value = "TOKENS",                                                                         \
        .help = "tokens per window, the second half is scored (default: " usual ")", .minimum = 4  \
    }

#define MB_WINDOWS_ROW(type, field, says, least)                                                   \
    {                                                                                              \
        .name = "windows", .kind = MB_OPTION_COUNT, .offset = offsetof(type, field), .value = "N", \
        .help = says, .minimum = least                                                             \
    }

#define MB_NUMERICS_ROW(type, field, says, usual)                                                  \
    {                                                                                              \
        .name = "numerics", .kind = MB_OPTION_CHOICE, .offset = offsetof(type, field),             \
        .choices = mb_numerics_names, .help = says, .fallback = usual                              \
    }

#define MB_EFFORT_ROW(type, field)                                                                 \
    {                                                                                              \
        .name = "effort", .kind = MB_OPTION_CHOICE, .offset = offsetof(type, field),               \
        .choices = mb_effort_names,                                                                \
        .help = "how much text to sense on; quick scores about 1,024 tokens", .fallback = "normal" \
    }

#define MB_PROFILE_ROW(type, field, says)                                                          \
    {                                                                                              \
        .name = "profile", .letter = 'p', .kind = MB_OPTION_TEXT, .offset = offsetof(type, field), \
        .value = "FILE", .help = says                                                              \
    }

#define MB_OUTPUT_ROW(type, field, says)                                                           \
    {                                                                                              \
        .name = "output", .letter = 'o', .kind = MB_OPTION_TEXT, .offset = offsetof(type, field),  \
        .value = "FILE", .help = says                                                              \
    }

#define MB_DEVICE_ROW(type, field, says)                                                           \
    {                                                                                              \
        .name = "device", .letter = 'd', .kind = MB_OPTION_TEXT, .offset = offsetof(type, field),  \
        .value = "D", .help = says " (default: cpu; 'mixbit probe' lists others, as opencl:0)"     \
    }

#define MB_IMATRIX_ROW(type, field)                                                                \
    {                                                                                              \
        .name = "imatrix", .kind = MB_OPTION_TEXT, .offset = offsetof(type, field),                \
        .value = "FILE",                                                                           \
        .help = "llama.cpp's importance matrix (or 'mixbit imatrix'): round by what columns weigh" \
    }

#define MB_ENCODER_ROW_OF(type, field, names, usual, help_)                                        \
    {                                                                                              \
        .name = "encoder", .kind = MB_OPTION_CHOICE, .offset = offsetof(type, field),              \
        .choices = (names), .help = help_, .fallback = usual                                       \
    }
#define MB_ENCODER_HELP(data)                                                                      \
    "how codes are found: each weight the nearest, under the best scales; or one column after "    \
    "the other, each under the errors of those before it, by what the model multiplies on " data
#define MB_ENCODER_ROW(type, field)                                                                \
    MB_ENCODER_ROW_OF(type, field, mb_encoder_names, "search", MB_ENCODER_HELP("--text"))
/* Of a file: layers can answer for each other. */
#define MB_FILE_ENCODER_ROW(type, field, usual, what)                                              \
    MB_ENCODER_ROW_OF(type, field, mb_file_encoder_names, usual,                                   \
                      MB_ENCODER_HELP("--text") "; or so, and " what                               \
                                                " layer after layer, each under the errors "       \
                                                "of those before it")

/* Of a struct mb_calibration_options. */
#define MB_CALIBRATION_ROWS(type, field)                                                           \
    MB_TEXT_ROW(type, field.text,                                                                  \
                "plain text to calibrate on, some 100 kB or more; evaluate on another one later"), \
        MB_WINDOWS_ROW(type, field.windows,                                                        \
                       "windows of the text at most (default: the whole text)", 1),                \
        {.name = "window",                                                                         \
         .kind = MB_OPTION_COUNT,                                                                  \
         .offset = offsetof(type, field.window),                                                   \
         .value = "TOKENS",                                                                        \
         .help = "tokens per window, all of which count (default: 512, or the model's context)",   \
         .minimum = 4},                                                                            \
    {                                                                                              \
        .name = "memory", .kind = MB_OPTION_SIZE, .offset = offsetof(type, field.memory),          \
        .value = "SIZE",                                                                           \
        .help = "for second moments, 4 bytes for each pair of a matrix's columns; what does not "  \
                "fit is collected in more passes over the text (default: half of what is free)"    \
    }

#define MB_BUDGET_OPTION_ROWS(type, field)                                                         \
    {.name = "max-size",                                                                           \
     .kind = MB_OPTION_SIZE,                                                                       \
     .offset = offsetof(type, field.max_size),                                                     \
     .value = "SIZE",                                                                              \
     .help = "file size: 80M (10^6 bytes), 80Mi, or 4.25bpw (bits per weight over the tensors "    \
             "that are quantized)"},                                                               \
        {.name = "max-ram",                                                                        \
         .kind = MB_OPTION_SIZE,                                                                   \
         .offset = offsetof(type, field.max_ram),                                                  \
         .value = "SIZE",                                                                          \
         .help = "packed weights and key-value cache at --ctx"},                                   \
        {.name = "min-decode",                                                                     \
         .kind = MB_OPTION_NUMBER,                                                                 \
         .offset = offsetof(type, field.min_decode),                                               \
         .value = "TOKS",                                                                          \
         .help = "tokens per second, one at a time"},                                              \
        {.name = "min-prefill",                                                                    \
         .kind = MB_OPTION_NUMBER,                                                                 \
         .offset = offsetof(type, field.min_prefill),                                              \
         .value = "TOKS",                                                                          \
         .help = "tokens per second, 512 at once"},                                                \
        {.name = "max-kl",                                                                         \
         .kind = MB_OPTION_NUMBER,                                                                 \
         .offset = offsetof(type, field.max_kl),                                                   \
         .value = "NATS",                                                                          \
         .help = "predicted loss, nats per token"},                                                \
        {.name = "minimize",                                                                       \
         .kind = MB_OPTION_CHOICE,                                                                 \
         .offset = offsetof(type, field.minimize),                                                 \
         .choices = mb_minimize_names,                                                             \
         .fallback = "kl",                                                                         \
         .help = "what to make small under the budgets"},                                          \
        {.name = "weights",                                                                        \
         .kind = MB_OPTION_TEXT,                                                                   \
         .offset = offsetof(type, field.weights),                                                  \
         .value = "LIST",                                                                          \
         .help = "what matters, in proportion, instead of --minimize: memory=1,latency=2,"         \
                 "accuracy=3; decode= and prefill= in place of latency= (which is decode)"},       \
        {.name = "contribution",                                                                   \
         .kind = MB_OPTION_TEXT,                                                                   \
         .offset = offsetof(type, field.contribution),                                             \
         .value = "FORMAT",                                                                        \
         .help = "with --weights and --granularity layer: a layer's contribution is its loss in "  \
                 "this format (default: the span of its losses)"},                                 \
        {.name = "pin",                                                                            \
         .kind = MB_OPTION_TEXTS,                                                                  \
         .offset = offsetof(type, field.constraints.pins),                                         \
         .value = "PATTERN=FORMAT",                                                                \
         .help = "fix tensors whose name matches; may be repeated"},                               \
        {.name = "exclude",                                                                        \
         .kind = MB_OPTION_TEXTS,                                                                  \
         .offset = offsetof(type, field.constraints.excludes),                                     \
         .value = "[PATTERN=]FORMATS",                                                             \
         .help = "store no tensor, or none whose name matches, in these formats; may be "          \
                 "repeated"},                                                                      \
        {.name = "group",                                                                          \
         .kind = MB_OPTION_TEXTS,                                                                  \
         .offset = offsetof(type, field.constraints.groups),                                       \
         .value = "NAME|PATTERNS",                                                                 \
         .help = "one format for tensors of a group: qkv, gate-up, or comma-separated patterns, "  \
                 "in which # is the number of a block and makes a group per block; may be "        \
                 "repeated"},                                                                      \
        {.name = "granularity",                                                                    \
         .kind = MB_OPTION_CHOICE,                                                                 \
         .offset = offsetof(type, field.constraints.granularity),                                  \
         .choices = mb_granularity_names,                                                          \
         .fallback = "tensor",                                                                     \
         .help = "what gets a format of its own; layer: one for all tensors of a block that are "  \
                 "not pinned"},                                                                    \
    {                                                                                              \
        .name = "runtime", .kind = MB_OPTION_CHOICE,                                               \
        .offset = offsetof(type, field.constraints.runtime), .choices = mb_target_names,           \
        .fallback = "mixbit",                                                                      \
        .help = "what the plan is for: only formats that it loads and that its quantize tool "     \
                "makes without an importance matrix"                                               \
    }

#endif
