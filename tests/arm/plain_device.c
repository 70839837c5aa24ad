/* SPDX-License-Identifier: Apache-2.0 */
/* The device without hwloc and xxHash: two cores of a kind, no caches, no key. All that the threads
 * of dispatch ask of it is how many cores there are. */
#include "mixbit/device.h"

#include <string.h>

enum mb_status mb_device_info(struct mb_device_info *info)
{
    if (info == NULL || info->size != sizeof *info)
        return MB_ERR_ARGUMENT;
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->cores = info->threads = info->kinds[0].cores = 2;
    info->core_kinds = 1;
    return MB_OK;
}
