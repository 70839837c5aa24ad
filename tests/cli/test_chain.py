# SPDX-License-Identifier: Apache-2.0
"""The verbs one after the other on the embedded model, each judged by what the next one and the documents say."""
import json
import math
import os
import re

from harness import CALIB, DONE_OR_BUSY, HELDOUT, MODEL, SENSE, Case, environment, main, plan, profile, sensitivity

BENCH_KEYS = set("format m n k threads residency kernel activation median_ns gmacs weight_gbps limit fraction error".split())


class Measuring(Case):
    def test_probe(self):
        document = self.run_json("probe", "--threads", "1")
        self.assertEqual(set(document["read_gbps"]), {"L2", "L3", "memory"})
        for figures in document["read_gbps"].values():
            self.assertGreater(figures["1"], 0)
        self.assertTrue(document["fma_gmacs"])
        if "avx2" in document["dot_gmacs"]:
            self.assertEqual(set(document["dot_gmacs"]["avx2"]), {"i16", "exact"})

    def test_bench(self):
        rows = self.run_json("bench", "--formats", "q4_K,q4_0,f16", "--m", "1,5", "--n", "256", "--k", "512", "--residency",
                             "L2", "--threads", "1", status=DONE_OR_BUSY)
        self.assertEqual([(r["format"], r["m"]) for r in rows],
                         [(f, m) for f in ("q4_K", "q4_0", "f16") for m in (1, 5)])
        for row in rows:
            self.assertLessEqual(BENCH_KEYS, set(row))
            self.assertIn(row["limit"], ("read", "dot", "fma"))
            self.assertEqual((row["n"], row["k"], row["threads"], row["residency"]), (256, 512, 1, "L2"))
            gmacs = row["m"] * row["n"] * row["k"] / row["median_ns"]
            self.assertTrue(math.isclose(row["gmacs"], gmacs, rel_tol=1e-6))
            self.assertLess(row["error"], 0.02)

    def test_bench_with_another_type_of_activations(self):
        for activation in ("i8g32", "i8g256", "i8row"):
            (row,) = self.run_json("bench", "--formats", "q4_0", "--activation", activation, "--m", "20", "--n", "64", "--k", "512",
                                   "--residency", "L2", "--threads", "1", status=DONE_OR_BUSY)
            self.assertEqual(row["activation"], activation)
            self.assertIn(f"_{activation}_", row["kernel"])

    def test_tune_within_an_error_limit(self):
        path = self.path("p.json")
        document = self.run_json("tune", "--model", MODEL, "--formats", "q4_0", "--max-error", "2", "-o", path)
        self.assertEqual(document["max_error"], 2)
        self.assertEqual({e["activation"] for e in document["entries"] if e["format"] == "q4_0"}, {"i8g32", "i8g256", "i8row"})
        again = self.run_json("tune", "--model", MODEL, "--formats", "q4_0", "-o", path)
        self.assertEqual(again["max_error"], 2)
        self.assertEqual(document["entries"], again["entries"])
        rows = self.run_json("bench", "--tuned", "--formats", "q4_0", "--m", "1,512", "--n", "256", "--k", "256", "--residency", "L2",
                             env=environment(MIXBIT_PROFILE=path), status=DONE_OR_BUSY)
        self.assertEqual(len({row["activation"] for row in rows}), 1)
        for row in rows:
            self.assertIn((row["kernel"], row["activation"]), {(e["kernel"], e["activation"]) for e in document["entries"]})
        self.fails("bench", "--tuned", env=environment(MIXBIT_PROFILE=self.path("none.json")), status=1, says="no profile")

    def test_tune_keeps_what_is_there(self):
        path = self.path("p.json")
        first = self.run_json("tune", "--model", MODEL, "--formats", "q4_0", "-o", path)
        self.assertEqual(first["schema"], "mixbit-profile")
        shapes = {(e["n"], e["k"]) for e in first["entries"]}
        self.assertEqual(shapes, {(2048, 256), (256, 256), (128, 256), (768, 256), (256, 768)})
        self.assertLessEqual({1, 8, 512}, {e["m"] for e in first["entries"]})
        again = self.run_json("tune", "--model", MODEL, "--formats", "q4_0", "-o", path)
        self.assertEqual(first["entries"], again["entries"])
        if not first["fixed"][0]["rough"]:
            self.assertEqual(first["fixed"], again["fixed"])
        more = self.run_json("tune", "--model", MODEL, "--formats", "q4_0,q8_0", "-o", path)
        self.assertLess(len(again["entries"]), len(more["entries"]))

    def test_profiles(self):
        env = environment(XDG_CACHE_HOME=self.path("cache"))
        self.fails("profile", "show", status=1, says="mixbit tune", env=env)
        self.assertEqual(json.loads(self.run_mixbit("profile", "list", "--json", env=env).stdout), [])
        self.run_mixbit("profile", "import", profile(), env=env)
        listed = json.loads(self.run_mixbit("profile", "list", "--json", env=env).stdout)
        self.assertEqual([entry["match"] for entry in listed], ["this machine"])
        self.run_mixbit("profile", "export", "-o", "copy.json", env=env)
        with open(self.path("copy.json")) as copy, open(profile()) as original:
            self.assertEqual(json.load(copy), json.load(original))
        compared = json.loads(self.run_mixbit("profile", "compare", "copy.json", profile(), "--json", env=env).stdout)
        self.assertTrue(compared)
        self.assertTrue(all(row["ratio"] == 1 for row in compared))
        # Found through MIXBIT_PROFILE too.
        shown = self.run_mixbit("profile", "show", env=environment(MIXBIT_PROFILE=profile())).stdout
        self.assertIn(profile(), shown)


class Sensing(Case):
    def test_table(self):
        with open(sensitivity()) as f:
            table = json.load(f)
        self.assertEqual(table["schema"], "mixbit-sensitivity")
        # The same job again is answered from the file, and is the same.
        done = self.run_mixbit("sense", MODEL, "--text", CALIB, *SENSE, "-o", sensitivity())
        self.assertIn("sensed before", done.stderr)
        with open(sensitivity()) as f:
            self.assertEqual(json.load(f), table)
        self.assertFalse(os.path.exists(sensitivity() + ".journal"))
        self.assertRegex(done.stdout, r"q4_0 +[0-9.]+ +[0-9.]+ +\S+")

    def test_default_output(self):
        self.run_mixbit("sense", MODEL, "--text", CALIB, "--windows", "1", "--window", "32", "--formats", "q8_0")
        self.assertEqual(list(self.listing()), ["tiny-llama.f16.sensitivity.json"])


class Solving(Case):
    def solve(self, *arguments):
        return self.run_json("solve", MODEL, "-s", sensitivity(), "-p", profile(), *arguments)

    def test_size_budgets(self):
        """5M, in Mi, and in bits per weight over the 5,767,168 weights that a uniform file converts."""
        losses = []
        for text, most in (("4M", 4e6), ("5M", 5e6), ("5Mi", 5 * 2**20), ("6.5bpw", None)):
            document = self.solve("--max-size", text)
            tensors = sum(t["bytes"] for t in document["tensors"])
            total = document["total"]["bytes"]
            if most is None:
                self.assertLessEqual(tensors, 6.5 / 8 * 5767168)
                self.assertGreater(tensors, 0.97 * 6.5 / 8 * 5767168)
            else:
                self.assertLessEqual(total, most)
                losses.append(document["total"]["loss" if "loss" in document["total"] else "kl"])
        self.assertEqual(losses, sorted(losses, reverse=True))

    def test_the_fixed_part_is_the_profiles(self):
        """With it no run of the model is needed; without it, solve times the model."""
        with open(profile(), encoding="utf-8") as file:
            document = json.load(file)
        [fixed] = document["fixed"]
        done = self.run_mixbit("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "5M", "--json")
        self.assertNotIn("timing", done.stderr)
        self.assertEqual(json.loads(done.stdout)["fixed"]["decode_ns"], fixed["decode_ns"])
        del document["fixed"]
        bare = self.path("bare.json")
        with open(bare, "w", encoding="utf-8") as file:
            json.dump(document, file)
        done = self.run_mixbit("solve", MODEL, "-s", sensitivity(), "-p", bare, "--max-size", "5M", "--json")
        self.assertIn("timing attention", done.stderr)

    def test_objectives(self):
        size = self.solve("--minimize", "size")
        self.assertEqual({t["format"] for t in size["tensors"]}, {"q4_0"})
        self.assertEqual(size["objective"], "size")

    def test_pins(self):
        document = self.solve("--max-size", "5M", "--pin", "*ffn_down*=q4_0", "--pin", "output.weight=q8_0")
        for tensor in document["tensors"]:
            if "ffn_down" in tensor["name"]:
                self.assertEqual(tensor["format"], "q4_0")
            if tensor["name"] == "output.weight":
                self.assertEqual(tensor["format"], "q8_0")

    def test_front(self):
        rows = self.solve("--front", "--points", "6")
        self.assertGreater(len(rows), 3)
        self.assertEqual([r["bytes"] for r in rows], sorted(r["bytes"] for r in rows))
        self.assertEqual([r["kl"] for r in rows], sorted((r["kl"] for r in rows), reverse=True))

    def test_max_ram(self):
        """The key-value cache counts: 6 layers of 4 heads of 32, keys and values in f32, for the whole context."""
        cache = 2 * 6 * 4 * 32 * 4 * 128
        document = self.solve("--max-ram", "6M", "--ctx", "128")
        taken = sum(t["bytes"] for t in document["tensors"])
        self.assertLess(taken, 6e6 - cache)
        self.assertGreater(taken, 0.9 * (6e6 - cache))
        self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-ram", "100k", status=3,
                   says=["--max-ram 0.100 MB", "key-value cache"])
        self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-ram", "4bpw", status=2, says="--max-ram")

    def test_without_a_profile(self):
        env = environment(MIXBIT_PROFILE=self.path("none.json"))
        done = self.run_mixbit("solve", MODEL, "-s", sensitivity(), "--max-size", "5M", "-o", "p.json", env=env)
        self.assertIn("no profile", done.stderr)
        self.fails("solve", MODEL, "-s", sensitivity(), "--min-decode", "10", status=1, says="mixbit tune", env=env)
        self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), status=2, says="no budget")


class Writing(Case):
    def test_plan_to_file_and_back(self):
        with open(plan()) as f:
            document = json.load(f)
        self.run_mixbit("quantize", MODEL, "--plan", plan(), "-o", "mixed.gguf")
        size = os.path.getsize(self.path("mixed.gguf"))
        self.assertLessEqual(size, 5e6)
        self.assertLess(abs(size - document["total"]["bytes"]), 2048)
        result = self.run_json("eval", "mixed.gguf", "--reference", MODEL, "--text", HELDOUT, "--windows", "4", "--no-speed")
        self.assertEqual(result["file_bytes"], size)
        self.assertGreater(result["kl"]["mean"], 0)
        self.assertLess(result["kl"]["mean"], 0.05)
        # A plan is for its own model only.
        self.fails("quantize", "mixed.gguf", "--plan", plan(), "-o", "twice.gguf", status=1, says="another model")

    def test_uniform_and_preset_sizes(self):
        """Sizes that llama-quantize writes for this model are in models/README.md; ours differ by metadata only."""
        for option, name, expected in (("--format", "q8_0", 6204256), ("--format", "q4_0", None),
                                       ("--preset", "Q4_K_M", 3574112), ("--preset", "Q3_K_M", 3002720),
                                       ("--preset", "Q2_K", 2406752), ("--preset", "Q6_K", 4807520)):
            written = self.run_json("quantize", MODEL, option, name, "-o", "q.gguf")
            self.assertEqual(written["bytes"], os.path.getsize(self.path("q.gguf")))
            if expected is not None:
                self.assertLess(abs(written["bytes"] - expected), 1024, name)

    def test_unchanged_tensors(self):
        """A file in its own format comes out with every tensor byte for byte."""
        self.run_mixbit("quantize", MODEL, "--format", "f16", "-o", "same.gguf")
        result = self.run_json("eval", "same.gguf", "--reference", MODEL, "--text", HELDOUT, "--windows", "2", "--no-speed",
                               "--numerics", "f32")
        self.assertLess(result["kl"]["mean"], 1e-9)
        self.assertEqual(result["same_top"], 1)

    def test_recipes(self):
        with open(plan()) as f:
            formats = {t["name"]: t["format"].lower() for t in json.load(f)["tensors"]}
        text = self.run_mixbit("recipe", plan(), "--for", "llama.cpp").stdout
        rules = [token.rsplit("=", 1) for token in text.split()]
        for name, wanted in formats.items():
            if name in ("token_embd.weight", "output.weight"):
                continue
            matching = {kind.lower() for pattern, kind in rules if re.search(pattern, name)}
            self.assertIn(matching, ({wanted}, set()), name)
        written = self.run_mixbit("recipe", plan(), "-o", "types.txt").stdout
        self.assertIn("--tensor-type-file", written)
        document = self.run_json("recipe", plan(), "--for", "ik_llama.cpp")
        self.assertEqual(document["runtime"], "ik_llama.cpp")
        self.assertTrue(document["recipe"])


class Evaluating(Case):
    def test_text_layout(self):
        text = self.run_mixbit("eval", MODEL, "--reference", MODEL, "--text", HELDOUT, "--windows", "2", "--ctx", "64").stdout
        for line in ("====== Perplexity statistics ======", "Mean PPL(Q) ", "Mean    KLD:", "99.9%   KLD:", "Same top p:",
                     "tok/s", "bits per weight", "resident"):
            self.assertIn(line, text)

    def test_speed(self):
        result = self.run_json("eval", MODEL, "--text", HELDOUT, "--windows", "1", "--ctx", "64", "--repeats", "1")
        speed = result["speed"]
        self.assertEqual(speed["context"], 64)
        for part in ("decode", "prefill"):
            self.assertGreater(speed[f"{part}_ns"], speed[f"{part}_matmul_ns"])
            self.assertGreater(speed[f"{part}_matmul_ns"], 0)
            self.assertTrue(math.isclose(speed[f"{part}_toks"], 1e9 / speed[f"{part}_ns"], rel_tol=1e-9))
        self.assertGreater(result["weight_bytes"], 11_000_000)
        self.assertGreater(result["resident_bytes"], result["weight_bytes"])


if __name__ == "__main__":
    main()
