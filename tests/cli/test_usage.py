# SPDX-License-Identifier: Apache-2.0
"""What people type wrong, and what help they get: exit status 2 and one line with a suggestion, or 0 and a text."""
import json
import os
import re
import subprocess

from harness import BINARY, HELDOUT, MODEL, Case, environment, main

VERBS = "probe bench tune profile imatrix sense solve quantize refine recipe eval".split()


class Help(Case):
    def test_no_arguments(self):
        done = self.run_mixbit(status=2)
        self.assertEqual(done.stdout, "")
        self.assertIn("Usage: mixbit VERB", done.stderr)

    def test_help(self):
        for arguments in (["--help"], ["-h"], ["help"]):
            done = self.run_mixbit(*arguments)
            self.assertEqual(done.stderr, "")
            for verb in VERBS:
                self.assertRegex(done.stdout, rf"(?m)^  {verb} ")

    def test_every_verb_has_help_with_an_example(self):
        listed = re.findall(r"(?m)^  ([a-z]+)  ", self.run_mixbit("--help").stdout)
        self.assertTrue(set(VERBS) <= set(listed))
        for verb in listed:
            texts = {self.run_mixbit(*a).stdout for a in ([verb, "--help"], ["help", verb], [verb, "-h"])}
            self.assertEqual(len(texts), 1)
            text = texts.pop()
            self.assertIn(f"Usage: mixbit {verb}", text)
            self.assertRegex(text, rf"\nExample:\n  .*mixbit {verb}")
            self.assertIn("--json", text)
            for line in text.splitlines():
                self.assertLessEqual(len(line), 110, line)

    def test_version(self):
        with open(os.path.join(os.path.dirname(__file__), "..", "..", "CMakeLists.txt")) as f:
            version = re.search(r"project\(mixbit VERSION ([0-9.]+)", f.read()).group(1)
        text = self.run_mixbit("--version").stdout
        self.assertEqual(text.splitlines()[0], f"mixbit {version}")
        self.assertRegex(text, r"ISA levels: reference .*avx2")
        document = json.loads(self.run_mixbit("--version", "--json").stdout)
        self.assertEqual(document["version"], version)
        self.assertIn("reference", [level["name"] for level in document["isa"]])


class Mistakes(Case):
    def test_unknown_verb(self):
        self.fails("quantise", status=2, says=["quantise", "did you mean 'quantize'"])
        self.fails("evla", status=2, says="did you mean 'eval'")
        self.fails("frobnicate", status=2, says="mixbit --help")
        self.fails("help", "sens", status=2, says="did you mean 'sense'")
        self.fails("--json", "probe", status=2, says="the verb comes first")

    def test_unknown_option(self):
        self.fails("probe", "--threds", "2", status=2, says=["--threds", "did you mean '--threads'"])
        self.fails("probe", "--xyzzy", status=2, says="mixbit probe --help")
        self.fails("probe", "-z", status=2, says="-z")
        self.fails("eval", MODEL, "--thread", "2", status=2, says="did you mean '--threads'")

    def test_values(self):
        for value, reason in (("0", "1 or more"), ("-1", "whole number"), ("two", "whole number"), ("1e3", "whole number"),
                              ("", "whole number"), ("99999999999999999999", "whole number"), ("2 ", "whole number")):
            self.fails("probe", "--threads", value, status=2, says=["--threads", reason])
        self.fails("probe", "--threads", status=2, says=["--threads", "needs a value"])
        self.fails("probe", "--json=yes", status=2, says="takes no value")
        self.fails("probe", "-t", "1", "-t", "2", status=2, says="twice")
        self.fails("bench", "--m", "1,,2", status=2, says="--m")
        self.fails("bench", "--residency", "L9", status=2, says=["L2", "memory", "L9"])
        self.fails("bench", "--formats", "q4_0", "--activation", "bf16", status=2, says=["bf16", "q4_0"])
        self.fails("bench", "--activation", "i8", status=2, says=["i8g256", "i8row"])
        self.fails("bench", "--activation", "i8row", "--tuned", status=2, says="--tuned")
        self.fails("tune", "--max-error", "0", status=2, says="above zero")
        self.fails("tune", "--time-limit", "-3", status=2, says="above zero")
        self.fails("tune", "--time-limit", "nan", status=2, says="a number")

    def test_missing_and_extra_arguments(self):
        self.fails("eval", status=2, says=["MODEL", "usage: mixbit eval"])
        self.fails("eval", MODEL, MODEL, "--text", HELDOUT, status=2, says="unexpected argument")
        self.fails("eval", MODEL, status=2, says="--text")
        self.fails("sense", MODEL, status=2, says="--text")
        self.fails("solve", MODEL, status=2, says="--sensitivity")
        self.fails("quantize", MODEL, "-o", "x.gguf", status=2, says=["--plan", "--format", "--preset"])
        self.fails("quantize", MODEL, "--format", "q4_K", status=2, says="-o")
        self.fails("quantize", MODEL, "--format", "q4_K", "--preset", "Q4_K_M", "-o", "x.gguf", status=2, says="exclude")
        self.fails("probe", "extra", status=2, says="unexpected argument 'extra'")
        self.fails("profile", "lst", status=2, says="did you mean 'list'")
        self.fails("profile", "compare", "a", status=2, says="usage")

    def test_unknown_formats_and_presets(self):
        self.fails("quantize", MODEL, "--format", "q4k", "-o", "x.gguf", status=2, says=["'q4k'", "did you mean 'q4_K'"])
        self.fails("quantize", MODEL, "--format", "zzz", "-o", "x.gguf", status=2, says=["f32", "iq4_xs"])
        self.fails("quantize", MODEL, "--preset", "Q4_K_X", "-o", "x.gguf", status=2, says=["Q4_K_X", "did you mean"])
        self.fails("bench", "--formats", "q4_K,q9", status=2, says="'q9'")
        self.fails("bench", "--formats", "q4_K,q4_K", status=2, says="twice")
        self.fails("bench", "--formats", "q4_K", "--k", "100", status=2, says=["100", "q4_K", "256"])

    def test_environment(self):
        self.fails("probe", "--why", status=2, says=["MIXBIT_ISA", "avx9"], env=environment(MIXBIT_ISA="avx9"))
        self.fails("probe", "--why", status=2, says=["MIXBIT_KERNEL", "fast"], env=environment(MIXBIT_KERNEL="fast"))

    def test_budgets(self):
        table = self.write("s.json", "{}")
        for option, value, reason in (
                ("--max-size", "-5M", "above zero"), ("--max-size", "0", "above zero"), ("--max-size", "nan", "a size"),
                ("--max-size", "inf", "a size"), ("--max-size", "5Q", "unit"), ("--max-size", "M", "a size"),
                ("--max-size", "1e999", "a size"), ("--max-size", "0x10M", "a size"), ("--max-size", "-1bpw", "above zero"),
                ("--max-ram", "nanM", "a size"), ("--min-decode", "-10", "above zero"), ("--min-decode", "nan", "a number"),
                ("--min-prefill", "0", "above zero"), ("--max-kl", "-0.1", "above zero"), ("--max-kl", "inf", "a number"),
                ("--max-kl", "0.1x", "a number"), ("--minimize", "speed", "decode")):
            self.fails("solve", MODEL, "-s", table, option, value, status=2, says=[option, reason])
        self.fails("solve", MODEL, "-s", table, "--max-size", "5M", "--max-size", "4M", status=2, says="twice")
        self.fails("solve", MODEL, "-s", table, "--front", "-o", "p.json", status=2, says="--front")
        self.fails("solve", MODEL, "-s", table, "--front", "--minimize", "size", status=2, says="same quantity")


class Streams(Case):
    def test_full_stdout(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BINARY, "probe", "--why"], stdout=full, stderr=subprocess.PIPE, env=environment())
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output", done.stderr)

    def test_why_lists_every_format(self):
        text = self.run_mixbit("probe", "--why").stdout
        for name in ("f32", "q4_0", "q4_K", "iq4_xs"):
            self.assertIn(f"{name}, m = 1:", text)
        self.assertRegex(text, r"codebooks, any m:\n(  codebook_.*\n)*  codebook_\S+ +taken\n")
        self.assertRegex(text, r"integer-only, any m:\n(  integer_.*\n)*  integer_\S+ +taken\n")


if __name__ == "__main__":
    main()
