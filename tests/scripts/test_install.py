# SPDX-License-Identifier: Apache-2.0
"""cmake --install gives a library that the example builds against, through the CMake package and through pkg-config.

usage: test_install.py SOURCE BUILD"""
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

source, build = Path(sys.argv[1]), Path(sys.argv[2])


def run(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **more).stdout


# The README shows the example that is built here, word for word but for the licence line.
shown = (source / "examples/matmul/matmul.c").read_text().split("\n", 1)[1].rstrip()
assert shown in (source / "README.md").read_text(), "README.md and examples/matmul/matmul.c differ"

with tempfile.TemporaryDirectory() as folder:
    prefix = Path(folder) / "prefix"
    run("cmake", "--install", build, "--prefix", prefix)
    libdir = next(prefix.rglob("libmixbit.so")).parent
    environment = os.environ | {"LD_LIBRARY_PATH": str(libdir), "PKG_CONFIG_PATH": str(libdir / "pkgconfig")}
    for header in (source / "include/mixbit").iterdir():
        assert (prefix / "include/mixbit" / header.name).read_bytes() == header.read_bytes(), header

    run("cmake", "-S", source / "examples/matmul", "-B", Path(folder) / "by-cmake", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", Path(folder) / "by-cmake")
    by_cmake = run(Path(folder) / "by-cmake/matmul", env=environment)

    # The .pc file names the prefix of the configured build; a relocated one is asked for by variable.
    flags = run("pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "mixbit", env=environment).split()
    run("cc", "-std=c17", source / "examples/matmul/matmul.c", "-o", Path(folder) / "by-pkg-config", *flags, "-lm")
    by_pkg_config = run(Path(folder) / "by-pkg-config", env=environment)

    assert by_cmake == by_pkg_config and "relative error" in by_cmake, (by_cmake, by_pkg_config)
    version = run(prefix / "bin/mixbit", "--version", env=environment)
    assert version.split()[1] in by_cmake, (version, by_cmake)
    # A whole runtime on the library: its own attention and norms around our products agree with eval.
    run("cmake", "-S", source / "examples/generate", "-B", Path(folder) / "generate", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", Path(folder) / "generate")
    text = (source / "models/heldout.txt").read_text()[:700]
    (Path(folder) / "text").write_text(text)
    for name in ("f16", "q4_K", "q8_0", "iq4_xs"):
        model = source / "models/tiny-llama.f16.gguf"
        if name != "f16":
            made = Path(folder) / f"{name}.gguf"
            run(prefix / "bin/mixbit", "quantize", model, "--format", name, "-o", made, env=environment)
            model = made
        said = run(Path(folder) / "generate/generate", model, text, "8", env=environment)
        given, nats = re.search(r"(\d+) tokens given, the last \d+ at ([0-9.]+) nats; 8 made", said).groups()
        assert int(given) > 100 and said.startswith("<|begin_of_text|>" + text[:200]), said
        evaluated = json.loads(run(prefix / "bin/mixbit", "eval", model, "--text", Path(folder) / "text", "--window", given,
                                   "--windows", "1", "--no-speed", "--json", env=environment))
        # The last bits of norms and rotations decide how an activation is rounded to int8.
        most = 2e-4 if name == "f16" else 5e-3
        assert abs(float(nats) - math.log(evaluated["perplexity"])) < most, (name, nats, math.log(evaluated["perplexity"]))
    refused = subprocess.run([Path(folder) / "generate/generate", source / "models/tiny-hybrid.f16.gguf", text], env=environment,
                             capture_output=True, text=True)
    assert refused.returncode == 1 and "llama alone" in refused.stderr, refused

    symbols = run("nm", "-D", "--defined-only", libdir / "libmixbit.so").split("\n")
    foreign = [s for s in symbols if s and not s.split()[-1].startswith("mb_")]
    assert not foreign, f"exported symbols that are not ours: {foreign[:5]}"
    for name, exports in (("ggml", ["ggml_backend_init", "ggml_backend_score"]),
                          ("onnxruntime", ["CreateEpFactories", "RegisterCustomOps", "ReleaseEpFactory"])):
        plugin = run("nm", "-D", "--defined-only", libdir / f"lib{name}-mixbit.so").split("\n")
        assert sorted(s.split()[-1] for s in plugin if s) == exports, plugin
    print(by_cmake, end="")
