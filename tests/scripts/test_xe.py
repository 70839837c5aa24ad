# SPDX-License-Identifier: Apache-2.0
"""Intel's GPU compiler on the SPIR-V of the tree, for three GPUs, against tests/xe_limits.txt: 16 lanes, no spills but where they
are known, as many dp4a, and at most a tenth more instructions. Every coding of the tree is in that file.

usage: test_xe.py SOURCE [DEVICE...]
Exit status 77, which ctest counts as skipped, when ocloc is missing."""
import importlib.machinery
import importlib.util
import shutil
import sys
from pathlib import Path

source, devices = Path(sys.argv[1]), sys.argv[2:]
loader = importlib.machinery.SourceFileLoader("xe_figures", str(source / "scripts/xe_figures"))
xe = importlib.util.module_from_spec(importlib.util.spec_from_loader("xe_figures", loader))
loader.exec_module(xe)
limits = xe.read_limits()

one_row = {p.stem for p in xe.SPIRV.glob("gemv_*_1.spv")}
for device in xe.DEVICES:
    without = one_row - {name for name, d in limits if d == device}
    assert not without, f"tests/xe_limits.txt has no {min(without)} for {device}: run scripts/xe_figures --write"
for (name, device), row in limits.items():
    assert row["simd"] == 16 and (row["spill"] == 0) != ((device, name) in xe.SPILLS), f"the limits of {name} for {device} allow {xe.show(row)}"
    assert (row["dp4a"] > 0) != ("_none_" in name or "_pair_" in name), f"{name} for {device} has {row['dp4a']} dp4a"

if shutil.which("ocloc") is None:
    print(f"SKIPPED: {len(limits)} kernels are NOT compiled for Xe here: no ocloc; install intel-opencl-icd, or run ./quickstart test, which does")
    sys.exit(77)
pairs = [p for p in limits if not devices or p[1] in devices]
faults = []
for pair, row in xe.figures(pairs, xe.SPIRV).items():
    limit = limits[pair]
    if any(row[k] != limit[k] for k in ("simd", "spill", "dp4a")) or row["instructions"] > 1.1 * limit["instructions"]:
        faults.append(f"{' '.join(pair)}: {xe.show(row)}, limit {xe.show(limit)}")
print(*faults, f"{len(pairs)} kernels compiled for Xe, {len(faults)} beyond their limits", sep="\n")
sys.exit(len(faults) != 0)
