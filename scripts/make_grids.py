#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes kernels/grids.c: which combinations of levels ggml's grid formats can store.

The grids define the formats iq1_s to iq3_s, so they are data, not ours to choose. They are read from the PyPI package
gguf (part of llama.cpp, MIT licence). An entry is the index of each weight's level, 2 bits each of 8 weights or 3 bits
each of 4, the first weight lowest; the tables happen to rise, which is what makes looking an entry up a bisection.

usage: make_grids.py > kernels/grids.c     (needs gguf and numpy)
"""
import numpy as np
from gguf import quants

GRIDS = ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]
HEAD = """/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's grids: the combinations of levels that iq1_s to iq3_s can store (kernels/grids.h).
 *
 * Written by scripts/make_grids.py from the PyPI package gguf (llama.cpp, MIT licence, Copyright
 * (c) 2023-2026 The ggml authors), packed anew. Entries rise; `runs` are the places where the upper
 * half of an entry changes, and the end. */
#include "kernels/grids.h"
/* clang-format off */
"""


def table(name, values):
    print(f"\nstatic const uint16_t {name}[{len(values)}] = {{")
    line = "   "
    for value in values:
        if len(line) + len(f" {value},") > 100:
            print(line)
            line = "   "
        line += f" {value},"
    print(line)
    print("};")


def main():
    print(HEAD, end="")
    lines = []
    for name in GRIDS:
        source = getattr(quants, name)
        source.init_grid()
        grid = source.grid.reshape(source.grid_shape)
        weights = grid.shape[1]
        bits = 16 // weights if weights == 8 else 3
        levels = np.searchsorted(np.unique(grid), grid)
        entries = (levels << bits * np.arange(weights)).sum(axis=1)
        assert (np.diff(entries) > 0).all()
        high = entries >> bits * weights // 2
        runs = [0, *(np.flatnonzero(np.diff(high)) + 1).tolist(), len(entries)]
        low = name.lower()
        table(f"entries_{low}", entries.tolist())
        table(f"runs_{low}", runs)
        lines.append(f"const struct mb_grid mb_grid_{low} = {{entries_{low}, runs_{low}, {len(entries)}, "
                     f"{len(runs) - 1}, {weights}, {bits}}};")
    print()
    print("\n".join(lines))


main()
