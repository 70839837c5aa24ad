/* SPDX-License-Identifier: Apache-2.0 */
/* report.html: one self-contained page from one plain struct. Nothing here measures or decides. */
#ifndef MIXBIT_CLI_REPORT_H
#define MIXBIT_CLI_REPORT_H

#include "mixbit/mixbit.h"
#include <stdio.h>

/* An answer is the solver's mix for the size and speed of a uniform or preset row. */
enum mb_row_kind {
    MB_ROW_UNIFORM,
    MB_ROW_PRESET,
    MB_ROW_NEIGHBOUR,
    MB_ROW_PLAN,
    MB_ROW_ANSWER,
    MB_ROW_WRITTEN, /* one of these mixes, rounded as it is written */
    MB_ROW_KINDS
};
extern const char *const mb_row_kind_names[MB_ROW_KINDS];

/* One line of the comparison: a whole-model assignment, predicted and measured. Unknown numbers are
 * NAN. */
struct mb_report_row {
    char name[64];
    enum mb_row_kind kind;
    double bytes;                 /* of the file, or what it would have */
    double decode_ns, prefill_ns; /* measured, per token */
    double kl, kl_low, kl_high;   /* measured, nats per token, 95 % interval over windows */
    double
        kl_search; /* of the same mix with weights rounded by search; NAN: rows are, or unknown */
    double perplexity;
    double predicted_decode_ns, predicted_prefill_ns, predicted_kl;
    /* of these times, the matrix products */
    double decode_matmul_ns, prefill_matmul_ns;
    double predicted_decode_matmul_ns, predicted_prefill_matmul_ns;
    /* against the recommended row, 95 % intervals of pairs: loss minus its loss over windows,
     * decode time over its decode time over rounds */
    double worse_low, worse_high, slower_low, slower_high;
    int recommended; /* this is what was written */
};

struct mb_report {
    const char *model_name, *model_path, *architecture;
    const char *objective; /* in words: "least loss under 3.25 MB at 812 tok/s or more" */
    const char *base;      /* what KL is relative to: "the f16 file" */
    const struct mb_device_info *device;
    struct mb_profile *profile; /* costs and limits; NULL: the section is left out */
    size_t threads;
    const struct mb_sensitivity *sensitivity; /* NULL: left out */
    const struct mb_plan *plan;               /* NULL: left out */
    const struct mb_report_row *rows;
    size_t row_count;
    const struct mb_report_row *front; /* predicted trade-off curve, ascending in bytes */
    size_t front_count;
    const char *const *notes; /* caveats that a reader must see */
    size_t note_count;
};

/* Write the page atomically. MB_ERR_IO, MB_ERR_MEMORY. */
enum mb_status mb_report_write(const struct mb_report *report, const char *path,
                               struct mb_error *error);

/* Plots (report_tradeoff.c, report_plots.c): each writes one <figure> with its SVG. */
void mb_plot_tradeoff(FILE *out, const struct mb_report *report);
void mb_plot_costs(FILE *out, const struct mb_report *report, size_t m);
void mb_plot_sensitivity(FILE *out, const struct mb_report *report, enum mb_format format);
void mb_plot_plan(FILE *out, const struct mb_report *report);

/* Text into HTML: & < > " escaped. */
void mb_html_text(FILE *out, const char *text);

/* "blk.3.ffn_up.weight" -> layer 3, "ffn_up"; layer -1 for tensors outside the blocks. */
int mb_tensor_layer(const char *name, char kind[48]);

#endif
