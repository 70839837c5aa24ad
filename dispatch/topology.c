/* SPDX-License-Identifier: Apache-2.0 */
/* Cores and caches, from hwloc, as far as this process may use them: the CPU set of its affinity
 * and cgroup, and the cgroup's CPU quota, which no CPU set shows (a container with two CPUs' worth
 * of time on a 64-core machine). */
#include "dispatch/dispatch.h"

#include <hwloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

/* "max 100000" or "200000 100000" (cgroup v2) -> CPUs rounded up; 0 when there is no limit. */
static size_t quota_from(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    long long quota = 0, period = 0;
    const int read = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    return read == 2 && quota > 0 && period > 0 ? (size_t)((quota + period - 1) / period) : 0;
}

/* The tightest quota on the way from our cgroup to the root; inside a container the root is the
 * container's own. */
static size_t cpu_quota(void)
{
    char group[512] = "", path[768];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file != NULL) {
        char line[640];
        while (fgets(line, sizeof line, file) != NULL)
            if (strncmp(line, "0::/", 4) == 0)
                snprintf(group, sizeof group, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
        fclose(file);
    }
    size_t tightest = 0;
    for (;;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        const size_t quota = quota_from(path);
        if (quota > 0 && (tightest == 0 || quota < tightest))
            tightest = quota;
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return tightest;
        *slash = '\0';
    }
}

static size_t cores_in(hwloc_topology_t topology, hwloc_const_cpuset_t set)
{
    size_t count = 0;
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL)
        count += (size_t)hwloc_bitmap_intersects(core->cpuset, set);
    const int units = hwloc_bitmap_weight(set);
    return count > 0   ? count
           : units > 0 ? (size_t)units
                       : 1; /* no core level: count hardware threads */
}

static const char *kind_name(unsigned infos_count, const struct hwloc_info_s *infos)
{
    for (unsigned i = 0; i < infos_count; i++) {
        if (strcmp(infos[i].name, "CoreType") != 0)
            continue;
        if (strcmp(infos[i].value, "IntelCore") == 0)
            return "performance";
        if (strcmp(infos[i].value, "IntelAtom") == 0)
            return "efficiency";
        return infos[i].value;
    }
    return NULL;
}

/* hwloc orders kinds from the most efficient to the fastest; ours come the other way round. */
static void fill_kinds(hwloc_topology_t topology, hwloc_const_cpuset_t allowed,
                       struct mb_device_info *info)
{
    const int total = hwloc_cpukinds_get_nr(topology, 0);
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    for (int i = total; set != NULL && i-- > 0 && info->core_kinds < MB_MAX_CORE_KINDS;) {
        int efficiency;
        unsigned infos_count = 0;
        struct hwloc_info_s *infos = NULL;
        if (hwloc_cpukinds_get_info(topology, (unsigned)i, set, &efficiency, &infos_count, &infos,
                                    0) != 0 ||
            !hwloc_bitmap_intersects(set, allowed))
            continue;
        hwloc_bitmap_and(set, set, allowed);
        const size_t at = info->core_kinds++;
        const char *name = kind_name(infos_count, infos);
        info->kinds[at].cores = cores_in(topology, set);
        if (name != NULL)
            snprintf(info->kinds[at].name, sizeof info->kinds[at].name, "%s", name);
        else
            snprintf(info->kinds[at].name, sizeof info->kinds[at].name, "kind %zu", at);
    }
    hwloc_bitmap_free(set);
    if (info->core_kinds <= 1) {
        info->core_kinds = 1;
        info->kinds[0].cores = info->cores;
        snprintf(info->kinds[0].name, sizeof info->kinds[0].name, "core");
    }
}

static void fill_caches(hwloc_topology_t topology, hwloc_const_cpuset_t allowed,
                        struct mb_device_info *info)
{
    hwloc_obj_t first = NULL;
    while ((first = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, first)) != NULL)
        if (hwloc_bitmap_intersects(first->cpuset, allowed))
            break;
    for (hwloc_obj_t at = first; at != NULL; at = at->parent) {
        if (at->type == HWLOC_OBJ_L1CACHE)
            info->l1d_bytes = (size_t)at->attr->cache.size;
        else if (at->type == HWLOC_OBJ_L2CACHE)
            info->l2_bytes = (size_t)at->attr->cache.size;
    }
    hwloc_obj_t l3 = NULL;
    while ((l3 = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_L3CACHE, l3)) != NULL) {
        if (!hwloc_bitmap_intersects(l3->cpuset, allowed))
            continue;
        info->l3_bytes += (size_t)l3->attr->cache.size;
        if (info->l3_shared_by == 0)
            info->l3_shared_by = cores_in(topology, l3->cpuset);
    }
}

/* Processors that have no CPUID are named by what hwloc found in the device tree or /proc. */
static void fill_names(hwloc_topology_t topology, struct mb_device_info *info)
{
    hwloc_obj_t package = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PACKAGE, NULL);
    if (package == NULL)
        package = hwloc_get_root_obj(topology);
    const char *name = hwloc_obj_get_info_by_name(package, "CPUModel");
    const char *vendor = hwloc_obj_get_info_by_name(package, "CPUVendor");
    if (info->name[0] == '\0')
        snprintf(info->name, sizeof info->name, "%s", name != NULL ? name : "unknown CPU");
    if (info->vendor[0] == '\0')
        snprintf(info->vendor, sizeof info->vendor, "%s", vendor != NULL ? vendor : "unknown");
}

enum mb_status mb_topology_fill(struct mb_device_info *info)
{
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return MB_ERR_MEMORY;
    if (hwloc_topology_load(topology) != 0) {
        hwloc_topology_destroy(topology);
        return MB_ERR_DEVICE;
    }
    hwloc_bitmap_t allowed = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology));
    hwloc_bitmap_t affinity = hwloc_bitmap_alloc();
    if (allowed == NULL || affinity == NULL) {
        hwloc_bitmap_free(allowed);
        hwloc_bitmap_free(affinity);
        hwloc_topology_destroy(topology);
        return MB_ERR_MEMORY;
    }
    if (hwloc_get_cpubind(topology, affinity, HWLOC_CPUBIND_PROCESS) == 0 &&
        hwloc_bitmap_intersects(allowed, affinity))
        hwloc_bitmap_and(allowed, allowed, affinity);

    const int units = hwloc_bitmap_weight(allowed);
    info->threads = units > 0 ? (size_t)units : 1;
    info->cores = cores_in(topology, allowed);
    fill_kinds(topology, allowed, info);
    fill_caches(topology, allowed, info);
    fill_names(topology, info);
    info->memory_bytes = (size_t)hwloc_get_root_obj(topology)->total_memory;

    const size_t quota = cpu_quota();
    if (quota > 0 && quota < info->threads) {
        info->threads = quota;
        info->cores = quota < info->cores ? quota : info->cores;
        for (size_t i = 0; i < info->core_kinds; i++)
            info->kinds[i].cores = quota < info->kinds[i].cores ? quota : info->kinds[i].cores;
    }
    struct utsname os;
    if (uname(&os) == 0)
        snprintf(info->os, sizeof info->os, "%.60s %.60s", os.sysname, os.release);
    hwloc_bitmap_free(affinity);
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topology);
    return MB_OK;
}
