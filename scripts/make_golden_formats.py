#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden data of the weight formats, with ggml as the oracle: tests/golden/formats/.

  <format>.blocks.bin   blocks of random bytes (f16 scales of any sign, subnormal to 32, some zero; tq1_0: of random
                        digits), then the f32 values that ggml dequantizes them to
  halves.bin            f32 values (ties, subnormals, overflows among them), then ggml's f16 and its bf16 of each
  real_rows.f16.bin     rows of 256 weights from the embedded model, as f16
  errors.txt            error of ggml's own encoder per format, input and weighting

Inputs that are not stored come from SplitMix64, which tests/unit/test_kernels_formats.c repeats.

usage: make_golden_formats.py LIBGGML_BASE MODEL OUTPUT_FOLDER
       (libggml-base.so of a llama.cpp build, models/tiny-llama.f16.gguf, tests/golden/formats; needs numpy and gguf)
"""
import ctypes
import pathlib
import sys

import numpy as np

ROWS, COLUMNS = 32, 1024
# name: ggml type id, weights and bytes per block, byte offsets of its f16 fields
FORMATS = {
    "q4_0": (2, 32, 18, (0,)),
    "q4_1": (3, 32, 20, (0, 2)),
    "q5_0": (6, 32, 22, (0,)),
    "q5_1": (7, 32, 24, (0, 2)),
    "q8_0": (8, 32, 34, (0,)),
    "q2_K": (10, 256, 84, (80, 82)),
    "q3_K": (11, 256, 110, (108,)),
    "q4_K": (12, 256, 144, (0, 2)),
    "q5_K": (13, 256, 176, (0, 2)),
    "q6_K": (14, 256, 210, (208,)),
    "iq4_nl": (20, 32, 18, (0,)),
    "iq4_xs": (23, 256, 136, (0,)),
}
# Added later, with a random stream of their own so that the data above stay as they are.
LATER = {
    "mxfp4": (39, 32, 17, ()),
    "nvfp4": (40, 64, 36, ()),
    "tq1_0": (34, 256, 54, (52,)),
    "tq2_0": (35, 256, 66, (64,)),
    "iq3_s": (21, 256, 110, (0,)),
    "iq3_xxs": (18, 256, 98, (0,)),
    "iq2_s": (22, 256, 82, (0,)),
    "iq2_xs": (17, 256, 74, (0,)),
    "iq2_xxs": (16, 256, 66, (0,)),
    "iq1_m": (29, 256, 56, ()),
    "iq1_s": (19, 256, 50, (0,)),
}
NEED_IMPORTANCE = ("iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")  # ggml refuses to encode these without
ALL = {**FORMATS, **LATER}


class Traits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64),
                ("bytes", ctypes.c_size_t), ("quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p)]


class Ggml:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        p, i64 = ctypes.c_void_p, ctypes.c_int64
        self.lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, p, p, i64, i64, i64, p]
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
        self.lib.ggml_version.restype = ctypes.c_char_p
        for name in ("ggml_fp32_to_fp16_row", "ggml_fp32_to_bf16_row"):
            getattr(self.lib, name).argtypes = [p, p, i64]

    def dequantize(self, name, blocks):
        type_id, weights, size, _ = ALL[name]
        traits = self.lib.ggml_get_type_traits(type_id).contents
        assert traits.name.decode() == name and traits.block == weights and traits.bytes == size
        out = np.empty(len(blocks) // size * weights, np.float32)
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(traits.to_float)
        function(blocks.ctypes.data, out.ctypes.data, out.size)
        return out

    def quantize(self, name, x, importance):
        type_id, weights, size, _ = ALL[name]
        out = np.zeros(x.size // weights * size, np.uint8)
        done = self.lib.ggml_quantize_chunk(type_id, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1],
                                            None if importance is None else importance.ctypes.data)
        assert done == out.size
        return out


def splitmix(seed, first, count):
    """Draws first .. first + count - 1 of the stream, as f64 in [0, 1) with 24 bits."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def normals(seed, count, per_value):
    """[count][per_value] values that are nearly normal: the sum of 12 uniform draws, which is exact in f64, less 6."""
    draws = splitmix(seed, 0, count * per_value * 12).reshape(count, per_value, 12)
    return draws.sum(axis=2) - 6.0


def gaussian(count):
    return (normals(1, count, 1)[:, 0] * 0.02).astype(np.float32)


def student(count):
    """Student's t with 3 degrees of freedom."""
    z = normals(2, count, 4)
    spread = np.sqrt((z[:, 1] * z[:, 1] + z[:, 2] * z[:, 2] + z[:, 3] * z[:, 3]) / 3.0)
    return (z[:, 0] / spread * 0.01).astype(np.float32)


def laplace(count):
    """A sum of two products of normals has Laplace's distribution; 1 of 256 is an outlier."""
    z = normals(3, count, 4)
    x = (z[:, 0] * z[:, 1] + z[:, 2] * z[:, 3]) * 0.05
    x = np.where(splitmix(4, 0, count) < 1.0 / 256.0, x * 10.0, x)
    return x.astype(np.float32)


def importance_of(columns):
    z = normals(5, columns, 2)
    return (z[:, 0] * z[:, 0] * (z[:, 1] * z[:, 1]) + 0.01).astype(np.float32)


def real_rows(path):
    """Some rows of every matrix, in pieces of 256."""
    import gguf
    rows = []
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            pieces = np.asarray(tensor.data).astype(np.float32).reshape(-1, 256)
            rows.append(pieces[:: len(pieces) // 3][:3])
    return np.ascontiguousarray(np.concatenate(rows))


def random_halves(rng, count):
    bits = rng.integers(0, 1 << 10, count) | rng.integers(0, 21, count) << 10 | rng.integers(0, 2, count) << 15
    bits[:2] = (0x0000, 0x8000)
    return bits


def random_blocks(rng, name):
    _, weights, size, halves = ALL[name]
    count = 6144 // weights
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for offset in halves:
        blocks[:, offset:offset + 2] = random_halves(rng, count).astype("<u2").view(np.uint8).reshape(count, 2)
    if name == "iq1_m":  # four nibbles make its scale
        for i in range(4):
            at = blocks[:, 49 + 2 * i]
            at[:] = at & 15 | ((random_halves(np.random.default_rng(1), count) >> 4 * i & 15) << 4).astype(np.uint8)
    if name == "tq1_0":  # 5 digits of base 3 in a byte, the last 4 bytes hold 4
        sums = rng.integers(0, 243, (count, 52))
        sums[:, 48:] -= sums[:, 48:] % 3
        blocks[:, :52] = (sums * 256 + 242) // 243
    special = {"mxfp4": (0, 1, 2, 127, 254, 255), "nvfp4": (0x7F, 0xFF, 0x80, 0x00, 0x01, 0x08, 0x7E)}.get(name, ())
    for i, byte in enumerate(special):
        blocks[i, 0] = byte
    return blocks.reshape(-1)


def halves(ggml, rng):
    bits = rng.integers(0, 1 << 32, 4096, dtype=np.uint64).astype(np.uint32)
    exponent = rng.integers(100, 145, 3072).astype(np.uint32)  # f16's range and what lies around it
    bits[:3072] = bits[:3072] & np.uint32(0x807FFFFF) | exponent << np.uint32(23)
    bits[:1024] &= np.uint32(0xFFFFF000)  # ties of f16 ...
    bits[1024:1536] &= np.uint32(0xFFFF8000)  # ... and of bf16
    nan = (bits & np.uint32(0x7FFFFFFF)) > 0x7F800000
    bits[nan] &= np.uint32(0xFF800000)  # what becomes of a NaN's payload is no contract
    bits[-4:] = (0, 0x80000000, 0x7F7FFFFF, 0x477FEFFF)
    x = bits.view(np.float32)
    f16, bf16 = np.empty(x.size, np.uint16), np.empty(x.size, np.uint16)
    ggml.lib.ggml_fp32_to_fp16_row(x.ctypes.data, f16.ctypes.data, x.size)
    ggml.lib.ggml_fp32_to_bf16_row(x.ctypes.data, bf16.ctypes.data, x.size)
    return x.tobytes() + f16.tobytes() + bf16.tobytes()


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    ggml, out = Ggml(sys.argv[1]), pathlib.Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20)
    for name in FORMATS:
        blocks = random_blocks(rng, name)
        (out / f"{name}.blocks.bin").write_bytes(blocks.tobytes() + ggml.dequantize(name, blocks).tobytes())
    (out / "halves.bin").write_bytes(halves(ggml, rng))
    rng = np.random.default_rng(21)
    for name in LATER:
        blocks = random_blocks(rng, name)
        (out / f"{name}.blocks.bin").write_bytes(blocks.tobytes() + ggml.dequantize(name, blocks).tobytes())
    real = real_rows(sys.argv[2])
    (out / "real_rows.f16.bin").write_bytes(real.astype("<f2").tobytes())
    assert (real.astype("<f2").astype(np.float32) == real).all()

    count = ROWS * COLUMNS
    inputs = {"gaussian": gaussian(count).reshape(ROWS, COLUMNS), "student": student(count).reshape(ROWS, COLUMNS),
              "laplace": laplace(count).reshape(ROWS, COLUMNS), "real": real}
    lines = [f"# ggml {ggml.lib.ggml_version().decode()}: sqrt(sum w (x - y)^2 / sum w) of its encoders; w is 1 or the "
             "importance", "# format input weighting error"]
    for name in ALL:
        for input_name, x in inputs.items():
            for weighting in ("importance",) if name in NEED_IMPORTANCE else ("plain", "importance"):
                importance = importance_of(x.shape[1]) if weighting == "importance" else None
                y = ggml.dequantize(name, ggml.quantize(name, x, importance)).reshape(x.shape)
                w = np.ones(x.shape[1]) if importance is None else importance.astype(np.float64)
                error = (((x.astype(np.float64) - y) ** 2) * w).sum() / (w.sum() * x.shape[0])
                lines.append(f"{name} {input_name} {weighting} {np.sqrt(error):.9e}")
    (out / "errors.txt").write_text("\n".join(lines) + "\n")


main()
