# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's imatrix and log-probability files: ours through the whole chain, and with its own tools where they are found
(MIXBIT_LLAMA_BIN, a folder, else the PATH)."""
import json
import os
import re
import struct

from harness import CALIB, HELDOUT, MODEL, SENSE, SOURCE, Case, environment, main, once, profile, sensitivity

GOLDEN = os.path.join(SOURCE, "tests", "golden")
BASE = os.path.join(GOLDEN, "logits", "tiny-llama.base")
TENSORS = 6 * 7 + 1
QUIET = ["--no-speed", "--windows", "4", "--text", HELDOUT]


def imatrix():
    return once("imatrix.gguf", lambda path: ["imatrix", MODEL, "--text", CALIB, "--windows", "8", "-o", path])


class Imatrix(Case):
    def kl(self, path):
        return self.run_json("eval", path, "--reference", MODEL, *QUIET)["kl"]["mean"]

    def test_collect(self):
        result = self.run_json("imatrix", MODEL, "--text", CALIB, "--windows", "2")
        self.assertEqual(result["output"], "tiny-llama.f16.imatrix.gguf")
        self.assertEqual((result["tensors"], result["matrices"], result["unreached"]), (TENSORS, TENSORS, 0))
        self.assertEqual((result["windows"], result["window"]), (2, 256))
        self.assertEqual(list(self.listing()), ["tiny-llama.f16.imatrix.gguf"])
        self.run_mixbit("imatrix", MODEL, "--text", CALIB, "--windows", "2")  # ours is replaced
        self.write("mine.gguf", b"not ours")
        self.fails("imatrix", MODEL, "--text", CALIB, "-o", "mine.gguf", status=1, says="--force")
        self.fails("imatrix", MODEL, status=2, says="--text")

    def test_quantize(self):
        """Better with than without, for every file that says the same; the result says what it was made with."""
        self.run_mixbit("quantize", MODEL, "--format", "q2_K", "-o", "plain.gguf")
        plain = self.kl("plain.gguf")
        golden = os.path.join(GOLDEN, "imatrix", "tiny-llama.imatrix")
        for source in (imatrix(), golden + ".gguf", golden + ".dat"):
            done = self.run_mixbit("quantize", MODEL, "--format", "q2_K", "--imatrix", source, "-o", "better.gguf")
            self.assertIn(f"importance for {TENSORS} of {TENSORS + 1} tensors", done.stderr)
            self.assertLess(self.kl("better.gguf"), plain)
        with open(self.path("better.gguf"), "rb") as f:
            self.assertIn(b"mixbit.importance", f.read(1 << 20))
        self.run_mixbit("quantize", MODEL, "--format", "q4_0", "--imatrix", imatrix(), "-o", "q4.gguf")
        self.fails("eval", "q4.gguf", "--no-speed", "--text", CALIB, status=2, says="imatrix")

    def test_chain(self):
        """Table, plan and file belong to one imatrix."""
        self.run_mixbit("sense", MODEL, "--text", CALIB, *SENSE, "--imatrix", imatrix(), "-o", "s.json")
        with open(self.path("s.json")) as f:
            table = json.load(f)
        self.assertRegex(table["importance"], "^[0-9a-f]{32}$")
        done = self.run_mixbit("sense", MODEL, "--text", CALIB, *SENSE, "--imatrix", imatrix(), "-o", "s.json")
        self.assertIn("sensed before", done.stderr)
        self.run_mixbit("solve", MODEL, "-s", "s.json", "--max-size", "5M", "-o", "plan.json")
        with open(self.path("plan.json")) as f:
            self.assertEqual(json.load(f)["importance"], table["importance"])
        self.fails("quantize", MODEL, "--plan", "plan.json", "-o", "m.gguf", status=1, says="--imatrix")
        other = os.path.join(GOLDEN, "imatrix", "tiny-llama.imatrix.dat")
        self.fails("quantize", MODEL, "--plan", "plan.json", "--imatrix", other, "-o", "m.gguf", status=1, says="another imatrix")
        self.run_mixbit("quantize", MODEL, "--plan", "plan.json", "--imatrix", imatrix(), "-o", "m.gguf")
        without = self.run_json("sense", MODEL, "--text", CALIB, *SENSE, "-o", "t.json")
        self.assertNotIn("importance", without)
        self.assertNotEqual(without["units"], table["units"])

    def test_plan(self):
        """What plan measured with an imatrix is what it wrote, and what quantize writes of its plan."""
        result = self.run_json("plan", MODEL, "--imatrix", imatrix(), "-p", profile(), "--text", CALIB, "--eval-text", HELDOUT,
                               "--formats", "q4_0,q8_0", "--windows", "2", "--window", "64", "--eval-windows", "4", "--repeats",
                               "1", "--ctx", "64", "--encoder", "search", "--presets", "Q4_K_M")
        self.assertTrue(any("imatrix" in note for note in result["notes"]))
        chosen, = [row for row in result["rows"] if row["recommended"]]
        again = self.run_json("eval", "out/mixed.gguf", "--reference", MODEL, "--window", "64", *QUIET)
        self.assertAlmostEqual(again["kl"]["mean"], chosen["kl"], places=12)
        self.run_mixbit("quantize", MODEL, "--plan", "out/plan.json", "--imatrix", imatrix(), "-o", "m.gguf")
        again = self.run_json("eval", "m.gguf", "--reference", MODEL, "--window", "64", *QUIET)
        self.assertAlmostEqual(again["kl"]["mean"], chosen["kl"], places=12)
        self.assertIn(" --imatrix ", self.run_json("recipe", "out/plan.json")["command"])
        self.fails("verify", MODEL, "-s", "out/sensitivity.json", "-p", profile(), "--formats", "q4_0,q8_0", "--eval-text",
                   HELDOUT, status=1, says="--imatrix")

    def test_bad_files(self):
        with open(imatrix(), "rb") as f:
            data = f.read()
        hybrid = os.path.join(SOURCE, "models", "tiny-hybrid.f16.gguf")
        for source, says in ((self.write("cut.gguf", data[:len(data) // 2]), "cut.gguf"), (CALIB, "neither"),
                             (MODEL, "expected 'imatrix'"), (self.write("empty", b""), "empty")):
            self.fails("quantize", MODEL, "--format", "q4_0", "--imatrix", source, "-o", "o.gguf", status=1, says=says)
        self.fails("quantize", hybrid, "--format", "q4_0", "--imatrix", imatrix(), "-o", "o.gguf", status=1, says="another model")
        self.fails("quantize", MODEL, "--format", "q4_0", "--imatrix", "nowhere", "-o", "o.gguf", status=1, says="nowhere")


class Logits(Case):
    def test_round_trip(self):
        saved = self.run_json("eval", MODEL, "--numerics", "f32", "--save-logits", "base", "--window", "64", *QUIET)
        self.assertEqual(os.path.getsize(self.path("base")), 20 + 4 * 64 * 4 + 4 * 31 * (8 + 2 * 2048))
        again = self.run_json("eval", MODEL, "--numerics", "f32", "--no-speed", "--reference", "base")
        self.assertEqual((again["windows"], again["window"], again["tokens"]), (4, 64, 124))
        self.assertEqual(again["perplexity"], saved["perplexity"])
        self.assertLess(abs(again["kl"]["mean"]), 1e-5)
        text = self.run_mixbit("eval", MODEL, "--no-speed", "--reference", "base", "--windows", "2").stdout
        self.assertRegex(text, r"2 windows of 64 tokens, 62 scored")
        self.assertRegex(text, r" 0\.1%   KLD:")
        self.fails("eval", MODEL, "--save-logits", "base", *QUIET, status=1, says="--force")
        self.run_mixbit("eval", MODEL, "--save-logits", "base", "--force", "--window", "64", *QUIET)

    def test_against_a_model_too(self):
        """One run can be compared and saved."""
        result = self.run_json("eval", MODEL, "--reference", MODEL, "--save-logits", "base", "--window", "32", *QUIET)
        self.assertLess(result["kl"]["mean"], 1e-3)
        self.assertTrue(os.path.exists(self.path("base")))

    def test_bad_files(self):
        with open(BASE, "rb") as f:
            data = f.read()
        self.fails("eval", MODEL, "--reference", BASE, "--text", HELDOUT, status=2, says="--text")
        self.fails("eval", MODEL, "--reference", BASE, "--window", "32", status=2, says="--window")
        for length in (8, 19, 20, 500, len(data) - 1):
            self.fails("eval", MODEL, "--reference", self.write("cut", data[:length]), status=1, says="cut")
        words = b"_logits_" + struct.pack("<iii", 4, 3, 1) + b"\0" * 16 + struct.pack("<ff", 0, -1.1) + b"\0" * 8
        self.fails("eval", MODEL, "--no-speed", "--reference", self.write("words", words), status=2, says=["vocabulary", "2048"])
        token = bytearray(data)
        token[24:28] = struct.pack("<i", 5000)  # the second token of the first window
        self.fails("eval", MODEL, "--no-speed", "--reference", self.write("token", bytes(token)), status=2, says="5000")


class RecipeCheck(Case):
    """A program that prints a list like llama-quantize's stands in for it."""
    def setUp(self):
        super().setUp()
        self.run_mixbit("solve", MODEL, "-s", sensitivity(), "--max-size", "5M", "-o", "plan.json",
                        env=environment(MIXBIT_PROFILE=self.path("none.json")))
        with open(self.path("plan.json"), encoding="utf-8") as file:
            self.types = {t["name"]: t["format"] for t in json.load(file)["tensors"]}

    def check(self, lines, *arguments, end="exit 0", status=0):
        text = "\n".join(lines)
        script = self.write("llama-quantize", f"#!/bin/sh\necho \"$@\" >words\ncat <<'END'\n{text}\nEND\n{end}\n".encode())
        os.chmod(script, 0o755)
        return self.run_mixbit("recipe", "plan.json", "-o", "types.txt", "--force", "--check", MODEL, *arguments, status=status,
                               env=environment(MIXBIT_LLAMA_BIN=self.folder))

    def lines(self, types):
        made = [f"[{i:4d}/{len(types):4d}] {name:36s} - [   256,   1,   1,   1], type =    f16, size =     0.12 MiB ->     0.04 MiB ({kind})"
                for i, (name, kind) in enumerate(types.items())]
        return ["loading", *made, "[  99/  99] output_norm.weight - [   256,      1,      1,      1], type =    f32, size =    0.001 MiB"]

    def test_agreement(self):
        done = self.check(self.lines(self.types))
        self.assertIn(f"all {len(self.types)} tensors", done.stderr)
        with open(self.path("words"), encoding="utf-8") as file:
            words = file.read().split()
        self.assertEqual(words[words.index("--tensor-type-file") + 1], "types.txt")
        self.assertIn("--dry-run", words)
        self.assertEqual(words[-2], MODEL)
        document = json.loads(self.check(self.lines(self.types), "--json").stdout)
        self.assertEqual(document["differences"], [])

    def test_differences(self):
        name = sorted(self.types)[3]
        other = "q2_K" if self.types[name] != "q2_K" else "q3_K"
        for types, says in (({**self.types, name: other}, f"{name}: planned {self.types[name]}, llama-quantize: {other}"),
                            ({n: t for n, t in self.types.items() if n != name}, "llama-quantize: no such tensor"),
                            ({**self.types, "extra.weight": "q8_0"}, "extra.weight: planned nothing, llama-quantize: q8_0")):
            error = self.check(self.lines(types), status=4).stderr
            self.assertIn(says, error)
            self.assertIn(f"1 of {len(self.types)} tensors", error)

    def test_a_tool_that_fails(self):
        self.assertIn("out of luck", self.check(["out of luck"], end="exit 3", status=1).stderr)
        self.assertIn("lists no tensors", self.check(["usage"], status=1).stderr)
        self.assertIn("failed", self.check(self.lines(self.types), end="kill -9 $$", status=1).stderr)
        self.fails("recipe", "plan.json", "--check", MODEL, env=environment(MIXBIT_LLAMA_BIN=self.path("none")), status=1,
                   says=["cannot run", "MIXBIT_LLAMA_BIN"])
        self.fails("recipe", "plan.json", "--for", "ik_llama.cpp", "--check", MODEL, status=2, says="--for llama.cpp")


class Peers(Case):
    def test_external_perplexity(self):
        """llama-perplexity reads our file, and prints what we print."""
        self.tool("llama-perplexity")
        self.run_mixbit("eval", MODEL, "--numerics", "f32", "--save-logits", "base", "--window", "64", *QUIET)
        self.run_mixbit("quantize", MODEL, "--format", "q2_K", "-o", "q2.gguf")
        ours = self.run_json("eval", "q2.gguf", "--no-speed", "--reference", "base")
        text, tries = "", 30  # a thread writes its log, and the process may end before that has
        while "90.0%" not in text and tries > 0:
            text = self.peer("llama-perplexity", "-m", "q2.gguf", "-c", "64", "--kl-divergence-base", "base", "--kl-divergence")
            tries -= 1

        def number(pattern):
            return float(re.search(pattern + r"\s*(-?[0-9.]+)", text).group(1))
        self.assertAlmostEqual(ours["perplexity"], number(r"Mean PPL\(Q\)\s*:"), delta=0.01 * ours["perplexity"])
        self.assertAlmostEqual(ours["reference_perplexity"], number(r"Mean PPL\(base\)\s*:"), delta=1e-3)
        self.assertAlmostEqual(ours["kl"]["mean"], number(r"Mean\s+KLD:"), delta=0.02 * ours["kl"]["mean"])
        self.assertAlmostEqual(ours["kl"]["median"], number(r"Median\s+KLD:"), delta=0.05 * ours["kl"]["median"])
        self.assertAlmostEqual(ours["kl"]["p90"], number(r"90.0%\s+KLD:"), delta=0.05 * ours["kl"]["p90"])

    def test_external_quantize(self):
        """llama-quantize takes our imatrix, for a format that it refuses to make without one."""
        self.tool("llama-quantize")
        text = self.peer("llama-quantize", "--imatrix", imatrix(), MODEL, "iq2.gguf", "IQ2_XS")
        self.assertIn(f"loaded {TENSORS} importance matrix entries", text)
        self.assertIn("computed on 8 chunks", text)
        self.run_mixbit("eval", "iq2.gguf", "--no-speed", "--text", HELDOUT, "--windows", "1")

    def test_external_recipe(self):
        """llama-quantize's dry run makes of every tensor what the plan says."""
        tool = self.tool("llama-quantize")
        self.run_mixbit("solve", MODEL, "-s", sensitivity(), "--max-size", "4M", "-o", "plan.json",
                        env=environment(MIXBIT_PROFILE=self.path("none.json")))
        done = self.run_mixbit("recipe", "plan.json", "-o", "types.txt", "--check", MODEL,
                               env=environment(MIXBIT_LLAMA_BIN=os.path.dirname(tool)))
        self.assertIn("what the plan says", done.stderr)

    def test_external_imatrix(self):
        """llama-imatrix adds ours up with its own."""
        self.tool("llama-imatrix")
        self.peer("llama-imatrix", "-m", MODEL, "--in-file", imatrix(), "-o", "again.gguf")
        first = self.run_mixbit("quantize", MODEL, "--format", "q4_0", "--imatrix", imatrix(), "-o", "a.gguf")
        second = self.run_mixbit("quantize", MODEL, "--format", "q4_0", "--imatrix", "again.gguf", "-o", "b.gguf")
        self.assertIn(f"importance for {TENSORS}", first.stderr)
        self.assertIn(f"importance for {TENSORS}", second.stderr)


if __name__ == "__main__":
    main()
