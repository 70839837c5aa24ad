/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: one format per tensor, chosen by an exact multiple-choice knapsack, and the files that say
 * so. */
#ifndef MIXBIT_PLAN_H
#define MIXBIT_PLAN_H

#include "format.h"
#include "profile.h"
#include "sensitivity.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the problem
 * ---------------------------------------------------------------------------------------------- */

/** What one format costs one unit. */
struct mb_candidate {
    enum mb_format format;
    double bytes, decode_ns, prefill_ns; /* ns per token */
    double loss, loss_low, loss_high;    /* nats per token; low and high are its interval */
};

/** A tensor to decide on. */
struct mb_unit {
    char name[96];
    size_t tensor; /* index in the model */
    size_t n, k;
    int is_embedding; /* only looked up: costs bytes and loss, no time (unless tied: then is_output
                         as well) */
    int is_output;
    size_t candidate_count;
    struct mb_candidate *candidates;
};

enum mb_quantity {
    MB_QUANTITY_LOSS,
    MB_QUANTITY_DECODE,
    MB_QUANTITY_PREFILL,
    MB_QUANTITY_BYTES,
    MB_QUANTITY_COUNT
};

struct mb_problem {
    size_t unit_count;
    struct mb_unit *units;
    double fixed[MB_QUANTITY_COUNT]; /* bytes of what is never quantized, file overhead; fixed part
                                        of a token's time */
};

/** Upper limits on totals, indexed by enum mb_quantity; 0 means no limit. */
struct mb_budget {
    double max[MB_QUANTITY_COUNT];
};

struct mb_solution {
    size_t *choice;                  /* [unit_count] candidate index; free with mb_solution_free */
    double total[MB_QUANTITY_COUNT]; /* fixed included */
    double bound;                    /* proven lower bound of the objective */
    double gap;                      /* (objective - bound) / objective; 0: optimal */
    size_t nodes;
};

/**
 * Minimise one quantity under limits on the others (limits on the objective itself hold too).
 * Exact: branch and bound over Lagrangian bounds, run until the gap is at most `gap` (0: optimal)
 * or `time_limit_s` ends.
 * @return MB_OK; MB_ERR_INFEASIBLE with *nearest (may be NULL) set to the smallest budget of the
 * same proportions that can be met, and a message that says it in words; MB_ERR_ARGUMENT for
 * non-finite or negative costs.
 */
MB_API enum mb_status mb_solve(const struct mb_problem *problem, enum mb_quantity minimize,
                               const struct mb_budget *budget, double gap, double time_limit_s,
                               struct mb_solution *solution, struct mb_budget *nearest,
                               struct mb_error *error);
MB_API void mb_solution_free(struct mb_solution *solution);

/** Trade-off curve: solutions that minimise `minimize` for up to `points` limits on `against`, none
 * dominated, ascending in `against`; other limits of *budget hold throughout. *solutions is an
 * array to free with mb_solution_free each and free(). */
MB_API enum mb_status mb_solve_front(const struct mb_problem *problem, enum mb_quantity minimize,
                                     enum mb_quantity against, const struct mb_budget *budget,
                                     size_t points, struct mb_solution **solutions, size_t *count,
                                     struct mb_error *error);

/** Totals of a given choice (fixed included): how uniform formats and presets are predicted with
 * the same table. */
MB_API void mb_problem_totals(const struct mb_problem *problem, const size_t *choice,
                              double total[MB_QUANTITY_COUNT]);

/* ---- from a profile and a table to a problem
 * ------------------------------------------------------------------ */

/** What the solver needs to know of a tensor; the command line fills it from the model. */
struct mb_unit_source {
    const char *name;
    size_t tensor, n, k;
    int is_embedding, is_output;
    enum mb_format source; /* format in the file */
    enum mb_format pinned; /* MB_FORMAT_NONE: free */
};
struct mb_problem_options {
    uint32_t size;
    const struct mb_unit_source *sources;
    size_t source_count;
    const enum mb_format *formats; /* candidates; fall-backs applied per unit, duplicates merged */
    size_t format_count;
    const struct mb_sensitivity *sensitivity;
    const struct mb_profile *profile; /* NULL: no times (all 0) */
    size_t threads;
    enum mb_residency residency;
    double fixed[MB_QUANTITY_COUNT];
};
/**
 * Build the problem: bytes from formats, times from the profile, losses from the table. A unit kept
 * in its source format costs no loss. *interpolated (may be NULL) counts times that were not
 * measured at the exact shape. MB_ERR_ARGUMENT when the table lacks a unit x format (names it).
 * Free with mb_problem_free.
 */
MB_API enum mb_status mb_problem_build(const struct mb_problem_options *options,
                                       struct mb_problem **problem, size_t *interpolated,
                                       struct mb_error *error);
MB_API void mb_problem_free(struct mb_problem *problem);

/* ---- uniform formats and llama.cpp's presets
 * ------------------------------------------------------------------ */

/** What a preset rule looks at. Roles are enum mb_role. */
struct mb_preset_tensor {
    const char *name;
    int role, layer, quantizable;
    size_t k;
    enum mb_format source;
};
MB_API size_t mb_preset_count(void);
MB_API const char *mb_preset_name(size_t i); /* "Q4_K_M" ... */
/** The format each tensor gets (MB_FORMAT_NONE: stays); layers, gqa (heads per kv head) and tied as
 * in the model. MB_ERR_UNSUPPORTED when the preset needs a format that is none of ours. Source:
 * llama.cpp's quantize rules; golden data in tests/golden/presets made by llama-quantize --dry-run.
 */
MB_API enum mb_status mb_preset_formats(const char *preset, const struct mb_preset_tensor *tensors,
                                        size_t count, size_t layers, size_t gqa, int tied,
                                        enum mb_format *formats, struct mb_error *error);
/** Uniform: every quantizable tensor in one format with fall-backs; keep_source leaves tensors
 * already in it alone. */
MB_API void mb_uniform_formats(enum mb_format format, const struct mb_preset_tensor *tensors,
                               size_t count, enum mb_format *formats);

/* ---- plan files and recipes
 * ----------------------------------------------------------------------------------- */

struct mb_plan_entry {
    char name[96];
    enum mb_format format;
    double bytes, decode_ns, prefill_ns, loss;
    char kernel[72];
};
struct mb_plan {
    char model_hash[33], device_key[64], objective[32];
    char importance_hash[33]; /* what its losses were measured with; "": nothing */
    struct mb_budget budget;
    double total[MB_QUANTITY_COUNT], fixed[MB_QUANTITY_COUNT];
    double gap;
    size_t count;
    struct mb_plan_entry *entries;
};
MB_API enum mb_status mb_plan_from_solution(const struct mb_problem *problem,
                                            const struct mb_solution *solution,
                                            struct mb_plan **plan);
MB_API void mb_plan_free(struct mb_plan *plan);
MB_API enum mb_status mb_plan_save(const struct mb_plan *plan, const char *path,
                                   struct mb_error *error);
MB_API enum mb_status mb_plan_load(const char *path, struct mb_plan **plan, struct mb_error *error);

enum mb_runtime { MB_RUNTIME_LLAMA_CPP, MB_RUNTIME_IK_LLAMA_CPP };
/**
 * Write the recipe of a plan: for llama.cpp a --tensor-type-file (anchored patterns, no comments:
 * it has none) plus the command line that uses it in *command (free()); for ik_llama.cpp the
 * --custom-q argument. Units the runtime could not store that way are an error.
 */
MB_API enum mb_status mb_recipe_write(const struct mb_plan *plan, enum mb_runtime runtime,
                                      const char *path, char **command, struct mb_error *error);

#ifdef __cplusplus
}
#endif
#endif
