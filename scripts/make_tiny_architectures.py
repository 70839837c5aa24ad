#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/logits/odd-<architecture>.gguf and .f32: random models of every architecture that no embedded model
has, with sizes that divide into nothing, and llama.cpp's logits of them for the tokens of odd-llama.json.

usage: make_tiny_architectures.py [NAME...]    pip install numpy gguf llama-cpp-python

Deterministic: a model's weights follow from its name. Everything is F32, so that only the arithmetic is compared.
"""
import json
import pathlib
import sys
import zlib

import gguf
import numpy as np

from make_golden_logits import OUT, VOCAB, run_model

WIDTH = 32


class Model:
    """One GGUF file under construction: a writer and the random numbers that go into it."""

    def __init__(self, architecture, width, layers):
        self.path = OUT / f"odd-{architecture}.gguf"
        self.rng = np.random.default_rng(zlib.crc32(architecture.encode()))
        self.width, self.layers = width, layers
        w = self.writer = gguf.GGUFWriter(str(self.path), architecture)
        w.add_context_length(128)
        w.add_embedding_length(width)
        w.add_block_count(layers)
        w.add_layer_norm_rms_eps(1e-6)
        w.add_vocab_size(VOCAB)
        w.add_tokenizer_model("none")
        self.matrix("token_embd", VOCAB, width, std=1.0)
        self.vector("output_norm.weight", width, 1, 0.2)

    def add(self, name, values):
        self.writer.add_tensor(name, np.ascontiguousarray(values, np.float32))

    def matrix(self, name, n, k, std=None):
        self.add(f"{name}.weight", self.rng.normal(0, std or k**-0.5, (n, k)))

    def vector(self, name, n, mean, std):
        self.add(name, self.rng.normal(mean, std, n))

    def uniform(self, name, shape, low, high):
        self.add(name, self.rng.uniform(low, high, shape))

    def heads(self, heads, kv, dim):
        self.q, self.kv, self.dim = heads * dim, dim * (max(kv) if isinstance(kv, list) else kv), dim
        w = self.writer
        w.add_head_count(heads)
        w.add_head_count_kv(kv)
        w.add_key_length(dim)
        w.add_value_length(dim)
        w.add_rope_dimension_count(dim)

    def attention(self, i, norms=False):
        b = f"blk.{i}."
        self.vector(b + "attn_norm.weight", self.width, 1, 0.2)
        for name, n, k in (("attn_q", self.q, self.width), ("attn_k", self.kv, self.width),
                           ("attn_v", self.kv, self.width), ("attn_output", self.width, self.q)):
            self.matrix(b + name, n, k)
        if norms:
            self.vector(b + "attn_q_norm.weight", self.dim, 1, 0.2)
            self.vector(b + "attn_k_norm.weight", self.dim, 1, 0.2)

    def feed_forward(self, i, hidden):
        b = f"blk.{i}."
        self.vector(b + "ffn_norm.weight", self.width, 1, 0.2)
        self.matrix(b + "ffn_gate", hidden, self.width)
        self.matrix(b + "ffn_up", hidden, self.width)
        self.matrix(b + "ffn_down", self.width, hidden)

    def state_space(self, taps, inner, states, rank, groups=None):
        self.taps, self.inner, self.states, self.rank, self.groups = taps, inner, states, rank, groups
        w = self.writer
        w.add_ssm_conv_kernel(taps)
        w.add_ssm_inner_size(inner)
        w.add_ssm_state_size(states)
        w.add_ssm_time_step_rank(rank)
        if groups:
            w.add_ssm_group_count(groups)

    def mamba2(self, i):
        b, both = f"blk.{i}.", 2 * self.groups * self.states
        self.vector(b + "attn_norm.weight", self.width, 1, 0.2)
        self.matrix(b + "ssm_in", 2 * self.inner + both + self.rank, self.width)
        self.uniform(b + "ssm_conv1d.weight", (self.inner + both, self.taps), -0.7, 0.7)
        self.vector(b + "ssm_conv1d.bias", self.inner + both, 0, 0.2)
        self.uniform(b + "ssm_dt.bias", self.rank, -2, 1)
        self.uniform(b + "ssm_a", (self.rank, 1), -2, -0.1)
        self.vector(b + "ssm_d", (self.rank, 1), 1, 0.3)
        self.vector(b + "ssm_norm.weight", (self.groups, self.inner // self.groups), 1, 0.2)
        self.matrix(b + "ssm_out", self.width, self.inner)

    def mamba(self, i):
        b = f"blk.{i}."
        self.vector(b + "attn_norm.weight", self.width, 1, 0.2)
        self.matrix(b + "ssm_in", 2 * self.inner, self.width)
        self.uniform(b + "ssm_conv1d.weight", (self.inner, self.taps), -0.7, 0.7)
        self.vector(b + "ssm_conv1d.bias", self.inner, 0, 0.2)
        self.matrix(b + "ssm_x", self.rank + 2 * self.states, self.inner)
        self.matrix(b + "ssm_dt", self.inner, self.rank)
        self.uniform(b + "ssm_dt.bias", self.inner, -2, 1)
        self.uniform(b + "ssm_a", (self.inner, self.states), -2, -0.1)
        self.vector(b + "ssm_d", self.inner, 1, 0.3)
        self.matrix(b + "ssm_out", self.width, self.inner)

    def finish(self):
        w = self.writer
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        return self.path


def granitehybrid():
    m = Model("granitehybrid", WIDTH, 4)
    m.heads(4, [0, 2, 0, 2], 12)
    m.writer.add_feed_forward_length(40)
    m.writer.add_embedding_scale(2.5)
    m.writer.add_residual_scale(0.6)
    m.writer.add_attention_scale(0.2)
    m.writer.add_logit_scale(1.5)
    m.state_space(taps=3, inner=2 * WIDTH, states=20, rank=8, groups=2)
    for i in range(m.layers):
        m.attention(i) if i % 2 else m.mamba2(i)
        m.feed_forward(i, 40)
    return m.finish()


def mamba2():
    m = Model("mamba2", WIDTH, 2)
    m.state_space(taps=4, inner=96, states=16, rank=4, groups=2)
    m.matrix("output", VOCAB, WIDTH)
    for i in range(m.layers):
        m.mamba2(i)
    return m.finish()


def mamba():
    m = Model("mamba", 48, 2)  # 96 channels: a block of 64 and a part of one
    m.state_space(taps=4, inner=96, states=10, rank=6)
    m.writer.add_ssm_dt_b_c_rms(True)
    for i in range(m.layers):
        m.mamba(i)
    return m.finish()


def qwen3():
    m = Model("qwen3", WIDTH, 2)
    m.heads(4, 2, 12)
    m.writer.add_feed_forward_length(48)
    m.writer.add_rope_freq_base(1e6)
    m.matrix("output", VOCAB, WIDTH)
    for i in range(m.layers):
        m.attention(i, norms=True)
        m.feed_forward(i, 48)
    return m.finish()


def qwen3moe():
    m = Model("qwen3moe", WIDTH, 2)
    m.heads(4, 2, 12)
    m.writer.add_feed_forward_length(64)
    m.writer.add_expert_count(5)
    m.writer.add_expert_used_count(3)
    m.writer.add_expert_feed_forward_length(32)
    for i in range(m.layers):
        b = f"blk.{i}."
        m.attention(i, norms=True)
        m.vector(b + "ffn_norm.weight", WIDTH, 1, 0.2)
        m.matrix(b + "ffn_gate_inp", 5, WIDTH)
        for name in ("gate", "up", "down"):
            m.add(f"{b}ffn_{name}_exps.weight", m.rng.normal(0, WIDTH**-0.5, (5, 32, WIDTH)))
    return m.finish()


def gemma3():
    m = Model("gemma3", WIDTH, 4)
    m.heads(4, 1, 12)
    m.writer.add_feed_forward_length(48)
    m.writer.add_rope_freq_base(1e6)
    m.writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    m.writer.add_rope_scaling_factor(8.0)
    m.writer.add_float32("gemma3.rope.freq_base_swa", 5000.0)
    m.writer.add_sliding_window(9)
    m.writer.add_uint32("gemma3.attention.sliding_window_pattern", 3)
    m.writer.add_final_logit_softcapping(20.0)
    for i in range(m.layers):
        m.attention(i, norms=True)
        m.vector(f"blk.{i}.post_attention_norm.weight", WIDTH, 1, 0.2)
        m.feed_forward(i, 48)
        m.vector(f"blk.{i}.post_ffw_norm.weight", WIDTH, 1, 0.2)
    return m.finish()


MODELS = {f.__name__: f for f in (granitehybrid, mamba2, mamba, qwen3, qwen3moe, gemma3)}


def main():
    tokens = json.loads((OUT / "odd-llama.json").read_text())["tokens"]
    for name in sys.argv[1:] or MODELS:
        path = MODELS[name]()
        run_model(path, tokens).astype("<f4").tofile(path.with_suffix(".f32"))


if __name__ == "__main__":
    main()
