# SPDX-License-Identifier: Apache-2.0
"""Profiles: each that comes with mixbit loads, is shown, is named by its device and small; a machine's own that can't be
read any more is measured anew, one that the user named is not; what one of another system is good for."""
import glob
import json
import os
import shutil

from harness import HELDOUT, MODEL, SOURCE, Case, environment, gguf_string, main, once, profile, sensitivity

FOLDER = os.path.join(SOURCE, "profiles")
BYTES_MOST = 600_000
HYBRID = os.path.join(SOURCE, "models", "tiny-hybrid.f16.gguf")


class Profiles(Case):
    def test_each(self):
        paths = glob.glob(os.path.join(FOLDER, "*.json"))
        self.assertTrue(paths)
        with open(os.path.join(FOLDER, "README.md")) as f:
            provenance = f.read()
        for path in paths:
            with self.subTest(path):
                with open(path) as f:
                    document = json.load(f)
                key = document["device"]["key"]
                self.assertEqual(os.path.basename(path), f"{key}.json")
                self.assertIn(key, provenance)
                self.assertLess(os.path.getsize(path), BYTES_MOST)
                self.assertTrue(document["entries"])
                self.assertFalse([e for e in document["entries"] if e["failed"]])
                self.assertTrue(self.run_mixbit("profile", "show", path).stdout)

    def test_of_another_version(self):
        tune = ["tune", "--model", MODEL, "--formats", "q4_0", "--time-limit", "5"]
        own = environment(XDG_CACHE_HOME=self.path("cache"))
        self.run_mixbit(*tune, env=own)
        path, = glob.glob(self.path("cache/mixbit/profiles/*.json"))
        with open(path) as f:
            document = json.load(f)
        version = document["version"]
        with open(path, "w") as f:
            json.dump(document | {"version": version - 1}, f)
        self.assertIn("measuring a new one", self.run_mixbit(*tune, env=own).stderr)
        with open(path) as f:
            self.assertEqual(json.load(f)["version"], version)

        with open(path, "w") as f:
            json.dump(document | {"version": version - 1}, f)
        named = self.run_mixbit(*tune, "-o", path, env=own, status=1)
        self.assertIn(f"profile version {version - 1}", named.stderr)
        with open(path) as f:
            self.assertEqual(json.load(f)["version"], version - 1)

    def test_of_another_system(self):
        """Measured anew where that can be, a warning where its times are used, no word where only its kernels are."""
        own = environment(XDG_CACHE_HOME=self.path("cache"))
        tune = ["tune", "--model", MODEL, "--formats", "q4_0", "--time-limit", "5"]
        evaluate = ["eval", MODEL, "--text", HELDOUT, "--windows", "1", "--no-speed"]
        self.run_mixbit(*tune, env=own)
        path, = glob.glob(self.path("cache/mixbit/profiles/*.json"))
        with open(path) as f:
            document = json.load(f)
        system = document["device"]["os"]
        document["device"]["os"] = "Plan 9"
        with open(path, "w") as f:
            json.dump(document, f)
        self.assertEqual(len(self.run_mixbit(*evaluate, env=own).stderr.splitlines()), 1)
        self.assertIn("is stale (measured under 'Plan 9'", self.run_mixbit(*evaluate, "--verbose", env=own).stderr)
        self.assertEqual(self.run_mixbit(*evaluate, "--quiet", env=own).stderr, "")
        with open(path) as f:
            self.assertEqual(json.load(f)["device"]["os"], "Plan 9")
        self.assertIn("measuring anew", self.run_mixbit(*tune, env=own).stderr)
        with open(path) as f:
            self.assertEqual(json.load(f)["device"]["os"], system)


def uniform(name):
    return MODEL if name == "f16" else once(f"{name}.gguf", lambda path: ["quantize", MODEL, "--format", name, "-o", path])


class LlamaBench(Case):
    """What another program takes for uniform files becomes what a token takes beside its products."""
    def runs(self, decode, prefill, name="q4_0", threads=None):
        """What llama-bench prints, with figures made up: ns per token."""
        common = {"model_filename": uniform(name), "n_threads": threads or self.threads(), "n_depth": 0}
        return [common | {"n_prompt": 512, "n_gen": 0, "avg_ns": 1, "samples_ns": [prefill * 512, prefill * 512, 9e15]},
                common | {"n_prompt": 0, "n_gen": 64, "avg_ns": decode * 64},
                common | {"n_prompt": 512, "n_gen": 64, "avg_ns": 5},
                common | {"n_prompt": 0, "n_gen": 64, "avg_ns": 5, "n_threads": 777}]

    def threads(self):
        with open(profile()) as f:
            return json.load(f)["limits"]["threads"]

    def tune(self, runs, **kwargs):
        shutil.copy(profile(), self.path("p.json"))
        bench = self.write("bench.json", runs if isinstance(runs, str) else json.dumps(runs))
        return self.run_mixbit("tune", "--model", MODEL, "--formats", "q4_0,q8_0", "-o", "p.json", "--llama-bench", bench, **kwargs)

    def predicted(self, name, *options):
        return self.run_json("solve", MODEL, "-s", sensitivity(), "-p", "p.json", "--formats", name, "--weights", "memory=1",
                             *options)["total"]

    def test_what_was_run_is_predicted_as_it_ran(self):
        self.tune(self.runs(7e6, 3e6))
        total, every = self.predicted("q4_0", "--last-logits"), self.predicted("q4_0")
        self.assertAlmostEqual(total["decode_ns"], 7e6, delta=1)
        self.assertAlmostEqual(total["prefill_ns"], 3e6, delta=1)
        self.assertEqual(every["decode_ns"], total["decode_ns"])
        self.assertGreater(every["prefill_ns"], total["prefill_ns"])  # 511 logits of 512 more
        self.assertNotAlmostEqual(self.predicted("q8_0")["decode_ns"], 7e6, delta=1)

    def fixed(self):
        with open(self.path("p.json")) as f:
            return json.load(f)["fixed"][0]

    def products(self, name):
        self.tune(self.runs(7e6, 3e6, name))
        return 7e6 - self.fixed()["decode_ns"]

    def test_a_line_through_files(self):
        """What products take in a whole model is fitted where three files differ enough in what they take alone."""
        alone = {name: self.products(name) for name in ("q4_0", "q8_0", "f16")}
        self.assertGreater(alone["f16"], 1.3 * alone["q4_0"])
        self.tune([run for name in alone for run in self.runs(1e5 + 1.25 * alone[name], 3e6, name)])
        fixed = self.fixed()
        self.assertAlmostEqual(fixed["decode_scale"], 1.25, delta=1e-6)
        self.assertAlmostEqual(fixed["decode_ns"], 1e5, delta=1)
        for name in alone:
            self.assertAlmostEqual(self.predicted(name)["decode_ns"], 1e5 + 1.25 * alone[name], delta=1)

    def test_files_that_disagree(self):
        """Runs of one file count by their median, however many; a file off the line is warned of."""
        once_more = [self.runs(ns, 3e6)[1] for ns in (7.02e6, 40e6)]
        quiet = self.tune(self.runs(7e6, 3e6, "q4_0") + once_more + self.runs(7.1e6, 3e6, "q8_0")).stderr
        self.assertNotIn("don't agree", quiet)
        self.assertAlmostEqual(self.predicted("q4_0")["decode_ns"], 7.06e6, delta=5e4)
        warned = self.tune(self.runs(7e6, 3e6, "q4_0") + self.runs(7.1e6, 3e6, "q8_0") + self.runs(9e6, 3e6, "f16")).stderr
        self.assertIn("generating: profile and llama-bench don't agree", warned)

    def test_tensors_in_another_order(self):
        """As llama-quantize leaves them: two of one shape have changed places."""
        with open(uniform("q4_0"), "rb") as f:
            data = f.read()
        names = [gguf_string(f"blk.{i}.ffn_gate.weight") for i in (0, 1)]
        self.assertEqual([data.count(name) for name in names], [1, 1])
        at = sorted((data.index(name), name) for name in names)
        for (place, _), (_, name) in zip(at, reversed(at)):
            data = data[:place] + name + data[place + len(name):]
        with open(self.path("moved.gguf"), "wb") as f:
            f.write(data)
        runs = [run | {"model_filename": self.path("moved.gguf")} for run in self.runs(7e6, 3e6)]
        self.tune(runs)
        self.assertAlmostEqual(self.predicted("q4_0", "--last-logits")["decode_ns"], 7e6, delta=1)

    def test_refusals(self):
        self.fails("tune", "--llama-bench", "b.json", status=2, says="--model")
        self.fails("tune", "--llama-bench", "b.json", "--model", MODEL, status=2, says="-o")
        command = ["tune", "--model", MODEL, "--formats", "q4_0,q8_0", "-o", "p.json", "--llama-bench"]
        generating = self.runs(7e6, 3e6)[1]
        for text, status, says in (("{}", 1, "no list"), (json.dumps([{}] * 10001), 1, "too many"), ("[1]", 1, "entry 0"), ("[", 1, "b.json"),
                                   (json.dumps([generating | {"avg_ns": -5}]), 1, "cannot be"),
                                   (json.dumps([generating | {"model_filename": "gone.gguf"}]), 1, "gone.gguf"),
                                   (json.dumps([generating | {"model_filename": HYBRID}]), 2, "matrices"),
                                   (json.dumps([generating]), 2, ["no run with", "llama-bench -m"]),
                                   (json.dumps(self.runs(7e6, 3e6, threads=4000)), 2, "3 have another number")):
            with self.subTest(text):
                self.fails(*command, self.write("b.json", text), status=status, says=says)


if __name__ == "__main__":
    main()
