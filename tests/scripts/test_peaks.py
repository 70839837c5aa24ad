# SPDX-License-Identifier: Apache-2.0
"""The probes' loops, as they were compiled, do what their rows claim: as many products an iteration, and next to nothing else.

A limit that a compiler thinned out would be too high, one with spilled registers too low; timing can't tell which, instructions can.

usage: test_peaks.py SOURCE OBJDUMP OBJECT..."""
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

source, objdump, objects = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
MOST_OTHERS = 3  # of the loop itself: count, compare, jump
WIDTH = {"x": 128, "y": 256, "z": 512}
BITS_PER_PRODUCT = {"vpdpbusd": 8, "vpmaddubsw": 8, "vfmadd231ps": 32, "vdpbf16ps": 16, "vpmaddwd": 16}
SUMS = {"vpaddw", "vpaddd"}
CLOCK_ADDS = int(re.search(r"MB_CLOCK_CYCLES = (\d+)", (source / "tuner/peaks.h").read_text()).group(1))
LOADS = 256 * 8  # bits that an iteration of a read loop covers: STREAM_STEP


def functions():
    """name -> [(address, instruction, operands)]"""
    found = {}
    for path in objects:
        text = subprocess.run([objdump, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
        for name, body in re.findall(r"^[0-9a-f]+ <(\w+)>:\n((?: .*\n?)*)", text, re.M):
            lines = re.findall(r"^\s*([0-9a-f]+):\s+(?:\{vex\} )?(\S+)\s*(.*)$", body, re.M)
            found[name] = [(int(a, 16), i, o) for a, i, o in lines]
    return found


def loop(body):
    """The instructions between the last backward jump and where it goes."""
    for at, name, operands in reversed(body):
        target = re.match(r"([0-9a-f]+) <", operands)
        if name.startswith("j") and name != "jmp" and target and int(target.group(1), 16) < at:
            return [(i, o) for a, i, o in body if int(target.group(1), 16) <= a <= at]
    sys.exit("no loop found")


def check(what, got, expected):
    global faults
    if got != expected:
        faults += 1
        print(f"{what}: {got}, expected {expected}")


def check_peak(name, expression, body):
    inside = loop(body)
    names = Counter(i for i, _ in inside)
    # vpmaddwd sums what vpmaddubsw made, or multiplies itself when there is none.
    products = next(i for i in BITS_PER_PRODUCT if names[i] > 0)
    macs = sum(WIDTH[re.search(r"%([xyz])mm", o).group(1)] // BITS_PER_PRODUCT[products] for i, o in inside if i == products)
    factors = [int(x) for x in expression.split("*")]
    check(f"{name}: products an iteration", macs, factors[0] * factors[1])
    others = [i for i, _ in inside if i not in BITS_PER_PRODUCT and i not in SUMS]
    check(f"{name}: {' '.join(others)}: few enough others", len(others) <= MOST_OTHERS, True)
    loads = [o for i, o in inside if "(" in o]
    check(f"{name}: reads memory in {len(loads)} instructions", len(loads), factors[0] if name.endswith("_memory") else 0)
    chains = [i for i, _ in inside if i in SUMS or i in ("vpdpbusd", "vfmadd231ps", "vdpbf16ps")]
    check(f"{name}: accumulations", len(chains), factors[0])


def check_read(name, body):
    loads = sum(WIDTH[re.search(r"%([xyz])mm", o).group(1)] for _, i, o in body if i.startswith("vmovdqu"))
    check(f"{name}: bits of loads", loads, LOADS)
    check(f"{name}: prefetches", sum(i == "prefetcht0" for _, i, _ in body), LOADS // 512)


faults = 0
compiled = functions()
# Rows, also those of a macro that several levels share.
rows = re.findall(r"\{\s*(?:\\\s*)?(?:MB_ISA_\w+|isa), MB_PEAK_\w+, (\w+), (\d+ \* \d+)\s*(?:\\\s*)?\}",
                  (source / "tuner/peaks_x86.c").read_text())
check("rows of the table", len(rows) > 8, True)
for function, expression in rows:
    check_peak(function, expression, compiled[function])
for function in ("read_avx2", "read_avx512"):
    check_read(function, compiled[function])
adds = [o for i, o in loop(compiled["mb_clock_loop"]) if i == "add" and not o.startswith("$")]
check("mb_clock_loop: additions", len(adds), CLOCK_ADDS)
check("mb_clock_loop: one chain of them", len(set(adds)), 1)
sys.exit(1 if faults else 0)
