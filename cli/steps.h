/* SPDX-License-Identifier: Apache-2.0 */
/* Steps that several verbs share: opening things with good messages, defaults, mixes (one format
 * per tensor) and their forecast from a profile and a sensitivity table.
 *
 * Each step returns with cli->error filled on failure; the caller owns what it gets. */
#ifndef MIXBIT_CLI_STEPS_H
#define MIXBIT_CLI_STEPS_H

#include "cli/cli.h"
#include "model/encoder.h"
#include "model/offload.h"

#include <stddef.h>

/* ---- files and threads (steps.c) ---- */

enum mb_status mb_step_threads(struct mb_cli *cli, size_t count, struct mb_threads **threads);

/* A model whose weights can be encoded anew: not one of codebook matrices. */
enum mb_status mb_step_open(struct mb_cli *cli, const char *path, struct mb_model **model);

/* Fail early, before minutes of work: `path` must be writable, and what is there must be ours
 * unless --force. Ours are JSON documents with a "mixbit-..." schema, GGUFs with a mixbit key,
 * recipes and report pages; MB_ERR_IO otherwise. */
enum mb_status mb_step_check_output(struct mb_cli *cli, const char *path);
/* folder/name, or folder of `path` with another name; free() it. NULL: out of memory. */
char *mb_path_join(const char *folder, const char *name);
/* "dir/tiny.f16.gguf" -> "tiny.f16<suffix>" in the current folder; free() it. */
char *mb_path_beside(const char *model_path, const char *suffix);
/* A text that comes with mixbit ("calib.txt"): beside the build, or in the installed share folder;
 * free() it. NULL: not found. */
char *mb_bundled_text(const char *name);
/* The profile of this machine that came with the program (profiles/<key>.json), or NULL; free(). */
char *mb_bundled_profile(void);
/* The text that was given, or the one that comes with mixbit; free(*path). `option` names it in
 * messages. */
enum mb_status mb_step_text(struct mb_cli *cli, const char *given, const char *name,
                            const char *option, char **path);

/* ---- what a model has (steps.c) ---- */

/* Weights of the tensors that a uniform file would convert: what bits per weight are counted over.
 */
double mb_quantizable_weights(const struct mb_model *model);
/* File bytes that no format choice changes: metadata, norms, and room for our provenance keys. */
double mb_fixed_bytes(const struct mb_model *model);
/* The quantized format that most quantizable weights are stored in; MB_FORMAT_NONE for a float
 * file. A file that is already quantized leaves its own format out of the candidates: to keep
 * everything would be no loss and no answer. */
enum mb_format mb_majority_quantized(const struct mb_model *model);
/* Default candidates: every block format of llama.cpp's uniform files but the majority's own. */
void mb_default_formats(const struct mb_model *model, struct mb_format_list *formats);
/* `formats` with every fall-back that this model's row lengths need, and its source formats. */
void mb_stored_formats(const struct mb_model *model, const struct mb_format_list *formats,
                       struct mb_format_list *stored);

/* Windows of a text; window 0 and max_windows 0 as in mb_windows_load. Instead of a file there may
 * be "tokens:FILE", "random:SEED" or "generated:SEED". */
bool mb_text_is_made(const char *text); /* random or generated */
enum mb_status mb_step_windows(struct mb_cli *cli, struct mb_model *model, const char *text,
                               size_t window, size_t max_windows, struct mb_windows *windows);

/* ---- profile (step_profile.c) ---- */

struct mb_profile_request {
    const char *path; /* NULL: MIXBIT_PROFILE, else the cache folder's for this device, else the one
                         that came with the program */
    bool must_exist;  /* never measure: a missing profile is an error that says how to make one */
    bool any_kind;    /* of any kind of device: nothing is run with it */
    bool kernels_only;            /* its times are of no interest: a stale one is as good as any */
    const struct mb_model *model; /* shapes; NULL: a few common ones */
    const struct mb_format_list *formats; /* NULL: every format */
    struct mb_threads *threads;
    struct mb_accelerator *accelerator; /* the device; NULL: the CPU */
    double time_limit_s;                /* 0: none */
    double max_error;                   /* as in mb_tune_options; 0: as before */
    bool fresh;                         /* forget what the file has */
    bool thread_counts;                 /* try other numbers of threads too */
};
/* Load the profile, say when it is stale (then all is measured anew, unless it must exist) or of
 * another machine, measure what is missing and save it; its kernels serve from then on.
 * Interrupted: what was measured is saved first. *path (may be NULL) is where it lies; free().
 */
enum mb_status mb_step_profile(struct mb_cli *cli, const struct mb_profile_request *request,
                               struct mb_profile **profile, char **path);

/* The profile of a device other than the CPU where there is one, else NULL; one that was named must
 * load. */
enum mb_status mb_step_device_profile(struct mb_cli *cli, struct mb_accelerator *accelerator,
                                      const char *named, struct mb_profile **profile);

/* Run with the kernels that a profile found best: the one named, else this machine's where there is
 * one. A profile that was asked for must load; this machine's own only earns a warning. `must`: to
 * have none is an error. */
enum mb_status mb_step_apply_profile(struct mb_cli *cli, const char *named, bool must);

/* ---- importance (step_importance.c) ---- */

/* The imatrix at `path`, with a note of what it covers; NULL gives NULL. */
enum mb_status mb_step_importance(struct mb_cli *cli, const struct mb_model *model,
                                  const char *path, struct mb_importance **importance);
/* Its weights as the library takes them; NULL: none. */
const float *const *mb_step_weights(const struct mb_importance *importance);
/* A table or plan (`what` names it) goes with the importance it was made with, and no other:
 * MB_ERR_STALE. `hash` is what it says of it. */
enum mb_status mb_step_check_importance(struct mb_cli *cli, const char *what, const char *hash,
                                        const struct mb_importance *importance);

/* ---- calibration (step_moments.c) ---- */

/* How weights are rounded: of one tensor, and of a file, whose layers may answer for each other. */
enum mb_encoder_kind { MB_ENCODER_SEARCH, MB_ENCODER_FEEDBACK, MB_ENCODER_SEQUENTIAL };
extern const char *const mb_encoder_names[];      /* search feedback */
extern const char *const mb_file_encoder_names[]; /* search feedback sequential */

/* A text and what the model makes of it: the options of verbs that round with feedback. */
struct mb_calibration_options {
    const char *text;
    size_t windows, window; /* 0: the whole text; 512, or the model's context */
    struct mb_size_limit memory;
};
struct mb_calibration {
    struct mb_network *network;
    struct mb_windows windows;
    struct mb_moments *moments;
    struct mb_encoder *encoder;    /* of mb_step_encoder */
    struct mb_encoder *sequential; /* of mb_step_sequential, over it: one mix's */
};
/* Ready to collect second moments of the model's activations; free it in any case. */
enum mb_status mb_step_calibrate(struct mb_cli *cli, struct mb_model *model,
                                 const struct mb_calibration_options *options,
                                 struct mb_threads *threads, struct mb_calibration *calibration);
/* The same, with an encoder for verbs that measure before they write. */
enum mb_status mb_step_encoder(struct mb_cli *cli, struct mb_model *model,
                               const struct mb_calibration_options *options,
                               const struct mb_importance *importance, struct mb_threads *threads,
                               struct mb_calibration *calibration);
/* With an encoder of mb_step_encoder: one over it for this mix, still empty, and its tensors made
 * (model/sequential.h), on so many tokens of the text; 0: as many as do good. */
enum mb_status mb_step_sequential(struct mb_cli *cli, const enum mb_format *formats, size_t tokens,
                                  struct mb_calibration *calibration);
enum mb_status mb_step_round_sequentially(struct mb_cli *cli, const enum mb_format *formats,
                                          size_t tokens, struct mb_calibration *calibration);
/* A table or plan (`what` names it) whose losses were measured with feedback goes with the same
 * encoder (NULL: search), and one without goes with none: MB_ERR_STALE. `hash` is what it says. */
enum mb_status mb_step_check_encoder(struct mb_cli *cli, const char *what, const char *hash,
                                     const struct mb_encoder *encoder);
void mb_calibration_free(struct mb_calibration *calibration);

/* ---- sensitivity (steps.c) ---- */

enum mb_effort { MB_EFFORT_QUICK, MB_EFFORT_NORMAL };
extern const char *const mb_effort_names[];
struct mb_sense_request {
    const char *text;
    size_t windows, window; /* 0: what the effort says */
    int effort;
    enum mb_numerics numerics;
    const struct mb_format_list *formats;   /* NULL or empty: the defaults */
    const char *output;                     /* table; the journal is <output>.journal. Required. */
    const struct mb_importance *importance; /* NULL: none */
    struct mb_encoder *encoder;             /* NULL: search */
    struct mb_threads *threads;
    enum mb_method method;
    size_t surrogate_probes, shard, shards; /* as in mb_sense_options */
    struct mb_measures **measures; /* NULL: not wanted; else every measure (model/sense.h), and a
                                      finished table is not used */
};
/* Sense, or go on where an interrupted run stopped; save the table; the journal goes when it is
 * done. A finished table of the same model, text and candidates at `output` is used as it is. */
enum mb_status mb_step_sense(struct mb_cli *cli, struct mb_model *model,
                             const struct mb_sense_request *request, struct mb_sensitivity **table);
enum mb_status mb_step_load_sensitivity(struct mb_cli *cli, struct mb_model *model,
                                        const char *path, struct mb_sensitivity **table);
/* The one table of a job's shards, all of whose files are given. */
enum mb_status mb_step_merge(struct mb_cli *cli, const char *const *paths, size_t count,
                             struct mb_sensitivity **table);
/* Refuse to evaluate on the text that a table was sensed on: MB_ERR_ARGUMENT. */
enum mb_status mb_step_check_texts(struct mb_cli *cli, const char *sensed_hash,
                                   const char *evaluated_hash);

/* Warn when tokens took much longer than they can: other programs run, or the machine is shared. */
bool mb_step_check_quiet(struct mb_cli *cli, const struct mb_speed *speed);

/* ---- mixes (mix.c) ---- */

enum mb_mix_kind { MB_MIX_UNIFORM, MB_MIX_PRESET, MB_MIX_PLAN };
/* One format per tensor of a model, MB_FORMAT_NONE where a tensor stays as it is. */
struct mb_mix {
    char name[48]; /* "q4_K", "Q4_K_M", "plan" */
    enum mb_mix_kind kind;
    size_t count;
    enum mb_format *formats;
};
enum mb_status mb_mix_uniform(struct mb_cli *cli, const struct mb_model *model,
                              enum mb_format format, struct mb_mix *mix);
enum mb_status mb_mix_preset(struct mb_cli *cli, const struct mb_model *model, const char *name,
                             struct mb_mix *mix);
/* MB_ERR_STALE when the plan is of another model. */
enum mb_status mb_mix_plan(struct mb_cli *cli, struct mb_model *model, const struct mb_plan *plan,
                           struct mb_mix *mix);
/* First a subset of `formats` (two or more), then for each tensor one of the subset: from nearly
 * uniform to all mixed up. *state is the generator's, seeded by the caller. */
enum mb_status mb_mix_random(struct mb_cli *cli, const struct mb_model *model,
                             const struct mb_format_list *formats, const char *name,
                             uint64_t *state, struct mb_mix *mix);
void mb_mix_free(struct mb_mix *mix);
/* Whether --presets names presets that there are, or none. */
enum mb_status mb_presets_check(struct mb_cli *cli, const char *list);
/* Every uniform format of `formats` (NULL: the default candidates), then the presets named (NULL:
 * every one, "none": none) that use formats of ours; those that store the same as an earlier one
 * are left out. Free each and the array. */
enum mb_status mb_mix_list(struct mb_cli *cli, const struct mb_model *model,
                           const struct mb_format_list *formats, const char *presets,
                           struct mb_mix **mixes, size_t *count);
/* The format tensor i ends up in. */
enum mb_format mb_mix_format(const struct mb_model *model, const struct mb_mix *mix, size_t i);
/* Whether two mixes store the same. */
bool mb_mix_same(const struct mb_model *model, const struct mb_mix *a, const struct mb_mix *b);
/* Bytes of the file that quantize would write. */
double mb_mix_bytes(const struct mb_model *model, const struct mb_mix *mix);
/* Bytes of the packed weights in memory. */
double mb_mix_packed_bytes(const struct mb_model *model, const struct mb_mix *mix);
/* What a file is written from; all but mix, threads and output may be NULL. */
struct mb_convert_request {
    const struct mb_mix *mix;
    const struct mb_plan *plan;
    const char *sensed_hash;
    const struct mb_importance *importance;
    const struct mb_calibration *calibration; /* rounding with feedback */
    size_t sweeps;                            /* with a calibration: as in mb_convert_options */
    struct mb_model *source; /* with a calibration of it: what tensors that stay are refined by */
    size_t *refined;         /* how many were */
    struct mb_threads *threads;
    const char *output;
};
/* Whether the output is there and says that it was made just so. */
bool mb_step_is_written(struct mb_model *model, const struct mb_convert_request *request);
/* Quantize to a file, with provenance keys. */
enum mb_status mb_step_convert(struct mb_cli *cli, struct mb_model *model,
                               const struct mb_convert_request *request);

/* ---- forecast (forecast.c) ---- */

/* What a token costs beside its matrix products: as the profile (may be NULL) has it, else - or
 * where that is rough and `again` says so - measured on the model as it is and put there
 * (*measured, may be NULL). Zero where the architecture can't be run. target as in
 * mb_network_offload. */
enum mb_status mb_step_fixed_cost(struct mb_cli *cli, struct mb_model *model,
                                  struct mb_threads *threads, struct mb_profile *profile,
                                  const struct mb_offload_target *target, size_t context,
                                  bool again, struct mb_fixed_cost *fixed, bool *measured);

/* llama.cpp's instead, from a file of 'llama-bench -o json' (llama_bench.c): times and
 * scales of *fixed, whose threads say which of its runs count. The files that it ran are
 * opened; they must have this model's matrices, and the profile the times of their products.
 * profile NULL: only check that all of that is there. */
enum mb_status mb_step_llama_bench(struct mb_cli *cli, struct mb_model *model, const char *path,
                                   const struct mb_profile *profile, struct mb_fixed_cost *fixed);

/* What may be chosen at all (constraints.c). */
struct mb_constraint_options {
    struct mb_texts pins;     /* "PATTERN=FORMAT" */
    struct mb_texts excludes; /* "FORMAT,..." or "PATTERN=FORMAT,..." */
    struct mb_texts groups;   /* "qkv", "gate-up", or "PATTERN,..." */
    int runtime;              /* index into mb_target_names */
    int granularity;          /* index into mb_granularity_names */
};
extern const char *const mb_target_names[];      /* mixbit llama.cpp ik_llama.cpp */
extern const char *const mb_granularity_names[]; /* tensor layer */
/* Pins and exclusions into the sources; `importance`: an imatrix is at hand, so that a runtime's
 * tool makes what it refuses without. *group (free(); NULL: every tensor alone) has the same number
 * where tensors share a format. MB_ERR_ARGUMENT for what matches nothing or contradicts. */
enum mb_status mb_constraints_apply(struct mb_cli *cli, const struct mb_constraint_options *options,
                                    bool importance, const struct mb_format_list *formats,
                                    struct mb_unit_source *sources, size_t count, size_t **group);
/* The same on a model, before minutes of work; formats that no tensor may be stored in leave the
 * list. */
enum mb_status mb_constraints_check(struct mb_cli *cli, const struct mb_model *model,
                                    const struct mb_constraint_options *options, bool importance,
                                    struct mb_format_list *formats);
/* What shares a format, as plan files say it: "layer", "qkv gate-up"; "" for nothing. */
void mb_constraints_groups(const struct mb_constraint_options *options, char *text, size_t bytes);

/* One unit per quantizable tensor; free(). NULL: out of memory. */
struct mb_unit_source *mb_unit_sources(const struct mb_model *model, size_t *count);

/* How a plan is sought where it isn't one quantity made small to proven optimality: --weights, or
 * one of KL Lens's allocators (aim.c). */
struct mb_aim {
    bool weighted, greedy;
    struct mb_weighting weighting;
    struct mb_kl_lens_options kl_lens;
    char objective[160]; /* as plan files say it; "": the quantity's name */
    char groups[160];
};

struct mb_forecast_request {
    const struct mb_sensitivity *table;
    const struct mb_profile *profile;                /* NULL: no times */
    const struct mb_format_list *formats;            /* NULL or empty: what the table has */
    const struct mb_constraint_options *constraints; /* NULL: none */
    const struct mb_aim *aim;                        /* NULL: none */
    struct mb_fixed_cost fixed;
    size_t threads;
    bool last_logits; /* prefill: as in mb_problem_options */
};
/* The same problem once per residency class; NULL where the profile has no such times. */
struct mb_forecast {
    struct mb_model *model;
    char importance_hash[33], feedback_hash[33]; /* of the table */
    const struct mb_profile *profile;
    size_t threads;
    struct mb_fixed_cost fixed;
    struct mb_problem *problem[MB_RESIDENCY_COUNT];
    size_t interpolated[MB_RESIDENCY_COUNT];
    size_t *group; /* by unit; NULL: every unit alone */
    struct mb_aim aim;
};
enum mb_status mb_forecast_create(struct mb_cli *cli, struct mb_model *model,
                                  const struct mb_forecast_request *request,
                                  struct mb_forecast *forecast);
void mb_forecast_free(struct mb_forecast *forecast);
/* The problem's candidates that a mix is made of, per unit; false: some format is none. */
bool mb_forecast_choice(const struct mb_forecast *forecast, const struct mb_problem *problem,
                        const struct mb_mix *mix, size_t *choice);
/* Predicted totals of a mix, at the residency that its own size has; NaN where the tables don't
 * know one of its formats. */
void mb_forecast_mix(const struct mb_forecast *forecast, const struct mb_mix *mix,
                     double total[MB_QUANTITY_COUNT]);
/* Whether the solver could have chosen this mix: candidates only, and every group in one format. */
bool mb_forecast_allows(const struct mb_forecast *forecast, const struct mb_mix *mix);

/* Budgets as typed (budget.c), and what goes with them. */
struct mb_budget_options {
    struct mb_size_limit max_size, max_ram;
    double min_decode, min_prefill, max_kl; /* tok/s, tok/s, nats per token; 0: none */
    int minimize;                           /* index into mb_minimize_names */
    const char *weights;                    /* "memory=1,latency=2,accuracy=3"; NULL: not given */
    const char *contribution;               /* format; NULL: not given */
    int allocator;                          /* index into mb_allocator_names */
    double gamma;                           /* of the allocators, as in mb_kl_lens_options */
    bool fixed_reference;
    size_t cuts, cut;
    struct mb_constraint_options constraints;
};
extern const char *const mb_allocator_names[]; /* exact kl-lens-a kl-lens-b */
/* Weights and allocator checked against the other options, before any work. */
enum mb_status mb_aim_resolve(struct mb_cli *cli, const struct mb_budget_options *options,
                              struct mb_aim *aim);

extern const char *const mb_minimize_names[]; /* kl decode prefill size */
enum mb_quantity mb_minimize_quantity(int minimize);
/* A budget, or weights: something that says when a plan is good enough. */
bool mb_budget_given(const struct mb_budget_options *options);
/* --max-ram becomes a limit on bytes; mb_forecast_solve tightens it until the packed weights fit.
 */
enum mb_status mb_budget_resolve(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 const struct mb_budget_options *options, struct mb_budget *budget);
/* With no budget at all: 4.5 bits per weight, */
void mb_budget_default(const struct mb_model *model, struct mb_budget *budget);
/* and as fast as the fastest of these: uniform formats of 4 bits or more within that size. A larger
 * one would be a speed that perhaps no mix in it has. */
bool mb_budget_may_refer(const struct mb_mix *mix, double bytes, const struct mb_budget *budget);
/* Solve once per residency class and keep the best plan whose own size has that residency.
 * max_ram_bytes 0: none. Infeasible: MB_ERR_INFEASIBLE and the nearest feasible budget in words. */
enum mb_status mb_forecast_solve(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 enum mb_quantity minimize, const struct mb_budget *budget,
                                 double max_ram_bytes, struct mb_plan **plan,
                                 enum mb_residency *residency);

/* The curve of one class: mb_solve_front, groups honoured. */
enum mb_status mb_forecast_class_front(struct mb_cli *cli, const struct mb_forecast *forecast,
                                       enum mb_residency r, enum mb_quantity minimize,
                                       enum mb_quantity against, const struct mb_budget *budget,
                                       size_t points, struct mb_solution **solutions,
                                       size_t *count);

/* The trade-off curve over all residency classes: plans that none other dominates, ascending in
 * `against`. Free each and the array. */
enum mb_status mb_forecast_front(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 enum mb_quantity minimize, enum mb_quantity against,
                                 const struct mb_budget *budget, size_t points,
                                 struct mb_plan ***plans, size_t *count);

#endif
