#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the files of llama.cpp that tests read: what its own tools write for the embedded model.

  tests/golden/imatrix/tiny-llama.imatrix.gguf, .dat   llama-imatrix on the beginning of models/calib.txt
  tests/golden/logits/tiny-llama.base   llama-perplexity --kl-divergence-base of the model in Q2_K, few short windows
  tests/golden/logits/tiny-llama.json   what llama-perplexity --kl-divergence prints for the f16 model and that base,
                                        window by window, all so far

usage: make_golden_files.py FOLDER    FOLDER holds llama-quantize, llama-perplexity and llama-imatrix

The base is a quantized file's and the model that is compared is the f16 one, so that both sides of the test have the same
weights: encoders differ.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
MODEL = "models/tiny-llama.f16.gguf"
IMATRIX_WINDOW, IMATRIX_CHUNKS = 256, 8
BASE_WINDOW, BASE_CHUNKS = 32, 4


def run(folder, tool, *arguments):
    """From the source folder with relative paths: some of them end up in the files."""
    done = subprocess.run([str(folder / tool), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{tool}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def make_imatrix(folder):
    for kind in ("gguf", "dat"):
        run(folder, "llama-imatrix", "-m", MODEL, "-f", "models/calib.txt", "-c", IMATRIX_WINDOW, "--chunks", IMATRIX_CHUNKS,
            "--process-output", "--no-ppl", "--output-format", kind, "-o", GOLDEN / "imatrix" / f"tiny-llama.imatrix.{kind}")


def make_base(folder):
    base = GOLDEN / "logits" / "tiny-llama.base"
    with tempfile.TemporaryDirectory() as t:
        small = pathlib.Path(t) / "q2.gguf"
        run(folder, "llama-quantize", "--pure", MODEL, small, "Q2_K")
        run(folder, "llama-perplexity", "-m", small, "-f", "models/heldout.txt", "-c", BASE_WINDOW, "--chunks", BASE_CHUNKS,
            "--kl-divergence-base", base)
    text = run(folder, "llama-perplexity", "-m", MODEL, "-c", BASE_WINDOW, "--kl-divergence-base", base, "--kl-divergence")
    number = r"\s+(-?[0-9.]+|-?nan)"
    pair = number + r" ±" + number
    lines = re.findall(r"^\s*(\d+)" + 3 * pair + pair + " %" + pair + " %", text, re.M)
    keys = ["ppl", "ppl_error", "log_ratio", "log_ratio_error", "kl_mean", "kl_error", "dp_rms", "dp_rms_error", "same_top",
            "same_top_error"]
    rows = [dict(zip(keys, map(float, line[1:]))) for line in lines]
    assert len(rows) == BASE_CHUNKS, text
    for row in rows:
        row["same_top"] /= 100
    (GOLDEN / "logits" / "tiny-llama.json").write_text(json.dumps({"windows": rows}, indent=1) + "\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1]).resolve()
    (GOLDEN / "imatrix").mkdir(parents=True, exist_ok=True)
    make_imatrix(folder)
    make_base(folder)


if __name__ == "__main__":
    main()
