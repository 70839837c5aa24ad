/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a sensing job: finished probes, one checksummed line each, appended as they finish.
 *
 *   <checksum> mixbit-journal 1 <settings>
 *   <checksum> <format> <mean> <low> <high> <weight error> [<value> ...] <tensor>
 *
 * The checksum is XXH3 over the rest of the line; numbers are the 16 hex digits of the f64, so that
 * a resumed job gives the bits an uninterrupted one would; bytes of a name that could break a line
 * are %XX. A line that was cut or damaged is as if it had never been written. */
#ifndef MIXBIT_MODEL_JOURNAL_H
#define MIXBIT_MODEL_JOURNAL_H

#include "mixbit/sensitivity.h"

struct mb_journal;

/* The name under which a job keeps its noise floor. No tensor has it: names are not empty. */
#define MB_JOURNAL_NOISE ""

/**
 * Open or create. `settings` is one line that says what the job is: a journal with another one is
 * refused (MB_ERR_STALE), a file that is no journal is left alone (MB_ERR_FILE), and one that
 * another process writes to as well (MB_ERR_IO). path NULL gives a journal that lives in memory.
 * `values` is how many further numbers an entry has; it has to follow from the settings.
 */
enum mb_status mb_journal_open(const char *path, const char *settings, size_t values,
                               struct mb_journal **journal, struct mb_error *error);
void mb_journal_close(struct mb_journal *journal);
/* A finished probe, NULL when it is not in the journal. Valid until the next append. */
const struct mb_loss *mb_journal_find(const struct mb_journal *journal, const char *tensor,
                                      enum mb_format format);
/* Its further numbers; NULL when it is not in the journal, or has none. */
const double *mb_journal_values(const struct mb_journal *journal, const char *tensor,
                                enum mb_format format);
size_t mb_journal_count(const struct mb_journal *journal);
/* On disk when it returns. A write that fails leaves the file as it was. */
enum mb_status mb_journal_append(struct mb_journal *journal, const char *tensor,
                                 enum mb_format format, const struct mb_loss *loss,
                                 const double *values, struct mb_error *error);

#endif
