# SPDX-License-Identifier: Apache-2.0
"""Hostile and unsuitable input files: each gets one clear line, the documented exit status, and leaves nothing behind."""
import json
import os
import random
import struct
import subprocess

from harness import (BINARY, CALIB, HELDOUT, MODEL, Case, environment, main, make_gguf, patch_string, profile,
                     sensitivity)

with open(MODEL, "rb") as _file:
    DATA = _file.read()


class Models(Case):
    def refuse(self, data, says=(), name="bad.gguf", status=1):
        """Whoever opens a model refuses this one, all in the same way."""
        path = self.write(name, data)
        self.fails("quantize", path, "--format", "q4_0", "-o", "out.gguf", status=status, says=says)
        self.fails("eval", path, "--text", HELDOUT, status=status, says=says)

    def test_no_file(self):
        self.fails("eval", "nowhere.gguf", "--text", HELDOUT, status=1, says=["nowhere.gguf", "No such file"])
        self.fails("quantize", self.folder, "--format", "q4_0", "-o", "x.gguf", status=1, says="folder")

    def test_zero_length_and_foreign(self):
        self.refuse(b"", says="bad.gguf")
        self.refuse(b"GGUF", says="bad.gguf")
        self.refuse(b"PK\x03\x04" + b"x" * 1000, says="bad.gguf")
        self.refuse(b"GGUF" + struct.pack("<I", 77) + b"\0" * 100, says="77")

    def test_truncated(self):
        for length in (5, 23, 24, 100, 5000, 40000, len(DATA) // 2, len(DATA) - 1):
            self.refuse(DATA[:length], says="bad.gguf")

    def test_counts_and_offsets_that_overflow(self):
        self.refuse(DATA[:8] + struct.pack("<Q", 2**60) + DATA[16:])
        self.refuse(DATA[:16] + struct.pack("<Q", 2**60) + DATA[24:])
        architecture = [("general.architecture", "llama")]
        for dims, kind, offset in (([256, 256], 1, 2**63), ([2**40, 2**40], 1, 0), ([256, 2**60], 0, 0),
                                   ([256, 256], 1, 2**64 - 32), ([256, 256], 1, 7), ([255, 2], 12, 0), ([0, 5], 0, 0),
                                   ([256] * 9, 0, 0)):
            self.refuse(make_gguf(architecture, [("token_embd.weight", dims, kind, offset)], b"\0" * 4096))
        self.refuse(make_gguf(architecture, [], b"", tensor_count=2**60))
        twice = [("a.weight", [32], 0, 0), ("a.weight", [32], 0, 128)]
        self.refuse(make_gguf(architecture, twice, b"\0" * 4096))

    def test_bit_flips_never_crash(self):
        """Flips in the header may or may not be noticed; what must not happen is a crash or a half-written file."""
        chance = random.Random(20)
        print("seed 20")
        for _ in range(40):
            data = bytearray(DATA)
            for _ in range(chance.choice((1, 1, 8))):
                data[chance.randrange(60000)] ^= 1 << chance.randrange(8)
            path = self.write("flipped.gguf", bytes(data))
            done = subprocess.run([BINARY, "quantize", path, "--format", "q4_0", "-o", self.path("o.gguf"), "-q"],
                                  env=environment(), capture_output=True, timeout=120)
            self.assertIn(done.returncode, (0, 1), done.stderr)
            self.assertEqual(os.path.exists(self.path("o.gguf")), done.returncode == 0)
            for leftover in os.listdir(self.folder):
                self.assertIn(leftover, ("flipped.gguf", "o.gguf"))
            if done.returncode == 0:
                os.remove(self.path("o.gguf"))

    def test_unknown_architecture(self):
        path = self.write("new.gguf", patch_string(DATA, "general.architecture", "llama", "xlama"))
        self.fails("eval", path, "--text", HELDOUT, status=1, says="xlama")
        self.fails("sense", path, "--text", CALIB, "-o", "s.json", status=1, says="xlama")
        # What needs no forward pass still works on it.
        self.run_mixbit("quantize", path, "--format", "q4_0", "-o", "new.q4_0.gguf")
        self.assertTrue(os.path.exists(self.path("new.q4_0.gguf")))

    def test_unknown_tokenizer(self):
        path = self.write("t.gguf", patch_string(DATA, "tokenizer.ggml.pre", "gpt-2", "gpt-9"))
        self.fails("eval", path, "--text", HELDOUT, status=1, says="gpt-9")
        path = self.write("t.gguf", patch_string(DATA, "tokenizer.ggml.model", "gpt2", "gptX"))
        self.fails("sense", path, "--text", CALIB, "-o", "s.json", status=1, says="gptX")

    def test_other_vocabulary_as_reference(self):
        small = make_gguf([("general.architecture", "llama")], [("token_embd.weight", [32, 8], 0, 0)], b"\0" * 1024)
        self.fails("eval", MODEL, "--reference", self.write("r.gguf", small), "--text", HELDOUT, "--windows", "1",
                   "--no-speed", status=1)


class Texts(Case):
    def test_too_short(self):
        text = self.write("short.txt", "Hello.")
        self.fails("eval", MODEL, "--text", text, status=1, says=["short.txt", "256"])
        self.fails("sense", MODEL, "--text", text, "-o", "s.json", status=1, says="short.txt")
        self.fails("eval", MODEL, "--text", self.write("empty.txt", ""), status=1, says="empty.txt")
        self.fails("eval", MODEL, "--text", "missing.txt", status=1, says="missing.txt")

    def test_same_text_for_sensing_and_evaluation(self):
        table = sensitivity()
        self.fails("eval", MODEL, "--text", CALIB, "--sensitivity", table, status=2, says="sensing")
        # A quantized file remembers, so the table need not be named again; the name of the text does not matter.
        self.run_mixbit("quantize", MODEL, "--format", "q4_0", "--sensitivity", table, "-o", "q.gguf")
        with open(CALIB, "rb") as f:
            copy = self.write("other-name.txt", f.read())
        self.fails("eval", "q.gguf", "--text", copy, status=2, says="sensing")
        self.run_mixbit("eval", "q.gguf", "--text", HELDOUT, "--windows", "1", "--no-speed")


class Tables(Case):
    def solve(self, *arguments, **kwargs):
        return self.fails("solve", MODEL, "--max-size", "5M", "-o", "plan.json", *arguments, **kwargs)

    def edit(self, path, name, change):
        with open(path) as f:
            document = json.load(f)
        change(document)
        return self.write(name, json.dumps(document))

    def test_profile_cut_in_half(self):
        with open(profile(), "rb") as f:
            data = f.read()
        half = self.write("half.json", data[:len(data) // 2])
        self.solve("-s", sensitivity(), "-p", half, status=1, says="half.json")
        self.fails("profile", "show", half, status=1, says="half.json")
        self.fails("profile", "import", half, status=1, says="half.json")
        self.fails("tune", "--model", MODEL, "-o", half, status=1, says="half.json")

    def test_profile_of_another_schema(self):
        other = self.edit(profile(), "other.json", lambda d: d.update(schema="somebody-elses"))
        self.solve("-s", sensitivity(), "-p", other, status=1, says=["other.json", "schema"])
        newer = self.edit(profile(), "newer.json", lambda d: d.update(version=999))
        self.solve("-s", sensitivity(), "-p", newer, status=1, says="999")
        self.solve("-s", sensitivity(), "-p", sensitivity(), status=1, says="schema")

    def test_profile_with_wrong_values(self):
        def spoil(key, value):
            return lambda d: d["entries"][0].update({key: value})
        for key, value in (("median_ns", -1), ("median_ns", "fast"), ("format", "q99"), ("threads", 0), ("n", 1.5)):
            bad = self.edit(profile(), "bad.json", spoil(key, value))
            self.solve("-s", sensitivity(), "-p", bad, status=1, says=["bad.json", key])

    def test_profile_of_other_kernels(self):
        def age(document):
            for entry in document["entries"]:
                if entry["format"] == "q4_0":
                    entry["revision"] += 1
        self.solve("-s", sensitivity(), "-p", self.edit(profile(), "old.json", age), status=1,
                   says=["q4_0", "does not have, or has changed", "mixbit tune"])
        without = self.edit(profile(), "less.json", lambda d: d.update(entries=[e for e in d["entries"] if e["format"] != "q4_0"]))
        self.solve("-s", sensitivity(), "-p", without, status=1, says=["has no time for", "q4_0", "mixbit tune"])

    def test_profile_of_another_machine(self):
        def move(document):
            document["device"].update(key="0123456789abcdef", name="Another CPU @ 9 GHz", family=99)
        other = self.edit(profile(), "other.json", move)
        done = self.run_mixbit("solve", MODEL, "-s", sensitivity(), "-p", other, "--max-size", "5M", "-o", "plan.json")
        self.assertRegex(done.stderr, r"warning: .*other\.json.* another machine")
        self.assertTrue(os.path.exists(self.path("plan.json")))
        # It is imported under its own key, never into this machine's profile.
        imported = self.run_mixbit("profile", "import", other).stdout
        self.assertIn("0123456789abcdef.json", imported)
        self.assertIn("other machine", self.run_mixbit("profile", "list").stdout)

    def test_key_that_would_leave_the_folder(self):
        bad = self.edit(profile(), "bad.json", lambda d: d["device"].update(key="../../evil"))
        self.fails("profile", "import", bad, status=1)

    def test_missing_profile(self):
        self.solve("-s", sensitivity(), "-p", "none.json", status=1, says=["none.json", "mixbit tune"])

    def test_sensitivity_of_another_model(self):
        self.run_mixbit("quantize", MODEL, "--format", "q8_0", "-o", "other.gguf")
        self.fails("solve", "other.gguf", "-s", sensitivity(), "-p", profile(), "--max-size", "5M", status=1,
                   says="another model")

    def test_damaged_sensitivity(self):
        with open(sensitivity(), "rb") as f:
            data = f.read()
        self.solve("-s", self.write("half.json", data[:len(data) // 2]), status=1, says="half.json")
        self.solve("-s", self.write("empty.json", b""), status=1, says="empty.json")
        self.solve("-s", self.write("list.json", b"[]"), status=1, says="list.json")
        self.solve("-s", "none.json", status=1, says="none.json")

    def test_plan_of_another_model_and_damaged_plans(self):
        path = self.write("plan.json", b'{"schema": "mixbit-plan", "version": 1}')
        self.fails("quantize", MODEL, "--plan", path, "-o", "o.gguf", status=1, says="plan.json")
        self.fails("recipe", path, status=1, says="plan.json")

    def test_infeasible_budget(self):
        line = self.solve("-s", sensitivity(), "-p", profile(), "--max-size", "1M", status=2)
        self.assertIn("twice", line)
        line = self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "1M", "-o", "p.json", status=3)
        self.assertRegex(line, r"[0-9]")
        self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "5M", "--min-decode", "1e7", "-o",
                   "p.json", status=3)

    def test_pins(self):
        common = ["solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "8M"]
        self.fails(*common, "--pin", "blk.*=q9", status=2, says="q9")
        self.fails(*common, "--pin", "nothing.*=q4_0", status=2, says="nothing.*")
        self.fails(*common, "--pin", "q4_0", status=2, says="PATTERN=FORMAT")
        self.fails(*common, "--pin", "blk.0.*=q4_0", "--pin", "*ffn_down*=q8_0", status=2, says=["pinned to both", "blk.0"])


if __name__ == "__main__":
    main()
