# SPDX-License-Identifier: Apache-2.0
"""The SPIR-V in the tree: made of this source (always checked), and, where the tools are there, valid, importing nothing, and the same again when
it is compiled anew by the compiler that SOURCES names; by another one, valid. The gates are shown to catch what they are for. What NVIDIA's
OpenCL would build, with its instructions as assembly, is compiled to PTX by the same clang: the instructions are there.

usage: test_spirv.py SOURCE BUILD
Exit status 77, which ctest counts as skipped, when the tools are missing and nothing else was wrong."""
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

source, build = Path(sys.argv[1]), Path(sys.argv[2])
loader = importlib.machinery.SourceFileLoader("make_spirv", str(source / "scripts/make_spirv"))
make = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_spirv", loader))
loader.exec_module(make)
tree = source / "kernels/gpu/spirv"
KERNEL = "__kernel void k(__global float *x) { x[0] = f(x[1]); }"


def compiled(text, folder):
    (folder / "k.cl").write_text(text)
    make.run("clang-15", "-target", "spir64-unknown-unknown", "-Xclang", "-no-opaque-pointers", "-O1", "-emit-llvm", "-c", folder / "k.cl", "-o", folder / "k.bc")
    make.run("llvm-spirv-15", "--spirv-max-version=1.2", folder / "k.bc", "-o", folder / "k.spv")
    return folder / "k.spv"


def refuses(path, words):
    try:
        make.gates(path)
    except ValueError as fault:
        return words in str(fault)
    return False


def check_gates(folder):
    good = compiled("static float f(float x) { return x; } " + KERNEL, folder)
    make.gates(good)
    cut = folder / "cut.spv"
    cut.write_bytes(good.read_bytes()[:-8])
    assert refuses(cut, "spirv-val"), "half a module passes"
    assert refuses(compiled("float f(float); " + KERNEL, folder), "imports a function"), "an imported function passes"


def check_ptx():
    """gemv of one row of each coding, and one gemm."""
    lines = subprocess.run([build / "tests/gpu_builds", "nvidia"], check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split(" ", 1) for line in lines]
    chosen = [(name, options) for name, options in rows if name.startswith("gemv_") and name.endswith("_1") or name.startswith(("read_", "gemm_b4_g32_i8g32_8"))]
    assert len(chosen) > 20, chosen
    for name, options in chosen:
        options = [o for o in options.split() if not o.startswith("-cl-nv-")]
        ptx = make.run("clang-15", "-x", "cl", "-target", "nvptx64-nvidia-nvcl", "-Xclang", "-target-cpu", "-Xclang", "sm_70", "-Xclang",
                       "-finclude-default-header", "-Dcl_clang_storage_class_specifiers", "-O1", "-I.", "-S", "kernels/gpu/matmul.cl", "-o", "-", *options)
        integer, table = "-DFLOAT_BYTES=0" in options and not name.startswith("read_"), any(o.startswith("-DTABLE=") for o in options)
        assert ("dp4a.u32.s32" in ptx) == integer, f"{name}: dp4a"
        assert ("prmt.b32" in ptx) >= table, f"{name}: prmt"
    print(f"{len(chosen)} kernels compile to PTX")


listing = subprocess.run([build / "tests/gpu_builds"], check=True, capture_output=True, text=True).stdout
names = {line.split(" ", 1)[0] for line in listing.splitlines()}
said = dict(line.split(" ", 1) for line in (tree / "SOURCES").read_text().splitlines())
files = {p.stem for p in tree.glob("*.spv")}
assert files == names, f"kernels/gpu/spirv has {sorted(files - names)} too much and lacks {sorted(names - files)}: run scripts/make_spirv"
assert said["sha256"] == make.digest(listing), "kernels/gpu/spirv is not of this source and these options: run scripts/make_spirv"
print(f"{len(files)} files of SPIR-V, {sum((tree / f'{n}.spv').stat().st_size for n in files)} bytes, are of this source")

missing = [t for t in make.TOOLS if shutil.which(t) is None]
if missing:
    print(f"SKIPPED: {len(files)} files of SPIR-V are NOT validated and NOT rebuilt here: no {' '.join(missing)}; install clang-15 llvm-spirv-15 spirv-tools")
    sys.exit(77)
for name in sorted(files):
    make.gates(tree / f"{name}.spv")
with tempfile.TemporaryDirectory() as folder:
    check_gates(Path(folder))
    check_ptx()
    done = subprocess.run([source / "scripts/make_spirv", build, Path(folder) / "again"], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    again = {n for n in names if (Path(folder) / f"again/{n}.spv").read_bytes() == (tree / f"{n}.spv").read_bytes()}
    compiler = (Path(folder) / "again/SOURCES").read_text().splitlines()[1].split()[1]
if compiler == said["clang"]:
    assert again == names, f"{len(names - again)} files differ from what clang {compiler} makes, {min(names - again)} for one: run scripts/make_spirv"
print(f"valid; made anew by clang {compiler}, {len(again)} of {len(names)} are the same to the byte")
