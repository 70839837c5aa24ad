/* SPDX-License-Identifier: Apache-2.0 */
/* See scratch.h. A short list under a lock: a call borrows a few times, for microseconds to
 * milliseconds of work each. */
#include "scratch.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

enum { ALIGNMENT = 64, STEP = 1 << 16 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mb_ort_scratch *kept; /* not lent now */
static size_t users;

static void destroy(struct mb_ort_scratch *scratch)
{
    free(scratch->data);
    free(scratch);
}

static struct mb_ort_scratch *create(size_t bytes)
{
    struct mb_ort_scratch *scratch = malloc(sizeof *scratch);
    if (scratch == NULL || bytes > SIZE_MAX - STEP) {
        free(scratch);
        return NULL;
    }
    bytes = (bytes + STEP - 1) / STEP * STEP;
    *scratch = (struct mb_ort_scratch){.bytes = bytes, .data = aligned_alloc(ALIGNMENT, bytes)};
    if (scratch->data != NULL)
        return scratch;
    free(scratch);
    return NULL;
}

void mb_ort_scratch_join(void)
{
    (void)pthread_mutex_lock(&lock);
    users++;
    (void)pthread_mutex_unlock(&lock);
}

void mb_ort_scratch_leave(void)
{
    (void)pthread_mutex_lock(&lock);
    struct mb_ort_scratch *all = --users == 0 ? kept : NULL;
    if (users == 0)
        kept = NULL;
    (void)pthread_mutex_unlock(&lock);
    while (all != NULL) {
        struct mb_ort_scratch *next = all->next;
        destroy(all);
        all = next;
    }
}

/* The smallest that is large enough; where none is, the largest makes room for a larger one. */
struct mb_ort_scratch *mb_ort_borrow(size_t bytes)
{
    struct mb_ort_scratch **best = NULL;
    (void)pthread_mutex_lock(&lock);
    for (struct mb_ort_scratch **at = &kept; *at != NULL; at = &(*at)->next) {
        const size_t size = (*at)->bytes;
        if (best == NULL || (size >= bytes ? (*best)->bytes < bytes || size < (*best)->bytes
                                           : size > (*best)->bytes))
            best = at;
    }
    struct mb_ort_scratch *found = best != NULL ? *best : NULL;
    if (found != NULL)
        *best = found->next;
    (void)pthread_mutex_unlock(&lock);
    if (found != NULL && found->bytes < bytes) {
        destroy(found);
        found = NULL;
    }
    return found != NULL ? found : create(bytes > 0 ? bytes : 1);
}

void mb_ort_return(struct mb_ort_scratch *scratch)
{
    if (scratch == NULL)
        return;
    (void)pthread_mutex_lock(&lock);
    scratch->next = kept;
    kept = scratch;
    (void)pthread_mutex_unlock(&lock);
}
