/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of this machine for `probe`: every backend's, or the reason that it has none. */
#include "cli/devices.h"
#include "dispatch/backend.h"

/* One object per device, {"device", "why"} where a backend has none. */
json_t *mb_devices_json(void)
{
    json_t *array = json_array();
    const struct mb_backend *backend;
    for (size_t b = 0; (backend = mb_backend_at(b)) != NULL; b++) {
        struct mb_error error = {0};
        size_t count = 0;
        if (backend->list(&count, &error) != MB_OK)
            (void)json_array_append_new(
                array, json_pack("{s:s, s:s}", "device", backend->name, "why", error.message));
        for (size_t i = 0; i < count; i++) {
            struct mb_device_info info = {.size = sizeof info};
            char name[32];
            (void)snprintf(name, sizeof name, "%s:%zu", backend->name, i);
            if (backend->describe(i, &info, &error) != MB_OK)
                (void)json_array_append_new(
                    array, json_pack("{s:s, s:s}", "device", name, "why", error.message));
            else
                (void)json_array_append_new(
                    array,
                    json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:s}", "device", name, "name",
                              info.name, "vendor", info.vendor, "features", info.features,
                              "compute_units", (json_int_t)info.cores, "memory_bytes",
                              (json_int_t)info.memory_bytes, "driver", info.os, "key", info.key));
        }
    }
    return array;
}

void mb_devices_print(FILE *out)
{
    json_t *array = mb_devices_json(), *entry;
    size_t i;
    (void)fprintf(out, "devices:\n");
    json_array_foreach(array, i, entry)
    {
        const char *device = json_string_value(json_object_get(entry, "device"));
        const char *why = json_string_value(json_object_get(entry, "why"));
        char memory[32];
        if (why != NULL) {
            (void)fprintf(out, "  %s: none: %s\n", device, why);
            continue;
        }
        (void)fprintf(
            out, "  %s: %s, %lld units, %s, %s\n", device,
            json_string_value(json_object_get(entry, "name")),
            (long long)json_integer_value(json_object_get(entry, "compute_units")),
            mb_text_bytes((double)json_integer_value(json_object_get(entry, "memory_bytes")),
                          memory),
            json_string_value(json_object_get(entry, "driver")));
    }
    (void)fprintf(out, "\n");
    json_decref(array);
}
