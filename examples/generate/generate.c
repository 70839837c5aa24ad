/* SPDX-License-Identifier: Apache-2.0 */
/* A whole runtime on the third door, small enough to read at a sitting: greedy decoding of
 * llama-like GGUF models, one token at a time.
 *
 *   generate MODEL.gguf TEXT [COUNT]
 *
 * What any runtime does is here once: the file is mapped, each matrix is packed when it is loaded,
 * products that read one input share its prepared form and one dispatch, attention and norms are
 * the runtime's own. Ends with the text's and the continuation's mean negative log-probability. */
#include <math.h>
#include <mixbit/mixbit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct layer {
    const float *attention_norm, *ffn_norm;
    struct mb_weights q, k, v, output, gate, up, down;
};

struct runtime {
    struct mb_model *model;
    struct mb_threads *threads;
    size_t layers, width, hidden, heads, kv_heads, head, context, vocabulary;
    float epsilon, rope_base;
    const struct mb_tensor *embedding;
    const float *output_norm, *rope_factors;
    struct mb_weights logits;
    struct layer *layer;
    float *keys, *values;  /* [layers][context][kv_heads][head] */
    void *prepared[3];     /* activations of up to three types at once */
    size_t prepared_bytes; /* each */
};

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "generate: %s: %s\n", what, why);
    exit(1);
}

static void check(enum mb_status status, const char *what)
{
    if (status != MB_OK)
        fail(what, mb_status_string(status));
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (memory == NULL)
        fail("memory", "there is not enough");
    return memory;
}

/* ---- loading ---- */

static const struct mb_tensor *tensor(const struct runtime *r, const char *name, size_t n, size_t k)
{
    const struct mb_tensor *found = mb_model_tensor_find(r->model, name);
    if (found == NULL || found->format == MB_FORMAT_NONE || found->n != n || found->k != k)
        fail(name, "missing, of another shape, or of a type that mixbit does not read");
    return found;
}

static const float *vector(const struct runtime *r, const char *name, size_t n)
{
    const struct mb_tensor *found = tensor(r, name, 1, n);
    if (found->format != MB_FORMAT_F32)
        fail(name, "expected f32");
    return found->data;
}

static struct mb_weights matrix(const struct runtime *r, const char *name, size_t n, size_t k)
{
    const struct mb_tensor *found = tensor(r, name, n, k);
    struct mb_weights weights;
    size_t bytes = 0;
    check(mb_pack_size(found->format, n, k, &bytes), name);
    check(mb_weights_init(&weights, found->format, n, k, allocate(bytes)), name);
    check(mb_pack_rows(&weights, found->data, 0, n), name);
    return weights;
}

static size_t number(const struct runtime *r, const char *key, size_t fallback)
{
    char name[64];
    snprintf(name, sizeof name, "llama.%s", key);
    const size_t value = (size_t)mb_model_uint(r->model, name, fallback);
    if (value == 0 || value > 1 << 20)
        fail(name, "missing or out of range");
    return value;
}

static void load_layer(struct runtime *r, size_t i)
{
    const size_t width = r->width, kv = r->kv_heads * r->head, all = r->heads * r->head;
    struct layer *l = &r->layer[i];
    const struct {
        const char *name;
        struct mb_weights *to;
        size_t n, k;
    } matrices[] = {{"attn_q", &l->q, all, width},
                    {"attn_k", &l->k, kv, width},
                    {"attn_v", &l->v, kv, width},
                    {"attn_output", &l->output, width, all},
                    {"ffn_gate", &l->gate, r->hidden, width},
                    {"ffn_up", &l->up, r->hidden, width},
                    {"ffn_down", &l->down, width, r->hidden}};
    char name[64];
    for (size_t m = 0; m < sizeof matrices / sizeof *matrices; m++) {
        snprintf(name, sizeof name, "blk.%zu.%s.weight", i, matrices[m].name);
        *matrices[m].to = matrix(r, name, matrices[m].n, matrices[m].k);
    }
    snprintf(name, sizeof name, "blk.%zu.attn_norm.weight", i);
    l->attention_norm = vector(r, name, width);
    snprintf(name, sizeof name, "blk.%zu.ffn_norm.weight", i);
    l->ffn_norm = vector(r, name, width);
}

static void load(struct runtime *r, const char *path)
{
    struct mb_error error;
    if (mb_model_open(path, &r->model, &error) != MB_OK)
        fail(path, error.message);
    if (strcmp(mb_model_architecture(r->model), "llama") != 0)
        fail(path, "this example runs llama alone");
    r->layers = number(r, "block_count", 0);
    r->width = number(r, "embedding_length", 0);
    r->hidden = number(r, "feed_forward_length", 0);
    r->heads = number(r, "attention.head_count", 0);
    r->kv_heads = number(r, "attention.head_count_kv", r->heads);
    r->head = number(r, "attention.key_length", r->width / r->heads);
    r->context = number(r, "context_length", 2048);
    if (r->heads % r->kv_heads != 0 || r->head % 2 != 0)
        fail(path, "the numbers of heads do not fit");
    r->epsilon = (float)mb_model_float(r->model, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    r->rope_base = (float)mb_model_float(r->model, "llama.rope.freq_base", 10000);
    r->embedding = mb_model_tensor_find(r->model, "token_embd.weight");
    r->vocabulary = r->embedding != NULL ? r->embedding->n : 0;
    r->embedding = tensor(r, "token_embd.weight", r->vocabulary, r->width);
    r->output_norm = vector(r, "output_norm.weight", r->width);
    if (mb_model_tensor_find(r->model, "rope_freqs.weight") != NULL)
        r->rope_factors = vector(r, "rope_freqs.weight", r->head / 2);
    r->logits = matrix(r, mb_model_tied(r->model) ? "token_embd.weight" : "output.weight",
                       r->vocabulary, r->width);
    r->layer = calloc(r->layers, sizeof *r->layer);
    if (r->layer == NULL)
        fail("memory", "there is not enough");
    for (size_t i = 0; i < r->layers; i++)
        load_layer(r, i);
    const size_t cache = r->layers * r->context * r->kv_heads * r->head;
    r->keys = allocate(cache * sizeof *r->keys);
    r->values = allocate(cache * sizeof *r->values);
    const size_t longest = r->hidden > r->heads * r->head ? r->hidden : r->heads * r->head;
    r->prepared_bytes = 8 * (longest > r->width ? longest : r->width) + 4096;
    for (size_t i = 0; i < 3; i++)
        r->prepared[i] = allocate(r->prepared_bytes);
    check(mb_threads_create(0, &r->threads), "threads");
}

/* ---- one token ---- */

/* Products of one input: prepared once per type of activations that the formats want, multiplied in
 * one dispatch. */
static void multiply(struct runtime *r, const float *x, size_t count,
                     const struct mb_weights *const *weights, float *const *y)
{
    struct mb_activations activations[3];
    const struct mb_activations *of[3];
    size_t strides[3], types = 0;
    for (size_t i = 0; i < count; i++) {
        const enum mb_activation type = mb_matmul_activation(weights[i]->format);
        size_t t = 0, bytes = 0;
        while (t < types && activations[t].type != type)
            t++;
        if (t == types) {
            check(mb_activations_size(type, 1, weights[i]->k, &bytes), "activations");
            if (bytes > r->prepared_bytes)
                fail("activations", "the buffer is too small");
            check(mb_activations_init(&activations[t], type, 1, weights[i]->k, r->prepared[t]),
                  "activations");
            check(mb_activations_prepare(&activations[t], x, weights[i]->k, 0, 1), "activations");
            types++;
        }
        of[i] = &activations[t];
        strides[i] = weights[i]->n;
    }
    check(mb_matmul_group(r->threads, count, weights, of, y, strides), "product");
}

static void norm(const struct runtime *r, const float *x, const float *weight, float *y)
{
    double sum = 0;
    for (size_t i = 0; i < r->width; i++)
        sum += (double)x[i] * x[i];
    const float scale = 1.0f / sqrtf((float)(sum / (double)r->width) + r->epsilon);
    for (size_t i = 0; i < r->width; i++)
        y[i] = x[i] * scale * weight[i];
}

/* Llama's files have a pair's two numbers side by side. */
static void rotate(const struct runtime *r, float *x, size_t heads, size_t position)
{
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < r->head / 2; i++) {
            const float factor = r->rope_factors != NULL ? r->rope_factors[i] : 1.0f;
            const float exponent = -2.0f * (float)i / (float)r->head;
            const float angle = (float)position * powf(r->rope_base, exponent) / factor;
            float *pair = x + h * r->head + 2 * i;
            const float a = pair[0], b = pair[1], c = cosf(angle), s = sinf(angle);
            pair[0] = a * c - b * s;
            pair[1] = a * s + b * c;
        }
}

static void attend(const struct runtime *r, size_t layer, size_t position, const float *q,
                   float *scores, float *y)
{
    const size_t step = r->kv_heads * r->head, first = layer * r->context * step;
    for (size_t h = 0; h < r->heads; h++) {
        const size_t kv = h / (r->heads / r->kv_heads) * r->head;
        const float *keys = r->keys + first + kv, *values = r->values + first + kv;
        float most = -INFINITY, sum = 0;
        for (size_t t = 0; t <= position; t++) {
            scores[t] = 0;
            for (size_t i = 0; i < r->head; i++)
                scores[t] += q[h * r->head + i] * keys[t * step + i];
            scores[t] /= sqrtf((float)r->head);
            most = fmaxf(most, scores[t]);
        }
        for (size_t t = 0; t <= position; t++)
            sum += scores[t] = expf(scores[t] - most);
        memset(y + h * r->head, 0, r->head * sizeof *y);
        for (size_t t = 0; t <= position; t++)
            for (size_t i = 0; i < r->head; i++)
                y[h * r->head + i] += scores[t] / sum * values[t * step + i];
    }
}

static void forward(struct runtime *r, int32_t token, size_t position, float *buffer, float *logits)
{
    const size_t all = r->heads * r->head, step = r->kv_heads * r->head;
    float *x = buffer, *h = x + r->width, *q = h + r->width, *mixed = q + all;
    float *gate = mixed + all, *up = gate + r->hidden, *scores = up + r->hidden;
    const size_t row = mb_format_row_bytes(r->embedding->format, r->width);
    check(mb_dequantize(r->embedding->format,
                        (const char *)r->embedding->data + (size_t)token * row, 1, r->width, x),
          "embedding");
    for (size_t i = 0; i < r->layers; i++) {
        const struct layer *l = &r->layer[i];
        float *key = r->keys + (i * r->context + position) * step;
        float *value = r->values + (i * r->context + position) * step;
        norm(r, x, l->attention_norm, h);
        multiply(r, h, 3, (const struct mb_weights *[]){&l->q, &l->k, &l->v},
                 (float *[]){q, key, value});
        rotate(r, q, r->heads, position);
        rotate(r, key, r->kv_heads, position);
        attend(r, i, position, q, scores, mixed);
        multiply(r, mixed, 1, (const struct mb_weights *[]){&l->output}, (float *[]){h});
        for (size_t c = 0; c < r->width; c++)
            x[c] += h[c];
        norm(r, x, l->ffn_norm, h);
        multiply(r, h, 2, (const struct mb_weights *[]){&l->gate, &l->up}, (float *[]){gate, up});
        for (size_t c = 0; c < r->hidden; c++)
            gate[c] = gate[c] / (1.0f + expf(-gate[c])) * up[c];
        multiply(r, gate, 1, (const struct mb_weights *[]){&l->down}, (float *[]){h});
        for (size_t c = 0; c < r->width; c++)
            x[c] += h[c];
    }
    norm(r, x, r->output_norm, h);
    multiply(r, h, 1, (const struct mb_weights *[]){&r->logits}, (float *[]){logits});
}

/* ---- text ---- */

/* Pieces of byte-level vocabularies spell a space and a line break as letters of their own. */
static void print_piece(const struct runtime *r, int32_t token)
{
    size_t bytes = 0;
    const char *piece =
        mb_model_array_string(r->model, "tokenizer.ggml.tokens", (size_t)token, &bytes);
    for (size_t i = 0; piece != NULL && i < bytes; i++)
        if (i + 1 < bytes && memcmp(piece + i, "\xc4\xa0", 2) == 0)
            putchar(' '), i++;
        else if (i + 1 < bytes && memcmp(piece + i, "\xc4\x8a", 2) == 0)
            putchar('\n'), i++;
        else
            putchar(piece[i]);
}

static double surprise(const float *logits, size_t count, int32_t token)
{
    float most = logits[0];
    double sum = 0;
    for (size_t i = 1; i < count; i++)
        most = fmaxf(most, logits[i]);
    for (size_t i = 0; i < count; i++)
        sum += exp((double)(logits[i] - most));
    return log(sum) - (double)(logits[token] - most);
}

int main(int argc, char **argv)
{
    struct runtime r = {0};
    struct mb_tokenizer *tokenizer;
    struct mb_error error;
    int32_t *text;
    size_t given = 0;
    if (argc < 3)
        fail("usage", "generate MODEL.gguf TEXT [COUNT]");
    const size_t wanted = argc > 3 ? strtoul(argv[3], NULL, 10) : 32;
    load(&r, argv[1]);
    if (mb_tokenizer_create(r.model, &tokenizer, &error) != MB_OK ||
        mb_tokenize(tokenizer, argv[2], strlen(argv[2]), &text, &given, &error) != MB_OK)
        fail(argv[1], error.message);
    if (given == 0 || wanted > r.context || given > r.context - wanted)
        fail("text", "empty, or longer than the model's context");
    float *buffer =
        allocate((2 * r.width + 2 * r.heads * r.head + 2 * r.hidden + r.context) * sizeof *buffer);
    float *logits = allocate(r.vocabulary * sizeof *logits);
    double told = 0, made = 0;
    size_t scored = 0;
    int32_t token = text[0];
    print_piece(&r, token);
    for (size_t i = 0; i + 1 < given + wanted; i++) {
        forward(&r, token, i, buffer, logits);
        token = i + 1 < given ? text[i + 1] : 0;
        for (size_t t = 1; t < r.vocabulary && i + 1 >= given; t++)
            token = logits[t] > logits[token] ? (int32_t)t : token;
        const double nats = surprise(logits, r.vocabulary, token);
        if (i + 1 >= given)
            made += nats;
        else if (i + 1 > given / 2)
            told += nats, scored++;
        print_piece(&r, token);
        fflush(stdout);
    }
    printf("\n%zu tokens given, the last %zu at %.5f nats; %zu made at %.5f\n", given, scored,
           scored > 0 ? told / (double)scored : 0, wanted, wanted > 0 ? made / (double)wanted : 0);
    /* What the process holds goes with it; a runtime that stays would free it here. */
    mb_tokenizer_destroy(tokenizer);
    mb_threads_destroy(r.threads);
    mb_model_close(r.model);
    return 0;
}
