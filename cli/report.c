/* SPDX-License-Identifier: Apache-2.0 */
/* The report page: head line, comparison, plots with their tables underneath, provenance.
 *
 * One file that can be mailed: inline SVG and CSS, nothing fetched, no script. Light and dark come
 * from CSS variables, so the plots use classes instead of colours. Every number in a plot stands in
 * a table under it. */
#include "cli/report.h"
#include "support/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    ":root{--bg:#fcfcfb;--panel:#fff;--ink:#1b1d21;--soft:#5d6470;--line:#dfe2e7;--grid:#eceef1;"
    "--plan:#c2410c;--uniform:#2563eb;--preset:#0f766e;--near:#d97706;--bar:#2563eb;--bar2:#93b4f5;"
    "--heat0:#f4f6fb;--heat1:#1e3a8a;color-scheme:light dark}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14161a;--panel:#1b1e24;--ink:#e7e9ec;"
    "--soft:#9aa2ae;--line:#333842;--grid:#262a32;--plan:#fb923c;--uniform:#7aa5ff;"
    "--preset:#4fd1b5;--near:#fbbf24;--bar:#7aa5ff;--bar2:#3b5998;--heat0:#20242c;"
    "--heat1:#9dbcff}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,-apple-system,Segoe UI,Roboto,sans-serif}\n"
    "main{max-width:1060px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0 0 2px}"
    "h2{font-size:19px;margin:38px 0 6px}p{margin:6px 0 12px;max-width:76ch}"
    ".soft{color:var(--soft)}.cards{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}"
    ".card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px "
    "16px;min-width:150px}.card b{display:block;font-size:22px;font-weight:600}"
    ".card span{color:var(--soft);font-size:13px}\n"
    "figure{margin:10px 0;padding:12px;background:var(--panel);border:1px solid var(--line);"
    "border-radius:8px;overflow-x:auto}figcaption{color:var(--soft);font-size:13px;margin-top:6px}"
    "svg{display:block;max-width:100%;height:auto;font:12px system-ui,sans-serif}"
    "svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}svg .grid{stroke:var(--grid)}"
    "svg .axis{stroke:var(--soft)}svg .uniform{fill:var(--uniform)}svg .preset{fill:var(--preset)}"
    "svg .plan{fill:var(--plan)}svg .near{fill:var(--near)}svg "
    ".front{fill:none;stroke:var(--plan);stroke-width:1.5;stroke-dasharray:5 3}"
    "svg .lead{stroke:var(--soft);stroke-width:.7}svg .bar{fill:var(--bar)}svg "
    ".rest{fill:var(--grid)}\n"
    "table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}"
    "th,td{padding:3px 10px;text-align:right;border-bottom:1px solid "
    "var(--grid);white-space:nowrap}"
    "th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}"
    "tr.plan td{color:var(--plan);font-weight:600}tr.beaten td{color:var(--soft)}"
    ".scroll{overflow-x:auto;background:var(--panel);border:1px solid var(--line);"
    "border-radius:8px;padding:6px}details{margin:8px "
    "0}summary{cursor:pointer;color:var(--soft)}\n";

void mb_html_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
        default: fputc(*text, out);
        }
    }
}

int mb_tensor_layer(const char *name, char kind[48])
{
    int layer = -1;
    const char *rest = name;
    if (strncmp(name, "blk.", 4) == 0) {
        char *end = NULL;
        const long number = strtol(name + 4, &end, 10);
        if (end != name + 4 && *end == '.' && number >= 0 && number < 100000) {
            layer = (int)number;
            rest = end + 1;
        }
    }
    snprintf(kind, 48, "%.47s", rest);
    char *suffix = strstr(kind, ".weight");
    if (suffix)
        *suffix = 0;
    return layer;
}

/* A number cell; unknown is a dash. */
static void cell(FILE *out, const char *format, double value)
{
    fputs("<td>", out);
    if (isfinite(value)) {
        char text[64];
        snprintf(text, sizeof text, format, value);
        fputs(text, out);
    } else {
        fputs("&ndash;", out);
    }
    fputs("</td>", out);
}

static double rate(double ns) { return ns > 0 ? 1e9 / ns : NAN; }

static const struct mb_report_row *recommended_row(const struct mb_report *report)
{
    for (size_t i = 0; i < report->row_count; i++)
        if (report->rows[i].recommended)
            return &report->rows[i];
    return NULL;
}

static void write_cards(FILE *out, const struct mb_report *report)
{
    const struct mb_report_row *row = recommended_row(report);
    if (!row)
        return;
    fputs("<div class=cards>", out);
    fprintf(out, "<div class=card><b>%.2f MB</b><span>file size</span></div>", row->bytes / 1e6);
    if (isfinite(row->decode_ns))
        fprintf(out, "<div class=card><b>%.0f tok/s</b><span>decode, measured</span></div>",
                rate(row->decode_ns));
    if (isfinite(row->prefill_ns))
        fprintf(out, "<div class=card><b>%.0f tok/s</b><span>prefill, measured</span></div>",
                rate(row->prefill_ns));
    if (isfinite(row->kl))
        fprintf(out, "<div class=card><b>%.5f</b><span>KL, nats per token, held-out</span></div>",
                row->kl);
    if (isfinite(row->perplexity))
        fprintf(out, "<div class=card><b>%.3f</b><span>perplexity, held-out</span></div>",
                row->perplexity);
    fputs("</div>\n", out);
}

static void range_cell(FILE *out, const char *format, double low, double high)
{
    char text[2][64];
    snprintf(text[0], sizeof text[0], format, low);
    snprintf(text[1], sizeof text[1], format, high);
    if (isfinite(low) && isfinite(high))
        fprintf(out, "<td>%s to %s</td>", text[0], text[1]);
    else
        fputs("<td>&ndash;</td>", out);
}

const char *const mb_row_kind_names[MB_ROW_KINDS] = {"uniform", "preset", "neighbour",
                                                     "plan",    "answer", "written"};

static void write_comparison(FILE *out, const struct mb_report *report)
{
    bool searched = false;
    for (size_t i = 0; i < report->row_count; i++)
        searched = searched || isfinite(report->rows[i].kl_search);
    fputs("<h2>Comparison</h2><p>Every row was measured on this machine, on text that was not used "
          "for sensing; &ldquo;predicted&rdquo; is what the cost table and the sensitivity table "
          "said before. &ldquo;Worse than written by&rdquo; and &ldquo;decode time over "
          "written&rdquo; are 95 % intervals over pairs: the same windows of text, timings taken "
          "in turns. KL is relative to ",
          out);
    mb_html_text(out, report->base);
    if (searched)
        fputs(". Weights are rounded with feedback, those of kind &ldquo;written&rdquo; layer "
              "after layer; &ldquo;KL by search&rdquo; is what uniform "
              "formats and presets lose when each weight is rounded by itself, as llama-quantize "
              "does",
              out);
    fprintf(out,
            ".</p>\n<div class=scroll><table><tr><th>assignment<th>kind<th>MB<th>decode "
            "tok/s<th>predicted<th>decode time over written<th>prefill tok/s<th>predicted<th>KL"
            "<th>95 %% interval<th>predicted<th>worse than written by%s<th>perplexity</tr>\n",
            searched ? "<th>KL by search" : "");
    for (size_t i = 0; i < report->row_count; i++) {
        const struct mb_report_row *row = &report->rows[i];
        fprintf(out, "<tr%s><td>", row->recommended ? " class=plan" : "");
        mb_html_text(out, row->name);
        fprintf(out, "%s</td><td>%s</td>", row->recommended ? " (written)" : "",
                mb_row_kind_names[row->kind]);
        cell(out, "%.3f", row->bytes / 1e6);
        cell(out, "%.1f", rate(row->decode_ns));
        cell(out, "%.1f", rate(row->predicted_decode_ns));
        range_cell(out, "%.3f", row->slower_low, row->slower_high);
        cell(out, "%.0f", rate(row->prefill_ns));
        cell(out, "%.0f", rate(row->predicted_prefill_ns));
        cell(out, "%.5f", row->kl);
        range_cell(out, "%.5f", row->kl_low, row->kl_high);
        cell(out, "%.5f", row->predicted_kl);
        range_cell(out, "%+.5f", row->worse_low, row->worse_high);
        if (searched)
            cell(out, "%.5f", row->kl_search);
        cell(out, "%.3f", row->perplexity);
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void write_products(FILE *out, const struct mb_report *report)
{
    fputs(
        "<details><summary>Matrix products alone, and with the rest of a token</summary><p>us per "
        "token. The rest (attention, norms, embeddings) is one measured figure for all rows.</p>"
        "<div class=scroll><table><tr><th>assignment<th>decode products<th>predicted<th>decode"
        "<th>predicted<th>prefill products<th>predicted<th>prefill<th>predicted</tr>\n",
        out);
    for (size_t i = 0; i < report->row_count; i++) {
        const struct mb_report_row *row = &report->rows[i];
        const double decode[] = {row->decode_matmul_ns, row->predicted_decode_matmul_ns,
                                 row->decode_ns, row->predicted_decode_ns};
        const double prefill[] = {row->prefill_matmul_ns, row->predicted_prefill_matmul_ns,
                                  row->prefill_ns, row->predicted_prefill_ns};
        fprintf(out, "<tr%s><td>", row->recommended ? " class=plan" : "");
        mb_html_text(out, row->name);
        fputs("</td>", out);
        for (size_t t = 0; t < 4; t++)
            cell(out, "%.2f", decode[t] / 1e3);
        for (size_t t = 0; t < 4; t++)
            cell(out, "%.3f", prefill[t] / 1e3);
        fputs("</tr>\n", out);
    }
    fputs("</table></div></details>\n", out);
}

static void write_device(FILE *out, const struct mb_report *report)
{
    const struct mb_device_info *device = report->device;
    fputs("<h2>The machine</h2><p>", out);
    mb_html_text(out, device->name[0] ? device->name : "unknown CPU");
    fprintf(out, ", %zu cores, %zu threads used; L2 %.1f MiB a core, L3 %.1f MiB; ", device->cores,
            report->threads, (double)device->l2_bytes / 1048576.0,
            (double)device->l3_bytes / 1048576.0);
    mb_html_text(out, device->os);
    fputs("</p>\n", out);
    if (!report->profile)
        return;
    const struct mb_limits *limits = mb_profile_limits(report->profile);
    fputs("<div class=scroll><table><tr><th>limit, measured<th>value</tr>\n", out);
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++)
        if (limits->read_gbps[r] > 0)
            fprintf(out, "<tr><td>read bandwidth, weights in %s</td><td>%.1f GB/s</td></tr>\n",
                    mb_residency_name((enum mb_residency)r), limits->read_gbps[r]);
    struct mb_isa_info isa;
    for (size_t i = 0; i < MB_MAX_ISA && mb_isa_info(i, &isa) == MB_OK; i++) {
        if (limits->dot_gmacs[i] > 0)
            fprintf(out, "<tr><td>int8 dot peak, %s</td><td>%.0f GMAC/s</td></tr>\n", isa.name,
                    limits->dot_gmacs[i]);
        if (limits->fma_gmacs[i] > 0)
            fprintf(out, "<tr><td>f32 fma peak, %s</td><td>%.0f GMAC/s</td></tr>\n", isa.name,
                    limits->fma_gmacs[i]);
    }
    if (limits->dispatch_ns > 0)
        fprintf(out, "<tr><td>one dispatch on all threads</td><td>%.2f us</td></tr>\n",
                limits->dispatch_ns / 1e3);
    fputs("</table></div>\n<h2>What each format costs here</h2>"
          "<p>Matrix products of this model, sum over its measured shapes. Bars are the speed "
          "against the limit that applies: read bandwidth for one token, the dot (or fma) peak for "
          "512 at once.</p>\n",
          out);
    mb_plot_costs(out, report, 1);
    mb_plot_costs(out, report, 512);
}

static void write_sensitivity(FILE *out, const struct mb_report *report)
{
    const struct mb_sensitivity *table = report->sensitivity;
    const char *surrogate = mb_method_name(MB_METHOD_SURROGATE);
    fprintf(out,
            "<h2>What each tensor loses</h2><p>KL(base || one tensor quantized), nats per token, "
            "%zu windows of %zu tokens, %zu scored; noise floor %.2g.%s</p>\n",
            table->windows, table->window, table->tokens, table->noise_floor,
            strncmp(table->method, surrogate, strlen(surrogate)) == 0
                ? " A format or two of each tensor were probed; the others follow from what each "
                  "does to the tensor&rsquo;s own product (the surrogate, docs/sensing.md)."
                : "");
    /* Small multiples: a strong, a middle and a mild format say where a model is soft and where it
     * is hard. */
    const enum mb_format shown[] = {MB_FORMAT_Q2_K, MB_FORMAT_Q4_K, MB_FORMAT_Q4_0, MB_FORMAT_Q6_K,
                                    MB_FORMAT_Q8_0};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        for (size_t f = 0; f < table->format_count; f++)
            if (table->formats[f] == shown[i])
                mb_plot_sensitivity(out, report, shown[i]);
    fputs("<details><summary>All numbers</summary><div class=scroll><table><tr><th>tensor", out);
    for (size_t f = 0; f < table->format_count; f++) {
        const struct mb_format_info *info = mb_format_info(table->formats[f]);
        fprintf(out, "<th>%s", info ? info->name : "?");
    }
    fputs("</tr>\n", out);
    for (size_t u = 0; u < table->unit_count; u++) {
        fputs("<tr><td>", out);
        mb_html_text(out, table->units[u]);
        fputs("</td>", out);
        for (size_t f = 0; f < table->format_count; f++) {
            const struct mb_loss *loss = &table->losses[u * table->format_count + f];
            cell(out, "%.2e", loss->known ? loss->mean : NAN);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div></details>\n", out);
}

static void write_plan(FILE *out, const struct mb_report *report)
{
    fputs("<h2>The plan</h2><p>One format per tensor: ", out);
    mb_html_text(out, report->objective);
    fputs(".</p>\n", out);
    mb_plot_plan(out, report);
    fputs("<details><summary>All tensors</summary><div class=scroll><table><tr><th>tensor"
          "<th>format<th>bytes<th>decode us<th>prefill us per token<th>loss</tr>\n",
          out);
    for (size_t i = 0; i < report->plan->count; i++) {
        const struct mb_plan_entry *entry = &report->plan->entries[i];
        const struct mb_format_info *info = mb_format_info(entry->format);
        fputs("<tr><td>", out);
        mb_html_text(out, entry->name);
        fprintf(out, "</td><td>%s</td>", info ? info->name : "?");
        cell(out, "%.0f", entry->bytes);
        cell(out, "%.2f", entry->decode_ns / 1e3);
        cell(out, "%.3f", entry->prefill_ns / 1e3);
        cell(out, "%.2e", entry->loss);
        fputs("</tr>\n", out);
    }
    fputs("</table></div></details>\n", out);
}

static void write_page(FILE *out, const struct mb_report *report)
{
    fputs("<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
          "<meta name=viewport content=\"width=device-width\"><meta name=\"generator\" "
          "content=\"mixbit\"><title>mixbit: ",
          out);
    mb_html_text(out, report->model_name);
    fprintf(out, "</title><style>\n%s</style></head><body><main>\n<h1>", style);
    mb_html_text(out, report->model_name);
    fputs("</h1><p class=soft>", out);
    mb_html_text(out, report->model_path);
    fputs(report->architecture[0] ? " &middot; architecture " : "", out);
    mb_html_text(out, report->architecture);
    fprintf(out, " &middot; mixbit %s</p>\n", mb_version());
    write_cards(out, report);
    for (size_t i = 0; i < report->note_count; i++) {
        fputs("<p>", out);
        mb_html_text(out, report->notes[i]);
        fputs("</p>\n", out);
    }
    if (report->row_count) {
        fputs("<h2>Size against loss</h2>\n", out);
        mb_plot_tradeoff(out, report);
        write_comparison(out, report);
        write_products(out, report);
    }
    if (report->plan)
        write_plan(out, report);
    if (report->sensitivity)
        write_sensitivity(out, report);
    if (report->device)
        write_device(out, report);
    fputs("</main></body></html>\n", out);
}

enum mb_status mb_report_write(const struct mb_report *report, const char *path,
                               struct mb_error *error)
{
    char *page = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&page, &bytes);
    if (!out)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the report");
    write_page(out, report);
    if (fclose(out) != 0) {
        free(page);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the report");
    }
    struct mb_file *file = NULL;
    enum mb_status status = mb_file_create(path, &file, error);
    if (status == MB_OK) {
        mb_file_write(file, page, bytes);
        status = mb_file_commit(file, error);
    }
    free(page);
    return status;
}
