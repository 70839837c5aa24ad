# SPDX-License-Identifier: Apache-2.0
"""scripts/check passes on the tree, and fails when a rule is broken: each rule is broken once, in a copy.

usage: test_check.py SOURCE"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

source = Path(sys.argv[1])
HEAD = "/* SPDX-License-Identifier: Apache-2.0 */\n/* A file for the test of the house rules. */\n"
BREAKS = {
    "layer: solver includes the model": ("solver/broken.c", HEAD + '#include "model/gguf.h"\n', "layer: solver/ may not include model/"),
    "layer: kernels include dispatch": ("kernels/broken.c", HEAD + '#include "dispatch/dispatch.h"\n', "layer: kernels/ may not include"),
    "layer: kernels include a public header above them": ("kernels/broken.c", HEAD + '#include "mixbit/model.h"\n', "layer: kernels/ may not include"),
    "layer: solver sees weights": ("solver/broken.c", HEAD + '#include "mixbit/model.h"\n', "layer: solver/ may not include mixbit/model.h"),
    "layer: a plug-in sees the inside": ("plugins/x/broken.c", HEAD + '#include "kernels/kernel.h"\n', "layer: plugins/ may not include"),
    "layer: a plug-in goes round by a path": ("plugins/x/broken.c", HEAD + '#include "../../kernels/kernel.h"\n', "layer: plugins/ may not include"),
    "length: 901 lines": ("tuner/broken.c", HEAD + "/* x */\n" * 899, "length: 901 lines"),
    "name: a public function without the prefix": ("include/mixbit/broken.h", HEAD + "MB_API int broken_call(void);\n", "name: function broken_call"),
    "name: a public type without the prefix": ("include/mixbit/broken.h", HEAD + "struct broken {\n    int x;\n};\n", "name: type broken"),
    "name: a kernel against the grammar": ("dispatch/broken.c", HEAD + 'const char *broken = "gemv_b9_g32_i8g32_1x32_avx2";\n', "does not follow the grammar"),
    "table: a level file without a row": ("kernels/x86/broken.c", HEAD + "int mb_broken;\n", "is no row of isa.def"),
    "table: a pair that no format has": ("kernels/instances.def", "\n#ifdef MB_PAIR_ROW\nMB_PAIR_ROW(b9, g32, i8g32)\n#endif\n", "is no format's"),
    "text: trailing blank": ("cli/broken.c", HEAD + "int mb_broken; \n", "text: trailing blank"),
    "text: no SPDX line": ("cli/broken.c", "/* Nothing else. */\nint mb_broken;\n", "no SPDX line"),
    "text: #if 0": ("cli/broken.c", HEAD + "#if 0\nint mb_broken;\n#endif\n", "text: #if 0"),
}
if shutil.which("clang-format"):
    BREAKS["format"] = ("cli/broken.c", HEAD + "int   mb_broken ;\n", "format: run clang-format")
else:
    print("SKIPPED 1 rule (format): clang-format is not installed", file=sys.stderr)


def check(root, *rules):
    run = subprocess.run([sys.executable, source / "scripts/check", root, *rules], capture_output=True, text=True)
    return run.returncode, run.stdout


with tempfile.TemporaryDirectory() as folder:
    tree = Path(folder) / "tree"
    ignore = shutil.ignore_patterns("build*", "out", ".git", "*.gguf", "golden")
    shutil.copytree(source, tree, ignore=ignore)
    status, output = check(tree)
    assert status == 0, f"the tree itself breaks rules:\n{output}"
    for name, (path, text, expected) in BREAKS.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        before = target.read_text() if target.exists() else None
        target.write_text((before or "") + text)
        # clang-format reads every file: it runs for its own rule only.
        status, output = check(tree, *(["format"] if name == "format" else ["layers", "names", "tables", "text"]))
        if before is None:
            target.unlink()
        else:
            target.write_text(before)
        assert status == 1 and expected in output, f"{name}: not noticed\n{output}"
        print(f"noticed: {name}")
