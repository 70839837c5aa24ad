/* SPDX-License-Identifier: Apache-2.0 */
/* What the solver's files share: the schema line that opens every JSON document, short strings and
 * costs (finite, not negative) in them, and quantities in words. */
#ifndef MIXBIT_SOLVER_NUMBERS_H
#define MIXBIT_SOLVER_NUMBERS_H

#include "mixbit/plan.h"
#include "support/support.h"

/* "schema" must be `schema`, "version" `version`; says which it was otherwise. */
enum mb_status mb_json_schema(const json_t *root, const char *schema, size_t version,
                              const char *path, struct mb_error *error);
/* A string that fits into text[bytes], its NUL included. */
enum mb_status mb_json_text(const json_t *object, const char *key, char *text, size_t bytes,
                            const char *path, struct mb_error *error);
/* A finite number of 0 or more. */
enum mb_status mb_json_cost(const json_t *object, const char *key, double *value, const char *path,
                            struct mb_error *error);

/* Key of a quantity in JSON documents: "loss", "decode_ns", "prefill_ns", "bytes". */
const char *mb_quantity_key(enum mb_quantity quantity);
/* A limit in words: "60 MB", "4.2 tok/s decode", "KL 0.0123". With `loosen` it is rounded to four
 * digits so that whoever types it as a budget asks for no more than `value` allows. */
void mb_quantity_text(enum mb_quantity quantity, double value, bool loosen, char *text,
                      size_t bytes);

#endif
