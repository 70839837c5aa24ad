/* SPDX-License-Identifier: Apache-2.0 */
/* Plots of the report, as SVG written by hand: cost bars, heat map, plan grid.
 *
 * Colours come from the page's classes and variables (light and dark); marks differ in shape as
 * well as in colour, and heat is a mix of two variables by percentage, so a plot never depends on
 * hue alone. */
#include "cli/report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- cost bars
 * ------------------------------------------------------------------------------------------------
 */

/* Best measured entries of a format at one m, summed over the shapes of the profile that this model
 * has. */
struct cost_sum {
    double ns, bytes, macs;
};

static struct cost_sum sum_costs(const struct mb_report *report, enum mb_format format, size_t m)
{
    struct cost_sum sum = {0, 0, 0};
    struct mb_profile *profile = report->profile;
    for (size_t i = 0; i < mb_profile_count(profile); i++) {
        const struct mb_cost *cost = mb_profile_at(profile, i);
        if (cost->format != format || cost->m != m || cost->failed ||
            cost->threads != report->threads)
            continue;
        struct mb_cost best;
        if (mb_profile_cost(profile, format, cost->n, cost->k, m, report->threads, cost->residency,
                            &best) != MB_COST_EXACT ||
            strcmp(best.kernel, cost->kernel) != 0 ||
            memcmp(best.knobs, cost->knobs, sizeof best.knobs) != 0)
            continue;
        sum.ns += cost->median_ns;
        sum.bytes += (double)cost->bytes;
        sum.macs += (double)cost->n * (double)cost->k * (double)m;
    }
    return sum;
}

static double highest(const double *values, size_t count)
{
    double best = 0;
    for (size_t i = 0; i < count; i++)
        best = fmax(best, values[i]);
    return best;
}

void mb_plot_costs(FILE *out, const struct mb_report *report, size_t m)
{
    const struct mb_limits *limits = mb_profile_limits(report->profile);
    const double dot = highest(limits->dot_gmacs, MB_MAX_ISA);
    const double fma_peak = highest(limits->fma_gmacs, MB_MAX_ISA);
    double read = 0;
    enum mb_residency residency = MB_RESIDENCY_MEMORY;
    for (size_t i = 0; i < mb_profile_count(report->profile); i++)
        if (mb_profile_at(report->profile, i)->m == m)
            residency = mb_profile_at(report->profile, i)->residency;
    read = limits->read_gbps[residency];

    struct cost_sum sums[64];
    size_t shown = 0;
    size_t count = 0;
    for (size_t i = 0; i < 64 && mb_any_format_at(i) != NULL; i++, count++) {
        sums[i] = sum_costs(report, mb_any_format_at(i)->id, m);
        shown += sums[i].ns > 0;
    }
    if (!shown)
        return;
    fprintf(out,
            "<figure><svg viewBox=\"0 0 1000 %zu\" width=1000 role=img aria-label=\"speed per "
            "format\"><text x=0 y=14 font-weight=600>%s</text>",
            30 + shown * 22,
            m == 1 ? "m = 1 (decode): GB of weights read per second"
                   : "m = 512 (prefill): GMAC per second");
    size_t line = 0;
    for (size_t i = 0; i < count; i++) {
        if (!(sums[i].ns > 0))
            continue;
        const struct mb_format_info *info = mb_any_format_at(i);
        const double value = m == 1 ? sums[i].bytes / sums[i].ns : sums[i].macs / sums[i].ns;
        const double limit = m == 1 ? read : info->activation == MB_ACTIVATION_F32 ? fma_peak : dot;
        const double fraction = limit > 0 ? value / limit : 0;
        const double y = 26 + 22 * (double)line++;
        fprintf(out,
                "<text x=62 y=%.0f text-anchor=end>%s</text><rect class=rest x=70 y=%.0f width=640 "
                "height=15 /><rect class=bar x=70 y=%.0f width=%.1f height=15 /><text x=720 "
                "y=%.0f>%.1f of %.1f %s (%.0f %%)</text>",
                y + 12, info->name, y, y, 640 * fmin(1, fmax(0, fraction)), y + 12, value, limit,
                m == 1 ? "GB/s" : "GMAC/s", 100 * fraction);
    }
    fputs("</svg><details><summary>Numbers</summary><table><tr><th>format<th>bits<th>us per token"
          "<th>GMAC/s<th>GB/s</tr>",
          out);
    for (size_t i = 0; i < count; i++)
        if (sums[i].ns > 0)
            fprintf(out, "<tr><td>%s</td><td>%.2f</td><td>%.2f</td><td>%.1f</td><td>%.2f</td></tr>",
                    mb_any_format_at(i)->name, mb_any_format_at(i)->bits,
                    sums[i].ns / 1e3 / (double)m, sums[i].macs / sums[i].ns,
                    sums[i].bytes / sums[i].ns);
    fputs("</table></details></figure>\n", out);
}

/* ---- grids: layers down, kinds of tensor across
 * --------------------------------------------------------------- */

enum { MAX_KINDS = 32, CELL_WIDTH = 78, CELL_HEIGHT = 22, LEFT = 60 };

struct grid {
    char kinds[MAX_KINDS][48];
    size_t kind_count;
    int layers;
};

static size_t grid_kind(struct grid *grid, const char *kind)
{
    for (size_t i = 0; i < grid->kind_count; i++)
        if (strcmp(grid->kinds[i], kind) == 0)
            return i;
    if (grid->kind_count == MAX_KINDS)
        return MAX_KINDS - 1;
    snprintf(grid->kinds[grid->kind_count], sizeof grid->kinds[0], "%.47s", kind);
    return grid->kind_count++;
}

/* Tensors outside the blocks get a line of their own, the last one, under the same columns plus
 * their own. */
static void grid_add(struct grid *grid, const char *name)
{
    char kind[48];
    const int layer = mb_tensor_layer(name, kind);
    grid_kind(grid, kind);
    if (layer >= grid->layers)
        grid->layers = layer + 1;
}

static void grid_open(FILE *out, const struct grid *grid, const char *title)
{
    const int height = 44 + (grid->layers + 1) * CELL_HEIGHT;
    fprintf(out,
            "<figure><svg viewBox=\"0 0 %zu %d\" width=%zu role=img aria-label=\"%s\"><text x=0 "
            "y=14 font-weight=600>%s</text>",
            LEFT + grid->kind_count * CELL_WIDTH, height, LEFT + grid->kind_count * CELL_WIDTH,
            title, title);
    for (size_t i = 0; i < grid->kind_count; i++)
        fprintf(out, "<text class=soft x=%zu y=34 text-anchor=middle font-size=11>%.12s</text>",
                LEFT + i * CELL_WIDTH + CELL_WIDTH / 2, grid->kinds[i]);
    for (int layer = 0; layer < grid->layers; layer++)
        fprintf(out, "<text class=soft x=%d y=%d text-anchor=end>%d</text>", LEFT - 10,
                40 + layer * CELL_HEIGHT + 15, layer);
}

/* Heat 0..1 mixes the two ends of the scale; the text turns to the background's colour on a dark
 * cell. */
static void grid_cell(FILE *out, struct grid *grid, const char *name, double heat, const char *text)
{
    char kind[48];
    const int layer = mb_tensor_layer(name, kind);
    const size_t x = LEFT + grid_kind(grid, kind) * CELL_WIDTH;
    const int y = 40 + (layer < 0 ? grid->layers : layer) * CELL_HEIGHT;
    fprintf(out,
            "<rect x=%zu y=%d width=%d height=%d "
            "style=\"fill:color-mix(in srgb,var(--heat1) %.0f%%,var(--heat0))\"><title>",
            x + 1, y + 1, CELL_WIDTH - 2, CELL_HEIGHT - 2, 100 * heat);
    mb_html_text(out, name);
    fprintf(out, ": %s</title></rect><text x=%zu y=%d text-anchor=middle font-size=11%s>%s</text>",
            text, x + CELL_WIDTH / 2, y + 15, heat > 0.5 ? " style=\"fill:var(--bg)\"" : "", text);
}

void mb_plot_sensitivity(FILE *out, const struct mb_report *report, enum mb_format format)
{
    const struct mb_sensitivity *table = report->sensitivity;
    struct grid grid = {.kind_count = 0, .layers = 0};
    double low = INFINITY, high = 0;
    for (size_t u = 0; u < table->unit_count; u++) {
        grid_add(&grid, table->units[u]);
        const struct mb_loss *loss = mb_sensitivity_at(table, table->units[u], format);
        if (loss && loss->known && loss->mean > 0) {
            low = fmin(low, loss->mean);
            high = fmax(high, loss->mean);
        }
    }
    if (!(high > 0))
        return;
    char title[96];
    snprintf(title, sizeof title, "KL when one tensor is %s (logarithmic shade)",
             mb_format_info(format)->name);
    grid_open(out, &grid, title);
    for (size_t u = 0; u < table->unit_count; u++) {
        const struct mb_loss *loss = mb_sensitivity_at(table, table->units[u], format);
        if (!loss || !loss->known)
            continue;
        char text[24];
        snprintf(text, sizeof text, "%.1e", loss->mean);
        const double heat =
            loss->mean > 0 && high > low ? log(loss->mean / low) / log(high / low) : 0;
        grid_cell(out, &grid, table->units[u], fmin(1, fmax(0, heat)), text);
    }
    fputs("</svg><figcaption>Lines are layers, the last one holds the tensors outside of them."
          "</figcaption></figure>\n",
          out);
}

void mb_plot_plan(FILE *out, const struct mb_report *report)
{
    struct grid grid = {.kind_count = 0, .layers = 0};
    for (size_t i = 0; i < report->plan->count; i++)
        grid_add(&grid, report->plan->entries[i].name);
    grid_open(out, &grid, "Chosen formats (darker: more bits)");
    for (size_t i = 0; i < report->plan->count; i++) {
        const struct mb_format_info *info = mb_format_info(report->plan->entries[i].format);
        if (info)
            grid_cell(out, &grid, report->plan->entries[i].name,
                      fmin(1, fmax(0, (info->bits - 2) / 7)), info->name);
    }
    fputs("</svg><figcaption>Lines are layers, the last one holds the tensors outside of them."
          "</figcaption></figure>\n",
          out);
}
