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
    double objective; /* what was made small: a total, or a weighted sum */
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

/* ---- priorities
 * ---------------------------------------------------------------------------------------------- */

/** Over what a unit's figures are normalised, so that bytes, times and losses can be added. */
enum mb_normalization {
    MB_NORMALIZE_MODEL, /* the span of the whole model's totals: our reading */
    MB_NORMALIZE_UNIT /* the span over the unit's own candidates; losses by the unit's contribution
                         as well: APreQEL's reading */
};

/** What the user wants little of, and in which proportion. Weights and contribution have no
 * default.
 */
struct mb_weighting {
    double weight[MB_QUANTITY_COUNT]; /* 0 or more, one above 0; only their proportion matters */
    enum mb_normalization normalization;
    /** MB_NORMALIZE_UNIT: a unit's contribution is its loss in this format, over the largest such
     * loss. MB_FORMAT_NONE: the span of its losses, which makes the sum of losses what is weighed.
     */
    enum mb_format contribution;
    /** Spans come from this problem, of the same units and formats; NULL: from the problem itself.
     * Sums under two problems (residencies) then compare. */
    const struct mb_problem *reference;
};

/**
 * Minimise the weighted sum of normalised quantities under limits on any three of them. Without a
 * limit that binds it is the least sum of each unit; of equal ones that of less loss, then of fewer
 * bytes. Otherwise exact as mb_solve; solution->objective is the sum (its zero is no ideal).
 * @return as mb_solve; MB_ERR_ARGUMENT for negative, non-finite or all-zero weights, a contribution
 * format that a unit does not have, and four limits at once.
 */
MB_API enum mb_status mb_solve_weighted(const struct mb_problem *problem,
                                        const struct mb_weighting *weighting,
                                        const struct mb_budget *budget, double gap,
                                        double time_limit_s, struct mb_solution *solution,
                                        struct mb_budget *nearest, struct mb_error *error);
/** The weighted sum of a choice. */
MB_API enum mb_status mb_weighted_sum(const struct mb_problem *problem,
                                      const struct mb_weighting *weighting, const size_t *choice,
                                      double *sum, struct mb_error *error);

/* ---- equality groups
 * ---------------------------------------------------------------------------------------------- */

/** A problem whose units are groups of another's: one candidate per format that all members can
 * have (each stored in what the format falls back to at its own row length), figures added. */
struct mb_grouping {
    struct mb_problem *problem;
    size_t *unit_of; /* [units of the other problem] */
};
/**
 * Merge units with the same number in group[unit_count]; free with mb_grouping_free. An optimum of
 * the merged problem is one of the problem in which the members of each group share a format.
 * @return MB_ERR_ARGUMENT names a group whose members have no format in common.
 */
MB_API enum mb_status mb_group_units(const struct mb_problem *problem, const size_t *group,
                                     struct mb_grouping *grouping, struct mb_error *error);
MB_API void mb_grouping_free(struct mb_grouping *grouping);
/** The members' candidates behind a choice of the merged problem. */
MB_API void mb_grouping_expand(const struct mb_problem *problem, const struct mb_grouping *grouping,
                               const size_t *merged, size_t *choice);
/** The other way round; 0 when the members of some group are not in one format. */
MB_API int mb_grouping_merge(const struct mb_problem *problem, const struct mb_grouping *grouping,
                             const size_t *choice, size_t *merged);

/* ---- KL Lens's allocators, reconstructed
 * ---------------------------------------------------------------------------------------------- */

/** Both walk one list of all (unit, format) entries by ascending loss, starting from every unit in
 * the format in which it loses least; an entry that would not make its unit smaller is passed over.
 */
enum mb_kl_lens_kind {
    MB_KL_LENS_A, /* takes an entry while perplexity, predicted from the losses, stays within gamma
                     of the reference, which is replaced after each step */
    MB_KL_LENS_B  /* takes every entry before a cut; cuts are evenly spaced, the last entry is in
                     none */
};
struct mb_kl_lens_options {
    enum mb_kl_lens_kind kind;
    double gamma;        /* A: 0 is the paper's 1.10 */
    int fixed_reference; /* A: nonzero: the reference stays that of the start */
    size_t cuts;         /* B: 0 is the paper's ten */
    size_t cut;          /* B: 1 .. cuts; 0: the first one that fits max_bytes */
    double max_bytes;    /* of the total; A stops as soon as it fits. 0: none */
};
/** MB_ERR_INFEASIBLE says how small the allocator got when max_bytes is not reached. Nothing
 * is proven: the bound is 0. */
MB_API enum mb_status mb_solve_kl_lens(const struct mb_problem *problem,
                                       const struct mb_kl_lens_options *options,
                                       struct mb_solution *solution, struct mb_error *error);

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
    uint64_t excluded;     /* bits 1 << enum mb_format: formats it may not be stored in */
    size_t experts, used;  /* a stack of so many matrices of n / experts rows, of which a token goes
                              through `used`; 0: one matrix, which every token goes through */
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
    double scale[MB_QUANTITY_COUNT]; /* of decode and prefill: what products take in the model over
                                        what the profile says; 0: as much */
    int last_logits; /* 1: a prompt's logits are those of its last token alone, as runtimes read
                        prompts: its output product is one of one row */
};
/**
 * Build the problem: bytes from formats, times from the profile, losses from the table. A unit kept
 * in its source format costs no loss. *interpolated (may be NULL) counts times that were not
 * measured at the exact shape. MB_ERR_ARGUMENT when the table lacks a unit x format (names it), or
 * when all formats of a unit are excluded.
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
    char model_hash[33], device_key[64];
    char objective[160];      /* "kl", "decode" ..., or the weights or allocator it was made with */
    char groups[160];         /* what had to share a format: "layer", "qkv gate-up"; "": nothing */
    char importance_hash[33]; /* what its losses were measured with; "": nothing */
    char feedback_hash[33];   /* and with which feedback; "": weight by weight */
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

enum mb_runtime { MB_RUNTIME_LLAMA_CPP, MB_RUNTIME_IK_LLAMA_CPP, MB_RUNTIME_COUNT };
/** "llama.cpp", "ik_llama.cpp", then NULL. */
MB_API extern const char *const mb_runtime_names[MB_RUNTIME_COUNT + 1];
/** Whether the runtime loads the format, */
MB_API int mb_runtime_loads(enum mb_runtime runtime, enum mb_format format);
/** whether its quantize tool ever converts a tensor of this name, */
MB_API int mb_runtime_converts(enum mb_runtime runtime, const char *tensor);
/** and whether that tool refuses this format for this tensor without an importance matrix. */
MB_API int mb_runtime_needs_importance(enum mb_runtime runtime, const char *tensor,
                                       enum mb_format format);
/**
 * Write the recipe of a plan: for llama.cpp a --tensor-type-file (anchored patterns, no comments:
 * it has none) plus the command line that uses it in *command (free()); for ik_llama.cpp the
 * --custom-q argument. Where the tool needs an importance matrix the command names one to be
 * given (IMATRIX.gguf). Units the runtime could not store that way are MB_ERR_UNSUPPORTED.
 */
MB_API enum mb_status mb_recipe_write(const struct mb_plan *plan, enum mb_runtime runtime,
                                      const char *path, char **command, struct mb_error *error);
/** The words, each ended by a NUL and all by an empty one, with which `tool` (llama.cpp's
 * llama-quantize) says what it would make of a model under the recipe at `path`. free(); NULL: out
 * of memory. */
MB_API char *mb_recipe_dry_run(const struct mb_plan *plan, const char *tool, const char *path,
                               const char *model);

#ifdef __cplusplus
}
#endif
#endif
