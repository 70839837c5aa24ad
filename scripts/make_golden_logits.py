#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/logits: what llama.cpp computes, for tests/unit/test_model_forward.c and
test_model_evaluate.c.

  odd-llama.gguf    a random llama model of every shape that embedded models don't have: heads of 12 on
                    a width of 32, tied output, biases, RoPE factors, base and linear scaling; F32
  odd-llama.json    its tokens (two sequences)
  odd-llama.f32     its logits, [sequence][position][vocabulary], little-endian f32
  kl.json           llama-perplexity's figures for models/tiny-llama.f16.gguf and quantizations of it

usage: make_golden_logits.py [--bin FOLDER]    pip install numpy gguf llama-cpp-python

FOLDER holds llama-quantize and llama-perplexity; without it kl.json stays as it is.
"""
import argparse
import ctypes
import json
import pathlib
import re
import subprocess
import tempfile

import gguf
import llama_cpp as L
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "logits"
WIDTH, HEADS, KV, DIM, FF, LAYERS, VOCAB = 32, 4, 2, 12, 48, 2, 64
CHUNKS = 20


def write_model(path):
    rng = np.random.default_rng(7)
    matrix = lambda n, k: rng.normal(0, k**-0.5, (n, k)).astype(np.float32)
    vector = lambda n, mean, std: rng.normal(mean, std, n).astype(np.float32)
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_context_length(128)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FF)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_key_length(DIM)
    w.add_value_length(DIM)
    w.add_rope_dimension_count(DIM)
    w.add_rope_freq_base(50000.0)
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(2.0)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("none")
    w.add_tensor("token_embd.weight", rng.normal(0, 1, (VOCAB, WIDTH)).astype(np.float32))
    w.add_tensor("output_norm.weight", vector(WIDTH, 1, 0.2))
    w.add_tensor("rope_freqs.weight", rng.uniform(0.5, 4, DIM // 2).astype(np.float32))
    for i in range(LAYERS):
        b = f"blk.{i}."
        shapes = {
            "attn_q": (HEADS * DIM, WIDTH), "attn_k": (KV * DIM, WIDTH), "attn_v": (KV * DIM, WIDTH),
            "attn_output": (WIDTH, HEADS * DIM),
            "ffn_gate": (FF, WIDTH), "ffn_up": (FF, WIDTH), "ffn_down": (WIDTH, FF),
        }
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(b + name + ".weight", vector(WIDTH, 1, 0.2))
        for name, (n, k) in shapes.items():
            w.add_tensor(f"{b}{name}.weight", matrix(n, k))
            w.add_tensor(f"{b}{name}.bias", vector(n, 0, 0.3))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def run_model(path, sequences):
    """Logits of every position, keys and values kept in f32."""
    L.llama_backend_init()
    params = L.llama_model_default_params()
    params.n_gpu_layers = 0
    model = L.llama_model_load_from_file(str(path).encode(), params)
    rows = []
    for ids in sequences:
        cp = L.llama_context_default_params()
        cp.n_ctx, cp.n_batch, cp.n_ubatch = 128, 128, 128
        cp.type_k = cp.type_v = 0
        cp.flash_attn_type = 0
        ctx = L.llama_init_from_model(model, cp)
        batch = L.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = t, i, 1, 1
            batch.seq_id[i][0] = 0
        assert L.llama_decode(ctx, batch) == 0
        for i in range(len(ids)):
            p = ctypes.cast(L.llama_get_logits_ith(ctx, i), ctypes.POINTER(ctypes.c_float))
            rows.append(np.ctypeslib.as_array(p, (VOCAB,)).copy())
        L.llama_batch_free(batch)
        L.llama_free(ctx)
    L.llama_model_free(model)
    return np.stack(rows).reshape(len(sequences), -1, VOCAB)


def perplexity(folder, model, base, save):
    cmd = [folder / "llama-perplexity", "-m", model, "-f", ROOT / "models/heldout.txt", "-c", "256",
           "--chunks", str(CHUNKS), "--kl-divergence-base", base]
    if not save:
        cmd.append("--kl-divergence")
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def figures(text):
    number = lambda pattern: float(re.search(pattern, text).group(1))
    return {
        "ppl": number(r"Mean PPL\(Q\)\s*:\s*([-0-9.]+)"),
        "ppl_error": number(r"Mean PPL\(Q\)\s*:\s*[-0-9.]+\s*±\s*([0-9.]+)"),
        "log_ratio": number(r"Mean ln\(PPL\(Q\)/PPL\(base\)\)\s*:\s*([-0-9.]+)"),
        "log_ratio_error": number(r"Mean ln\(PPL\(Q\)/PPL\(base\)\)\s*:\s*[-0-9.]+\s*±\s*([0-9.]+)"),
        "kl_mean": number(r"Mean\s+KLD:\s*([-0-9.]+)"),
        "kl_error": number(r"Mean\s+KLD:\s*[-0-9.]+\s*±\s*([0-9.]+)"),
        "kl_p99": number(r"99.0%\s+KLD:\s*([-0-9.]+)"),
        "kl_median": number(r"Median\s+KLD:\s*([-0-9.]+)"),
        "same_top": number(r"Same top p:\s*([0-9.]+)") / 100,
    }


def make_kl(folder):
    source = ROOT / "models/tiny-llama.f16.gguf"
    with tempfile.TemporaryDirectory() as t:
        base = pathlib.Path(t) / "base"
        text = perplexity(folder, source, base, True)
        result = {"chunks": CHUNKS, "f16": {
            "ppl": float(re.search(r"Final estimate: PPL = ([0-9.]+)", text).group(1)),
            "ppl_error": float(re.search(r"Final estimate: PPL = [0-9.]+ \+/- ([0-9.]+)", text).group(1))}}
        for name, key in (("Q8_0", "q8_0"), ("Q6_K", "q6_K"), ("Q4_K_S", "q4_K")):
            path = pathlib.Path(t) / f"{name}.gguf"
            subprocess.run([str(folder / "llama-quantize"), "--pure", str(source), str(path), name],
                           capture_output=True, check=True)
            result[key] = figures(perplexity(folder, path, base, False))
    (OUT / "kl.json").write_text(json.dumps(result, indent=1) + "\n")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", type=pathlib.Path)
    a = ap.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    model = OUT / "odd-llama.gguf"
    write_model(model)
    ids = np.random.default_rng(8).integers(0, VOCAB, (2, 40))
    (OUT / "odd-llama.json").write_text(json.dumps({"vocabulary": VOCAB, "tokens": ids.tolist()}) + "\n")
    run_model(model, ids.tolist()).astype("<f4").tofile(OUT / "odd-llama.f32")
    if a.bin:
        make_kl(a.bin)


if __name__ == "__main__":
    main()
