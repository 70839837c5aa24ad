/* SPDX-License-Identifier: Apache-2.0 */
/* The greedy merging that both tokenizers are made of, and the hash table that they look pairs up
 * in.
 *
 * Symbols are a doubly linked list of stretches of the text; candidates wait in a binary heap, best
 * first, leftmost first among equals. A merge makes at most two new candidates, and stale ones are
 * dropped when they surface, so a text of n bytes takes O(n log n). */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* ---- table ---- */

static uint32_t hash_text(const uint8_t *bytes, size_t length, uint32_t salt)
{
    uint64_t hash = 0xcbf29ce484222325u ^ salt; /* FNV-1a: texts are a few bytes long */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return (uint32_t)(hash ^ hash >> 32);
}

bool mb_text_table_create(struct mb_text_table *table, size_t count, size_t bytes)
{
    *table = (struct mb_text_table){.capacity = 16, .arena_bytes = bytes};
    while (table->capacity / 2 < count)
        if (!mb_mul_size(table->capacity, 2, &table->capacity))
            return false;
    size_t entry_bytes;
    if (!mb_mul_size(table->capacity, sizeof *table->entries, &entry_bytes))
        return false;
    table->entries = malloc(entry_bytes);
    table->arena = malloc(bytes == 0 ? 1 : bytes);
    if (table->entries == NULL || table->arena == NULL)
        return false;
    for (size_t i = 0; i < table->capacity; i++)
        table->entries[i].value = -1;
    return true;
}

void mb_text_table_free(struct mb_text_table *table)
{
    free(table->entries);
    free(table->arena);
}

/* The slot of a text: its own, or the free one where it belongs. */
static struct mb_text_entry *find_slot(const struct mb_text_table *table, const uint8_t *bytes,
                                       size_t length, uint32_t salt)
{
    const uint32_t hash = hash_text(bytes, length, salt);
    for (size_t i = hash;; i++) {
        struct mb_text_entry *entry = &table->entries[i & (table->capacity - 1)];
        if (entry->value < 0 ||
            (entry->hash == hash && entry->length == length && entry->salt == salt &&
             memcmp(table->arena + entry->offset, bytes, length) == 0))
            return entry;
    }
}

void mb_text_table_put(struct mb_text_table *table, const uint8_t *bytes, size_t length,
                       uint32_t salt, int32_t value, bool replace)
{
    struct mb_text_entry *entry = find_slot(table, bytes, length, salt);
    if (entry->value >= 0) {
        if (replace)
            entry->value = value;
        return;
    }
    memcpy(table->arena + table->arena_used, bytes, length);
    *entry = (struct mb_text_entry){table->arena_used, (uint32_t)length, salt,
                                    hash_text(bytes, length, salt), value};
    table->arena_used += length;
    if (length > table->longest)
        table->longest = (uint32_t)length;
}

int32_t mb_text_table_get(const struct mb_text_table *table, const uint8_t *bytes, size_t length,
                          uint32_t salt)
{
    return length > table->longest ? -1 : find_slot(table, bytes, length, salt)->value;
}

bool mb_ids_add(struct mb_ids *ids, int32_t id)
{
    if (ids->count == ids->room) {
        const size_t room = ids->room == 0 ? 1024 : ids->room * 2;
        int32_t *larger = realloc(ids->ids, room * sizeof *larger);
        if (larger == NULL)
            return false;
        ids->ids = larger;
        ids->room = room;
    }
    ids->ids[ids->count++] = id;
    return true;
}

/* ---- heap ---- */

static bool is_before(const struct mb_candidate *a, const struct mb_candidate *b)
{
    return a->priority > b->priority || (a->priority == b->priority && a->left < b->left);
}

static bool push(struct mb_merger *m, struct mb_candidate candidate)
{
    if (m->heap_count == m->heap_room) {
        const size_t room = m->heap_room == 0 ? 256 : m->heap_room * 2;
        struct mb_candidate *larger = realloc(m->heap, room * sizeof *larger);
        if (larger == NULL)
            return false;
        m->heap = larger;
        m->heap_room = room;
    }
    size_t at = m->heap_count++;
    while (at > 0 && is_before(&candidate, &m->heap[(at - 1) / 2])) {
        m->heap[at] = m->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    m->heap[at] = candidate;
    return true;
}

static struct mb_candidate pop(struct mb_merger *m)
{
    const struct mb_candidate top = m->heap[0], last = m->heap[--m->heap_count];
    size_t at = 0;
    for (size_t child = 1; child < m->heap_count; child = 2 * at + 1) {
        if (child + 1 < m->heap_count && is_before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!is_before(&m->heap[child], &last))
            break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = last;
    return top;
}

/* ---- merging ---- */

static bool offer(struct mb_merger *m, const uint8_t *text, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return true;
    const struct mb_symbol *a = &m->symbols[left], *b = &m->symbols[right];
    struct mb_candidate candidate = {0.0, left, right, a->length + b->length};
    return !m->priority(m->tokenizer, text + a->start, a->length, candidate.length,
                        &candidate.priority) ||
           push(m, candidate);
}

static size_t character_bytes(uint8_t lead)
{
    return lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static bool make_symbols(struct mb_merger *m, const uint8_t *text, size_t bytes, bool by_character)
{
    if (bytes > m->symbol_room) {
        struct mb_symbol *larger = realloc(m->symbols, bytes * sizeof *larger);
        if (larger == NULL)
            return false;
        m->symbols = larger;
        m->symbol_room = bytes;
    }
    int32_t count = 0;
    for (size_t at = 0; at < bytes; count++) {
        size_t length = by_character ? character_bytes(text[at]) : 1;
        if (length > bytes - at)
            length = bytes - at;
        m->symbols[count] =
            (struct mb_symbol){(uint32_t)at, (uint32_t)length, count - 1, count + 1};
        at += length;
    }
    m->symbols[count - 1].next = -1;
    return true;
}

bool mb_merge(struct mb_merger *m, const uint8_t *text, size_t bytes, bool by_character)
{
    m->heap_count = 0;
    if (!make_symbols(m, text, bytes, by_character))
        return false;
    for (int32_t i = 0; m->symbols[i].next >= 0; i++)
        if (!offer(m, text, i, i + 1))
            return false;
    while (m->heap_count > 0) {
        const struct mb_candidate best = pop(m);
        struct mb_symbol *a = &m->symbols[best.left], *b = &m->symbols[best.right];
        if (a->length == 0 || b->length == 0 || a->length + b->length != best.length)
            continue;
        a->length = best.length;
        b->length = 0;
        a->next = b->next;
        if (b->next >= 0)
            m->symbols[b->next].previous = best.left;
        if (!offer(m, text, a->previous, best.left) || !offer(m, text, best.left, a->next))
            return false;
    }
    return true;
}

void mb_merger_free(struct mb_merger *merger)
{
    free(merger->symbols);
    free(merger->heap);
}
