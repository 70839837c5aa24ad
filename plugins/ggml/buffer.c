/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers whose weights are packed as they arrive.
 *
 * The host calls set_tensor for everything that it loads, because these buffers say that the host
 * can't read them; that is where packing happens, and get_tensor is where it is undone. Transfers
 * may begin and end anywhere: whole rows are packed from the source, a piece of a row is put into
 * the row as it was before. Fresh memory is zeros, which every format reads as a row of zeros or of
 * small numbers, so that even half a row can be kept. Tensors that are not packed lie here as the
 * host has them. */
#include "buffer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20, PANEL_ROWS = 16 };

struct memory {
    uint8_t *base;
    void *mapping;
    size_t mapped, bytes;
};

static _Atomic size_t live, live_bytes;
/* Two transfers may share the panel at the end of one and the start of the other. */
static pthread_mutex_t panel_lock = PTHREAD_MUTEX_INITIALIZER;

size_t mb_ggml_buffers_live(void) { return atomic_load(&live); }

/* ---- layout ------------------------------------------------------------------------------- */

static bool is_contiguous(const struct ggml_tensor *t, size_t row_bytes)
{
    return t->nb[1] == row_bytes && t->nb[2] == t->nb[1] * (size_t)t->ne[1] &&
           t->nb[3] == t->nb[2] * (size_t)t->ne[2];
}

bool mb_ggml_packing_of(const struct ggml_tensor *tensor, struct mb_ggml_packing *packing)
{
    const struct mb_format_info *format = mb_ggml_format_of(tensor->type);
    size_t bytes;
    if (format == NULL || tensor->view_src != NULL)
        return false;
    for (int i = 0; i < GGML_DIMS; i++)
        if (tensor->ne[i] <= 0)
            return false;
    *packing = (struct mb_ggml_packing){
        .format = format,
        .n = (size_t)tensor->ne[1],
        .k = (size_t)tensor->ne[0],
        .row_bytes = mb_format_row_bytes(format->id, (uint64_t)tensor->ne[0]),
    };
    if (packing->row_bytes == 0 || !is_contiguous(tensor, packing->row_bytes) ||
        mb_pack_size(format->id, packing->n, packing->k, &bytes) != MB_OK ||
        bytes > SIZE_MAX - ALIGNMENT || tensor->ne[2] > INT32_MAX || tensor->ne[3] > INT32_MAX)
        return false;
    packing->matrices = (size_t)tensor->ne[2] * (size_t)tensor->ne[3];
    packing->stride = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return packing->stride <= SIZE_MAX / packing->matrices;
}

enum mb_status mb_ggml_weights(const struct mb_ggml_packing *packing, void *data, size_t i,
                               struct mb_weights *weights)
{
    return mb_weights_init(weights, packing->format->id, packing->n, packing->k,
                           (uint8_t *)data + i * packing->stride);
}

/* ---- transfers ---------------------------------------------------------------------------- */

/* A range of the tensor's bytes as the host counts them. */
struct transfer {
    struct mb_ggml_packing packing;
    uint8_t *packed;
    size_t offset, size;
};

/* One run of a transfer: whole rows of one matrix, or a piece of one row. */
struct piece {
    struct mb_weights weights;
    size_t row0, row1;
    size_t within, size; /* a piece of row0: `within` bytes into it; whole rows: 0 and all bytes */
};

static bool describe(const struct ggml_tensor *tensor, size_t offset, size_t size,
                     struct transfer *transfer)
{
    const struct ggml_tensor *root = tensor->view_src != NULL ? tensor->view_src : tensor;
    if (!mb_ggml_packing_of(root, &transfer->packing))
        return false;
    transfer->packed = root->data;
    transfer->offset = offset + (tensor->view_src != NULL ? tensor->view_offs : 0);
    transfer->size = size;
    return true;
}

/* The next run, taken off the transfer; false at its end or when it leaves the tensor. */
static bool next_piece(struct transfer *transfer, struct piece *piece)
{
    const struct mb_ggml_packing *p = &transfer->packing;
    const size_t row = transfer->offset / p->row_bytes, matrix = row / p->n;
    if (transfer->size == 0 || matrix >= p->matrices ||
        mb_ggml_weights(p, transfer->packed, matrix, &piece->weights) != MB_OK)
        return false;
    piece->row0 = row % p->n;
    piece->within = transfer->offset % p->row_bytes;
    size_t rows = transfer->size / p->row_bytes;
    if (piece->within != 0 || rows == 0) {
        const size_t left = p->row_bytes - piece->within;
        piece->size = transfer->size < left ? transfer->size : left;
        rows = 1;
    } else {
        rows = rows < p->n - piece->row0 ? rows : p->n - piece->row0;
        piece->size = rows * p->row_bytes;
    }
    piece->row1 = piece->row0 + rows;
    transfer->offset += piece->size;
    transfer->size -= piece->size;
    return true;
}

static bool is_whole(const struct transfer *transfer, const struct piece *piece)
{
    return piece->size == (piece->row1 - piece->row0) * transfer->packing.row_bytes;
}

/* `row` has room for one row. */
static enum mb_status write_piece(const struct transfer *transfer, const struct piece *piece,
                                  const void *data, uint8_t *row)
{
    const bool shares = piece->row0 % PANEL_ROWS != 0 || piece->row1 % PANEL_ROWS != 0;
    if (shares)
        (void)pthread_mutex_lock(&panel_lock);
    enum mb_status status = MB_OK;
    if (!is_whole(transfer, piece)) {
        status = mb_unpack_rows(&piece->weights, piece->row0, piece->row1, row);
        memcpy(row + piece->within, data, piece->size);
        data = row;
    }
    if (status == MB_OK)
        status = mb_pack_rows(&piece->weights, data, piece->row0, piece->row1);
    if (shares)
        (void)pthread_mutex_unlock(&panel_lock);
    return status;
}

static enum mb_status read_piece(const struct transfer *transfer, const struct piece *piece,
                                 void *data, uint8_t *row)
{
    const bool whole = is_whole(transfer, piece);
    const enum mb_status status =
        mb_unpack_rows(&piece->weights, piece->row0, piece->row1, whole ? data : row);
    if (status == MB_OK && !whole)
        memcpy(data, row + piece->within, piece->size);
    return status;
}

/* Transfers have no way to fail: what goes wrong is in the log. */
static void finish(const struct ggml_tensor *tensor, const struct transfer *transfer,
                   enum mb_status status)
{
    if (status != MB_OK)
        mb_ggml_log(GGML_LOG_ERROR, "transfer of %.63s failed: %s", tensor->name,
                    mb_status_string(status));
    else if (transfer->size != 0)
        mb_ggml_log(GGML_LOG_ERROR, "transfer of %.63s ends %zu bytes behind the tensor",
                    tensor->name, transfer->size);
}

static void set_tensor(struct ggml_buffer *buffer, struct ggml_tensor *tensor, const void *data,
                       size_t offset, size_t size)
{
    (void)buffer;
    struct transfer transfer;
    struct piece piece;
    if (!describe(tensor, offset, size, &transfer)) {
        memcpy((uint8_t *)tensor->data + offset, data, size);
        return;
    }
    uint8_t *row = malloc(transfer.packing.row_bytes);
    enum mb_status status = row == NULL ? MB_ERR_MEMORY : MB_OK;
    const uint8_t *source = data;
    for (; status == MB_OK && next_piece(&transfer, &piece); source += piece.size)
        status = write_piece(&transfer, &piece, source, row);
    finish(tensor, &transfer, status);
    free(row);
}

static void get_tensor(struct ggml_buffer *buffer, const struct ggml_tensor *tensor, void *data,
                       size_t offset, size_t size)
{
    (void)buffer;
    struct transfer transfer;
    struct piece piece;
    if (!describe(tensor, offset, size, &transfer)) {
        memcpy(data, (const uint8_t *)tensor->data + offset, size);
        return;
    }
    uint8_t *row = malloc(transfer.packing.row_bytes), *target = data;
    enum mb_status status = row == NULL ? MB_ERR_MEMORY : MB_OK;
    for (; status == MB_OK && next_piece(&transfer, &piece); target += piece.size)
        status = read_piece(&transfer, &piece, target, row);
    finish(tensor, &transfer, status);
    free(row);
}

static void memset_tensor(struct ggml_buffer *buffer, struct ggml_tensor *tensor, uint8_t value,
                          size_t offset, size_t size)
{
    enum { CHUNK = 1 << 16 };
    struct transfer transfer;
    if (!describe(tensor, offset, size, &transfer)) {
        memset((uint8_t *)tensor->data + offset, value, size);
        return;
    }
    uint8_t *bytes = malloc(CHUNK);
    if (bytes == NULL) {
        finish(tensor, &transfer, MB_ERR_MEMORY);
        return;
    }
    memset(bytes, value, CHUNK);
    for (size_t done = 0; done < size; done += CHUNK)
        set_tensor(buffer, tensor, bytes, offset + done, size - done < CHUNK ? size - done : CHUNK);
    free(bytes);
}

/* ---- buffers ------------------------------------------------------------------------------ */

/* A buffer: its table, its type, its context. */
static struct memory *memory_of(struct ggml_buffer *buffer)
{
    void **words = (void **)(void *)buffer;
    return words[mb_ggml_host.layout.buffer_slots + 1];
}

static void release(struct memory *memory)
{
    if (memory == NULL)
        return;
    if (memory->mapping != NULL) {
        (void)munmap(memory->mapping, memory->mapped);
        atomic_fetch_sub(&live, 1);
        atomic_fetch_sub(&live_bytes, memory->bytes);
    }
    free(memory);
}

static void free_buffer(struct ggml_buffer *buffer) { release(memory_of(buffer)); }

static void *get_base(struct ggml_buffer *buffer) { return memory_of(buffer)->base; }

static void clear(struct ggml_buffer *buffer, uint8_t value)
{
    const struct memory *memory = memory_of(buffer);
    memset(memory->base, value, memory->bytes);
}

/* Zeroed, on huge pages where the kernel gives them. NULL, with the reason logged. */
static struct memory *allocate(size_t size)
{
    size_t available, total;
    mb_ggml_memory(&available, &total);
    struct memory *memory = calloc(1, sizeof *memory);
    if (memory == NULL)
        return NULL;
    memory->bytes = size;
    memory->mapped = size + HUGE_PAGE;
    if (size > SIZE_MAX - HUGE_PAGE || size > available ||
        size > total - (atomic_load(&live_bytes) < total ? atomic_load(&live_bytes) : total)) {
        mb_ggml_log(GGML_LOG_ERROR,
                    "a buffer of %zu MiB for packed weights does not fit: %zu MiB of memory are "
                    "available; use a smaller model, or unset GGML_BACKEND_PATH to let the host "
                    "map the file",
                    size >> 20, available >> 20);
        release(memory);
        return NULL;
    }
    void *mapping =
        mmap(NULL, memory->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) {
        mb_ggml_log(GGML_LOG_ERROR, "no memory for a buffer of %zu MiB", size >> 20);
        release(memory);
        return NULL;
    }
    memory->mapping = mapping;
    const uintptr_t start = (uintptr_t)mapping;
    memory->base = (uint8_t *)mapping + (HUGE_PAGE - start % HUGE_PAGE) % HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    if (size >= HUGE_PAGE)
        (void)madvise(memory->base, size, MADV_HUGEPAGE);
#endif
    atomic_fetch_add(&live, 1);
    atomic_fetch_add(&live_bytes, size);
    return memory;
}

static struct ggml_buffer *wrap(struct ggml_buffer_type *type, struct memory *memory)
{
    const struct mb_ggml_layout *layout = &mb_ggml_host.layout;
    mb_ggml_fn slots[BUFFER_SLOTS] = {
        [SLOT_FREE_BUFFER] = (mb_ggml_fn)free_buffer, [SLOT_GET_BASE] = (mb_ggml_fn)get_base,
        [SLOT_MEMSET] = (mb_ggml_fn)memset_tensor,    [SLOT_SET] = (mb_ggml_fn)set_tensor,
        [SLOT_GET] = (mb_ggml_fn)get_tensor,
    };
    slots[layout->clear] = (mb_ggml_fn)clear;
    const mb_ggml_fn init = (mb_ggml_fn)mb_ggml_host.ggml_backend_buffer_init;
    if (layout->buffer_slots == 9) {
        struct ggml_buffer_9 table;
        memcpy(&table, slots, sizeof table);
        return ((struct ggml_buffer * (*)(struct ggml_buffer_type *, struct ggml_buffer_9, void *,
                                          size_t)) init)(type, table, memory, memory->bytes);
    }
    struct ggml_buffer_11 table;
    memcpy(&table, slots, sizeof table);
    return ((struct ggml_buffer * (*)(struct ggml_buffer_type *, struct ggml_buffer_11, void *,
                                      size_t)) init)(type, table, memory, memory->bytes);
}

/* ---- the type ----------------------------------------------------------------------------- */

static const char *type_name(struct ggml_buffer_type *type)
{
    (void)type;
    return "mixbit";
}

static struct ggml_buffer *alloc_buffer(struct ggml_buffer_type *type, size_t size)
{
    struct memory *memory = allocate(size);
    struct ggml_buffer *buffer = memory != NULL ? wrap(type, memory) : NULL;
    if (buffer == NULL && memory != NULL)
        release(memory);
    return buffer;
}

static size_t get_alignment(struct ggml_buffer_type *type)
{
    (void)type;
    return ALIGNMENT;
}

/* The host wants room for its own layout at least. */
static size_t get_alloc_size(struct ggml_buffer_type *type, const struct ggml_tensor *tensor)
{
    (void)type;
    struct mb_ggml_packing packing;
    const size_t plain = mb_ggml_host.ggml_nbytes(tensor);
    const size_t packed =
        mb_ggml_packing_of(tensor, &packing) ? packing.stride * packing.matrices : 0;
    return packed > plain ? packed : plain;
}

struct ggml_buffer_type *mb_ggml_buffer_type(struct ggml_device *device)
{
    static struct ggml_buffer_type type = {
        .get_name = type_name,
        .alloc_buffer = alloc_buffer,
        .get_alignment = get_alignment,
        .get_alloc_size = get_alloc_size,
    };
    if (device != NULL)
        type.device = device;
    return &type;
}

bool mb_ggml_is_ours(const struct ggml_tensor *tensor)
{
    return tensor->buffer != NULL &&
           mb_ggml_host.ggml_backend_buffer_get_type(tensor->buffer) == mb_ggml_buffer_type(NULL);
}
