/* SPDX-License-Identifier: Apache-2.0 */
/* The profile that a verb works with: loaded, checked against this machine, completed by measuring
 * what the model's shapes need, saved. A profile of another machine is used as it is and never
 * written to: its times order formats, they don't predict. */
#include "cli/steps.h"
#include "dispatch/backend.h"
#include "model/importance.h"
#include "tuner/accelerator.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_SHAPES = 256, USUAL_CONTEXT = 512 /* of plan and solve */ };

/* Shapes of a 7 to 8 billion weight transformer, for a tune without a model. */
static const struct mb_shape common_shapes[] = {
    {4096, 4096}, {1024, 4096}, {14336, 4096}, {4096, 14336}};

struct shapes {
    size_t count;
    struct mb_shape at[MOST_SHAPES];
    double weights; /* that a token's pass walks through */
    double kept;    /* bytes of keys and values behind it */
};

static void collect_shapes(const struct mb_model *model, struct shapes *shapes)
{
    *shapes = (struct shapes){0};
    if (model == NULL) {
        shapes->count = sizeof common_shapes / sizeof common_shapes[0];
        memcpy(shapes->at, common_shapes, sizeof common_shapes);
        return;
    }
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const bool looked_up = tensor->role == MB_ROLE_EMBEDDING && !mb_model_tied(model);
        if (!tensor->quantizable || looked_up)
            continue;
        shapes->weights += (double)tensor->n * (double)tensor->k;
        if (tensor->role == MB_ROLE_ATTN_K || tensor->role == MB_ROLE_ATTN_V)
            shapes->kept += (double)tensor->n * USUAL_CONTEXT * sizeof(float);
        /* A product reads one expert of a stack. */
        const size_t n = tensor->n / mb_tensor_matrices(tensor), k = tensor->k;
        size_t s = 0;
        while (s < shapes->count && (shapes->at[s].n != n || shapes->at[s].k != k))
            s++;
        if (s == shapes->count && s < MOST_SHAPES)
            shapes->at[shapes->count++] = (struct mb_shape){n, k};
    }
}

/* Every residency that the model has in one of these formats, as the bit mask of mb_tune. */
static unsigned residencies(const struct shapes *shapes, const struct mb_format_list *formats,
                            size_t threads)
{
    struct mb_device_info device = {.size = sizeof device};
    if (shapes->weights <= 0 || mb_device_info(&device) != MB_OK)
        return 1U << MB_RESIDENCY_MEMORY;
    unsigned first = MB_RESIDENCY_MEMORY, last = MB_RESIDENCY_L2, mask = 0;
    for (size_t f = 0; f < formats->count; f++) {
        const double bytes = shapes->weights * mb_format_info(formats->at[f])->bits / 8;
        const unsigned r = mb_residency_of(&device, (size_t)bytes, threads);
        first = r < first ? r : first;
        last = r > last ? r : last;
    }
    for (unsigned r = first; r <= last; r++)
        mask |= 1U << r;
    return mask;
}

/* The path asked for, or the default one; free() it. */
static char *profile_path(const struct mb_profile_request *request)
{
    if (request->path != NULL)
        return strdup(request->path);
    return request->accelerator != NULL ? mb_profile_path_of(&request->accelerator->info)
                                        : mb_profile_default_path();
}

/* Whether the user named a profile; otherwise it is this machine's own, kept by us. */
static bool is_named(const char *path)
{
    const char *variable = getenv("MIXBIT_PROFILE");
    return path != NULL || (variable != NULL && variable[0] != '\0');
}

/* Where to load from when there is nothing at `path`: the profile of this machine that came with
 * the program, unless a place was named. NULL: nowhere. */
static char *bundled_instead(const struct mb_profile_request *request, const char *path)
{
    return is_named(request->path) || request->fresh || request->accelerator != NULL ||
                   access(path, F_OK) == 0
               ? NULL
               : mb_bundled_profile();
}

static enum mb_status create_folder_of(struct mb_cli *cli, const char *path)
{
    char *folder = strdup(path);
    enum mb_status status = MB_OK;
    char *slash = folder != NULL ? strrchr(folder, '/') : NULL;
    if (slash != NULL && slash != folder) {
        *slash = '\0';
        status = mb_directory_create(folder, &cli->error);
    }
    free(folder);
    return status;
}

static enum mb_status create_profile(struct mb_cli *cli, const struct mb_profile_request *request,
                                     struct mb_profile **profile)
{
    const enum mb_status status = request->accelerator != NULL
                                      ? mb_profile_create_for(&request->accelerator->info, profile)
                                      : mb_profile_create(profile);
    return status == MB_OK ? MB_OK
                           : mb_error_set(&cli->error, status, -1, "cannot create a profile");
}

/* This machine's own profile does not load: one of an earlier version, or damaged. It is ours to
 * measure anew. */
static enum mb_status replace_profile(struct mb_cli *cli, const struct mb_profile_request *request,
                                      struct mb_profile **profile)
{
    mb_warn(cli, "%s; measuring a new one", cli->error.message);
    cli->error = (struct mb_error){0};
    return create_profile(cli, request, profile);
}

/* Another system or build: what can be measured is measured anew (tuner/search.c), times that can't
 * be are a guess, and for kernels alone it makes no difference. */
static void tell_stale(struct mb_cli *cli, const struct mb_profile_request *request,
                       const char *path, const char *why)
{
    if (!request->must_exist)
        mb_note(cli, "profile '%s' is stale (%s): measuring anew", path, why);
    else if (!request->kernels_only)
        mb_warn(cli, "profile '%s' is stale (%s): run 'mixbit tune' again", path, why);
    else if (cli->common.verbose)
        mb_note(cli, "profile '%s' is stale (%s), its kernels serve", path, why);
}

static enum mb_status load_profile(struct mb_cli *cli, const struct mb_profile_request *request,
                                   const char *path, struct mb_profile **profile, bool *foreign)
{
    char why[256] = "";
    *foreign = false;
    if (request->fresh || access(path, F_OK) != 0) {
        if (request->must_exist)
            return mb_error_set(&cli->error, MB_ERR_IO, -1,
                                "there is no profile at '%s'; measure one with 'mixbit tune "
                                "--model MODEL', or name one with --profile",
                                path);
        return create_profile(cli, request, profile);
    }
    const enum mb_status status = mb_profile_load(path, profile, &cli->error);
    if (status == MB_ERR_FILE && !request->must_exist && !is_named(request->path))
        return replace_profile(cli, request, profile);
    if (status != MB_OK)
        return status;
    const char *wanted = request->accelerator != NULL ? request->accelerator->info.backend : "cpu";
    if (!request->any_kind && strcmp(mb_profile_device(*profile)->backend, wanted) != 0)
        return mb_error_set(&cli->error, MB_ERR_ARGUMENT, -1,
                            "profile '%s' is of a device of kind %s, not %s; choose the device "
                            "with --device, or another profile",
                            path, mb_profile_device(*profile)->backend, wanted);
    switch (mb_profile_match(*profile, why, sizeof why)) {
    case MB_PROFILE_EXACT: break;
    case MB_PROFILE_STALE: tell_stale(cli, request, path, why); break;
    case MB_PROFILE_OTHER_MACHINE:
        mb_warn(cli,
                "profile '%s' is of another machine (%s); its times order formats, they don't "
                "predict speed here",
                path, why);
        *foreign = true;
        break;
    }
    return MB_OK;
}

static enum mb_status measure_limits(struct mb_cli *cli, struct mb_threads *threads,
                                     struct mb_limits *limits)
{
    mb_stage_begin(cli, "measuring bandwidth and peaks");
    const enum mb_status status = mb_limits_measure(threads, 0, mb_stage_progress(cli), limits);
    mb_stage_end(cli);
    return status == MB_OK
               ? MB_OK
               : mb_error_set(&cli->error, status, -1, "measuring this machine's limits: %s",
                              mb_status_string(status));
}

static enum mb_status measure(struct mb_cli *cli, const struct mb_profile_request *request,
                              struct mb_profile *profile)
{
    struct shapes shapes;
    struct mb_format_list every = {0}, stored;
    collect_shapes(request->model, &shapes);
    for (size_t f = 0; f < mb_format_count() && request->formats == NULL; f++)
        every.at[every.count++] = mb_format_at(f)->id;
    stored = request->formats != NULL ? *request->formats : every;
    if (request->model != NULL) {
        const struct mb_format_list asked = stored;
        mb_stored_formats(request->model, &asked, &stored);
    }
    struct mb_accelerator *accelerator = request->accelerator;
    struct mb_limits *limits = mb_profile_limits(profile);
    const size_t threads = mb_threads_count(request->threads);
    enum mb_status status = MB_OK;
    if (accelerator == NULL && limits->threads != threads)
        status = measure_limits(cli, request->threads, limits);
    if (status != MB_OK)
        return status;
    const struct mb_tune_options options = {
        .size = sizeof options,
        .shapes = shapes.at,
        .shape_count = shapes.count,
        .formats = stored.at,
        .format_count = stored.count,
        .residencies = residencies(&shapes, &stored, threads),
        .time_limit_s = request->time_limit_s,
        .threads = request->threads,
        .progress = mb_stage_progress(cli),
        .total_weights = shapes.weights,
        .other_bytes = shapes.kept,
        .max_error = request->max_error,
        .thread_counts = request->thread_counts,
    };
    mb_stage_begin(cli, "timing %zu formats on %zu shapes", stored.count, shapes.count);
    status = accelerator != NULL ? mb_tune_accelerator(profile, accelerator, &options, &cli->error)
                                 : mb_tune(profile, &options, &cli->error);
    mb_stage_end(cli);
    return status;
}

enum mb_status mb_step_device_profile(struct mb_cli *cli, struct mb_accelerator *accelerator,
                                      const char *named, struct mb_profile **profile)
{
    const struct mb_profile_request request = {
        .path = named, .accelerator = accelerator, .must_exist = true, .kernels_only = true};
    char *path = profile_path(&request);
    const bool there = path != NULL && access(path, F_OK) == 0;
    free(path);
    *profile = NULL;
    return there || named != NULL ? mb_step_profile(cli, &request, profile, NULL) : MB_OK;
}

enum mb_status mb_step_apply_profile(struct mb_cli *cli, const char *named, bool must)
{
    const bool asked = must || is_named(named);
    const struct mb_profile_request request = {
        .path = named, .must_exist = true, .kernels_only = true};
    struct mb_profile *profile = NULL;
    char *path = profile_path(&request);
    char *instead = path != NULL ? bundled_instead(&request, path) : NULL;
    enum mb_status status = MB_OK;
    if (asked || instead != NULL || (path != NULL && access(path, F_OK) == 0))
        status = mb_step_profile(cli, &request, &profile, NULL);
    mb_profile_free(profile);
    free(instead);
    free(path);
    if (status == MB_OK || asked)
        return status;
    mb_warn(cli, "%s; going on without a profile", cli->error.message);
    cli->error = (struct mb_error){0};
    return MB_OK;
}

enum mb_status mb_step_profile(struct mb_cli *cli, const struct mb_profile_request *request,
                               struct mb_profile **profile, char **path)
{
    bool foreign = false;
    *profile = NULL;
    char *where = profile_path(request);
    if (where == NULL)
        return mb_error_set(&cli->error, MB_ERR_IO, -1,
                            "no place for a profile: set HOME, XDG_CACHE_HOME or MIXBIT_PROFILE");
    char *instead = bundled_instead(request, where);
    enum mb_status status =
        load_profile(cli, request, instead != NULL ? instead : where, profile, &foreign);
    free(instead);
    if (status != MB_OK || request->must_exist || foreign)
        goto use;
    status = create_folder_of(cli, where);
    if (status == MB_OK)
        status = mb_step_check_output(cli, where);
    if (status != MB_OK)
        goto out;
    status = measure(cli, request, *profile);
    if (status == MB_OK || status == MB_ERR_INTERRUPTED) {
        const enum mb_status saved = mb_profile_save(*profile, where, &cli->error);
        if (status == MB_OK)
            status = saved;
        else if (saved == MB_OK)
            (void)mb_error_set(&cli->error, status, -1,
                               "what was measured so far is in '%s'; the same command goes on "
                               "from there",
                               where);
    }
use:
    if (status == MB_OK)
        mb_profile_apply(*profile);
out:
    if (status != MB_OK) {
        mb_profile_free(*profile);
        *profile = NULL;
    }
    if (status == MB_OK && path != NULL)
        *path = where;
    else
        free(where);
    return status;
}
