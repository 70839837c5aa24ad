/* SPDX-License-Identifier: Apache-2.0 */
/* Mixes: one format per tensor of a model. Uniform formats, llama.cpp's presets and plans all
 * become the same array, so that predicting, writing and measuring them is the same code. */
#include "cli/steps.h"
#include "model/encoder.h"

#include <stdlib.h>
#include <string.h>

enum { GGUF_ALIGNMENT = 32 };

static enum mb_status out_of_memory(struct mb_cli *cli)
{
    return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
}

static enum mb_status make_mix(struct mb_cli *cli, const struct mb_model *model, const char *name,
                               enum mb_mix_kind kind, struct mb_mix *mix)
{
    *mix = (struct mb_mix){.kind = kind, .count = mb_model_tensor_count(model)};
    (void)snprintf(mix->name, sizeof mix->name, "%s", name);
    mix->formats = malloc((mix->count + 1) * sizeof *mix->formats);
    if (mix->formats == NULL)
        return out_of_memory(cli);
    for (size_t i = 0; i < mix->count; i++)
        mix->formats[i] = MB_FORMAT_NONE;
    return MB_OK;
}

void mb_mix_free(struct mb_mix *mix)
{
    free(mix->formats);
    *mix = (struct mb_mix){0};
}

/* What the preset rules look at, for every tensor; NULL when out of memory. */
static struct mb_preset_tensor *preset_tensors(const struct mb_model *model)
{
    const size_t count = mb_model_tensor_count(model);
    struct mb_preset_tensor *tensors = calloc(count + 1, sizeof *tensors);
    for (size_t i = 0; tensors != NULL && i < count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        tensors[i] = (struct mb_preset_tensor){.name = tensor->name,
                                               .role = (int)tensor->role,
                                               .layer = tensor->layer,
                                               .quantizable = tensor->quantizable,
                                               .k = tensor->k,
                                               .source = tensor->format};
    }
    return tensors;
}

/* A type that is none of ours can't be converted, only kept. */
static enum mb_status check_sources(struct mb_cli *cli, const struct mb_model *model,
                                    const struct mb_mix *mix)
{
    for (size_t i = 0; i < mix->count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (mix->formats[i] != MB_FORMAT_NONE && tensor->format == MB_FORMAT_NONE)
            return mb_error_set(&cli->error, MB_ERR_UNSUPPORTED, -1,
                                "tensor '%s' has ggml type %d, which mixbit can't read yet; start "
                                "from an f16, bf16 or f32 file",
                                tensor->name, (int)tensor->type);
    }
    return MB_OK;
}

enum mb_status mb_mix_uniform(struct mb_cli *cli, const struct mb_model *model,
                              enum mb_format format, struct mb_mix *mix)
{
    enum mb_status status = make_mix(cli, model, mb_format_info(format)->name, MB_MIX_UNIFORM, mix);
    struct mb_preset_tensor *tensors = status == MB_OK ? preset_tensors(model) : NULL;
    if (status == MB_OK && tensors == NULL)
        status = out_of_memory(cli);
    if (status == MB_OK) {
        mb_uniform_formats(format, tensors, mix->count, mix->formats);
        status = check_sources(cli, model, mix);
    }
    free(tensors);
    if (status != MB_OK)
        mb_mix_free(mix);
    return status;
}

static size_t model_number(const struct mb_model *model, const char *name, size_t fallback)
{
    char key[160];
    (void)snprintf(key, sizeof key, "%s.%s", mb_model_architecture(model), name);
    return (size_t)mb_model_uint(model, key, fallback);
}

/* Whether there is such a preset; `option` asked for it. */
static enum mb_status check_preset(struct mb_cli *cli, const char *option, const char *name)
{
    const char *names[64];
    size_t known = 0;
    for (; known < mb_preset_count() && known < 64; known++) {
        names[known] = mb_preset_name(known);
        if (strcmp(names[known], name) == 0)
            return MB_OK;
    }
    char list[384] = "";
    size_t used = 0;
    for (size_t i = 0; i < known; i++) {
        const int wrote = snprintf(list + used, sizeof list - used, " %s", names[i]);
        used += wrote > 0 && (size_t)wrote < sizeof list - used ? (size_t)wrote : 0;
    }
    const char *near = mb_suggest(name, names, known);
    if (near != NULL)
        return mb_usage(cli, "%s: unknown preset '%.40s', did you mean '%s'?", option, name, near);
    return mb_usage(cli, "%s: unknown preset '%.40s'; presets are%s", option, name, list);
}

/* The next name of a comma-separated list, cut to fit; false at its end. */
static bool next_preset(const char **list, char name[64])
{
    if (**list == '\0')
        return false;
    const size_t length = strcspn(*list, ",");
    (void)snprintf(name, 64, "%.*s", (int)(length < 63 ? length : 63), *list);
    *list += length + ((*list)[length] == ',');
    return true;
}

enum mb_status mb_presets_check(struct mb_cli *cli, const char *list)
{
    char name[64];
    enum mb_status status = MB_OK;
    if (list == NULL || strcmp(list, "none") == 0)
        return MB_OK;
    if (list[0] == '\0')
        return mb_usage(cli, "--presets: expected names of presets, or none");
    while (status == MB_OK && next_preset(&list, name))
        status = check_preset(cli, "--presets", name);
    return status;
}

/* Whether a list that was checked has this preset. */
static bool has_preset(const char *list, const char *preset)
{
    char name[64];
    bool found = list == NULL;
    while (!found && next_preset(&list, name))
        found = strcmp(name, preset) == 0;
    return found;
}

enum mb_status mb_mix_preset(struct mb_cli *cli, const struct mb_model *model, const char *name,
                             struct mb_mix *mix)
{
    enum mb_status status = check_preset(cli, "--preset", name);
    if (status != MB_OK)
        return status;
    status = make_mix(cli, model, name, MB_MIX_PRESET, mix);
    struct mb_preset_tensor *tensors = status == MB_OK ? preset_tensors(model) : NULL;
    if (status == MB_OK && tensors == NULL)
        status = out_of_memory(cli);
    if (status == MB_OK) {
        const size_t heads = model_number(model, "attention.head_count", 1);
        const size_t kv_heads = model_number(model, "attention.head_count_kv", heads);
        status = mb_preset_formats(name, tensors, mix->count, model_number(model, "block_count", 0),
                                   kv_heads > 0 ? heads / kv_heads : 1, mb_model_tied(model),
                                   mix->formats, &cli->error);
    }
    if (status == MB_OK)
        status = check_sources(cli, model, mix);
    free(tensors);
    if (status != MB_OK)
        mb_mix_free(mix);
    return status;
}

static size_t tensor_index(const struct mb_model *model, const char *name)
{
    for (size_t i = 0; i < mb_model_tensor_count(model); i++)
        if (strcmp(mb_model_tensor_at(model, i)->name, name) == 0)
            return i;
    return SIZE_MAX;
}

enum mb_status mb_mix_plan(struct mb_cli *cli, struct mb_model *model, const struct mb_plan *plan,
                           struct mb_mix *mix)
{
    if (plan->model_hash[0] != '\0' && strcmp(plan->model_hash, mb_model_hash(model)) != 0)
        return mb_error_set(&cli->error, MB_ERR_STALE, -1,
                            "the plan was made for another model than '%s'; solve again for this "
                            "one",
                            mb_model_path(model));
    enum mb_status status = make_mix(cli, model, "plan", MB_MIX_PLAN, mix);
    for (size_t e = 0; status == MB_OK && e < plan->count; e++) {
        const size_t i = tensor_index(model, plan->entries[e].name);
        const struct mb_tensor *tensor = i != SIZE_MAX ? mb_model_tensor_at(model, i) : NULL;
        if (tensor == NULL)
            status = mb_error_set(&cli->error, MB_ERR_STALE, -1,
                                  "the plan names tensor '%s', which '%s' does not have",
                                  plan->entries[e].name, mb_model_path(model));
        else if (tensor->format != plan->entries[e].format)
            mix->formats[i] = plan->entries[e].format;
    }
    if (status == MB_OK)
        status = check_sources(cli, model, mix);
    if (status != MB_OK)
        mb_mix_free(mix);
    return status;
}

enum mb_status mb_mix_random(struct mb_cli *cli, const struct mb_model *model,
                             const struct mb_format_list *formats, const char *name,
                             uint64_t *state, struct mb_mix *mix)
{
    struct mb_format_list drawn = *formats;
    const size_t least = drawn.count < 2 ? drawn.count : 2;
    const size_t some = least + mb_random_below(state, drawn.count - least + 1);
    for (size_t i = 0; i < some; i++) {
        const size_t other = i + mb_random_below(state, drawn.count - i);
        const enum mb_format format = drawn.at[other];
        drawn.at[other] = drawn.at[i];
        drawn.at[i] = format;
    }
    enum mb_status status = make_mix(cli, model, name, MB_MIX_PLAN, mix);
    for (size_t i = 0; status == MB_OK && i < mix->count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (!tensor->quantizable)
            continue;
        const enum mb_format format =
            mb_format_fit(drawn.at[mb_random_below(state, some)], tensor->k);
        if (format != tensor->format)
            mix->formats[i] = format;
    }
    if (status == MB_OK)
        status = check_sources(cli, model, mix);
    if (status != MB_OK)
        mb_mix_free(mix);
    return status;
}

/* ---- lists ---- */

bool mb_mix_same(const struct mb_model *model, const struct mb_mix *a, const struct mb_mix *b)
{
    for (size_t i = 0; i < mb_model_tensor_count(model); i++)
        if (mb_mix_format(model, a, i) != mb_mix_format(model, b, i))
            return false;
    return true;
}

/* Keep *mix unless an earlier one stores the same; takes it over in either case. */
static void keep_mix(const struct mb_model *model, struct mb_mix *mixes, size_t *count,
                     struct mb_mix *mix)
{
    for (size_t i = 0; i < *count; i++) {
        if (mb_mix_same(model, &mixes[i], mix)) {
            mb_mix_free(mix);
            return;
        }
    }
    mixes[(*count)++] = *mix;
}

enum mb_status mb_mix_list(struct mb_cli *cli, const struct mb_model *model,
                           const struct mb_format_list *formats, const char *presets,
                           struct mb_mix **mixes, size_t *count)
{
    struct mb_format_list defaults;
    if (formats == NULL || formats->count == 0) {
        mb_default_formats(model, &defaults);
        formats = &defaults;
    }
    *count = 0;
    *mixes = calloc(formats->count + mb_preset_count() + 1, sizeof **mixes);
    enum mb_status status = *mixes != NULL ? MB_OK : out_of_memory(cli);
    for (size_t f = 0; status == MB_OK && f < formats->count; f++) {
        struct mb_mix mix;
        status = mb_mix_uniform(cli, model, formats->at[f], &mix);
        if (status == MB_OK)
            keep_mix(model, *mixes, count, &mix);
    }
    for (size_t p = 0; status == MB_OK && p < mb_preset_count(); p++) {
        struct mb_mix mix;
        if (!has_preset(presets, mb_preset_name(p)))
            continue;
        status = mb_mix_preset(cli, model, mb_preset_name(p), &mix);
        if (status == MB_OK)
            keep_mix(model, *mixes, count, &mix);
        else if (status == MB_ERR_UNSUPPORTED)
            status = MB_OK; /* a preset with a format that is none of ours: not compared */
    }
    if (status == MB_OK)
        cli->error = (struct mb_error){0};
    for (size_t i = 0; status != MB_OK && i < *count; i++)
        mb_mix_free(&(*mixes)[i]);
    if (status != MB_OK) {
        free(*mixes);
        *mixes = NULL;
        *count = 0;
    }
    return status;
}

/* ---- sizes ---- */

enum mb_format mb_mix_format(const struct mb_model *model, const struct mb_mix *mix, size_t i)
{
    return mix->formats[i] != MB_FORMAT_NONE ? mix->formats[i]
                                             : mb_model_tensor_at(model, i)->format;
}

static double padded(size_t bytes)
{
    return (double)((bytes + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;
}

double mb_mix_bytes(const struct mb_model *model, const struct mb_mix *mix)
{
    double bytes = mb_fixed_bytes(model);
    for (size_t i = 0; i < mix->count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (mix->formats[i] != MB_FORMAT_NONE) {
            bytes += padded(tensor->n * mb_format_row_bytes(mix->formats[i], tensor->k));
            bytes -= tensor->quantizable ? 0 : (double)tensor->bytes;
        } else if (tensor->quantizable) {
            bytes += (double)tensor->bytes;
        }
    }
    return bytes;
}

double mb_mix_packed_bytes(const struct mb_model *model, const struct mb_mix *mix)
{
    double total = 0;
    for (size_t i = 0; i < mix->count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const enum mb_format format = mb_mix_format(model, mix, i);
        size_t packed;
        const bool looked_up = tensor->role == MB_ROLE_EMBEDDING && !mb_model_tied(model);
        if (!tensor->quantizable || looked_up ||
            mb_pack_size(format, tensor->n, tensor->k, &packed) != MB_OK)
            packed = format != MB_FORMAT_NONE && tensor->quantizable
                         ? tensor->n * mb_format_row_bytes(format, tensor->k)
                         : tensor->bytes;
        total += (double)packed;
    }
    return total;
}

/* NULL-terminated pairs: what a file says of how it was made. */
static void provenance(struct mb_model *model, const struct mb_convert_request *r,
                       const char *keys[24])
{
    const struct mb_importance *importance = r->importance;
    const struct mb_calibration *calibration = r->calibration;
    size_t used = 0;
#define MB_ADD_KEY(key, value) (keys[used++] = (key), keys[used++] = (value))
    MB_ADD_KEY("mixbit.version", mb_version());
    if (r->source == NULL) {
        MB_ADD_KEY("mixbit.source", mb_model_hash(model));
        MB_ADD_KEY("mixbit.mix", r->mix->name);
    } else {
        MB_ADD_KEY("mixbit.refined_from", mb_model_hash(r->source));
    }
    if (r->plan != NULL && r->plan->device_key[0] != '\0')
        MB_ADD_KEY("mixbit.device", r->plan->device_key);
    if (r->sensed_hash != NULL && r->sensed_hash[0] != '\0')
        MB_ADD_KEY("mixbit.sensed_text", r->sensed_hash);
    if (importance != NULL)
        MB_ADD_KEY("mixbit.importance", importance->hash);
    if (importance != NULL && importance->text_hash[0] != '\0')
        MB_ADD_KEY("mixbit.importance_text", importance->text_hash);
    if (calibration != NULL)
        MB_ADD_KEY(r->source == NULL ? "mixbit.feedback_text" : "mixbit.refine_text",
                   calibration->windows.text_hash);
    if (calibration != NULL && calibration->sequential != NULL)
        MB_ADD_KEY("mixbit.sequential", mb_encoder_hash(calibration->sequential));
#undef MB_ADD_KEY
    keys[used] = NULL;
}

bool mb_step_is_written(struct mb_model *model, const struct mb_convert_request *r)
{
    struct mb_model *there = NULL;
    const char *keys[24];
    if (mb_model_open(r->output, &there, NULL) != MB_OK)
        return false;
    provenance(model, r, keys);
    bool same = mb_model_tensor_count(there) == r->mix->count;
    for (size_t i = 0; same && keys[i] != NULL; i += 2) {
        const char *value = mb_model_string(there, keys[i], NULL);
        same = value != NULL && strcmp(value, keys[i + 1]) == 0;
    }
    for (size_t i = 0; same && i < r->mix->count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const struct mb_tensor *other = mb_model_tensor_find(there, tensor->name);
        same = other != NULL && other->format == mb_mix_format(model, r->mix, i);
    }
    mb_model_close(there);
    return same;
}

enum mb_status mb_step_convert(struct mb_cli *cli, struct mb_model *model,
                               const struct mb_convert_request *r)
{
    const char *keys[24];
    const struct mb_importance *importance = r->importance;
    const bool sequential = r->calibration != NULL && r->calibration->sequential != NULL;
    provenance(model, r, keys);
    const struct mb_convert_options options = {
        .size = sizeof options,
        .threads = r->threads,
        .progress = mb_stage_progress(cli),
        .importance = mb_step_weights(importance),
        .extra_keys = keys,
        .force = cli->common.force,
        .moments = r->calibration != NULL ? r->calibration->moments : NULL,
        .encoder = sequential               ? r->calibration->sequential
                   : r->calibration != NULL ? r->calibration->encoder
                                            : NULL,
        .sweeps = r->sweeps,
        .source = r->source,
        .refined = r->refined};
    mb_stage_begin(cli, "%s to %s", r->source == NULL ? "quantizing" : "refining", r->output);
    const enum mb_status status =
        mb_convert(model, r->mix->formats, r->output, &options, &cli->error);
    mb_stage_end(cli);
    const size_t scarce = options.moments != NULL ? mb_moments_scarce(options.moments) : 0;
    if (status == MB_OK && scarce > 0)
        mb_warn(cli,
                "%zu inputs of matrices met fewer rows of the text than they have columns: those "
                "matrices %s; more text may "
                "reach them",
                scarce, r->source == NULL ? "are rounded by search" : "stay as they are");
    return status;
}
