/* SPDX-License-Identifier: Apache-2.0 */
/* probe: what this machine is and what it can do at most. The limits are measured in this process;
 * every other figure that mixbit prints stands beside one of them. */
#include "cli/devices.h"
#include "cli/option_rows.h"
#include "mixbit/codebook.h"
#include "mixbit/integer.h"

#include <stddef.h>
#include <string.h>

struct options {
    bool why;
    size_t threads;
};

/* Residency -> threads -> bytes that each of them reads in a cycle. */
static json_t *bytes_per_cycle(const struct mb_limits *limits)
{
    const struct mb_limit_cycles *cycles = &limits->per_cycle;
    json_t *object = json_object();
    char all[32];
    (void)snprintf(all, sizeof all, "%zu", limits->threads);
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++) {
        json_t *by_threads = json_pack("{s:f}", "1", cycles->read_1[r]);
        (void)json_object_set_new(by_threads, all, json_real(cycles->read[r]));
        (void)json_object_set_new(object, mb_residency_name((enum mb_residency)r), by_threads);
    }
    return object;
}

/* Level -> products in a cycle and core. */
static json_t *mac_per_cycle(const struct mb_limits *limits)
{
    const struct mb_limit_cycles *cycles = &limits->per_cycle;
    json_t *object = json_object();
    struct mb_isa_info isa;
    for (size_t i = 0; i < MB_MAX_ISA && mb_isa_info(i, &isa) == MB_OK; i++)
        if (cycles->dot[i] > 0)
            (void)json_object_set_new(object, isa.name,
                                      json_pack("{s:f, s:f, s:f}", "dot", cycles->dot[i],
                                                "dot_exact", cycles->dot_exact[i], "fma",
                                                cycles->fma[i]));
    return object;
}

static json_t *limits_json(const struct mb_limits *limits)
{
    json_t *read = json_object(), *dot = json_object(), *fma = json_object();
    char all[32];
    (void)snprintf(all, sizeof all, "%zu", limits->threads);
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++) { /* residency -> threads -> GB/s */
        json_t *by_threads = json_pack("{s:f}", "1", limits->read_gbps_1[r]);
        (void)json_object_set_new(by_threads, all, json_real(limits->read_gbps[r]));
        (void)json_object_set_new(read, mb_residency_name((enum mb_residency)r), by_threads);
    }
    struct mb_isa_info isa;
    for (size_t i = 0; i < MB_MAX_ISA && mb_isa_info(i, &isa) == MB_OK; i++) {
        if (limits->dot_gmacs[i] > 0 && strcmp(isa.name, "avx2") == 0)
            (void)json_object_set_new(dot, isa.name,
                                      json_pack("{s:f, s:f}", "i16", limits->dot_gmacs[i], "exact",
                                                limits->dot_exact_gmacs[i]));
        else if (limits->dot_gmacs[i] > 0)
            (void)json_object_set_new(dot, isa.name, json_real(limits->dot_gmacs[i]));
        if (limits->fma_gmacs[i] > 0)
            (void)json_object_set_new(fma, isa.name, json_real(limits->fma_gmacs[i]));
    }
    return json_pack("{s:I, s:o, s:o, s:o, s:f, s:f, s:o, s:o}", "threads",
                     (json_int_t)limits->threads, "read_gbps", read, "dot_gmacs", dot, "fma_gmacs",
                     fma, "dispatch_ns", limits->dispatch_ns, "clock_ghz", limits->clock_ghz,
                     "bytes_per_cycle", bytes_per_cycle(limits), "mac_per_cycle",
                     mac_per_cycle(limits));
}

static json_t *device_json(const struct mb_device_info *device)
{
    json_t *kinds = json_array(), *levels = json_array();
    struct mb_isa_info isa;
    for (size_t i = 0; i < device->core_kinds && i < MB_MAX_CORE_KINDS; i++)
        (void)json_array_append_new(kinds, json_pack("{s:s, s:I}", "name", device->kinds[i].name,
                                                     "cores", (json_int_t)device->kinds[i].cores));
    for (size_t i = 0; mb_isa_info(i, &isa) == MB_OK; i++)
        (void)json_array_append_new(levels, json_pack("{s:s, s:b, s:b, s:s}", "name", isa.name,
                                                      "supported", isa.supported, "allowed",
                                                      isa.allowed, "why", isa.why));
    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:s, "
        "s:s, s:s, s:o}",
        "name", device->name, "vendor", device->vendor, "family", (int)device->family, "model",
        (int)device->model, "stepping", (int)device->stepping, "features", device->features,
        "cores", (json_int_t)device->cores, "threads", (json_int_t)device->threads, "core_kinds",
        kinds, "l1d_bytes", (json_int_t)device->l1d_bytes, "l2_bytes", (json_int_t)device->l2_bytes,
        "l3_bytes", (json_int_t)device->l3_bytes, "l3_shared_by", (json_int_t)device->l3_shared_by,
        "memory_bytes", (json_int_t)device->memory_bytes, "os", device->os, "build", device->build,
        "key", device->key, "isa", levels);
}

static void print_device(const struct mb_device_info *device)
{
    char l1[32], l2[32], l3[32], memory[32];
    struct mb_isa_info isa;
    (void)printf("%s, %zu cores, %zu threads\n", device->name, device->cores, device->threads);
    (void)printf("caches: L1d %s and L2 %s per core, L3 %s, memory %s\n",
                 mb_text_bytes((double)device->l1d_bytes, l1),
                 mb_text_bytes((double)device->l2_bytes, l2),
                 mb_text_bytes((double)device->l3_bytes, l3),
                 mb_text_bytes((double)device->memory_bytes, memory));
    (void)printf("ISA levels:");
    for (size_t i = 0; mb_isa_info(i, &isa) == MB_OK; i++)
        (void)printf("%s %s%s%s%s", i > 0 ? "," : "", isa.name, isa.allowed ? "" : " (",
                     isa.allowed ? "" : isa.why, isa.allowed ? "" : ")");
    (void)printf("\nprofile key: %s\n\n", device->key);
}

static void per_cycle(struct mb_table *table, double value)
{
    if (value > 0)
        mb_table_number(table, value, "%.1f");
    else
        mb_table_none(table);
}

static void print_limits(const struct mb_limits *limits)
{
    struct mb_isa_info isa;
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "limit", "limit", MB_ALIGN_LEFT);
    mb_table_column(table, "one", "1 thread", MB_ALIGN_RIGHT);
    char all[32];
    (void)snprintf(all, sizeof all, "%zu threads", limits->threads);
    mb_table_column(table, "all", all, MB_ALIGN_RIGHT);
    mb_table_column(table, "unit", "", MB_ALIGN_LEFT);
    mb_table_column(table, "per_cycle", "per cycle", MB_ALIGN_RIGHT);
    mb_table_column(table, "meaning", "", MB_ALIGN_LEFT);
    const struct mb_limit_cycles *cycles = &limits->per_cycle;
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++) {
        char name[64];
        (void)snprintf(name, sizeof name, "read %s", mb_residency_name((enum mb_residency)r));
        mb_table_text(table, name);
        mb_table_number(table, limits->read_gbps_1[r], "%.1f");
        mb_table_number(table, limits->read_gbps[r], "%.1f");
        mb_table_text(table, "GB/s");
        per_cycle(table, cycles->read_1[r]);
        mb_table_text(table, "bytes, one thread alone");
    }
    for (size_t i = 0; i < MB_MAX_ISA && mb_isa_info(i, &isa) == MB_OK; i++) {
        const double figures[] = {limits->dot_gmacs[i], limits->dot_exact_gmacs[i],
                                  limits->fma_gmacs[i]};
        const bool two = limits->dot_exact_gmacs[i] < limits->dot_gmacs[i];
        static const char *const names[] = {"dot int8", "dot int8 exact", "fma f32"};
        static const char *const meanings[] = {"products a core, codes of few bits",
                                               "products a core, codes of 8 bits",
                                               "products a core, floats"};
        for (int f = 0; f < 3; f++) {
            char name[64];
            if (figures[f] <= 0 || (f == 1 && !two))
                continue;
            (void)snprintf(name, sizeof name, "%s %s", names[f], isa.name);
            mb_table_text(table, name);
            mb_table_none(table);
            mb_table_number(table, figures[f], "%.0f");
            mb_table_text(table, "GMAC/s");
            per_cycle(table, f == 0   ? cycles->dot[i]
                             : f == 1 ? cycles->dot_exact[i]
                                      : cycles->fma[i]);
            mb_table_text(table, meanings[f]);
        }
    }
    mb_table_text(table, "dispatch");
    mb_table_none(table);
    mb_table_number(table, limits->dispatch_ns / 1e3, "%.2f");
    mb_table_text(table, "us");
    mb_table_none(table);
    mb_table_text(table, "until all threads have work");
    mb_table_print(table, stdout);
    mb_table_free(table);
    if (limits->clock_ghz > 0)
        (void)printf(
            "\nclock %.2f GHz, timed in turns with every loop. A product of m rows takes at "
            "least\nits weights' bytes / read, and its products / dot or fma; no kernel "
            "may beat both.\n",
            limits->clock_ghz);
}

static void why_line(void *user, const char *text)
{
    json_t *lines = user;
    if (lines != NULL)
        (void)json_array_append_new(lines, json_string(text));
    else
        (void)printf("  %s\n", text);
}

/* Why each kernel serves its format, or does not; for one row and for many. */
static json_t *explain(bool json)
{
    json_t *formats = json ? json_object() : NULL;
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        static const size_t rows[] = {1, 512};
        json_t *both = json ? json_object() : NULL;
        for (int i = 0; i < 2; i++) {
            char key[32];
            (void)snprintf(key, sizeof key, "m%zu", rows[i]);
            json_t *lines = json ? json_array() : NULL;
            if (!json)
                (void)printf("%s, m = %zu:\n", info->name, rows[i]);
            mb_kernel_explain(info->id, rows[i], why_line, lines);
            if (json)
                (void)json_object_set_new(both, key, lines);
        }
        if (json)
            (void)json_object_set_new(formats, info->name, both);
    }
    json_t *lines = json ? json_array() : NULL;
    if (!json)
        (void)printf("integer-only, any m:\n");
    mb_integer_explain(why_line, lines);
    if (json)
        (void)json_object_set_new(formats, "integer", lines);
    lines = json ? json_array() : NULL;
    if (!json)
        (void)printf("codebooks, any m:\n");
    mb_codebook_explain(why_line, lines);
    if (json)
        (void)json_object_set_new(formats, "codebook", lines);
    return formats;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct mb_device_info device = {.size = sizeof device};
    struct mb_limits limits = {0};
    struct mb_threads *threads = NULL;
    enum mb_status status = mb_device_info(&device);
    if (status != MB_OK)
        return mb_error_set(&cli->error, status, -1, "cannot look at this machine: %s",
                            mb_status_string(status));
    if (options->why && !cli->common.json) {
        (void)explain(false);
        return MB_OK;
    }
    status = mb_step_threads(cli, options->threads, &threads);
    if (status != MB_OK)
        return status;
    mb_stage_begin(cli, "measuring bandwidth and peaks");
    status = mb_limits_measure(threads, 0, mb_stage_progress(cli), &limits);
    mb_stage_end(cli);
    mb_threads_destroy(threads);
    if (status != MB_OK)
        return mb_error_set(&cli->error, status, -1, "measuring this machine's limits: %s",
                            mb_status_string(status));
    if (!cli->common.json) {
        print_device(&device);
        mb_devices_print(stdout);
        print_limits(&limits);
        return MB_OK;
    }
    json_t *root = limits_json(&limits);
    (void)json_object_set_new(root, "device", device_json(&device));
    (void)json_object_set_new(root, "devices", mb_devices_json());
    if (options->why)
        (void)json_object_set_new(root, "why", explain(true));
    return mb_print_json(cli, root);
}

static const struct mb_option table[] = {
    {.name = "why",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, why),
     .help = "say why each kernel was taken or rejected, for every format"},
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_probe = {
    .name = "probe",
    .summary = "what this machine is, and its limits: bandwidth, int8 and f32 peaks",
    .options = table,
    .options_bytes = sizeof(struct options),
    .example = "mixbit probe            # caches, ISA levels, GB/s by residency, GMAC/s by level",
    .run = run,
};
