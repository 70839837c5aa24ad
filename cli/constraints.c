/* SPDX-License-Identifier: Apache-2.0 */
/* Constraints as people type them, turned into what the solver's units may be: pins, exclusions,
 * what the target runtime can do, and groups that share a format. Whatever matches no tensor, or
 * leaves one without a candidate, is a mistake that is named. */
#include "cli/steps.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

const char *const mb_target_names[] = {"mixbit", "llama.cpp", "ik_llama.cpp", NULL};
const char *const mb_granularity_names[] = {"tensor", "layer", NULL};

/* Groups that have a name; rows of one name are one option. */
static const struct {
    const char *name, *patterns;
} named_groups[] = {
    {"qkv", "blk.#.attn_q.weight,blk.#.attn_k.weight,blk.#.attn_v.weight"},
    {"gate-up", "blk.#.ffn_gate.weight,blk.#.ffn_up.weight"},
    {"gate-up", "blk.#.ffn_gate_exps.weight,blk.#.ffn_up_exps.weight"},
    {"gate-up", "blk.#.ffn_gate_shexp.weight,blk.#.ffn_up_shexp.weight"},
};

enum { PATTERN_MOST = 256 };
#define GRANULARITY_LAYER 1

/* "blk.N." at the start of a name: N as text. False: the tensor is in no block. */
static bool block_number(const char *name, char number[16])
{
    if (strncmp(name, "blk.", 4) != 0)
        return false;
    size_t digits = 0;
    while (digits < 15 && isdigit((unsigned char)name[4 + digits]))
        digits++;
    if (digits == 0 || name[4 + digits] != '.')
        return false;
    memcpy(number, name + 4, digits);
    number[digits] = '\0';
    return true;
}

/* ---- pins ---- */

/* Split at the last '='; false when there is no pattern before it, or a very long one. */
static bool split_pattern(const char *text, char pattern[PATTERN_MOST], const char **rest)
{
    const char *equals = strrchr(text, '=');
    const size_t length = equals != NULL ? (size_t)(equals - text) : 0;
    if (length == 0 || length >= PATTERN_MOST)
        return false;
    memcpy(pattern, text, length);
    pattern[length] = '\0';
    *rest = equals + 1;
    return true;
}

static enum mb_status nothing_matches(struct mb_cli *cli, const char *option, const char *pattern)
{
    return mb_usage(cli,
                    "%s: no quantizable tensor matches '%.100s'; quote the pattern, names are like "
                    "blk.0.ffn_down.weight",
                    option, pattern);
}

static enum mb_status apply_pin(struct mb_cli *cli, const char *text,
                                struct mb_unit_source *sources, size_t count)
{
    char pattern[PATTERN_MOST];
    const char *name;
    enum mb_format format;
    if (!split_pattern(text, pattern, &name))
        return mb_usage(cli, "--pin: expected PATTERN=FORMAT, found '%.60s'", text);
    const enum mb_status status = mb_parse_format("--pin", name, &format, &cli->error);
    size_t matched = 0;
    for (size_t i = 0; status == MB_OK && i < count; i++) {
        if (fnmatch(pattern, sources[i].name, 0) != 0)
            continue;
        matched++;
        if (sources[i].pinned != MB_FORMAT_NONE && sources[i].pinned != format)
            return mb_usage(cli, "--pin: '%s' is pinned to both %s and %s", sources[i].name,
                            mb_format_info(sources[i].pinned)->name, mb_format_info(format)->name);
        sources[i].pinned = format;
    }
    return status == MB_OK && matched == 0 ? nothing_matches(cli, "--pin", pattern) : status;
}

/* ---- exclusions ---- */

static uint64_t bit_of(enum mb_format format) { return UINT64_C(1) << (unsigned)format; }

static enum mb_status apply_exclusion(struct mb_cli *cli, const char *text,
                                      struct mb_unit_source *sources, size_t count)
{
    char pattern[PATTERN_MOST] = "*";
    const char *names = text;
    struct mb_format_list formats;
    if (strchr(text, '=') != NULL && !split_pattern(text, pattern, &names))
        return mb_usage(cli, "--exclude: expected FORMATS or PATTERN=FORMATS, found '%.60s'", text);
    const enum mb_status status = mb_parse_formats("--exclude", names, &formats, &cli->error);
    size_t matched = 0;
    for (size_t i = 0; status == MB_OK && i < count; i++) {
        if (fnmatch(pattern, sources[i].name, 0) != 0)
            continue;
        matched++;
        for (size_t f = 0; f < formats.count; f++)
            sources[i].excluded |= bit_of(formats.at[f]);
    }
    return status == MB_OK && matched == 0 ? nothing_matches(cli, "--exclude", pattern) : status;
}

/* What the runtime can't load, or its tool not make; a tensor that the tool never converts stays as
 * it is. */
static void apply_runtime(enum mb_runtime runtime, bool importance, struct mb_unit_source *sources,
                          size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t f = 0; mb_any_format_at(f) != NULL; f++) {
            const enum mb_format format = mb_any_format_at(f)->id;
            const bool kept = format == sources[i].source;
            if (!mb_runtime_loads(runtime, format) ||
                (!importance && mb_runtime_needs_importance(runtime, sources[i].name, format)) ||
                (!kept && !mb_runtime_converts(runtime, sources[i].name)))
                sources[i].excluded |= bit_of(format);
        }
}

static bool is_excluded(const struct mb_unit_source *source, enum mb_format format)
{
    return (source->excluded & bit_of(mb_format_fit(format, source->k))) != 0;
}

/* Every tensor keeps a candidate, and a pin one that is allowed. */
static enum mb_status check_candidates(struct mb_cli *cli, const struct mb_format_list *formats,
                                       const struct mb_unit_source *sources, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct mb_unit_source *source = &sources[i];
        if (source->pinned != MB_FORMAT_NONE && is_excluded(source, source->pinned))
            return mb_usage(cli,
                            "--pin: '%s' is pinned to %s, which --exclude or --runtime rules "
                            "out there",
                            source->name, mb_format_info(source->pinned)->name);
        bool left = source->pinned != MB_FORMAT_NONE;
        for (size_t f = 0; !left && f < formats->count; f++)
            left = !is_excluded(source, formats->at[f]);
        if (!left)
            return mb_usage(cli, "--exclude or --runtime leaves no candidate format for '%s'",
                            source->name);
    }
    return MB_OK;
}

/* ---- groups ---- */

/* Sets of tensors, each named by its first member. */
static size_t set_of(const size_t *group, size_t i)
{
    while (group[i] != i)
        i = group[i];
    return i;
}

static void join(size_t *group, size_t a, size_t b)
{
    const size_t x = set_of(group, a), y = set_of(group, b);
    group[x > y ? x : y] = x < y ? x : y;
}

/* Whether a name matches one of the comma-separated patterns, # being its block's number; then the
 * key of its group: that number, "" without a #. */
static bool matches(const char *patterns, const char *name, char key[16])
{
    char number[16] = "";
    const bool in_block = block_number(name, number);
    for (const char *at = patterns; at != NULL;) {
        char pattern[2 * PATTERN_MOST];
        const char *comma = strchr(at, ',');
        const size_t length = comma != NULL ? (size_t)(comma - at) : strlen(at);
        size_t used = 0;
        bool numbered = false;
        for (size_t i = 0; i < length; i++) {
            if (used + sizeof number >= sizeof pattern)
                return false; /* longer than any name */
            numbered = numbered || at[i] == '#';
            if (at[i] == '#')
                used += (size_t)snprintf(pattern + used, sizeof pattern - used, "%s", number);
            else
                pattern[used++] = at[i];
        }
        pattern[used] = '\0';
        if ((in_block || !numbered) && fnmatch(pattern, name, 0) == 0) {
            (void)snprintf(key, 16, "%s", numbered ? number : "");
            return true;
        }
        at = comma != NULL ? comma + 1 : NULL;
    }
    return false;
}

/* Join what the patterns match, by key. How many tensors joined another. */
static size_t join_matches(const char *patterns, const struct mb_unit_source *sources, size_t count,
                           size_t *group)
{
    size_t joined = 0;
    for (size_t i = 0; i < count; i++) {
        char key[16], other[16];
        if (!matches(patterns, sources[i].name, key))
            continue;
        for (size_t j = 0; j < i; j++)
            if (matches(patterns, sources[j].name, other) && strcmp(key, other) == 0) {
                join(group, i, j);
                joined++;
                break;
            }
    }
    return joined;
}

static enum mb_status apply_group(struct mb_cli *cli, const char *text,
                                  const struct mb_unit_source *sources, size_t count, size_t *group)
{
    const char *names[sizeof named_groups / sizeof *named_groups];
    size_t joined = 0;
    bool named = false;
    for (size_t g = 0; g < sizeof named_groups / sizeof *named_groups; g++) {
        names[g] = named_groups[g].name;
        if (strcmp(text, names[g]) != 0)
            continue;
        named = true;
        joined += join_matches(named_groups[g].patterns, sources, count, group);
    }
    if (!named && strpbrk(text, "*?[.#,") == NULL) {
        const char *near = mb_suggest(text, names, sizeof names / sizeof *names);
        return mb_usage(cli,
                        "--group: unknown group '%.40s'%s%s%s; there are qkv and gate-up, and "
                        "patterns like 'blk.#.attn_*'",
                        text, near != NULL ? ", did you mean '" : "", near != NULL ? near : "",
                        near != NULL ? "'?" : "");
    }
    if (strlen(text) >= PATTERN_MOST)
        return mb_usage(cli, "--group: patterns of more than %d characters", PATTERN_MOST - 1);
    if (!named)
        joined = join_matches(text, sources, count, group);
    if (joined == 0)
        return mb_usage(cli,
                        "--group: no two quantizable tensors of this model are in one group of "
                        "'%.100s'; quote patterns, names are like blk.0.ffn_down.weight",
                        text);
    return MB_OK;
}

/* All tensors of a block but the pinned ones. */
static void join_layers(const struct mb_unit_source *sources, size_t count, size_t *group)
{
    for (size_t i = 0; i < count; i++) {
        char number[16], other[16];
        if (sources[i].pinned != MB_FORMAT_NONE || !block_number(sources[i].name, number))
            continue;
        for (size_t j = 0; j < i; j++)
            if (sources[j].pinned == MB_FORMAT_NONE && block_number(sources[j].name, other) &&
                strcmp(number, other) == 0) {
                join(group, i, j);
                break;
            }
    }
}

/* Whether a tensor can be stored in what the format falls back to at its row length. */
static bool can_have(const struct mb_unit_source *source, const struct mb_format_list *formats,
                     enum mb_format asked)
{
    const enum mb_format stored = mb_format_fit(asked, source->k);
    if (source->pinned != MB_FORMAT_NONE)
        return mb_format_fit(source->pinned, source->k) == stored;
    for (size_t f = 0; f < formats->count; f++)
        if (mb_format_fit(formats->at[f], source->k) == stored)
            return !is_excluded(source, stored);
    return false;
}

/* Pins and exclusions must leave a group one format that all its members can have. */
static enum mb_status check_groups(struct mb_cli *cli, const struct mb_format_list *formats,
                                   const struct mb_unit_source *sources, size_t count,
                                   const size_t *group)
{
    for (size_t root = 0; root < count; root++) {
        bool possible = group[root] != root;
        size_t last = root;
        for (size_t f = 0; !possible && mb_any_format_at(f) != NULL; f++) {
            possible = true;
            for (size_t i = root; possible && i < count; i++)
                if (group[i] == root) {
                    last = i > last ? i : last;
                    possible = can_have(&sources[i], formats, mb_any_format_at(f)->id);
                }
        }
        if (!possible)
            return mb_usage(cli,
                            "'%s' and '%s' are to share a format, but pins and exclusions leave "
                            "none that all of their group can have",
                            sources[root].name, sources[last].name);
    }
    return MB_OK;
}

static enum mb_status make_groups(struct mb_cli *cli, const struct mb_constraint_options *options,
                                  const struct mb_format_list *formats,
                                  const struct mb_unit_source *sources, size_t count, size_t **made)
{
    if (options->groups.count == 0 && options->granularity != GRANULARITY_LAYER)
        return MB_OK;
    size_t *group = calloc(count + 1, sizeof *group);
    if (group == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    for (size_t i = 0; i < count; i++)
        group[i] = i;
    enum mb_status status = MB_OK;
    for (size_t g = 0; status == MB_OK && g < options->groups.count; g++)
        status = apply_group(cli, options->groups.at[g], sources, count, group);
    if (status == MB_OK && options->granularity == GRANULARITY_LAYER)
        join_layers(sources, count, group);
    for (size_t i = 0; i < count; i++)
        group[i] = set_of(group, i);
    if (status == MB_OK)
        status = check_groups(cli, formats, sources, count, group);
    if (status == MB_OK)
        *made = group;
    else
        free(group);
    return status;
}

void mb_constraints_groups(const struct mb_constraint_options *options, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t g = 0; g < options->groups.count && used + 1 < bytes; g++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", g > 0 ? " " : "",
                                 options->groups.at[g]);
    if (options->granularity == GRANULARITY_LAYER && used + 1 < bytes)
        (void)snprintf(text + used, bytes - used, "%slayer", used > 0 ? " " : "");
}

/* ---- all of them ---- */

enum mb_status mb_constraints_apply(struct mb_cli *cli, const struct mb_constraint_options *options,
                                    bool importance, const struct mb_format_list *formats,
                                    struct mb_unit_source *sources, size_t count, size_t **group)
{
    enum mb_status status = MB_OK;
    *group = NULL;
    if (options == NULL)
        return MB_OK;
    for (size_t p = 0; status == MB_OK && p < options->pins.count; p++)
        status = apply_pin(cli, options->pins.at[p], sources, count);
    for (size_t e = 0; status == MB_OK && e < options->excludes.count; e++)
        status = apply_exclusion(cli, options->excludes.at[e], sources, count);
    if (status == MB_OK && options->runtime > 0)
        apply_runtime((enum mb_runtime)(options->runtime - 1), importance, sources, count);
    if (status == MB_OK)
        status = check_candidates(cli, formats, sources, count);
    return status == MB_OK ? make_groups(cli, options, formats, sources, count, group) : status;
}

enum mb_status mb_constraints_check(struct mb_cli *cli, const struct mb_model *model,
                                    const struct mb_constraint_options *options, bool importance,
                                    struct mb_format_list *formats)
{
    size_t count, *group = NULL, kept = 0;
    struct mb_unit_source *sources = mb_unit_sources(model, &count);
    if (sources == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    const enum mb_status status =
        mb_constraints_apply(cli, options, importance, formats, sources, count, &group);
    for (size_t f = 0; status == MB_OK && f < formats->count; f++) {
        bool wanted = false;
        for (size_t i = 0; i < count; i++)
            wanted = wanted || !is_excluded(&sources[i], formats->at[f]);
        if (wanted)
            formats->at[kept++] = formats->at[f];
    }
    if (status == MB_OK)
        formats->count = kept;
    free(group);
    free(sources);
    return status;
}
