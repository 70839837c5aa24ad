/* SPDX-License-Identifier: Apache-2.0 */
/* Forward passes for what matrices are multiplied by: importance and second moments look at the
 * same rows, in the same order. */
#include "model/network.h"

#include <stdio.h>

enum mb_status mb_observe(struct mb_network *network, const struct mb_windows *windows,
                          size_t steps, mb_observe_fn observe, void *user,
                          const struct mb_progress *progress, struct mb_error *error)
{
    const size_t chunk = mb_windows_per_chunk(windows, 0);
    struct mb_run *run;
    enum mb_status status =
        mb_run_create(network, chunk * windows->window, windows->window, &run, error);
    if (status != MB_OK)
        return status;
    run->tokens = windows->window;
    run->observe = observe;
    run->observe_user = user;
    for (size_t w = 0; w < windows->count && status == MB_OK; w += chunk) {
        char note[64];
        (void)snprintf(note, sizeof note, "window %zu of %zu", w, windows->count);
        if (mb_progress_report(progress, (double)w, (double)windows->count, note) != MB_OK) {
            status =
                mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                             "interrupted at window %zu of %zu; run it again", w, windows->count);
            break;
        }
        run->ids = windows->tokens + w * windows->window;
        run->sequences = windows->count - w < chunk ? windows->count - w : chunk;
        status = mb_run_steps(run, 0, steps);
        if (status == MB_OK && steps == network->step_count)
            observe(user, run, network->output, 0, run->slots[MB_SLOT_NORMED], network->width,
                    run->rows);
        if (status != MB_OK)
            mb_error_set(error, status, -1, "the forward pass failed: %s",
                         mb_status_string(status));
    }
    mb_run_destroy(run);
    return status;
}
