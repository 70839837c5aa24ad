/* SPDX-License-Identifier: Apache-2.0 */
/* profile: look at cost tables and exchange them. Importing validates first and merges into what
 * this machine already knows of that device; exporting writes a file that others can import. */
#include "cli/option_rows.h"

#include <dirent.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *output;
    struct mb_format_list formats;
};

static enum mb_status no_place(struct mb_cli *cli)
{
    return mb_error_set(&cli->error, MB_ERR_IO, -1,
                        "no place for profiles: set HOME, XDG_CACHE_HOME or MIXBIT_PROFILE");
}

/* The folder that profiles are kept in; free() it. */
static char *profile_folder(void)
{
    char *path = mb_profile_default_path();
    char *slash = path != NULL ? strrchr(path, '/') : NULL;
    if (slash != NULL)
        *slash = '\0';
    return path;
}

/* Load the profile named by a positional, or this machine's; *path is free()d by the caller. */
static enum mb_status load(struct mb_cli *cli, const char *named, struct mb_profile **profile,
                           char **path)
{
    *path = named != NULL ? strdup(named) : mb_profile_default_path();
    if (*path == NULL)
        return no_place(cli);
    if (named == NULL && access(*path, F_OK) != 0)
        return mb_error_set(&cli->error, MB_ERR_IO, -1,
                            "this machine has no profile at '%s' yet; 'mixbit tune' measures one",
                            *path);
    return mb_profile_load(*path, profile, &cli->error);
}

static const char *match_name(const struct mb_profile *profile, char *why, size_t why_bytes)
{
    why[0] = '\0';
    switch (mb_profile_match(profile, why, why_bytes)) {
    case MB_PROFILE_EXACT: return "this machine";
    case MB_PROFILE_STALE: return "stale";
    default: return "other machine";
    }
}

/* ---- list ---- */

static enum mb_status list(struct mb_cli *cli)
{
    char *folder = profile_folder();
    if (folder == NULL)
        return no_place(cli);
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "path", "profile", MB_ALIGN_LEFT);
    mb_table_column(table, "device", "device", MB_ALIGN_LEFT);
    mb_table_column(table, "entries", "entries", MB_ALIGN_RIGHT);
    mb_table_column(table, "match", "match", MB_ALIGN_LEFT);
    DIR *directory = opendir(folder);
    for (const struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        const size_t length = strlen(entry->d_name);
        if (length < 6 || strcmp(entry->d_name + length - 5, ".json") != 0)
            continue;
        struct mb_profile *profile = NULL;
        struct mb_error error;
        char why[256];
        char *path = mb_path_join(folder, entry->d_name);
        if (path != NULL && mb_profile_load(path, &profile, &error) == MB_OK) {
            mb_table_text(table, path);
            mb_table_text(table, mb_profile_device(profile)->name);
            mb_table_count(table, mb_profile_count(profile));
            mb_table_text(table, match_name(profile, why, sizeof why));
        } else if (path != NULL) {
            mb_warn(cli, "%s", error.message);
        }
        mb_profile_free(profile);
        free(path);
    }
    if (directory != NULL)
        (void)closedir(directory);
    free(folder);
    enum mb_status status = MB_OK;
    if (cli->common.json)
        status = mb_print_json(cli, mb_table_json(table));
    else
        mb_table_print(table, stdout);
    mb_table_free(table);
    return status;
}

/* ---- show ---- */

static struct mb_table *cost_table(const struct mb_profile *profile,
                                   const struct mb_format_list *formats, bool json)
{
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "format", "format", MB_ALIGN_LEFT);
    mb_table_column(table, "n", "n", MB_ALIGN_RIGHT);
    mb_table_column(table, "k", "k", MB_ALIGN_RIGHT);
    mb_table_column(table, "m", "m", MB_ALIGN_RIGHT);
    mb_table_column(table, "threads", "threads", MB_ALIGN_RIGHT);
    mb_table_column(table, "residency", "in", MB_ALIGN_LEFT);
    mb_table_column(table, "median_ns", "us", MB_ALIGN_RIGHT);
    mb_table_column(table, "gmacs", "GMAC/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "weight_gbps", "GB/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "kernel", "kernel", MB_ALIGN_LEFT);
    for (size_t i = 0; i < mb_profile_count(profile); i++) {
        const struct mb_cost *cost = mb_profile_at(profile, i);
        bool wanted = formats->count == 0;
        for (size_t f = 0; f < formats->count; f++)
            wanted = wanted || formats->at[f] == cost->format;
        if (!wanted || cost->failed)
            continue;
        mb_table_text(table, mb_format_info(cost->format)->name);
        mb_table_count(table, cost->n);
        mb_table_count(table, cost->k);
        mb_table_count(table, cost->m);
        mb_table_count(table, cost->threads);
        mb_table_text(table, mb_residency_name(cost->residency));
        mb_table_number(table, json ? cost->median_ns : cost->median_ns / 1e3, "%.1f");
        mb_table_number(
            table, (double)cost->n * (double)cost->k * (double)cost->m / cost->median_ns, "%.1f");
        mb_table_number(table, (double)cost->bytes / cost->median_ns, "%.2f");
        mb_table_text(table, cost->kernel);
    }
    return table;
}

static enum mb_status show(struct mb_cli *cli, const struct options *options)
{
    struct mb_profile *profile = NULL;
    char *path = NULL, why[256];
    const char *named = cli->positional_count > 1 ? cli->positionals[1] : NULL;
    enum mb_status status = load(cli, named, &profile, &path);
    if (status == MB_OK) {
        struct mb_table *table = cost_table(profile, &options->formats, cli->common.json);
        const struct mb_limits *limits = mb_profile_limits(profile);
        const char *match = match_name(profile, why, sizeof why);
        if (cli->common.json) {
            status = mb_print_json(cli, json_pack("{s:s, s:s, s:s, s:o}", "path", path, "device",
                                                  mb_profile_device(profile)->name, "match", match,
                                                  "entries", mb_table_json(table)));
        } else {
            (void)printf("%s\n%s (%s%s%s), %zu entries\n", path, mb_profile_device(profile)->name,
                         match, why[0] != '\0' ? ": " : "", why, mb_profile_count(profile));
            if (limits->threads > 0)
                (void)printf("read, %zu threads: L2 %.1f, L3 %.1f, memory %.1f GB/s\n",
                             limits->threads, limits->read_gbps[MB_RESIDENCY_L2],
                             limits->read_gbps[MB_RESIDENCY_L3],
                             limits->read_gbps[MB_RESIDENCY_MEMORY]);
            mb_table_print(table, stdout);
        }
        mb_table_free(table);
    }
    free(path);
    mb_profile_free(profile);
    return status;
}

/* ---- compare ---- */

/* The fastest entry of b with the same product as `cost`. */
static const struct mb_cost *counterpart(const struct mb_profile *b, const struct mb_cost *cost)
{
    const struct mb_cost *best = NULL;
    for (size_t i = 0; i < mb_profile_count(b); i++) {
        const struct mb_cost *other = mb_profile_at(b, i);
        if (!other->failed && other->format == cost->format && other->n == cost->n &&
            other->k == cost->k && other->m == cost->m && other->threads == cost->threads &&
            other->residency == cost->residency &&
            (best == NULL || other->median_ns < best->median_ns))
            best = other;
    }
    return best;
}

static enum mb_status compare(struct mb_cli *cli)
{
    struct mb_profile *a = NULL, *b = NULL;
    if (cli->positional_count != 3)
        return mb_usage(cli, "usage: mixbit profile compare PROFILE PROFILE");
    enum mb_status status = mb_profile_load(cli->positionals[1], &a, &cli->error);
    if (status == MB_OK)
        status = mb_profile_load(cli->positionals[2], &b, &cli->error);
    if (status == MB_OK) {
        struct mb_table *table = mb_table_create();
        mb_table_column(table, "format", "format", MB_ALIGN_LEFT);
        mb_table_column(table, "n", "n", MB_ALIGN_RIGHT);
        mb_table_column(table, "k", "k", MB_ALIGN_RIGHT);
        mb_table_column(table, "m", "m", MB_ALIGN_RIGHT);
        mb_table_column(table, "residency", "in", MB_ALIGN_LEFT);
        mb_table_column(table, "first_us", "first us", MB_ALIGN_RIGHT);
        mb_table_column(table, "second_us", "second us", MB_ALIGN_RIGHT);
        mb_table_column(table, "ratio", "ratio", MB_ALIGN_RIGHT);
        for (size_t i = 0; i < mb_profile_count(a); i++) {
            const struct mb_cost *cost = mb_profile_at(a, i);
            const struct mb_cost *other = counterpart(b, cost);
            /* each product once: at its fastest entry of the first profile */
            if (cost->failed || other == NULL || counterpart(a, cost) != cost)
                continue;
            mb_table_text(table, mb_format_info(cost->format)->name);
            mb_table_count(table, cost->n);
            mb_table_count(table, cost->k);
            mb_table_count(table, cost->m);
            mb_table_text(table, mb_residency_name(cost->residency));
            mb_table_number(table, cost->median_ns / 1e3, "%.1f");
            mb_table_number(table, other->median_ns / 1e3, "%.1f");
            mb_table_number(table, other->median_ns / cost->median_ns, "%.2f");
        }
        if (cli->common.json)
            status = mb_print_json(cli, mb_table_json(table));
        else {
            (void)printf("first: %s\nsecond: %s\n", mb_profile_device(a)->name,
                         mb_profile_device(b)->name);
            mb_table_print(table, stdout);
        }
        mb_table_free(table);
    }
    mb_profile_free(a);
    mb_profile_free(b);
    return status;
}

/* ---- import and export ---- */

/* A key comes from the file and becomes a file name: hex digits or nothing. */
static bool is_safe_key(const char *key)
{
    const size_t length = strspn(key, "0123456789abcdefABCDEF-_");
    return length > 0 && key[length] == '\0';
}

static enum mb_status merge_into(struct mb_cli *cli, const struct mb_profile *from,
                                 const char *path)
{
    struct mb_profile *known = NULL;
    if (access(path, F_OK) != 0)
        return mb_profile_save(from, path, &cli->error);
    enum mb_status status = mb_profile_load(path, &known, &cli->error);
    for (size_t i = 0; status == MB_OK && i < mb_profile_count(from); i++)
        status = mb_profile_put(known, mb_profile_at(from, i));
    if (status == MB_OK)
        status = mb_profile_save(known, path, &cli->error);
    mb_profile_free(known);
    return status;
}

static enum mb_status import(struct mb_cli *cli)
{
    struct mb_profile *profile = NULL;
    if (cli->positional_count != 2)
        return mb_usage(cli, "usage: mixbit profile import FILE");
    enum mb_status status = mb_profile_load(cli->positionals[1], &profile, &cli->error);
    if (status != MB_OK)
        return status;
    char name[80];
    const char *key = mb_profile_device(profile)->key;
    (void)snprintf(name, sizeof name, "%.64s.json", key);
    char *folder = profile_folder();
    char *path = folder != NULL ? mb_path_join(folder, name) : NULL;
    if (path == NULL)
        status = no_place(cli);
    else if (!is_safe_key(key))
        status =
            mb_error_set(&cli->error, MB_ERR_FILE, -1,
                         "'%s': the device key is not one that mixbit writes", cli->positionals[1]);
    if (status == MB_OK)
        status = mb_directory_create(folder, &cli->error);
    if (status == MB_OK)
        status = mb_step_check_output(cli, path);
    if (status == MB_OK)
        status = merge_into(cli, profile, path);
    if (status == MB_OK && cli->common.json)
        status = mb_print_json(cli, json_pack("{s:s, s:I}", "path", path, "entries",
                                              (json_int_t)mb_profile_count(profile)));
    else if (status == MB_OK)
        (void)printf("%s: %zu entries of %s\n", path, mb_profile_count(profile),
                     mb_profile_device(profile)->name);
    free(folder);
    free(path);
    mb_profile_free(profile);
    return status;
}

static enum mb_status export(struct mb_cli *cli, const struct options *options) {
    struct mb_profile *profile = NULL; char *path = NULL;
    const char *named = cli->positional_count > 1 ? cli->positionals[1] : NULL;
    enum mb_status status = load(cli, named, &profile, &path);
    if (status == MB_OK && options->output != NULL){
        status = mb_step_check_output(cli, options->output);
        if (status == MB_OK) status = mb_profile_save(profile, options->output, &cli->error);
        if (status == MB_OK)(void) printf("%s\n", options->output);}
else if (status == MB_OK)
{
    json_t *root;
    status = mb_json_load(path, (size_t)1 << 30, &root, &cli->error);
    if (status == MB_OK)
        status = mb_print_json(cli, root);
}
free(path);
mb_profile_free(profile);
return status;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    static const char *const actions[] = {"list", "show", "compare", "import", "export"};
    const char *action = cli->positionals[0];
    if (cli->positional_count > 2 && strcmp(action, "compare") != 0)
        return mb_usage(cli, "unexpected argument '%.60s'", cli->positionals[2]);
    if (strcmp(action, "list") == 0)
        return cli->positional_count == 1
                   ? list(cli)
                   : mb_usage(cli, "unexpected argument '%.60s'", cli->positionals[1]);
    if (strcmp(action, "show") == 0)
        return show(cli, given);
    if (strcmp(action, "compare") == 0)
        return compare(cli);
    if (strcmp(action, "import") == 0)
        return import(cli);
    if (strcmp(action, "export") == 0)
        return export(cli, given);
    const char *near = mb_suggest(action, actions, sizeof actions / sizeof actions[0]);
    if (near != NULL)
        return mb_usage(cli, "unknown action '%.60s', did you mean '%s'?", action, near);
    return mb_usage(cli, "unknown action '%.60s'; expected list, show, compare, import or export",
                    action);
}

static const struct mb_option table[] = {
    MB_FORMATS_ROW(struct options, formats, "show these formats only"),
    MB_OUTPUT_ROW(struct options, output, "export there (default: stdout)"),
    {0}};

const struct mb_verb mb_verb_profile = {
    .name = "profile",
    .summary = "list, show, compare, import and export cost tables",
    .positionals = "list|show|compare|import|export [PROFILE...]",
    .min_positionals = 1,
    .max_positionals = 3,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "list shows what is kept; show and export take a file or this machine's profile; "
               "compare takes two files; import validates a file and adds it to what is kept.",
    .example = "mixbit profile compare mine.json theirs.json",
    .run = run,
};
