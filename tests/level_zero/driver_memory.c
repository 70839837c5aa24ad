/* SPDX-License-Identifier: Apache-2.0 */
/* See driver.h: memory. Pages of their own, so that a discrete device's can be closed to the host.
 */
#include "level_zero/driver.h"

#include <string.h>
#include <sys/mman.h>

enum { ALLOCATIONS_MOST = 1024, PAGE = 4096, FRESH = 0xa5 };

struct allocation {
    uint8_t *at;
    size_t bytes, mapped;
    bool is_device;
};
static struct allocation allocations[ALLOCATIONS_MOST];
static size_t allocation_count;

static void open_one(const struct allocation *a, bool open)
{
    if (a->is_device)
        (void)mprotect(a->at, a->mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void driver_open_memory(bool open)
{
    for (size_t i = 0; i < allocation_count; i++)
        open_one(&allocations[i], open);
}

bool driver_is_live(const void *at, size_t bytes)
{
    const uint8_t *from = at;
    for (size_t i = 0; i < allocation_count; i++) {
        const struct allocation *a = &allocations[i];
        if (from >= a->at && from < a->at + a->bytes && bytes <= a->bytes - (size_t)(from - a->at))
            return true;
    }
    return false;
}

static ze_result_t allocate(size_t bytes, bool is_device, void **memory)
{
    const uint64_t most = test_driver_control.largest_buffer;
    NEED(memory);
    if (bytes == 0 || (most > 0 && bytes > most))
        return driver_complain(ZE_RESULT_ERROR_UNSUPPORTED_SIZE, "%zu bytes of memory", bytes);
    if (allocation_count == ALLOCATIONS_MOST)
        return ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY;
    const size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE;
    void *at = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY;
    memset(at, FRESH, mapped);
    struct allocation *a = &allocations[allocation_count++];
    *a = (struct allocation){at, bytes, mapped, is_device};
    open_one(a, false);
    test_driver_control.live[LIVE_MEMORY]++;
    *memory = at;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_MemAllocDevice(ze_context_handle_t context,
                                  const ze_device_mem_alloc_desc_t *desc, size_t bytes,
                                  size_t alignment, ze_device_handle_t device, void **memory)
{
    ENTER("MemAllocDevice");
    NEED(context);
    NEED(desc);
    NEED(device);
    (void)alignment; /* a page is enough */
    return allocate(bytes, true, memory);
}

ze_result_t driver_MemAllocShared(ze_context_handle_t context,
                                  const ze_device_mem_alloc_desc_t *desc,
                                  const ze_host_mem_alloc_desc_t *host, size_t bytes,
                                  size_t alignment, ze_device_handle_t device, void **memory)
{
    ENTER("MemAllocShared");
    NEED(context);
    NEED(desc);
    NEED(host);
    NEED(device);
    (void)alignment;
    return allocate(bytes, false, memory);
}

ze_result_t driver_MemAllocHost(ze_context_handle_t context, const ze_host_mem_alloc_desc_t *desc,
                                size_t bytes, size_t alignment, void **memory)
{
    ENTER("MemAllocHost");
    NEED(context);
    NEED(desc);
    (void)alignment;
    const uint64_t most = test_driver_control.largest_buffer;
    test_driver_control.largest_buffer = 0; /* the limit is the device's */
    const ze_result_t code = allocate(bytes, false, memory);
    test_driver_control.largest_buffer = most;
    return code;
}

ze_result_t driver_MemFree(ze_context_handle_t context, void *memory)
{
    ENTER("MemFree");
    NEED(context);
    for (size_t i = 0; i < allocation_count; i++)
        if (allocations[i].at == memory) {
            (void)munmap(memory, allocations[i].mapped);
            allocations[i] = allocations[--allocation_count];
            test_driver_control.live[LIVE_MEMORY]--;
            return ZE_RESULT_SUCCESS;
        }
    return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "MemFree: not a live allocation");
}
