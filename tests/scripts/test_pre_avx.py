# SPDX-License-Identifier: Apache-2.0
"""The lowest path on an x86 CPU without AVX, emulated by qemu-user: kernels, conversions, threads, dispatch, the program. An instruction that
such a CPU lacks ends a run with SIGILL; a control program shows that this emulation has that effect.

usage: test_pre_avx.py SOURCE BUILD COMPILER
Exit status 77, which ctest counts as skipped, when qemu-x86_64 is missing."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

source, build, compiler = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
CPU = "Nehalem"  # 2008: SSE4.2, the last without AVX
qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
if qemu is None:
    print("SKIPPED: a CPU without AVX is NOT tested here: no qemu-x86_64; install qemu-user, or run ./quickstart test, which does")
    sys.exit(77)
for variable in [v for v in os.environ if v.startswith("MIXBIT_")]:
    del os.environ[variable]
os.environ["MIXBIT_TEST_QUICK"] = "1"

# (what runs, what it has to print). Of the kernels some of each operation: all are made from one file, and emulated floats are slow.
RUNS = [
    ("tests/test_kernels_exact", {"MIXBIT_TEST_KERNEL": "prepare_"}, " 0 failed"),
    ("tests/test_kernels_exact", {"MIXBIT_TEST_KERNEL": "decode_b4_g32_"}, " 0 failed"),
    ("tests/test_kernels_exact", {"MIXBIT_TEST_KERNEL": "gemv_b4_g32_i8g32_"}, " 0 failed"),
    ("tests/test_kernels_exact", {"MIXBIT_TEST_KERNEL": "gemv_bf16_pair_bf16_"}, " 0 failed"),
    ("tests/test_kernels_names", {}, "PASSED"),
    ("tests/test_kernels_formats", {}, "PASSED"),
    ("tests/test_kernels_panel", {}, "PASSED"),
    ("tests/test_dispatch_select", {}, "PASSED"),
    ("mixbit --version", {}, "reference"),
]


def emulated(*command, **more):
    return subprocess.run([qemu, "-cpu", CPU, *command], cwd=source, env=os.environ | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")


def control():
    """AVX2 ends a program here; without it the same program runs."""
    with tempfile.TemporaryDirectory() as folder:
        for text, status in (("vpaddd %%ymm0, %%ymm0, %%ymm0", -signal.SIGILL), ("paddd %%xmm0, %%xmm0", 0)):
            program = Path(folder) / "control"
            subprocess.run([compiler, "-x", "c", "-", "-o", program], check=True, text=True,
                           input=f'int main(void) {{ __asm__ volatile("{text}" : : : "xmm0"); return 0; }}')
            done = emulated(program)
            if done.returncode not in (status, 128 - status if status else 0):
                sys.exit(f"FAILED the control with '{text}' ended with {done.returncode}, expected {status}: {done.stdout}")


control()
failed = 0
for command, variables, says in RUNS:
    program, *arguments = command.split()
    done = emulated(build / program, *arguments, **variables)
    skipped = [line for line in done.stdout.splitlines() if line.startswith("avx")]
    good = done.returncode == 0 and says in done.stdout and (not program.endswith("exact") or
                                                             (len(skipped) > 0 and all("skipped" in line for line in skipped)))
    print(f"{'ok' if good else 'FAILED'} {command} {' '.join(variables.values())} on {CPU}: status {done.returncode}")
    if not good:
        print(*done.stdout.splitlines()[-30:], sep="\n")
        failed += 1
sys.exit(failed != 0)
