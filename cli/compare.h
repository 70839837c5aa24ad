/* SPDX-License-Identifier: Apache-2.0 */
/* Whole-model assignments - uniform formats, presets, plans - measured side by side, with what was
 * predicted for them.
 *
 * One reference run serves all; every assignment that is evaluated is built in memory by the same
 * encoders that write files, so its loss is the file's. One whose loss is known is only timed, with
 * weights that are quick to make. Speeds of several assignments are taken in turns. */
#ifndef MIXBIT_CLI_COMPARE_H
#define MIXBIT_CLI_COMPARE_H

#include "cli/cli.h"
#include "cli/losses.h"
#include "cli/report.h"
#include "cli/steps.h"

/* A mix and everything known about it. */
struct mb_assignment {
    struct mb_mix mix; /* owned */
    enum mb_row_kind kind;
    double bytes;                        /* of the file it would make */
    double predicted[MB_QUANTITY_COUNT]; /* NAN where unknown */
    double predicted_decode_matmul_ns,
        predicted_prefill_matmul_ns; /* of these, the matrix products */
    int measured;
    size_t turn; /* which timing its decode figures are of: those of one took turns */
    struct mb_evaluation evaluation;
    double kl_search; /* of a uniform format or preset rounded by search, where rows are rounded
                         with feedback; NAN where it was not measured */
    struct mb_speed speed;
    int recommended;
};

/* A mix that was only timed, in turns with the anchor: its time over the anchor's with the 95 %
 * interval, and what its products would have taken when the anchor was first timed; decode, and
 * prefill where it was asked for (0 elsewhere). */
struct mb_trial {
    struct mb_mix mix; /* owned */
    struct mb_trial_time {
        double ratio, low, high, products_ns;
    } time[MB_QUANTITY_COUNT];
};

struct mb_comparison {
    struct mb_model *model;
    const float *const *importance; /* of every row's weights; NULL: none */
    struct mb_encoder *encoder;     /* of every row's weights; NULL: search */
    struct mb_losses *losses;       /* what was evaluated before; NULL: nothing is kept */
    size_t count, capacity, turns;
    struct mb_assignment *rows;
    size_t trial_count;
    struct mb_trial *trials;
};

void mb_comparison_init(struct mb_comparison *comparison, struct mb_model *model);
void mb_comparison_free(struct mb_comparison *comparison);

/* Take over a mix as a new row. One that stores the same as an earlier row is freed instead, and
 * *index (NULL allowed) is the earlier row's. */
enum mb_status mb_comparison_add(struct mb_comparison *comparison, struct mb_mix *mix,
                                 enum mb_row_kind kind, const struct mb_forecast *forecast,
                                 size_t *index);

struct mb_compare_options {
    const struct mb_windows *windows;
    struct mb_threads *threads;
    const struct mb_offload_target *target; /* as in mb_network_offload */
    size_t context, repeats;
    size_t memory_limit_bytes; /* of the networks that are measured in turns at once */
    bool prefill;              /* trials, and what is timed again: not decode alone */
    bool paced;                /* as in mb_speed_options, where all rows are measured */
    const size_t *anchor; /* a measured row that takes part in later turns too, so that a machine
                             which changed its speed meanwhile is told from mixes that are slower;
                             NULL, or of SIZE_MAX: none */
};
/* Evaluate and time every row that was not measured yet. */
enum mb_status mb_comparison_measure(struct mb_cli *cli, struct mb_comparison *comparison,
                                     const struct mb_compare_options *options);

/* Where rows are rounded with feedback: what uniform formats and presets of at most so many bytes
 * lose when each weight is rounded by itself, as other tools do. */
enum mb_status mb_comparison_search(struct mb_cli *cli, struct mb_comparison *comparison,
                                    const struct mb_compare_options *options, double most_bytes);

/* One more row: that row's mix as another encoder rounds it. It is evaluated; speeds, which don't
 * depend on how weights are rounded, are the row's. No loss was predicted for it. */
enum mb_status mb_comparison_round_again(struct mb_cli *cli, struct mb_comparison *comparison,
                                         const struct mb_compare_options *options, size_t row,
                                         struct mb_encoder *encoder, enum mb_row_kind kind);

/* Take over mixes as trials: each is timed in turns with the anchor, which there has to be. On
 * failure the mixes that were not taken over stay the caller's. Within a stage. */
enum mb_status mb_comparison_try(struct mb_cli *cli, struct mb_comparison *comparison,
                                 const struct mb_compare_options *options, struct mb_mix *mixes,
                                 size_t count);

/* Bring the forecast's times in line with the rows and trials measured so far (calibrate.c). Their
 * own predictions stay what they were. */
enum mb_status mb_forecast_calibrate(struct mb_forecast *forecast,
                                     const struct mb_comparison *comparison);

/* Time some measured rows once more, in turns with each other alone. As after any later
 * turn, their times are brought to the phase that the machine was in at first. Where they don't fit
 * the memory limit together, their figures stay as they are. */
enum mb_status mb_comparison_time_again(struct mb_cli *cli, struct mb_comparison *comparison,
                                        const struct mb_compare_options *options,
                                        const size_t *rows, size_t count);

/* Mean of a's window losses minus b's with its 95 % interval; *low > 0 means that a is worse. */
void mb_compare_kl(const struct mb_assignment *a, const struct mb_assignment *b, double *difference,
                   double *low, double *high);
/* Decode (or prefill) time of a over that of b, with its 95 % interval over rounds that both took
 * in turns; *low > 1 means that a is slower. */
void mb_compare_rounds(const struct mb_speed *a, const struct mb_speed *b,
                       enum mb_quantity quantity, double *ratio, double *low, double *high);
void mb_compare_decode(const struct mb_assignment *a, const struct mb_assignment *b, double *ratio,
                       double *low, double *high);
/* 95 % interval of a row's own KL over windows. */
void mb_kl_interval(const struct mb_assignment *row, double *low, double *high);

/* Whether a is no slower than b in decode, and with `prefill` in that too, as far as timing can
 * tell: the interval of the ratio reaches 1. This is what "no lower speed" means wherever rows are
 * judged. */
bool mb_as_fast(const struct mb_assignment *a, const struct mb_assignment *b, bool prefill);

/* The best uniform or preset row that beats `plan`: less loss at no larger size, and as fast, all
 * measured; NULL: none. Rows made of candidate formats come before those that are not. */
const struct mb_assignment *mb_comparison_beats(const struct mb_comparison *comparison,
                                                const struct mb_assignment *plan, bool prefill);

/* The comparison as a table (text and JSON), and as the report's rows (array to free)
 * (compare_table.c). */
struct mb_table *mb_comparison_table(const struct mb_comparison *comparison);
struct mb_report_row *mb_comparison_report_rows(const struct mb_comparison *comparison);

#endif
