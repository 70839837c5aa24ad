/* SPDX-License-Identifier: Apache-2.0 */
/* The trade-off plot of the report: file size on x, KL on a logarithmic y, one mark and one label a
 * row.
 *
 * At one size a dozen formats lie within a few pixels, so labels are placed one by one, the
 * recommended row first: each takes the nearest place around its mark where it covers neither a
 * mark, a label nor a line, and a thin line leads there when it is not next to it. */
#include "cli/report.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

struct axes {
    double x0, x1, y0, y1; /* data; y as log10 */
    double left, right, top, bottom;
};

static double map_x(const struct axes *a, double bytes)
{
    return a->left + (bytes - a->x0) / (a->x1 - a->x0) * (a->right - a->left);
}

static double map_y(const struct axes *a, double kl)
{
    return a->bottom - (log10(kl) - a->y0) / (a->y1 - a->y0) * (a->bottom - a->top);
}

static int drawable(double bytes, double kl)
{
    return isfinite(bytes) && isfinite(kl) && bytes > 0 && kl > 1e-9;
}

static void include_point(struct axes *a, double bytes, double kl)
{
    if (!drawable(bytes, kl))
        return;
    a->x0 = fmin(a->x0, bytes), a->x1 = fmax(a->x1, bytes);
    a->y0 = fmin(a->y0, log10(kl)), a->y1 = fmax(a->y1, log10(kl));
}

static struct axes tradeoff_axes(const struct mb_report *report)
{
    struct axes a = {INFINITY, -INFINITY, INFINITY, -INFINITY, 70, 985, 20, 500};
    for (size_t i = 0; i < report->row_count; i++)
        include_point(&a, report->rows[i].bytes, report->rows[i].kl);
    /* The curve may reach far beyond what was measured: it is clipped to a margin around the rows.
     */
    if (!(a.x1 > a.x0))
        for (size_t i = 0; i < report->front_count; i++)
            include_point(&a, report->front[i].bytes, report->front[i].predicted_kl);
    if (!(a.x1 >= a.x0))
        a.x0 = 0, a.x1 = 1, a.y0 = -3, a.y1 = 0;
    const double margin = fmax((a.x1 - a.x0) * 0.06, a.x1 * 0.01);
    a.x0 = fmax(0, a.x0 - margin), a.x1 += margin;
    a.y0 = a.y0 - 0.15, a.y1 = a.y1 + 0.15;
    return a;
}

static void draw_axes(FILE *out, const struct axes *a)
{
    const double span = a->x1 - a->x0;
    double step = pow(10, floor(log10(span / 4)));
    while (span / step > 8)
        step *= span / step > 16 ? 5 : 2;
    for (double x = ceil(a->x0 / step) * step; x <= a->x1; x += step)
        fprintf(out,
                "<line class=grid x1=%.1f x2=%.1f y1=%.1f y2=%.1f /><text class=soft x=%.1f y=%.1f "
                "text-anchor=middle>%.4g</text>",
                map_x(a, x), map_x(a, x), a->top, a->bottom, map_x(a, x), a->bottom + 17, x / 1e6);
    for (int decade = (int)floor(a->y0); decade <= (int)ceil(a->y1); decade++) {
        for (int digit = 1; digit <= 5; digit += digit == 1 ? 1 : 3) {
            const double kl = digit * pow(10, decade);
            if (log10(kl) < a->y0 || log10(kl) > a->y1)
                continue;
            fprintf(out,
                    "<line class=grid x1=%.1f x2=%.1f y1=%.1f y2=%.1f /><text class=soft x=%.1f "
                    "y=%.1f text-anchor=end>%.4g</text>",
                    a->left, a->right, map_y(a, kl), map_y(a, kl), a->left - 8, map_y(a, kl) + 4,
                    kl);
        }
    }
    fprintf(out,
            "<line class=axis x1=%.1f x2=%.1f y1=%.1f y2=%.1f /><line class=axis x1=%.1f x2=%.1f "
            "y1=%.1f y2=%.1f />",
            a->left, a->right, a->bottom, a->bottom, a->left, a->left, a->top, a->bottom);
    fprintf(out,
            "<text class=soft x=%.1f y=%.1f text-anchor=middle>file size, MB</text>"
            "<text class=soft transform=\"translate(16 %.1f) rotate(-90)\" text-anchor=middle>KL, "
            "nats per token (log)</text>",
            (a->left + a->right) / 2, a->bottom + 36, (a->top + a->bottom) / 2);
}

static void draw_mark(FILE *out, const struct mb_report_row *row, double x, double y)
{
    if (row->recommended)
        fprintf(out, "<path class=plan d=\"M%.1f %.1fl7 8l-7 8l-7 -8z\" />", x, y - 8);
    else if (row->kind == MB_ROW_UNIFORM)
        fprintf(out, "<circle class=uniform cx=%.1f cy=%.1f r=4.5 />", x, y);
    else if (row->kind == MB_ROW_PRESET)
        fprintf(out, "<rect class=preset x=%.1f y=%.1f width=8.5 height=8.5 />", x - 4.2, y - 4.2);
    else
        fprintf(out, "<path class=near d=\"M%.1f %.1fl5.5 9.5h-11z\" />", x, y - 6);
}

/* ---- labels ---- */

enum { LABELS_MOST = 256, RINGS = 9, DIRECTIONS = 8, LINE_POINTS = 10 };

struct box {
    double x0, x1, y0, y1;
};

/* What labels must not cover: marks first, then labels and the points of lines. */
struct taken {
    size_t count, marks;
    struct box at[(2 + LINE_POINTS) * LABELS_MOST];
};

static void take(struct taken *taken, struct box box)
{
    if (taken->count < sizeof taken->at / sizeof *taken->at)
        taken->at[taken->count++] = box;
}

static bool overlap(struct box a, struct box b)
{
    return a.x0 < b.x1 && a.x1 > b.x0 && a.y0 < b.y1 && a.y1 > b.y0;
}

static bool is_free(const struct taken *taken, const struct axes *a, struct box box)
{
    if (box.x0 < a->left || box.x1 > a->right + 12 || box.y0 < 2 || box.y1 > a->bottom)
        return false;
    for (size_t i = 0; i < taken->count; i++)
        if (overlap(box, taken->at[i]))
            return false;
    return true;
}

/* A label of so many characters at 11 px, around (x, y): rings go outwards. Characters are taken
 * for wider than they are, since the reader's font is not known. */
static struct box place(double x, double y, size_t length, size_t ring, size_t direction)
{
    static const double across[DIRECTIONS] = {0, 0, 1, -1, 0.7, -0.7, 0.7, -0.7};
    static const double up[DIRECTIONS] = {1, -1, 0, 0, 0.8, 0.8, -0.8, -0.8};
    const double half = 3.4 * (double)length, height = 12, step = 11 * (double)ring;
    const double center_x = x + across[direction] * (half + 8 + step),
                 center_y = y - up[direction] * (13 + step);
    return (struct box){center_x - half, center_x + half, center_y - height / 2,
                        center_y + height / 2};
}

static double clamp(double value, double low, double high) { return fmin(high, fmax(low, value)); }

/* The line from a mark to its label, as points: the nearest edge of the label last. */
static void line_points(double x, double y, struct box label, struct box points[LINE_POINTS])
{
    const double to_x = clamp(x, label.x0, label.x1), to_y = clamp(y, label.y0, label.y1);
    for (size_t i = 0; i < LINE_POINTS; i++) {
        const double part = ((double)i + 0.5) / LINE_POINTS;
        const double at_x = x + part * (to_x - x), at_y = y + part * (to_y - y);
        points[i] = (struct box){at_x - 0.5, at_x + 0.5, at_y - 0.5, at_y + 0.5};
    }
}

/* Lines may pass marks, which are drawn over them, but no label. */
static bool line_is_free(const struct taken *taken, const struct box points[LINE_POINTS])
{
    for (size_t p = 0; p < LINE_POINTS; p++)
        for (size_t i = taken->marks; i < taken->count; i++)
            if (overlap(points[p], taken->at[i]))
                return false;
    return true;
}

static void draw_label(FILE *out, const struct axes *a, struct taken *taken,
                       const struct mb_report_row *row)
{
    const double x = map_x(a, row->bytes), y = map_y(a, row->kl);
    const size_t length = strlen(row->name);
    struct box box = place(x, y, length, 0, 0), points[LINE_POINTS];
    for (size_t i = 0; i < RINGS * DIRECTIONS; i++) {
        const size_t ring = i / DIRECTIONS;
        const struct box tried = place(x, y, length, ring, i % DIRECTIONS);
        line_points(x, y, tried, points);
        if (!is_free(taken, a, tried) || (ring > 0 && !line_is_free(taken, points)))
            continue;
        for (size_t p = 0; ring > 0 && p < LINE_POINTS; p++)
            take(taken, points[p]);
        if (ring > 0)
            fprintf(out, "<line class=lead x1=%.1f y1=%.1f x2=%.1f y2=%.1f />", x, y,
                    clamp(x, tried.x0, tried.x1), clamp(y, tried.y0, tried.y1));
        box = tried;
        break;
    }
    take(taken, box);
    fprintf(out, "<text x=%.1f y=%.1f text-anchor=middle font-size=11%s>", (box.x0 + box.x1) / 2,
            box.y1 - 2.5, row->recommended ? " font-weight=700" : "");
    mb_html_text(out, row->name);
    fputs("</text>", out);
}

static void draw_front(FILE *out, const struct axes *a, const struct mb_report *report)
{
    fprintf(out,
            "<clipPath id=area><rect x=%.1f y=%.1f width=%.1f height=%.1f /></clipPath>"
            "<polyline class=front clip-path=\"url(#area)\" points=\"",
            a->left, a->top, a->right - a->left, a->bottom - a->top);
    for (size_t i = 0; i < report->front_count; i++)
        if (drawable(report->front[i].bytes, report->front[i].predicted_kl))
            fprintf(out, "%.1f,%.1f ", map_x(a, report->front[i].bytes),
                    map_y(a, report->front[i].predicted_kl));
    fputs("\" />", out);
}

void mb_plot_tradeoff(FILE *out, const struct mb_report *report)
{
    const struct axes a = tradeoff_axes(report);
    struct taken taken = {.count = 0};
    fputs(
        "<figure><svg viewBox=\"0 0 1000 545\" width=1000 role=img aria-label=\"file size against "
        "KL\">",
        out);
    draw_axes(out, &a);
    draw_front(out, &a, report);
    for (size_t i = 0; i < report->row_count; i++) {
        const struct mb_report_row *row = &report->rows[i];
        if (drawable(row->bytes, row->kl)) {
            const double x = map_x(&a, row->bytes), y = map_y(&a, row->kl);
            take(&taken, (struct box){x - 6, x + 6, y - 6, y + 6});
        }
    }
    taken.marks = taken.count;
    /* Labels below marks, so that no line crosses one; marks last, the recommended one on top.
     * Plans that were not chosen crowd around the chosen one: the table names them. */
    for (int recommended = 1; recommended >= 0; recommended--)
        for (size_t i = 0; i < report->row_count; i++) {
            const struct mb_report_row *row = &report->rows[i];
            const bool rejected = row->kind == MB_ROW_PLAN && !row->recommended;
            if (drawable(row->bytes, row->kl) && !row->recommended == !recommended && !rejected)
                draw_label(out, &a, &taken, row);
        }
    for (int recommended = 0; recommended <= 1; recommended++)
        for (size_t i = 0; i < report->row_count; i++) {
            const struct mb_report_row *row = &report->rows[i];
            if (drawable(row->bytes, row->kl) && !row->recommended == !recommended)
                draw_mark(out, row, map_x(&a, row->bytes), map_y(&a, row->kl));
        }
    fputs(
        "</svg><figcaption>Circles: uniform formats. Squares: llama.cpp's presets. Triangles: "
        "other mixes of the solver, measured (those without a name were candidates for what was "
        "written). Diamond: what was written. Dashed: the "
        "solver's predicted trade-off curve. Lower and further left is better; the numbers are in "
        "the table below.</figcaption></figure>\n",
        out);
}
