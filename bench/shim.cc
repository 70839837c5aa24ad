/* SPDX-License-Identifier: Apache-2.0 */
/* See shim.h. Real time is what counts: the work is spread over threads of our own. */
#include "bench/shim.h"

#include <benchmark/benchmark.h>

namespace
{

void run_case(benchmark::State &state, const shim_case *bench)
{
    const char *why = "set-up failed";
    void *ready = bench->set_up(bench->arg, &why);
    if (ready == nullptr) {
        state.SkipWithError(why);
        return;
    }
    while (state.KeepRunning())
        bench->run(ready, 1);
    const auto per_second = benchmark::Counter::kIsIterationInvariantRate;
    state.counters["gmacs"] = benchmark::Counter(bench->macs / 1e9, per_second);
    state.counters["weight_gbps"] = benchmark::Counter(bench->bytes / 1e9, per_second);
    if (bench->bound_s > 0)
        state.counters["fraction"] = benchmark::Counter(bench->bound_s, per_second);
}

} // namespace

void shim_register(const char *name, const struct shim_case *bench)
{
    benchmark::RegisterBenchmark(name, run_case, bench)->UseRealTime();
}

void shim_initialize(int *argc, char **argv) { benchmark::Initialize(argc, argv); }

int shim_run(void)
{
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
