# SPDX-License-Identifier: Apache-2.0
"""Builds the kernels for 64-bit ARM with a cross compiler and runs their tests under qemu-user: every kernel of every
ARM level bit for bit, and the level that each of three CPUs is given. The binaries and qemu do the checking; this only
starts them, as many at once as there are cores.

usage: test_arm_kernels.py SOURCE BUILD
Exit status 77, which ctest counts as skipped, when compiler or qemu is missing."""
import concurrent.futures
import os
import shutil
import subprocess
import sys
from pathlib import Path

source, build = Path(sys.argv[1]), Path(sys.argv[2]) / "arm"
compiler = shutil.which("aarch64-linux-gnu-gcc")
qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
if compiler is None or qemu is None:
    print("SKIPPED: the ARM kernels are NOT tested here: no", "aarch64-linux-gnu-gcc" if compiler is None else "qemu-aarch64")
    print("install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user, or run ./quickstart test, which does")
    sys.exit(77)

# (CPU, program, arguments, environment)
RUNS = [
    ("max", "test_kernels_exact", [], {}),
    ("max", "test_kernels_matmul", [], {}),
    ("max", "test_kernels_integer", [], {}),
    ("max", "test_kernels_codebook", [], {}),
    ("max", "test_kernels_codebook_edges", [], {}),
    ("cortex-a53", "test_kernels_exact", [], {"MIXBIT_TEST_KERNEL": "_4x16_neon"}),  # no later instructions
    ("cortex-a76", "test_kernels_exact", [], {"MIXBIT_TEST_KERNEL": "_3x16_dotprod"}),
    ("max", "test_kernels_selftest", [], {}),
    ("max", "test_kernels_panel", [], {}),
    ("max", "test_kernels_formats", [], {}),
    ("max", "test_kernels_status", [], {}),
    ("max", "test_kernels_feedback_levels", [], {}),
    ("max", "test_kernels_search_levels", [], {}),
    ("max", "test_kernels_names", [], {}),
    ("cortex-a53", "test_arm_level", ["0xd03", "neon"], {}),
    ("cortex-a76", "test_arm_level", ["0xd0b", "dotprod"], {}),
    ("max", "test_arm_level", ["0", "i8mm"], {}),
    ("max", "test_arm_level", ["0", "dotprod"], {"MIXBIT_ISA": "neon,dotprod"}),
    ("max", "test_arm_level", ["0", "neon"], {"MIXBIT_ISA": "neon"}),
]


def run(case):
    cpu, program, arguments, more = case
    command = [qemu, "-cpu", cpu, build / "tests/arm" / program, *arguments]
    done = subprocess.run(command, cwd=source, env=os.environ | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")
    name = " ".join([*(f"{k}={v}" for k, v in more.items()), program, *arguments, "on", cpu])
    return name, done.returncode, done.stdout


def checked(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(*done.stdout.splitlines()[-40:], sep="\n")
        sys.exit(f"FAILED {' '.join(str(c) for c in command)}")


for variable in [v for v in os.environ if v.startswith("MIXBIT_")]:
    del os.environ[variable]  # a list of x86 levels, say
os.environ["MIXBIT_TEST_QUICK"] = "1"
jobs = os.cpu_count() or 2
checked("cmake", "-S", source, "-B", build, f"-DCMAKE_TOOLCHAIN_FILE={source}/cmake/toolchain-aarch64.cmake",
        "-DMIXBIT_KERNELS_ONLY=ON", "-DMIXBIT_WERROR=ON")
checked("cmake", "--build", build, "--parallel", jobs)
failed = 0
with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
    for name, status, output in pool.map(run, RUNS):
        lines = output.strip().splitlines() or ["no output"]
        print(f"{'FAILED' if status else 'ok'}: {name}: {lines[-1]}")
        if status:
            failed += 1
            print(f"  exit status {status}", *lines[-30:], sep="\n  ")
print(f"{len(RUNS) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
