#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/roles/*.txt: which tensors llama-quantize would convert, the oracle of `quantizable`.

    scripts/make_golden_roles.py --llama-quantize PATH [--smollm2 SmolLM2-135M-Instruct.Q4_1.gguf]

Needs the PyPI packages gguf and numpy. A line is: name, ne0 x ne1 ..., 1 when `llama-quantize --dry-run --pure ... Q5_0` converts the
tensor. names.txt is made from a model whose tensors only have the names of many architectures: the tool looks at nothing else.
"""
import argparse
import pathlib
import re
import subprocess
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/roles"
BLOCK = """attn_norm.weight attn_norm.bias attn_q.weight attn_k.weight attn_v.weight attn_q.bias attn_qkv.weight attn_output.weight attn_q_norm.weight
attn_q_a.weight attn_q_b.weight attn_kv_a_mqa.weight attn_kv_b.weight attn_k_b.weight attn_v_b.weight attn_rel_b.weight attn_gate.weight
attn_sinks.weight ffn_norm.weight ffn_gate.weight ffn_up.weight ffn_down.weight ffn_gate_inp.weight ffn_gate_inp.bias ffn_gate_exps.weight
ffn_up_exps.weight ffn_down_exps.weight ffn_gate_shexp.weight ffn_gate_inp_shexp.weight ffn_gate_tid2eid.weight exp_probs_b.bias
ssm_in.weight ssm_out.weight ssm_x.weight ssm_dt.weight ssm_conv1d.weight ssm_conv1d.bias ssm_norm.weight ssm_a ssm_d ssm_beta_alpha.weight
ssm_beta.weight ssm_f_a.weight shortconv.conv.weight shortconv.in_proj.weight shortconv.out_proj.weight time_mix_first.weight time_mix_w0.weight
time_mix_w1.weight time_mix_w2.weight time_mix_v0.weight time_mix_v1.weight time_mix_v2.weight time_mix_a0.weight time_mix_a1.weight
time_mix_a2.weight time_mix_g1.weight time_mix_g2.weight time_mix_decay_w1.weight time_mix_decay_w2.weight time_mix_lerp_fused.weight
time_mix_key.weight time_mix_receptance.weight time_mix_decay.weight channel_mix_key.weight altup_proj.weight laurel_l.weight inp_gate.weight
proj.weight indexer.k_proj.weight indexer.q_proj.weight indexer.attn_k.weight post_attention_norm.weight layer_output_norm.weight
attn_out.weight cross_attn_q.weight hc_fn.weight nextn.eh_proj.weight""".split()
GLOBAL = """token_embd.weight output.weight output_norm.weight output.bias position_embd.weight token_types.weight token_embd_norm.weight
per_layer_token_embd.weight per_layer_model_proj.weight per_layer_proj_norm.weight altup_unembd_proj.weight cls.weight cls.output.weight rope_freqs.weight
v.position_embd.weight v.patch_embd.weight v.patch_merger.weight sam.pos_embd.weight sam.neck.0.weight sam.net_2.weight v.blk.0.rel_pos_h.weight
a.rvq.codebook.weight mm.a.code_embd.weight mm.0.weight weight some.weights xweight output_weight enc.blk.0.attn_q.weight""".split()


def dry_run(tool, model):
    out = subprocess.run([tool, "--allow-requantize", "--dry-run", "--pure", str(model), "Q5_0"], capture_output=True, text=True, check=True)
    lines = []
    for line in (out.stdout + out.stderr).splitlines():
        match = re.search(r"\]\s+(\S+)\s+- \[([0-9, ]+)\], type =\s*(\S+), size = (.*)", line)
        if match:
            ne = [int(x) for x in match[2].split(",")]
            lines.append(f"{match[1]} {'x'.join(map(str, ne))} {int('->' in match[4])}\n")
    assert lines, out.stderr
    return sorted(lines)


def write_names(path):
    # f16 everywhere, so that whatever may be converted to q5_0 is
    writer = gguf.GGUFWriter(path, "llama")
    reader = gguf.GGUFReader(ROOT / "models/tiny-llama.f16.gguf")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[1] if kind == gguf.GGUFValueType.ARRAY else None)
    names = GLOBAL + [f"blk.0.{n}" for n in BLOCK] + ["blk.5.attn_q.weight", "blk.12.ffn_up.weight"]
    for name in names:
        writer.add_tensor(name, np.zeros((4, 32), dtype=np.float16))
    shapes = {"blk.1.attn_q.weight": (32,), "blk.1.attn_k.weight": (1, 32), "blk.1.attn_v.weight": (1, 1, 32), "blk.1.ffn_up.weight": (2, 1, 32),
              "blk.1.ffn_down.weight": (2, 3, 32), "blk.1.ffn_gate.weight": (2, 1, 1, 32)}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-quantize", required=True)
    parser.add_argument("--smollm2")
    a = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        names = pathlib.Path(folder) / "names.gguf"
        write_names(names)
        models = {"names": names, "tiny-llama": ROOT / "models/tiny-llama.f16.gguf", "tiny-hybrid": ROOT / "models/tiny-hybrid.f16.gguf"}
        if a.smollm2:
            models["smollm2"] = a.smollm2
        for name, path in models.items():
            (OUT / f"{name}.txt").write_text("".join(dry_run(a.llama_quantize, path)))


if __name__ == "__main__":
    main()
