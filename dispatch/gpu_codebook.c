/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices as kernels/gpu/codebook.clh reads them. Panels stay as they are; runs become a
 * description of every chunk, so that a work-group finds the chunks of its part of k without a
 * search, and what is kept beside the codes is listed by row, since a row is a lane. */
#include "dispatch/codebook.h"
#include "dispatch/gpu.h"

#include <string.h>

enum { BY_COLUMN = 32, HEAD_BYTES = 64 };

/* The structures of codebook.clh. */
struct head {
    uint32_t tables, table_bytes, outlier_first, outliers, panels, panel_bytes, k;
};
struct description {
    uint32_t codes, scale, table, planes;
};
struct outlier {
    uint32_t column;
    float value;
};
_Static_assert(sizeof(struct head) <= HEAD_BYTES, "codebook.clh has it so");
_Static_assert(MB_GPU_CODEBOOK_TABLES == MB_CODEBOOK_NARROW * 64, "a table takes 64 bytes");

static size_t aligned_size(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Where everything is; false: not within 32 bits. */
static bool lay_out(const struct mb_codebook_weights *w, const struct mb_codebook_parts *parts,
                    size_t panel0, size_t panel1, struct head *head)
{
    const size_t first = w->row0 / MB_PANEL_ROWS;
    const size_t outliers = w->outliers > 0 ? parts->outlier_first[first + panel1] -
                                                  parts->outlier_first[first + panel0]
                                            : 0;
    const size_t tables =
        HEAD_BYTES + aligned_size(w->padded_k / MB_CHUNK_K * sizeof(struct description));
    const size_t outlier_first = tables + aligned_size(w->table_bytes);
    const size_t list =
        outlier_first + aligned_size(((panel1 - panel0) * MB_PANEL_ROWS + 1) * sizeof(uint32_t));
    const size_t panels = list + aligned_size(outliers * sizeof(struct outlier));
    *head = (struct head){.tables = (uint32_t)tables,
                          .table_bytes = (uint32_t)w->table_bytes,
                          .outlier_first = (uint32_t)outlier_first,
                          .outliers = (uint32_t)list,
                          .panels = (uint32_t)panels,
                          .panel_bytes = (uint32_t)w->panel_bytes,
                          .k = (uint32_t)w->k};
    return panels <= UINT32_MAX;
}

size_t mb_gpu_codebook_bytes(const struct mb_codebook_weights *w, size_t panel0, size_t panel1)
{
    struct mb_codebook_parts parts;
    struct head head;
    return mb_codebook_parts(w, &parts) && lay_out(w, &parts, panel0, panel1, &head) ? head.panels
                                                                                     : 0;
}

static void describe(const struct mb_codebook_weights *w, const struct mb_codebook_parts *parts,
                     struct description *to)
{
    for (size_t i = 0; i < w->run_count; i++) {
        const struct mb_codebook_run *run = &parts->runs[i];
        const enum mb_coding coding = (enum mb_coding)run->coding;
        const bool by_column = mb_coding_has_column_tables(coding);
        const uint32_t bytes = mb_superblock_layout(coding, MB_SCALE_G32).chunk_bytes;
        const uint32_t table = by_column ? MB_CHUNK_K / 4 * mb_coding_quad_table(coding) : 0;
        for (uint32_t c = 0; c < run->chunks; c++)
            *to++ = (struct description){.codes = run->codes + c * bytes,
                                         .scale = run->scale,
                                         .table = run->table + c * table,
                                         .planes = mb_gpu_planes(coding) |
                                                   (by_column ? (unsigned)BY_COLUMN : 0)};
    }
}

/* By row; those of one row keep their order, which is that of columns. */
static void list_outliers(const struct mb_codebook_parts *parts, size_t panel0, size_t panel1,
                          uint32_t *first, struct outlier *to)
{
    uint32_t count = 0;
    for (size_t panel = panel0; panel < panel1; panel++)
        for (size_t lane = 0; lane < MB_PANEL_ROWS; lane++) {
            *first++ = count;
            for (size_t i = parts->outlier_first[panel]; i < parts->outlier_first[panel + 1]; i++)
                if (parts->outliers[i].place % MB_PANEL_ROWS == lane)
                    to[count++] = (struct outlier){parts->outliers[i].place / MB_PANEL_ROWS,
                                                   parts->outliers[i].value};
        }
    *first = count;
}

void mb_gpu_codebook_write(const struct mb_codebook_weights *w, size_t panel0, size_t panel1,
                           uint8_t *to)
{
    const size_t first = w->row0 / MB_PANEL_ROWS;
    struct mb_codebook_parts parts;
    struct head head;
    (void)mb_codebook_parts(w, &parts);
    (void)lay_out(w, &parts, panel0, panel1, &head);
    memset(to, 0, head.panels);
    memcpy(to, &head, sizeof head);
    describe(w, &parts, (void *)(to + HEAD_BYTES));
    memcpy(to + head.tables, parts.tables, w->table_bytes);
    if (w->outliers > 0)
        list_outliers(&parts, first + panel0, first + panel1, (void *)(to + head.outlier_first),
                      (void *)(to + head.outliers));
}
