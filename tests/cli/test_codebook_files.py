# SPDX-License-Identifier: Apache-2.0
"""quantize --scheme: a file of codebook matrices runs as eval --schemes said it would, in as many bytes, and nowhere else: other
verbs, other runtimes and damaged files each have one clear line."""
import json
import os
import struct
import subprocess
import sys

from harness import CALIB, DONE_OR_BUSY, HELDOUT, MODEL, SOURCE, Case, loud_skip, main, once

HYBRID = os.path.join(SOURCE, "models", "tiny-hybrid.f16.gguf")
CALIBRATION = ["--windows", "8", "--window", "64"]
EVAL = ["--text", HELDOUT, "--windows", "2", "--window", "64"]


def packed():
    return once("packed.gguf", lambda path: ["quantize", HYBRID, "--scheme", "packed-feedback", "--bits", "2.5", *CALIBRATION, "-o", path])


class CodebookFiles(Case):
    def loss(self, path, *options):
        return self.run_json("eval", path, "--reference", MODEL, *EVAL, "--no-speed", *options)

    def test_runs_as_simulated(self):
        """The same encoding, so the same loss to the last digit, by kernels and in f32; and the bits that were counted."""
        result = self.run_json("quantize", MODEL, "--scheme", "cmpq-feedback", "--bits", "3", "--text", CALIB, "--windows", "64",
                               "--window", "64", "-o", "c.gguf")
        self.assertEqual((result["mix"], result["tensors"], result["quantized"]), ("cmpq-feedback", 57, 44))
        self.assertEqual(result["unreached"], 0)
        self.assertEqual(result["bytes"], os.path.getsize(self.path("c.gguf")))
        rows = self.run_json("eval", MODEL, *EVAL, "--schemes", "cmpq-feedback,cmpq-feedback+kernel", "--bits", "3")["schemes"]
        rows = {row["activations"]: row for row in rows}
        kernel, floats = self.loss("c.gguf"), self.loss("c.gguf", "--numerics", "f32")
        for got, row in ((kernel, rows["kernel"]), (floats, rows["float"])):
            self.assertEqual(got["kl"]["mean"], row["kl"])
            self.assertEqual(got["perplexity"], row["perplexity"])
            self.assertEqual(got["bits_per_weight"], result["bits_per_weight"])
        self.assertEqual(result["bits_per_weight"], rows["float"]["bits_per_weight"])
        self.assertNotEqual(kernel["kl"]["mean"], floats["kl"]["mean"])
        self.assertLess(kernel["weight_bytes"], floats["weight_bytes"] / 6)
        # the file: what was counted, 32 bytes a tensor at most, and as much of the rest as the source has
        stored = rows["float"]["weights"] * result["bits_per_weight"] / 8
        rest = os.path.getsize(MODEL) - 2 * rows["float"]["weights"]
        self.assertLess(abs(result["bytes"] - stored - rest), 57 * (32 + 16) + 1024)  # 16: names and dimensions

    def test_formats(self):
        """The formats of such matrices: written, multiplied and timed under their names, and refused where there is nothing to run
        them."""
        result = self.run_json("quantize", HYBRID, "--format", "cb2.75", "-o", "cb.gguf")
        self.assertEqual(result["mix"], "cb2.75")
        self.assertEqual(result["bytes"], os.path.getsize(self.path("cb.gguf")))
        bits = self.run_json("eval", "cb.gguf", *EVAL, "--no-speed")["bits_per_weight"]
        self.assertAlmostEqual(bits, 2.75, delta=0.06)
        self.assertLessEqual(bits, 2.75)
        rows = self.run_json("bench", "--formats", "cb3,q4_0", "--m", "1", "--n", "256", "--k", "320", status=DONE_OR_BUSY)
        self.assertEqual([row["format"] for row in rows], ["cb3", "q4_0"])
        self.assertTrue(rows[0]["kernel"].startswith("codebook_"))
        [row] = self.run_json("bench", "--formats", "cb2", "--m", "1", "--n", "1024", "--k", "1024", "--residency", "memory",
                              status=DONE_OR_BUSY)
        self.assertEqual((row["format"], row["residency"]), ("cb2", "memory"))
        self.fails("quantize", MODEL, "--format", "cb2.7", "-o", "x.gguf", status=2, says=["cb2.7", "did you mean 'cb2"])
        self.fails("eval", MODEL, *EVAL, "--schemes", "cb3", status=2, says=["packed-feedback", "--bits 3"])

    def plan_of(self, name):
        """A plan with one tensor in this format, by a pin."""
        formats = ["--formats", "q4_0," + name]
        self.run_mixbit("sense", MODEL, "--text", CALIB, "--windows", "2", "--window", "64", *formats, "-o", "s.json")
        self.run_mixbit("tune", "--model", MODEL, *formats, "--time-limit", "5", "-o", "p.json")
        self.run_mixbit("solve", MODEL, "-s", "s.json", "-p", "p.json", *formats, "--max-size", "4.4bpw", "--pin",
                        "blk.1.ffn_up.weight=" + name, "-o", "plan.json")
        return self.path("plan.json")

    def test_mix(self):
        """A plan of both kinds of formats, from its table to a file that eval runs, no larger than predicted; other runtimes get none
        of it."""
        plan = self.plan_of("cb3")
        with open(plan) as f:
            formats = {entry["name"]: entry["format"] for entry in json.load(f)["tensors"]}
        self.assertEqual(formats["blk.1.ffn_up.weight"], "cb3")
        self.assertEqual(set(formats.values()), {"cb3", "q4_0"})
        done = self.run_mixbit("quantize", MODEL, "--plan", plan, "-o", "mix.gguf")
        self.assertNotIn("too small", done.stderr)
        done = self.run_json("eval", "mix.gguf", "--reference", MODEL, *EVAL, "--no-speed")
        self.assertLess(done["kl"]["mean"], 0.1)
        self.assertLessEqual(done["bits_per_weight"], 4.4)
        self.fails("recipe", plan, "-o", "r.txt", status=1, says="cb3")
        self.fails("solve", MODEL, "-s", "s.json", "-p", "p.json", "--formats", "cb3", "--max-size", "4.4bpw", "--runtime",
                   "llama.cpp", "-o", "l.json", status=2, says="--runtime")

    def test_plan(self):
        """The whole loop with such formats among the candidates: what was measured is what is written, within the size that was
        asked for, and the page and the report say who can run it."""
        with open(CALIB, "rb") as f:
            self.write("some.txt", f.read(40000))
        result = self.run_json("plan", MODEL, "--text", "some.txt", "--eval-text", HELDOUT, "--effort", "quick", "--windows", "2",
                               "--window", "64", "--eval-windows", "4", "--repeats", "1", "--ctx", "64", "--formats",
                               "q2_K,q4_0,cb3,cb3.5", "--presets", "none", "--max-size", "3.4bpw")
        [chosen] = [row for row in result["rows"] if row["recommended"]]
        with open(self.path("out/plan.json")) as f:
            formats = {entry["format"] for entry in json.load(f)["tensors"]}
        self.assertTrue(formats & {"cb3", "cb3.5"} and formats & {"q2_K", "q4_0"}, formats)
        self.assertLessEqual(os.path.getsize(self.path("out/mixed.gguf")), chosen["bytes"])
        done = self.run_json("eval", "out/mixed.gguf", "--reference", MODEL, *EVAL[:2], "--windows", "4", "--window", "64", "--no-speed")
        self.assertAlmostEqual(done["kl"]["mean"], chosen["kl"], places=9)
        self.assertTrue(any("codebook matrices" in note for note in result["notes"]), result["notes"])
        with open(self.path("out/report.html")) as f:
            self.assertIn("other programs refuse it", f.read())
        self.assertEqual([name for name in os.listdir(self.path("out")) if name.startswith("recipe")], [])

    def test_reference(self):
        """Such a file as the reference of a comparison, in f32: nothing is lost against itself."""
        result = self.run_json("eval", packed(), "--reference", packed(), "--numerics", "f32", *EVAL, "--no-speed")
        self.assertEqual(result["kl"]["max"], 0)

    def test_speed(self):
        """A tied embedding: looked up in the file, multiplied by kernels."""
        result = self.run_json("eval", packed(), *EVAL, "--repeats", "1", "--ctx", "32")
        self.assertGreater(result["speed"]["decode_toks"], 0)
        self.assertAlmostEqual(result["bits_per_weight"], 2.46, delta=0.05)
        text = self.run_mixbit("eval", packed(), *EVAL, "--no-speed").stdout
        self.assertIn("2.46 bits per weight", text)
        self.assertIn("(granitehybrid)", text)
        self.assertIn("codebook matrices: packed-feedback", text)
        self.assertEqual(result["scheme"], "packed-feedback")

    def test_importance_at_hand(self):
        """With an imatrix, and without feedback, the model is not run; without an imatrix the text that comes with mixbit serves."""
        self.run_mixbit("imatrix", MODEL, "--text", CALIB, *CALIBRATION, "-o", "i.gguf")
        done = self.run_mixbit("quantize", MODEL, "--scheme", "kmeans-g64", "--bits", "2", "--imatrix", "i.gguf", "-o", "k.gguf")
        self.assertNotIn("calibrating", done.stderr)
        self.fails("quantize", MODEL, "--scheme", "kmeans-g64", "--bits", "2", "--imatrix", "i.gguf", "--text", CALIB, "-o", "x.gguf",
                   status=2, says="--imatrix")
        self.assertIn("kmeans-g64", done.stdout)
        self.fails("eval", "k.gguf", *EVAL[2:], "--text", CALIB, "--no-speed", status=2, says="another text")
        self.fails("eval", packed(), *EVAL[2:], "--text", CALIB, "--no-speed", status=2, says="another text")

    def test_usage(self):
        write = ["quantize", MODEL, "-o", "x.gguf"]
        self.fails(*write, "--scheme", "cmpq-output", "--bits", "3", status=2, says=["'cmpq-output'", "no stored form"])
        self.fails(*write, "--scheme", "packd", "--bits", "3", status=2, says="'packed'")
        self.fails(*write, "--scheme", "nothing-of-the-kind", "--bits", "3", status=2, says="--format")
        self.fails(*write, "--scheme", "packed", status=2, says="--bits")
        self.fails(*write, "--format", "q4_0", "--bits", "3", status=2, says="--scheme")
        self.fails(*write, "--scheme", "packed", "--bits", "17", status=2, says="17")
        self.fails(*write, "--scheme", "packed", "--bits", "0.5", status=2, says="0.5")
        self.fails(*write, "--scheme", "packed", "--bits", "3", "--format", "q4_0", status=2, says="exclude")
        self.fails(*write, "--scheme", "packed", "--bits", "3", "--encoder", "feedback", "--text", CALIB, status=2, says="packed-feedback")
        self.fails(*write, "--scheme", "packed", "--bits", "3", "--text", "missing.txt", status=1, says="missing.txt")
        self.write("mine.gguf", b"not ours")
        self.fails("quantize", MODEL, "--scheme", "packed", "--bits", "3", "-o", "mine.gguf", status=1, says="--force")

    def test_other_verbs(self):
        for verb in (["quantize", packed(), "--format", "q4_0", "-o", "x.gguf"],
                     ["quantize", packed(), "--scheme", "packed", "--bits", "3", "-o", "x.gguf"],
                     ["sense", packed(), "--text", CALIB, "-o", "s.json"],
                     ["solve", packed(), "-s", "none.json", "--max-size", "3M"],
                     ["imatrix", packed(), "--text", CALIB, "-o", "i.gguf"],
                     ["refine", packed(), "--source", MODEL, "--text", CALIB, "-o", "r.gguf"],
                     ["refine", MODEL, "--source", packed(), "--text", CALIB, "-o", "r.gguf"],
                     ["tune", "--model", packed(), "-o", "p.json"],
                     ["verify", packed(), "--text", CALIB],
                     ["plan", packed(), "-o", "out"],
                     ["eval", packed(), *EVAL, "--schemes", "packed"]):
            self.fails(*verb, status=1, says=["codebook matrices (packed-feedback)", "'mixbit eval'"])

    def test_damage(self):
        with open(packed(), "rb") as f:
            data = f.read()
        version = data.index(b"mixbit.cmpq.version") + len("mixbit.cmpq.version") + 4
        info = data.index(b"blk.0.ffn_down.weight.cmpq")
        at = info + len("blk.0.ffn_down.weight.cmpq")
        length, kind = struct.unpack_from("<4xQI", data, at)
        self.assertEqual(kind, 24)
        changed = bytearray(data)
        changed[version] = 9
        self.write("version.gguf", bytes(changed))
        self.fails("eval", "version.gguf", *EVAL, "--no-speed", status=1, says="version 9")
        changed = bytearray(data)
        struct.pack_into("<Q", changed, at + 4, length - 1)
        self.write("short.gguf", bytes(changed))
        self.fails("eval", "short.gguf", *EVAL, "--no-speed", status=1, says=["blk.0.ffn_down.weight.cmpq", "cut off"])
        self.write("half.gguf", data[:len(data) // 2])
        self.fails("eval", "half.gguf", *EVAL, "--no-speed", status=1, says="incomplete")


class Others(Case):
    """Who is not to run such a file says so; who reads GGUF reads it."""
    def test_external_llama_cpp(self):
        """Refused before a weight is read. llama-perplexity's log may lose lines when it ends: what it says is held to be that."""
        self.assertIn("unknown model architecture: 'mixbit'", self.peer("llama-quantize", packed(), "q8.gguf", "Q8_0", status=1))
        text = self.peer("llama-perplexity", "-m", packed(), "-f", HELDOUT, "-c", "64", status=1)
        self.assertNotIn("perplexity: calculating", text)
        for line in text.splitlines():
            if "error loading model:" in line:
                self.assertIn("unknown model architecture: 'mixbit'", line)

    def test_external_opencl(self):
        if not any(device["device"] == "opencl:0" for device in self.run_json("probe")["devices"]):
            loud_skip("no OpenCL device")
            self.skipTest("no device")
        here, there = (self.run_json("eval", packed(), *EVAL, "--no-speed", "--device", d) for d in ("cpu", "opencl:0"))
        self.assertEqual((there["scheme"], there["tokens"]), (here["scheme"], here["tokens"]))
        self.assertAlmostEqual(there["perplexity"], here["perplexity"], delta=1e-4 * here["perplexity"])

    def test_external_gguf_package(self):
        script = ("import sys, gguf\n"
                  "reader = gguf.GGUFReader(sys.argv[1])\n"
                  "stored = [t for t in reader.tensors if t.name.endswith('.weight.cmpq')]\n"
                  "assert stored and all(t.tensor_type == gguf.GGMLQuantizationType.I8 and len(t.shape) == 1 for t in stored)\n"
                  "assert reader.fields['mixbit.cmpq.version'].contents() == 1\n"
                  "print(len(stored), sum(int(t.n_bytes) for t in stored))\n")
        if subprocess.run([sys.executable, "-c", "import gguf"], capture_output=True).returncode != 0:
            loud_skip("Python's gguf package is not installed")
            self.skipTest("not installed")
        done = subprocess.run([sys.executable, "-c", script, packed()], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        count, stored = map(int, done.stdout.split())
        self.assertEqual(count, 35)
        self.assertLess(stored, os.path.getsize(packed()))


if __name__ == "__main__":
    main()
