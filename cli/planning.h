/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of `mixbit plan`: what a run holds, and its four parts, in the order in which they run.
 *
 * Each part fills in what the next one needs and returns with cli->error filled on failure; plan.c
 * walks through them and frees everything. */
#ifndef MIXBIT_CLI_PLANNING_H
#define MIXBIT_CLI_PLANNING_H

#include "cli/compare.h"

struct mb_planning_options {
    const char *output, *text, *eval_text, *profile, *device, *imatrix, *presets, *surrogate;
    const char *as_fast_as;
    int effort, numerics, encoder;
    size_t windows, window, eval_windows, context, threads, repeats;
    struct mb_format_list formats;
    struct mb_budget_options budget;
};

enum {
    MB_PLANNING_NOTES = 8,
    MB_PLANNING_OUTPUTS = 7,
    MB_PLANNING_LIMITS = 3, /* mixes that are measured for the budget */
    MB_PLANNING_ANSWERS = 6,
    MB_PLANNING_LONGER = 2, /* times as many rounds as for a row, where a percent decides */
    MB_PLANNING_CANDIDATES = MB_PLANNING_LIMITS + MB_PLANNING_ANSWERS
};
#define MB_PLANNING_NO_RIVAL SIZE_MAX
/* How much slower than its reference a mix may decode to be worth a mention where it loses less. */
#define MB_PLANNING_SLOWER 0.05
/* How far below a speed that was asked for a measured one may be without a word. */
#define MB_PLANNING_MISSED 0.02

/* A solution that may be recommended: its plan (owned), its row of the comparison, and the uniform
 * or preset row that it answers (MB_PLANNING_NO_RIVAL: it is for the budget). */
struct mb_planning_candidate {
    struct mb_plan *plan;
    enum mb_residency residency;
    size_t row, rival;
};

/* Everything a run holds; freed in one place. */
struct mb_planning {
    struct mb_cli *cli;
    const struct mb_planning_options *options;
    struct mb_model *model;
    struct mb_threads *threads;
    struct mb_device_info device;
    struct mb_offload_target target;
    struct mb_windows held_out;
    struct mb_profile *profile;
    enum mb_method method; /* of sensing: the surrogate with so many probes, or every one */
    size_t probes;
    struct mb_sensitivity *table;
    struct mb_importance *importance;  /* NULL: none */
    struct mb_calibration calibration; /* its encoder NULL: weights are rounded by search */
    struct mb_format_list formats;
    struct mb_aim aim;
    unsigned unwritten; /* bits: outputs that this plan doesn't have */
    struct mb_forecast_request forecast_request;
    struct mb_forecast forecast;
    struct mb_comparison comparison; /* its losses are owned here */
    /* The strictest limit first, answers last. */
    struct mb_planning_candidate candidates[MB_PLANNING_CANDIDATES];
    size_t candidate_count;
    enum mb_format as_fast_as; /* the reference's format, held to in prefill too; NONE: not given */
    size_t reference;          /* row that decode is held to; SIZE_MAX: the user gave budgets */
    struct mb_plan *plan;      /* what is recommended, */
    size_t chosen;             /* and its row, */
    bool is_written;           /* which an earlier run has written just so */
    struct mb_solution *front;
    size_t front_count;
    char objective[400], base[96];
    char *text, *eval_text;
    char notes[MB_PLANNING_NOTES][300];
    size_t note_count;
};

/* A caveat that a reader of the result must see; ones beyond MB_PLANNING_NOTES are dropped. */
void mb_planning_note(struct mb_planning *run, const char *text);

/* Whether plans are to be no slower than the reference in decode or prefill. */
static inline bool mb_planning_holds(const struct mb_planning *run, enum mb_quantity speed)
{
    return run->reference != SIZE_MAX &&
           (speed == MB_QUANTITY_DECODE || run->as_fast_as != MB_FORMAT_NONE);
}

/* Names of the files in the output folder, in the order they are written. */
extern const char *const mb_planning_outputs[MB_PLANNING_OUTPUTS];

/* Open model, texts and threads, and check the output folder: everything that can be wrong with the
 * input is found before minutes of work (planning_inputs.c). */
enum mb_status mb_planning_open(struct mb_planning *run);
/* Fill the comparison with uniform formats and presets: they are measured first, and the forecast
 * is calibrated by them (planning_choice.c). */
enum mb_status mb_planning_list(struct mb_planning *run);
/* Solve, and add plans and what surrounds them to the comparison (planning_choice.c). */
enum mb_status mb_planning_solve(struct mb_planning *run, const struct mb_compare_options *options);
/* One solution, as a plan and as a mix; both are the caller's (planning_choice.c). */
enum mb_status mb_planning_solve_for(struct mb_planning *run, const struct mb_budget *budget,
                                     struct mb_planning_candidate *candidate, struct mb_mix *mix);
/* Take a solution over as a candidate and its mix as a row; one that is a candidate already, or its
 * own rival, is dropped (planning_choice.c). */
enum mb_status mb_planning_add(struct mb_planning *run, struct mb_planning_candidate *candidate,
                               struct mb_mix *mix, const char *name);
/* Add the mixes that keep up with the reference, timed, and some about its speed, the strictest
 * first; budget's decode limit is set anew (planning_trials.c). */
enum mb_status mb_planning_try(struct mb_planning *run, const struct mb_budget *budget,
                               const struct mb_compare_options *options);
/* Time what is close once more, longer (planning_verdict.c). */
enum mb_status mb_planning_confirm(struct mb_planning *run,
                                   const struct mb_compare_options *options);
/* Decide by what was measured; run->plan and run->chosen are what is written (planning_verdict.c).
 */
enum mb_status mb_planning_recommend(struct mb_planning *run);
/* What is recommended, rounded layer after layer where that loses less, becomes a row of its own
 * and what is written (planning_sequential.c). */
enum mb_status mb_planning_round(struct mb_planning *run, const struct mb_compare_options *options);
/* How the model is written to `path` (planning_outputs.c). */
struct mb_convert_request mb_planning_file(struct mb_planning *run, const char *path);
/* Write every output, then print the comparison (planning_outputs.c). */
enum mb_status mb_planning_write(struct mb_planning *run);
enum mb_status mb_planning_print(struct mb_planning *run);

#endif
