/* SPDX-License-Identifier: Apache-2.0 */
/* Steps that several verbs share: outputs checked before the work begins, what a model's tensors
 * mean for candidates and sizes, texts, and sensing with its journal. */
#include "cli/steps.h"
#include "model/gguf.h"
#include "model/sense.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* The best sweep's median over the fastest round, on a machine that is good for timing. */
#define UNSTEADY_MOST 1.25

enum { PROVENANCE_BYTES = 1024, SENSE_WINDOW = 256, SENSE_WINDOWS = 16, QUICK_TOKENS = 1024 };

enum mb_status mb_step_threads(struct mb_cli *cli, size_t count, struct mb_threads **threads)
{
    const enum mb_status status = mb_threads_create(count, threads);
    if (status != MB_OK)
        return mb_error_set(&cli->error, status, -1, "cannot start %zu threads: %s", count,
                            mb_status_string(status));
    return MB_OK;
}

enum mb_status mb_step_open(struct mb_cli *cli, const char *path, struct mb_model **model)
{
    const enum mb_status status = mb_model_open(path, model, &cli->error);
    return status == MB_OK ? mb_codebook_tensors_refuse(*model, &cli->error) : status;
}

/* ---- outputs ---- */

/* Tokens "^pattern$=format", separated by blanks or commas, and nothing else: a recipe, whose
 * dialects have no room for a comment that could say whose it is. */
static bool is_recipe(const char *text)
{
    size_t tokens = 0;
    for (const char *at = text + strspn(text, " \n\t,"); *at != '\0'; tokens++) {
        char token[256];
        const size_t length = strcspn(at, " \n\t,");
        if (length >= sizeof token || *at != '^')
            return false;
        memcpy(token, at, length);
        token[length] = '\0';
        const char *equals = strrchr(token, '=');
        if (equals == NULL || mb_format_by_name(equals + 1) == MB_FORMAT_NONE)
            return false;
        at += length;
        at += strspn(at, " \n\t,");
    }
    return tokens > 0;
}

static bool is_our_document(const char *path)
{
    char *text;
    size_t bytes;
    if (mb_file_read(path, (size_t)256 << 20, &text, &bytes, NULL) != MB_OK)
        return false;
    bool ours = is_recipe(text) || strstr(text, "name=\"generator\" content=\"mixbit") != NULL;
    json_t *root = json_loadb(text, bytes, 0, NULL);
    const char *schema = json_string_value(json_object_get(root, "schema"));
    ours = ours || (schema != NULL && strncmp(schema, "mixbit-", 7) == 0);
    json_decref(root);
    free(text);
    return ours;
}

static bool is_ours(const char *path)
{
    char magic[4] = "";
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return false;
    const size_t got = fread(magic, 1, sizeof magic, file);
    (void)fclose(file);
    if (got == 0)
        return true; /* an empty file is nobody's work */
    if (got < sizeof magic || memcmp(magic, "GGUF", 4) != 0)
        return is_our_document(path);
    struct mb_model *model;
    if (mb_model_open(path, &model, NULL) != MB_OK)
        return false;
    const bool ours = mb_model_string(model, "mixbit.version", NULL) != NULL;
    mb_model_close(model);
    return ours;
}

enum mb_status mb_step_check_output(struct mb_cli *cli, const char *path)
{
    struct stat info;
    const bool exists = stat(path, &info) == 0;
    if (exists && S_ISREG(info.st_mode) && !cli->common.force && !is_ours(path))
        return mb_error_set(&cli->error, MB_ERR_IO, -1,
                            "'%s' is there and mixbit did not write it; choose another name, or "
                            "replace it with --force",
                            path);
    struct mb_file *file;
    const enum mb_status status = mb_file_create(path, &file, &cli->error);
    if (status == MB_OK)
        mb_file_abandon(file);
    return status;
}

char *mb_path_join(const char *folder, const char *name)
{
    const size_t length = strlen(folder) + strlen(name) + 2;
    char *path = malloc(length);
    const bool slash = folder[0] != '\0' && folder[strlen(folder) - 1] == '/';
    if (path != NULL)
        (void)snprintf(path, length, "%s%s%s", folder, slash ? "" : "/", name);
    return path;
}

char *mb_path_beside(const char *model_path, const char *suffix)
{
    const char *slash = strrchr(model_path, '/');
    const char *name = slash != NULL ? slash + 1 : model_path;
    size_t stem = strlen(name);
    if (stem > 5 && strcasecmp(name + stem - 5, ".gguf") == 0)
        stem -= 5;
    const size_t length = stem + strlen(suffix) + 1;
    char *path = malloc(length);
    if (path != NULL)
        (void)snprintf(path, length, "%.*s%s", (int)stem, name, suffix);
    return path;
}

/* ---- what a model has ---- */

double mb_quantizable_weights(const struct mb_model *model)
{
    double weights = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (tensor->quantizable)
            weights += (double)tensor->n * (double)tensor->k;
    }
    return weights;
}

double mb_fixed_bytes(const struct mb_model *model)
{
    double bytes = (double)mb_model_file_bytes(model) + PROVENANCE_BYTES;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (tensor->quantizable)
            bytes -= (double)tensor->bytes;
    }
    return bytes > 0 ? bytes : 0;
}

static bool is_float(enum mb_format format)
{
    return format == MB_FORMAT_F32 || format == MB_FORMAT_F16 || format == MB_FORMAT_BF16;
}

enum mb_format mb_majority_quantized(const struct mb_model *model)
{
    enum mb_format best = MB_FORMAT_NONE;
    double most = 0;
    for (size_t f = 0; f < mb_format_count(); f++) {
        const enum mb_format format = mb_format_at(f)->id;
        double weights = 0;
        for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
            const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
            if (tensor->quantizable && tensor->format == format)
                weights += (double)tensor->n * (double)tensor->k;
        }
        if (weights > most) {
            most = weights;
            best = format;
        }
    }
    return is_float(best) ? MB_FORMAT_NONE : best;
}

static bool has_format(const struct mb_format_list *list, enum mb_format format)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->at[i] == format)
            return true;
    return false;
}

static void add_format(struct mb_format_list *list, enum mb_format format)
{
    if (format != MB_FORMAT_NONE && !has_format(list, format) &&
        list->count < sizeof list->at / sizeof list->at[0])
        list->at[list->count++] = format;
}

void mb_default_formats(const struct mb_model *model, struct mb_format_list *formats)
{
    const enum mb_format own = mb_majority_quantized(model);
    *formats = (struct mb_format_list){0};
    for (size_t f = 0; f < mb_format_count(); f++) {
        const enum mb_format format = mb_format_at(f)->id;
        if (mb_format_at(f)->candidate && format != own)
            add_format(formats, format);
    }
}

void mb_stored_formats(const struct mb_model *model, const struct mb_format_list *formats,
                       struct mb_format_list *stored)
{
    *stored = (struct mb_format_list){0};
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (!tensor->quantizable)
            continue;
        add_format(stored, tensor->format);
        for (size_t f = 0; f < formats->count; f++)
            add_format(stored, mb_format_fit(formats->at[f], tensor->k));
    }
}

static enum mb_status generate(struct mb_cli *cli, struct mb_model *model, size_t window,
                               size_t count, uint64_t seed, struct mb_windows *windows)
{
    struct mb_threads *threads = NULL;
    struct mb_network *network = NULL;
    enum mb_status status = mb_step_threads(cli, 0, &threads);
    if (status == MB_OK)
        status = mb_network_create(model, MB_NUMERICS_KERNEL, threads, &network, &cli->error);
    if (status == MB_OK) {
        mb_stage_begin(cli, "letting the model write");
        status = mb_windows_generate(network, window, count, seed, mb_stage_progress(cli), windows,
                                     &cli->error);
        mb_stage_end(cli);
    }
    mb_network_destroy(network);
    mb_threads_destroy(threads);
    return status;
}

/* What follows `kind`, which ends with a colon; NULL: the text is of another kind. */
static const char *after(const char *text, const char *kind)
{
    const size_t length = strlen(kind);
    return strncmp(text, kind, length) == 0 ? text + length : NULL;
}

bool mb_text_is_made(const char *text)
{
    return after(text, "random:") != NULL || after(text, "generated:") != NULL;
}

static bool read_seed(const char *digits, uint64_t *seed)
{
    char *end;
    *seed = strtoull(digits, &end, 10);
    return strlen(digits) < 19 && strspn(digits, "0123456789") == strlen(digits);
}

enum mb_status mb_step_windows(struct mb_cli *cli, struct mb_model *model, const char *text,
                               size_t window, size_t max_windows, struct mb_windows *windows)
{
    uint64_t seed;
    const char *rest;
    if (text == NULL)
        return mb_usage(cli, "--text is missing: a file of plain text to run the model on");
    if ((rest = after(text, "tokens:")) != NULL)
        return mb_windows_load_tokens(model, rest, window, max_windows, windows, &cli->error);
    const char *random = after(text, "random:"), *generated = after(text, "generated:");
    rest = random != NULL ? random : generated;
    if (rest == NULL)
        return mb_windows_load(model, text, window, max_windows, windows, &cli->error);
    if (!read_seed(rest, &seed))
        return mb_usage(cli, "--text: expected a seed behind '%.*s', a number, found '%.40s'",
                        (int)(rest - text), text, rest);
    return random != NULL
               ? mb_windows_random(model, window, max_windows, seed, windows, &cli->error)
               : generate(cli, model, window, max_windows, seed, windows);
}

/* ---- sensitivity ---- */

const char *const mb_effort_names[] = {"quick", "normal", NULL};

/* The table at `path` when it answers the request already; NULL otherwise. One that probed
 * everything answers for the surrogate. */
static struct mb_sensitivity *finished_table(struct mb_model *model,
                                             const struct mb_sense_request *request,
                                             const struct mb_windows *windows,
                                             const struct mb_format_list *formats)
{
    const char *path = request->output;
    char method[32];
    mb_method_describe(request->method, request->surrogate_probes, method);
    struct mb_sensitivity *table = NULL;
    if (access(path, F_OK) != 0 || mb_sensitivity_load(path, &table, NULL) != MB_OK)
        return NULL;
    bool same = strcmp(table->model_hash, mb_model_hash(model)) == 0 &&
                strcmp(table->text_hash, windows->text_hash) == 0 &&
                table->windows == windows->count && table->window == windows->window &&
                strcmp(table->numerics, mb_numerics_name(request->numerics)) == 0 &&
                strcmp(table->importance_hash,
                       request->importance != NULL ? request->importance->hash : "") == 0 &&
                strcmp(table->feedback_hash,
                       request->encoder != NULL ? mb_encoder_hash(request->encoder) : "") == 0 &&
                (strcmp(table->method, method) == 0 ||
                 (request->method == MB_METHOD_SURROGATE &&
                  strcmp(table->method, mb_method_name(MB_METHOD_KL)) == 0)) &&
                table->shards == request->shards &&
                (request->shards == 0 || table->shard == request->shard);
    for (size_t f = 0; f < formats->count; f++) {
        bool found = false;
        for (size_t c = 0; c < table->format_count; c++)
            found = found || table->formats[c] == formats->at[f];
        same = same && found;
    }
    if (same)
        return table;
    mb_sensitivity_free(table);
    return NULL;
}

static char *found(const char *folder, const char *below, const char *name)
{
    char *deep = mb_path_join(folder, below);
    char *path = deep ? mb_path_join(deep, name) : NULL;
    free(deep);
    if (path && access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* In one of `count` folders beside the program, else in `here` below the working directory. */
static char *find_bundled(const char *const *below, size_t count, const char *here,
                          const char *name)
{
    char folder[4096] = ".";
    const ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    if (length > 0) {
        folder[length] = 0;
        char *slash = strrchr(folder, '/');
        if (slash)
            *slash = 0;
    }
    for (size_t i = 0; i < count; i++) {
        char *path = found(folder, below[i], name);
        if (path)
            return path;
    }
    return found(".", here, name);
}

char *mb_bundled_text(const char *name)
{
    static const char *const below[] = {"../models", "../share/mixbit", "models"};
    return find_bundled(below, sizeof below / sizeof *below, "models", name);
}

char *mb_bundled_profile(void)
{
    static const char *const below[] = {"../profiles", "../share/mixbit/profiles", "profiles"};
    struct mb_device_info device = {.size = sizeof device};
    char name[sizeof device.key + 8];
    if (mb_device_info(&device) != MB_OK)
        return NULL;
    (void)snprintf(name, sizeof name, "%s.json", device.key);
    return find_bundled(below, sizeof below / sizeof *below, "profiles", name);
}

enum mb_status mb_step_text(struct mb_cli *cli, const char *given, const char *name,
                            const char *option, char **path)
{
    *path = given ? strdup(given) : mb_bundled_text(name);
    return *path ? MB_OK
                 : mb_usage(cli,
                            "%s: the text that comes with mixbit (%s) was not found; name a file",
                            option, name);
}

/* Windows of an effort. Normal scores second halves, as evaluation does. Quick scores every
 * position but a window's first: half the forward passes for the same count, at the price of
 * positions with little context. */
static void effort_defaults(const struct mb_model *model, const struct mb_sense_request *request,
                            size_t *windows, size_t *window)
{
    char key[128];
    (void)snprintf(key, sizeof key, "%s.context_length", mb_model_architecture(model));
    const uint64_t context = mb_model_uint(model, key, SENSE_WINDOW);
    const bool quick = request->effort == MB_EFFORT_QUICK;
    *window = quick ? QUICK_TOKENS / 4 + 1 : SENSE_WINDOW;
    if (request->window > 0)
        *window = request->window;
    else if (context >= 4 && context < *window)
        *window = (size_t)context;
    *windows = SENSE_WINDOWS;
    if (request->windows > 0)
        *windows = request->windows;
    else if (quick)
        *windows = (QUICK_TOKENS + *window - 2) / (*window - 1);
}

enum mb_status mb_step_sense(struct mb_cli *cli, struct mb_model *model,
                             const struct mb_sense_request *request, struct mb_sensitivity **table)
{
    struct mb_windows windows = {0};
    struct mb_format_list formats = {0};
    size_t count, window;
    *table = NULL;
    effort_defaults(model, request, &count, &window);
    if (request->formats != NULL && request->formats->count > 0)
        formats = *request->formats;
    else
        mb_default_formats(model, &formats);
    char *journal = malloc(strlen(request->output) + sizeof ".journal");
    if (journal == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    (void)sprintf(journal, "%s.journal", request->output);
    enum mb_status status = mb_step_windows(cli, model, request->text, window, count, &windows);
    if (status != MB_OK)
        goto out;
    if (request->measures == NULL)
        *table = finished_table(model, request, &windows, &formats);
    if (*table != NULL) {
        mb_note(cli, "using %s, sensed before with the same model, text and formats",
                request->output);
        goto out;
    }
    const struct mb_sense_options options = {
        .size = sizeof options,
        .numerics = request->numerics,
        .windows = &windows,
        .formats = formats.at,
        .format_count = formats.count,
        .score_tokens = request->effort == MB_EFFORT_QUICK ? QUICK_TOKENS : 0,
        .journal_path = journal,
        .importance = mb_step_weights(request->importance),
        .encoder = request->encoder,
        .threads = request->threads,
        .progress = mb_stage_progress(cli),
        .method = request->method,
        .surrogate_probes = request->surrogate_probes,
        .shard = request->shard,
        .shards = request->shards,
    };
    mb_stage_begin(cli, "sensing %zu windows of %zu tokens", windows.count, windows.window);
    status = request->measures != NULL
                 ? mb_sense_measures(model, &options, table, request->measures, &cli->error)
                 : mb_sense(model, &options, table, &cli->error);
    mb_stage_end(cli);
    if (status == MB_ERR_INTERRUPTED)
        (void)mb_error_set(
            &cli->error, status, -1,
            "the probes made so far are in '%s'; the same command goes on from there", journal);
    if (status == MB_OK)
        status = mb_sensitivity_save(*table, request->output, &cli->error);
    if (status == MB_OK)
        (void)remove(journal);
out:
    if (status != MB_OK) {
        mb_sensitivity_free(*table);
        *table = NULL;
    }
    mb_windows_free(&windows);
    free(journal);
    return status;
}

enum mb_status mb_step_load_sensitivity(struct mb_cli *cli, struct mb_model *model,
                                        const char *path, struct mb_sensitivity **table)
{
    enum mb_status status = mb_sensitivity_load(path, table, &cli->error);
    if (status == MB_OK && model != NULL &&
        strcmp((*table)->model_hash, mb_model_hash(model)) != 0) {
        mb_sensitivity_free(*table);
        *table = NULL;
        status = mb_error_set(&cli->error, MB_ERR_STALE, -1,
                              "'%s' was sensed on another model than '%s'; sense this one with "
                              "'mixbit sense'",
                              path, mb_model_path(model));
    }
    if (status == MB_OK && (*table)->shards > 0) {
        status =
            mb_error_set(&cli->error, MB_ERR_STALE, -1,
                         "'%s' is shard %zu/%zu of a table; 'mixbit sense merge' makes a whole "
                         "one of all shards",
                         path, (*table)->shard, (*table)->shards);
        mb_sensitivity_free(*table);
        *table = NULL;
    }
    return status;
}

enum mb_status mb_step_merge(struct mb_cli *cli, const char *const *paths, size_t count,
                             struct mb_sensitivity **table)
{
    struct mb_sensitivity *shards[MB_LIST_LENGTH] = {NULL};
    enum mb_status status = MB_OK;
    *table = NULL;
    for (size_t i = 0; status == MB_OK && i < count; i++)
        status = mb_sensitivity_load(paths[i], &shards[i], &cli->error);
    if (status == MB_OK)
        status = mb_sensitivity_merge((const struct mb_sensitivity *const *)shards, count, paths,
                                      table, &cli->error);
    for (size_t i = 0; i < count; i++)
        mb_sensitivity_free(shards[i]);
    return status;
}

bool mb_step_check_quiet(struct mb_cli *cli, const struct mb_speed *speed)
{
    double fastest = INFINITY;
    for (size_t i = 0; i < speed->decode_round_count; i++)
        fastest = fmin(fastest, speed->decode_rounds[i]);
    const bool quiet = speed->decode_ns <= UNSTEADY_MOST * fastest;
    if (!quiet)
        mb_warn(cli,
                "this machine is not quiet: tokens took %.2f times as long as in the fastest "
                "round; speeds are rough, and predictions with them",
                speed->decode_ns / fastest);
    return quiet;
}

enum mb_status mb_step_check_texts(struct mb_cli *cli, const char *sensed_hash,
                                   const char *evaluated_hash)
{
    if (sensed_hash == NULL || sensed_hash[0] == '\0' || strcmp(sensed_hash, evaluated_hash) != 0)
        return MB_OK;
    return mb_error_set(&cli->error, MB_ERR_ARGUMENT, -1,
                        "the evaluation text is the text that was used for sensing, for the "
                        "imatrix or for rounding (hash %.8s); evaluate on another text",
                        sensed_hash);
}
