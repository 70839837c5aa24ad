/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the forward pass: a network is matrices, vectors and a list of steps over activation
 * slots.
 *
 * An architecture (graph_*.c) checks a model's shapes and writes the list once; everything else
 * (evaluation, sensing that restarts in the middle, speed, importance) runs ranges of that list. A
 * step's reads and writes are declared, so what must be kept to restart at any step follows from
 * the list. A step with matrices never writes the slot it reads. */
#ifndef MIXBIT_MODEL_NETWORK_H
#define MIXBIT_MODEL_NETWORK_H

#include "mixbit/model.h"
#include <stdbool.h>

/* Activation slots, one row per token; widths are the network's. */
enum mb_slot {
    MB_SLOT_HIDDEN, /* the residual stream */
    MB_SLOT_NORMED,
    MB_SLOT_QUERY,
    MB_SLOT_KEY,
    MB_SLOT_VALUE,
    MB_SLOT_ATTENDED,
    MB_SLOT_DELTA, /* what a block adds to the residual stream */
    MB_SLOT_GATE,
    MB_SLOT_UP,
    /* state space layers */
    MB_SLOT_PROJECTED, /* of the input: gate z and x, in Mamba-2 also B, C and the time step */
    MB_SLOT_CONVOLVED,
    MB_SLOT_SELECTED, /* Mamba: of x: the time step's low rank, B, C */
    MB_SLOT_TIME,     /* Mamba: the time step of every channel */
    MB_SLOT_SCANNED,
    MB_SLOT_ROUTED, /* a mixture's router: scores, then a weight for each expert, mostly 0 */
    MB_SLOT_COUNT
};

enum mb_step_kind {
    MB_STEP_EMBED,    /* out = rows of the embedding, scaled */
    MB_STEP_NORM,     /* out = rms_norm(in) * vector, over groups of columns */
    MB_STEP_PRODUCTS, /* every product's out = matrix * in (+ bias) */
    MB_STEP_ROPE,     /* out rotated in place by its position */
    MB_STEP_ATTEND,   /* ATTENDED = causal attention of QUERY on KEY, VALUE */
    MB_STEP_CONVOLVE, /* out = silu(bias + causal convolution of in by columns) */
    MB_STEP_SOFTPLUS, /* out = softplus(out + bias) in place */
    MB_STEP_SCAN,     /* SCANNED = the recurrence over x = in, b, c with time steps dt */
    MB_STEP_ROUTE,    /* ROUTED = softmax(ROUTED) for the best experts of a row, 0 for the others */
    MB_STEP_EXPERTS,  /* every product's out = the row's experts of the matrix * in */
    MB_STEP_SCORE,    /* keep only the rows that are scored, in HIDDEN and in */
    MB_STEP_ADD,      /* out += scale * in */
    MB_STEP_SWIGLU,   /* out = silu(out) * in */
    MB_STEP_GEGLU,    /* out = gelu(out) * in */
    MB_STEP_GATE      /* out = silu(in) * out */
};

/* Of what runs between the products: one more when that changes its speed, which profiles keep. */
enum { MB_GRAPH_REVISION = 2 };

enum { MB_MAX_PRODUCTS = 3, MB_NO_VECTOR = -1, MB_MAX_ROPES = 2, MB_MOST_TAPS = 16 };

struct mb_product {
    size_t matrix;
    enum mb_slot out;
    int bias; /* vector index or MB_NO_VECTOR */
};

/* Columns [at, ...) of a slot's rows. */
struct mb_columns {
    enum mb_slot slot;
    size_t at;
};

/* A kind reads the fields that name it; the others may be zero. */
struct mb_step {
    enum mb_step_kind kind;
    enum mb_slot in, out;
    int layer;     /* -1 outside of layers */
    size_t at;     /* NORM, SOFTPLUS: first column of out (and in); CONVOLVE, GATE: of in */
    int vector;    /* NORM: weights (MB_NO_VECTOR: none); CONVOLVE: taps; SCAN: A */
    int bias;      /* CONVOLVE, SOFTPLUS; may be MB_NO_VECTOR */
    int skip;      /* SCAN: D */
    float scale;   /* EMBED, ADD; 0: 1 */
    size_t group;  /* NORM: columns of a group, 0: the whole row is one; SOFTPLUS: columns */
    size_t groups; /* NORM: how many; 0: all that the row has */
    bool shared;   /* NORM: all groups have the same weights */
    size_t rope;   /* ROPE: which of the network's */
    size_t window; /* ATTEND: a position sees this many, itself included; 0: all before it */
    size_t cached; /* ATTEND, CONVOLVE, SCAN: its place in a cache, among those of its kind */
    struct mb_columns b, c, dt; /* SCAN */
    bool combined; /* EXPERTS: in has a block of columns for each of a row's experts, out is their
                      weighted sum; else in is one for all and out has the blocks */
    size_t product_count;
    struct mb_product products[MB_MAX_PRODUCTS];
};

struct mb_channelwise;
struct mb_codebook_weights;

/* A weight matrix as it runs. */
struct mb_matrix {
    size_t tensor;             /* index in the model */
    enum mb_format format;     /* as stored in the (mixed) file */
    size_t n, k;               /* a mixture's experts lie one behind the other in n */
    struct mb_weights weights; /* packed for products; data NULL for a matrix that is only looked
                                  up. Format NONE: data is an array of struct mb_codebook_weights,
                                  one for each expert, or one */
    const void *rows;          /* GGUF rows, for the embedding; NULL: unpack them from `weights` */
    void *owned_rows;          /* `rows`, or what `encoded` reads, when they were made here */
    struct mb_channelwise *encoded; /* in place of rows, of an embedding of codebooks */
};

struct mb_vector;

/* One kind of rotation; dim 0: there is none. */
struct mb_rope {
    size_t dim;         /* entries of a head that are rotated */
    double base, scale; /* positions are multiplied by scale */
    int factors;        /* of the frequencies: vector index or MB_NO_VECTOR */
    bool halves;        /* pairs are (i, i + dim / 2), not neighbours */
    float *table;       /* cos, sin pairs [position][dim / 2][2], grown on demand */
    size_t positions;
};

/* Mamba's layers. Channels run in blocks that share B, C and, in Mamba-2, the decay: there a block
 * is a head. State and tables of a block are padded to whole registers. */
struct mb_state_space {
    size_t inner;            /* channels in all */
    size_t states, groups;   /* of a channel; of B and C */
    size_t taps;             /* of the convolution */
    size_t blocks, channels; /* of a block */
    bool scalar_decay;       /* A is one number per block, not one per channel and state */
};

/* Called for every product before it is made, from the thread that runs the network: rows of k
 * entries into out[rows][k], or false to leave them as they are. Weights may be a view of some of a
 * matrix. multiply, where it is given, makes the product itself, into y[rows][n], or returns
 * MB_ERR_UNSUPPORTED to have it made as usual; round may then be NULL. */
struct mb_rounding {
    bool (*round)(void *user, const struct mb_weights *weights, const float *x, size_t stride,
                  size_t rows, float *out);
    enum mb_status (*multiply)(void *user, const struct mb_weights *weights, const float *x,
                               size_t stride, size_t rows, float *y);
    void *user;
};

struct mb_network {
    struct mb_model *model;
    struct mb_threads *threads;
    enum mb_numerics numerics;
    const enum mb_format *formats;  /* the mix, during creation only; NULL: as in the file */
    const float *const *importance; /* likewise; NULL: none */
    struct mb_encoder *encoder;     /* likewise; NULL: search, weighted by importance */
    bool draft;                     /* likewise: as the encoder drafts */
    /* hyperparameters */
    size_t width, vocabulary, layers, heads, kv_heads, head_dim, context;
    float eps, attention_scale;
    float logit_scale, logit_cap; /* logits = cap * tanh(scale * logits / cap); 0: 1, no cap */
    struct mb_rope ropes[MB_MAX_ROPES];
    struct mb_state_space ssm;
    size_t experts, experts_used; /* of a mixture, and of those for one row */
    size_t attending, scanning;   /* layers of either kind */
    size_t slot_width[MB_SLOT_COUNT];
    /* the list */
    size_t step_count, step_room;
    struct mb_step *steps;
    size_t matrix_count, matrix_room;
    struct mb_matrix *matrices;
    size_t embedding, output; /* matrices; equal when tied */
    size_t vector_count, vector_room;
    float **vectors;
    bool *claimed; /* per tensor of the model: the list uses it */
    void *packed;  /* all matrices' packed weights */
    size_t packed_bytes;
    size_t bytes;               /* of them, and of rows that are looked up */
    struct mb_offload *offload; /* products run on another device (offload.h); NULL: here */
    /* Of what products read, for simulations; NULL: none. */
    const struct mb_rounding *rounding;
};

/* Whether a matrix is one of products; an embedding that is no output is looked up only. */
bool mb_network_multiplies(const struct mb_network *network, size_t index);
/* Run from a copy of the packed weights in `block` (of packed_bytes, aligned to 64; the caller's);
 * NULL: from its own again. */
void mb_network_move(struct mb_network *network, void *block);

/* ---- architectures (graph.c, graph_*.c) ---- */

struct mb_architecture {
    const char *name;
    enum mb_status (*build)(struct mb_network *network, struct mb_error *error);
};
extern const struct mb_architecture mb_architecture_llama, mb_architecture_granitehybrid,
    mb_architecture_mamba2, mb_architecture_mamba, mb_architecture_qwen3, mb_architecture_qwen3moe,
    mb_architecture_gemma3;
/* The architecture of a model, or MB_ERR_UNSUPPORTED with the list of those there are. */
enum mb_status mb_architecture_find(const struct mb_model *model,
                                    const struct mb_architecture **architecture,
                                    struct mb_error *error);

/* What an architecture builds with. All check shapes and types and claim the tensor. */
/* A hyperparameter "<architecture>.<key>" in [low, high]; fallback 0 makes it mandatory. A
 * per-layer array is accepted when all entries are equal. */
enum mb_status mb_graph_uint(const struct mb_network *network, const char *key, size_t low,
                             size_t high, size_t fallback, size_t *value, struct mb_error *error);
/* The same for one layer: entry `layer` of an array, which has one for each layer, or a number. */
enum mb_status mb_graph_layer_uint(const struct mb_network *network, const char *key, size_t layer,
                                   size_t low, size_t high, size_t fallback, size_t *value,
                                   struct mb_error *error);
enum mb_status mb_graph_float(const struct mb_network *network, const char *key, double low,
                              double high, double fallback, double *value, struct mb_error *error);
const char *mb_graph_string(const struct mb_network *network, const char *key,
                            const char *fallback);
/* Matrix `name` of k columns and n rows (0: any). */
enum mb_status mb_graph_matrix(struct mb_network *network, const char *name, size_t n, size_t k,
                               size_t *matrix, struct mb_error *error);
/* The same for `experts` matrices of n rows each, one behind the other. */
enum mb_status mb_graph_experts(struct mb_network *network, const char *name, size_t experts,
                                size_t n, size_t k, size_t *matrix, struct mb_error *error);
/* Vector `name` of n entries as f32; a missing optional one gives MB_NO_VECTOR. */
enum mb_status mb_graph_vector(struct mb_network *network, const char *name, size_t n,
                               bool optional, int *vector, struct mb_error *error);
/* Matrix `name` of n rows and k columns as f32 numbers, as it is or transposed; rows of what comes
 * out are padded with zeros to multiples of `pad`. For small tensors that are no products. */
struct mb_graph_table {
    const char *name;
    size_t n, k, pad;
    bool transposed;
};
enum mb_status mb_graph_table(struct mb_network *network, const struct mb_graph_table *table,
                              int *vector, struct mb_error *error);
enum mb_status mb_graph_step(struct mb_network *network, struct mb_step step,
                             struct mb_error *error);

/* ---- codebook matrices (codebook_network.c) ---- */

/* Pack matrix `index`, whose tensor is one of codebooks or is to be one, as the network's numerics
 * want it. progress as in mb_encoder_stored. */
enum mb_status mb_network_pack_codebooks(struct mb_network *network, size_t index,
                                         const struct mb_progress *progress, double done,
                                         double total, struct mb_error *error);
void mb_network_free_codebooks(struct mb_matrix *matrix);
/* What weights of format NONE point to. */
void mb_codebooks_free(struct mb_codebook_weights *books);

/* ---- weights (network.c) ---- */

/* GGUF rows [row0, row1) of a tensor in `format`; requantized when that is not the file's, by the
 * tensor's importance (NULL: none). scratch holds (row1 - row0) * k floats. */
enum mb_status mb_rows_as(const struct mb_tensor *tensor, enum mb_format format,
                          const float *importance, size_t row0, size_t row1, float *scratch,
                          void *out);
/* All rows, on `threads`. */
enum mb_status mb_all_rows_as(const struct mb_tensor *tensor, enum mb_format format,
                              const float *importance, struct mb_threads *threads, void *out);
/* As mb_network_create_mix, with weights rounded by an encoder of the same model. */
struct mb_encoder;
enum mb_status mb_network_create_encoded(struct mb_model *model, const enum mb_format *formats,
                                         struct mb_encoder *encoder, enum mb_numerics numerics,
                                         struct mb_threads *threads,
                                         const struct mb_progress *progress,
                                         struct mb_network **network, struct mb_error *error);
/* For timing alone: kernel numerics, weights as the encoder has or drafts them. */
enum mb_status mb_network_create_draft(struct mb_model *model, const enum mb_format *formats,
                                       struct mb_encoder *encoder, struct mb_threads *threads,
                                       const struct mb_progress *progress,
                                       struct mb_network **network, struct mb_error *error);
/* The format that holds a tensor's dequantized values exactly and runs in f32 arithmetic: itself
 * for floats, f32 for all others. */
enum mb_format mb_f32_format(enum mb_format format);

/* ---- running (forward.c) ---- */

/* What one sequence that decodes token by token leaves behind. */
struct mb_cache {
    size_t capacity;      /* positions, a multiple of MB_KEY_BLOCK */
    size_t values_stride; /* floats between two positions of a head */
    float *keys;   /* [attending][kv head][capacity / MB_KEY_BLOCK][head_dim][MB_KEY_BLOCK] */
    float *values; /* [attending][kv head][capacity][values_stride] */
    float *inputs; /* of convolutions: [scanning][taps - 1][convolved], the newest last */
    float *states; /* [scanning][block][state][padded channels] */
    float *data;   /* all of the above */
    size_t floats, bytes;
};
enum mb_status mb_cache_create(const struct mb_network *network, size_t positions,
                               struct mb_cache *cache);
void mb_cache_free(struct mb_cache *cache);

/* One matrix replaced for the time of a run: what sensing probes with. */
struct mb_replacement {
    size_t matrix;
    const struct mb_weights *weights; /* NULL when only the embedding looks it up */
    const float *rows;                /* dequantized rows, NULL when the embedding does not */
};

struct mb_run;
typedef void (*mb_observe_fn)(void *user, struct mb_run *run, size_t matrix, size_t expert,
                              const float *x, size_t stride, size_t rows);

/* The state of a run: a batch of sequences at one step. */
struct mb_run {
    struct mb_network *network;
    const struct mb_vector *vector;
    size_t row_room; /* capacity */
    /* the batch, set by the caller */
    const int32_t *ids;       /* [sequences][tokens] */
    size_t sequences, tokens; /* new tokens per sequence */
    size_t past;              /* tokens already in the cache; 0 without one */
    struct mb_cache *cache;   /* NULL: each sequence attends to itself only */
    const uint32_t *scored;   /* ascending row indices; NULL: all */
    size_t scored_count;
    const struct mb_replacement *replacement; /* NULL: none */
    /* Called before every products step (and for the head with the output matrix): importance. x
     * has rows of `stride` floats. `expert` is which of a stack of matrices reads them, else 0. */
    mb_observe_fn observe;
    void *observe_user;
    /* state */
    size_t rows;
    float *slots[MB_SLOT_COUNT];
    void *prepared; /* activations of one step's input, in every type that it needs */
    size_t prepared_room;
    float *gathered; /* the rows of one expert, and what it makes of them */
    size_t gathered_room;
    float *scratch; /* per thread, for attention and scans */
    size_t scratch_floats;
    uint64_t matmul_ns;
    bool timed;
};

/* Buffers for up to `rows` tokens in sequences of up to `tokens` (positions, with a cache). */
enum mb_status mb_run_create(struct mb_network *network, size_t rows, size_t tokens,
                             struct mb_run **run, struct mb_error *error);
void mb_run_destroy(struct mb_run *run);
/* Run steps [from, to). from 0 starts with the batch's tokens. */
enum mb_status mb_run_steps(struct mb_run *run, size_t from, size_t to);
/* Only the products of a step whose bit is set in `mask`. */
enum mb_status mb_run_products(struct mb_run *run, size_t step, unsigned mask);
/* logits[count][vocabulary] of rows [row0, row0 + count) of NORMED after the last step. */
enum mb_status mb_run_head(struct mb_run *run, size_t row0, size_t count, float *logits);
/* The same for `count` rows kept from an earlier run. */
enum mb_status mb_run_head_of(struct mb_run *run, const float *normed, size_t count, float *logits);
/* Attention (attention.c). */
void mb_run_attend(struct mb_run *run, const struct mb_step *step);
void mb_run_rope(struct mb_run *run, const struct mb_step *step);
enum mb_status mb_rope_grow(struct mb_network *network, size_t positions);
/* State space layers (ssm.c). */
void mb_run_convolve(struct mb_run *run, const struct mb_step *step);
void mb_run_softplus(struct mb_run *run, const struct mb_step *step);
void mb_run_scan(struct mb_run *run, const struct mb_step *step);
/* Mixtures of experts (experts.c). */
void mb_run_route(struct mb_run *run, const struct mb_step *step);
enum mb_status mb_run_experts(struct mb_run *run, const struct mb_step *step, unsigned mask);
size_t mb_route_scratch(const struct mb_network *network);
/* The weights of a matrix, replaced or not. */
const struct mb_weights *mb_run_weights(const struct mb_run *run, size_t matrix);
/* y[i][rows][n] = x[rows][k] * weights[i] for up to MB_MAX_PRODUCTS matrices in one dispatch. */
enum mb_status mb_run_multiply(struct mb_run *run, const float *x, size_t x_stride, size_t rows,
                               size_t count, const struct mb_weights *const *weights,
                               float *const *y);
/* Floats a thread needs beside the slots. */
size_t mb_attention_scratch(const struct mb_network *network, size_t positions);
size_t mb_scan_scratch(const struct mb_network *network);
/* Floats of one layer's state. */
size_t mb_scan_state(const struct mb_network *network);

/* Slots as bit masks, for restarting. */
unsigned mb_step_reads(const struct mb_step *step);
unsigned mb_step_writes(const struct mb_step *step);
/* Slots that steps [from, end) read before they write them. */
unsigned mb_slots_live(const struct mb_network *network, size_t from);
/* The step behind which only scored rows are left (step_count when there is none). */
size_t mb_score_step(const struct mb_network *network);

enum { MB_WORTH_A_DISPATCH = 1 << 15 }; /* operations that take longer than telling a thread */
/* Run task(arg, first, last) over [0, count) split evenly; on the caller alone when there is
 * one item only, or the work (operations in all) is too small to be worth a dispatch. */
void mb_split(struct mb_threads *threads, size_t count, size_t work,
              void (*task)(void *arg, size_t first, size_t last, size_t thread), void *arg);
/* llama.cpp's 512, or the model's context where that is shorter. */
size_t mb_default_window(const struct mb_model *model);
/* MB_ERR_ARGUMENT when a token is no entry of the vocabulary, or windows are empty. */
enum mb_status mb_windows_check(const struct mb_network *network, const struct mb_windows *windows,
                                struct mb_error *error);
/* Run steps [0, steps) over the windows with an observer (struct mb_run); all of them: the head's
 * input is observed as well, without the head's product. Reports every chunk of windows. */
enum mb_status mb_observe(struct mb_network *network, const struct mb_windows *windows,
                          size_t steps, mb_observe_fn observe, void *user,
                          const struct mb_progress *progress, struct mb_error *error);
/* How many windows a chunk holds so that it is some `rows` tokens. */
size_t mb_windows_per_chunk(const struct mb_windows *windows, size_t rows);
/* Rows of [windows x window] that a score from position `from` on keeps, up to `last` excluded. */
size_t mb_scored_rows(size_t windows, size_t window, size_t from, size_t last, uint32_t *rows);
/* How many rows of logits fit the space that they are made in. */
size_t mb_head_rows(const struct mb_network *network);

#endif
