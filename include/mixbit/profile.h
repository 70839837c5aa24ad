/* SPDX-License-Identifier: Apache-2.0 */
/* Hardware cost tables: what a kernel costs at a shape on this machine, measured beside the
 * machine's limits. */
#ifndef MIXBIT_PROFILE_H
#define MIXBIT_PROFILE_H

#include "device.h"
#include "matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where the weights are when the kernel reads them. */
enum mb_residency { MB_RESIDENCY_L2, MB_RESIDENCY_L3, MB_RESIDENCY_MEMORY, MB_RESIDENCY_COUNT };
MB_API const char *mb_residency_name(enum mb_residency residency); /* "L2", "L3", "memory" */
/** The residency that weights of this total size have on a device when a token's pass walks through
 * all of them. */
MB_API enum mb_residency mb_residency_of(const struct mb_device_info *device, size_t total_bytes,
                                         size_t threads);

/** The same limits per clock cycle and thread: what a wrong probe shows in, since an instruction
 * can't issue more often than the core has ports. 0: not measured, or no clock to compare with. */
struct mb_limit_cycles {
    double read[MB_RESIDENCY_COUNT], read_1[MB_RESIDENCY_COUNT];    /* bytes */
    double dot[MB_MAX_ISA], dot_exact[MB_MAX_ISA], fma[MB_MAX_ISA]; /* products */
};

/** Limits of the machine, measured in the same process as the kernels. 0: not measured. */
struct mb_limits {
    size_t threads;
    double read_gbps[MB_RESIDENCY_COUNT];   /* read-only, all threads */
    double read_gbps_1[MB_RESIDENCY_COUNT]; /* one thread */
    double dot_gmacs[MB_MAX_ISA]; /* int8 dot of each ISA level (isa.def order), all threads */
    double
        dot_exact_gmacs[MB_MAX_ISA]; /* the exact 8-bit chain where it differs (avx2), else equal */
    double fma_gmacs[MB_MAX_ISA];    /* f32 fma */
    double dispatch_ns;              /* one empty dispatch on all threads */
    double clock_ghz;                /* the highest that was seen beside them; 0: unknown */
    struct mb_limit_cycles per_cycle;
};

/** What the tuner may set besides the kernel. */
enum mb_knob {
    MB_KNOB_K_BLOCK,  /* gemm: weights per decoded run */
    MB_KNOB_PREFETCH, /* gemv of several rows: bytes ahead of its stream; 0: none */
    MB_KNOB_STEP,     /* panels of 16 outputs that a thread takes at once at least */
    MB_KNOB_SPLIT,    /* GPU: parts of k (gemv), or tiles of rows (gemm), in a work-group */
    MB_KNOB_COUNT
};
MB_API const char *mb_knob_name(enum mb_knob knob); /* "k_block", "prefetch", "step", "split" */

/** One measurement. The key is everything up to `knobs`. */
struct mb_cost {
    char kernel[72];
    unsigned revision;
    enum mb_format format;
    size_t n, k, m, threads;
    enum mb_activation activation;
    enum mb_residency residency;
    size_t knobs[MB_KNOB_COUNT]; /* as the kernel ran; 0 where one says nothing about it */
    double median_ns, mad_ns,
        min_ns;        /* of the whole product, activation preparation and dispatch included */
    double prepare_ns; /* of which: preparing the activations */
    size_t bytes;      /* of the weights in GGUF form */
    double error;      /* RMS relative, against f64 */
    int failed;        /* 1: wrong results; never ranked */
};

struct mb_profile;
MB_API enum mb_status mb_profile_create(struct mb_profile **profile); /* for this CPU, empty */
/** For another device of this machine. */
MB_API enum mb_status mb_profile_create_for(const struct mb_device_info *device,
                                            struct mb_profile **profile);
MB_API void mb_profile_free(struct mb_profile *profile);
/** All or nothing: a malformed, truncated or foreign-schema file loads nothing and says where and
 * why. */
MB_API enum mb_status mb_profile_load(const char *path, struct mb_profile **profile,
                                      struct mb_error *error);
MB_API enum mb_status mb_profile_save(const struct mb_profile *profile, const char *path,
                                      struct mb_error *error);
/** MIXBIT_PROFILE, else the user's cache folder (XDG), keyed by device: the path a profile of this
 * CPU has. free(). */
MB_API char *mb_profile_default_path(void);
/** The same for another device of this machine. */
MB_API char *mb_profile_path_of(const struct mb_device_info *device);

enum mb_profile_match { MB_PROFILE_EXACT, MB_PROFILE_STALE, MB_PROFILE_OTHER_MACHINE };
/** How far a profile applies to this machine, or to the device of its kind in it; `why` (may be
 * NULL) gets one line. */
MB_API enum mb_profile_match mb_profile_match(const struct mb_profile *profile, char *why,
                                              size_t why_bytes);

MB_API const struct mb_device_info *mb_profile_device(const struct mb_profile *profile);
MB_API struct mb_limits *mb_profile_limits(struct mb_profile *profile);
MB_API size_t mb_profile_count(const struct mb_profile *profile);
MB_API const struct mb_cost *mb_profile_at(const struct mb_profile *profile, size_t i);
/** Add or replace by key. */
MB_API enum mb_status mb_profile_put(struct mb_profile *profile, const struct mb_cost *cost);
/** Whether this build has the kernel with the revision that was timed; others are never used. */
MB_API bool mb_cost_is_current(const struct mb_cost *cost);

/** The type of activations that the profile runs a known format with: the default one, or the
 * fastest of those within the error limit that it was tuned with. Costs are of that type. */
MB_API enum mb_activation mb_profile_activation(const struct mb_profile *profile,
                                                enum mb_format format);

/** What a token of a model costs beside its matrix products: attention, norms, the embedding. The
 * key is everything up to `revision`. */
struct mb_fixed_cost {
    char model[33]; /* mb_model_hash */
    size_t threads, context;
    unsigned revision;            /* of the code that was timed */
    int rough;                    /* 1: the machine was not quiet; `tune` times it again */
    double decode_ns, prefill_ns; /* per token, at the end of the context and of 512 at once */
    double decode_scale, prefill_scale; /* what products take in the model over what they take
                                           alone, where that was fitted; 0: as much */
    double kv_bytes;                    /* of the cache at that context */
};
/** NULL: not measured. */
MB_API const struct mb_fixed_cost *mb_profile_fixed_cost(const struct mb_profile *profile,
                                                         const struct mb_fixed_cost *key);
MB_API size_t mb_profile_fixed_count(const struct mb_profile *profile);
MB_API const struct mb_fixed_cost *mb_profile_fixed_at(const struct mb_profile *profile, size_t i);
/** Add or replace by key. MB_ERR_ARGUMENT: a value out of range. */
MB_API enum mb_status mb_profile_put_fixed_cost(struct mb_profile *profile,
                                                const struct mb_fixed_cost *cost);

enum mb_cost_quality { MB_COST_EXACT, MB_COST_INTERPOLATED, MB_COST_NONE };
/**
 * Best measured cost of format at (n, k, m, threads, residency), failed and outdated entries left
 * out. Not measured: scaled by weights from the nearest shapes of the same format, residency and m
 * (MB_COST_INTERPOLATED); MB_COST_NONE: nothing near.
 */
MB_API enum mb_cost_quality mb_profile_cost(const struct mb_profile *profile, enum mb_format format,
                                            size_t n, size_t k, size_t m, size_t threads,
                                            enum mb_residency residency, struct mb_cost *cost);
/** Make the dispatch layer use what the profile found best (kernels, knobs, crossover). Nothing
 * happens for another machine. */
MB_API void mb_profile_apply(const struct mb_profile *profile);
/** The number of threads that was fastest at m rows, the smallest of those within 2 %; 0: only one
 * was measured (mb_tune_options.thread_counts). */
MB_API size_t mb_profile_threads(const struct mb_profile *profile, size_t m);

/* ---- measuring
 * ------------------------------------------------------------------------------------------------
 */

/** Measure bandwidth at each residency, dot and fma peaks of each allowed ISA level, dispatch cost.
 * effort 0: about 3 s. */
MB_API enum mb_status mb_limits_measure(struct mb_threads *threads, int effort,
                                        const struct mb_progress *progress,
                                        struct mb_limits *limits);

struct mb_shape {
    size_t n, k;
};
struct mb_tune_options {
    uint32_t size;
    const struct mb_shape *shapes; /* repeats only count towards their share of the model */
    size_t shape_count;
    const enum mb_format *formats; /* NULL: all */
    size_t format_count;
    const size_t *ms; /* NULL: {1, 512} */
    size_t m_count;
    unsigned residencies; /* bit mask 1 << enum mb_residency; 0: the one that total_weights have
                             at 4.5 bits each */
    double time_limit_s;  /* 0: none. What is left then gets one figure each, unsearched */
    struct mb_threads *threads;
    const struct mb_progress *progress;
    double total_weights; /* that a token's pass walks through: copies of a matrix add up to as much
                             as the model would weigh; 0: the sum of the shapes */
    double other_bytes;   /* that a token's pass walks through besides (keys and values): what they
                             push out of the caches, weights in memory don't find there */
    /** Other activation types are tried, and chosen where they are faster, if their error is at
     * most this many times that of a format's default type: 1 the default alone, above 1 speed for
     * accuracy, below 1 accuracy for speed; 0: as the profile was tuned before, at first 1. */
    double max_error;
    int thread_counts; /* nonzero: try other numbers of threads too, on one format and shape: one,
                          half the best kind of cores, all of it, and with each further kind */
};
/**
 * Measure what is missing (entries that are present and current are kept), candidates interleaved;
 * checked against f64. Limits are measured first when the profile has none for this thread count.
 * A stale profile starts over; MB_ERR_STALE for another machine's. Selections applied before are
 * lifted: mb_profile_apply afterwards. At the time limit MB_OK, when stopped MB_ERR_INTERRUPTED;
 * what was measured is in the profile either way.
 */
MB_API enum mb_status mb_tune(struct mb_profile *profile, const struct mb_tune_options *options,
                              struct mb_error *error);

#ifdef __cplusplus
}
#endif
#endif
