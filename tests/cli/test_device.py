# SPDX-License-Identifier: Apache-2.0
"""Devices other than the CPU on the command line: tune, eval and plan run on one, and one that is not there is refused."""
import json
import os

from harness import CALIB, HELDOUT, MODEL, Case, Either, environment, loud_skip, main, profile, sensitivity

FEW = "q4_0,q8_0"


class Device(Case):
    def run_mixbit(self, *arguments, env=None, **kwargs):
        """With the ggml that the user has named, if any."""
        return super().run_mixbit(*arguments, env=env or environment(MIXBIT_GGML=os.environ.get("MIXBIT_GGML", "")), **kwargs)

    def test_refusals(self):
        self.fails("tune", "--device", "abacus", status=2, says=["unknown device 'abacus'", "cpu", "opencl"])
        self.fails("tune", "--device", "opencl:x", status=2, says="expected a number")
        self.fails("eval", MODEL, "--text", HELDOUT, "--device", "cpu:7", status=2, says="there is one CPU")
        # 1 where there is no OpenCL at all.
        line = self.fails("plan", MODEL, "--device", "opencl:99", "-o", "out", status=Either(1, 2), says="opencl")
        self.assertFalse(os.path.exists(self.path("out")), line)

    def test_refusals_of_bench(self):
        self.fails("bench", "--search", status=2, says=["--search", "--device"])
        self.fails("bench", "--device", "abacus", status=2, says="unknown device 'abacus'")

    def test_every_kind_is_listed(self):
        """Devices of each kind, or why there is none."""
        devices = self.run_json("probe")["devices"]
        for kind in ("cpu", "opencl", "level-zero"):
            of_kind = [d for d in devices if d["device"].split(":")[0] == kind]
            self.assertTrue(of_kind, kind)
            self.assertTrue(all(d.get("why") if ":" not in d["device"] else d["name"] for d in of_kind), of_kind)
        line = self.fails("eval", MODEL, "--text", HELDOUT, "--device", "level-zero:99", status=Either(1, 2))
        self.assertRegex(line, "Level Zero|level-zero")

    def test_cpu_by_name(self):
        command = ["eval", MODEL, "--text", HELDOUT, "--no-speed", "--windows", "2", "--window", "64"]
        plain, named = self.run_json(*command), self.run_json(*command, "--device", "cpu")
        self.assertEqual(plain["perplexity"], named["perplexity"])

    def test_profile_of_another_kind(self):
        with open(profile()) as f:
            document = json.load(f)
        document["device"]["backend"] = "opencl"
        path = self.write("p.json", json.dumps(document))
        self.fails("eval", MODEL, "--text", HELDOUT, "-p", path, status=2, says=["of kind opencl, not cpu", "--device"])

    def test_solve_takes_a_profile_of_any_kind(self):
        """Nothing is run with it: what a device keeps under its own number of threads is enough."""
        with open(profile()) as f:
            document = json.load(f)
        document["device"]["backend"] = "ggml"
        document["entries"] = [e | {"threads": 1} for e in document["entries"] if e["threads"] == document["limits"]["threads"]]
        path = self.write("p.json", json.dumps(document))
        total = self.run_json("solve", MODEL, "-s", sensitivity(), "-p", path, "--formats", "q4_0", "--weights", "memory=1")["total"]
        own = self.run_json("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--formats", "q4_0", "--weights", "memory=1")["total"]
        self.assertEqual(total, own)

    def device(self, kind):
        """The first device of a kind as probe lists it, and the options that choose it."""
        devices = [d for d in self.run_json("probe")["devices"] if d["device"].startswith(f"{kind}:")]
        if not devices:
            loud_skip(f"no {kind} device")
            self.skipTest("no device")
        return devices[0], ["--device", devices[0]["device"]]

    def tune(self, kind):
        found, device = self.device(kind)
        made = self.run_json("tune", *device, "--model", MODEL, "--formats", FEW, "--time-limit", "5", "-o", "p.json")
        self.assertEqual((made["device"]["backend"], made["device"]["key"]), (kind, found["key"]))
        self.assertLessEqual({"q4_0", "q8_0"}, {e["format"] for e in made["entries"]})
        self.assertTrue(all(e["kernel"].endswith(f"_{kind}") and not e["failed"] for e in made["entries"]))
        self.assertIn(found["name"], self.run_mixbit("profile", "show", "p.json").stdout)
        return found, device

    def tune_and_eval(self, kind, rounding):
        """`rounding`: how far perplexity and KL may be from our own kernels', relatively."""
        _, device = self.tune(kind)
        self.run_mixbit("quantize", MODEL, "--format", "q4_0", "-o", "q.gguf")
        command = ["eval", "q.gguf", "--text", HELDOUT, "--windows", "2", "--window", "32", "--reference", MODEL, "--no-speed"]
        here, there = self.run_json(*command), self.run_json(*command, "-p", "p.json", *device)
        self.assertAlmostEqual(there["perplexity"] / here["perplexity"], 1, delta=rounding / 10)
        self.assertAlmostEqual(there["kl"]["mean"] / here["kl"]["mean"], 1, delta=rounding)

    def bench(self, kind):
        """Right by f64, with times that stand to each other as they must; options of the CPU are refused."""
        _, device = self.device(kind)
        rows = self.run_json("bench", *device, "--formats", "q4_0,f16", "--m", "1,9", "-n", "64", "-k", "256")
        self.assertEqual([(r["format"], r["m"]) for r in rows], [("q4_0", 1), ("q4_0", 9), ("f16", 1), ("f16", 9)])
        for row in rows:
            self.assertTrue(row["median_ns"] > 0 and row["queued_ns"] > 0 and row["call_ns"] > 0, row)
            self.assertLess(row["error"], 0.02, row)
            self.assertEqual((row["limit"], row["kernels"]), ("read", 1))
            self.assertTrue(row["kernel"].endswith(f"_{kind}"), row)
            self.assertAlmostEqual(row["weight_gbps"] * row["median_ns"] / (64 * 256 * (16 if row["format"] == "f16" else 4.5) / 8), 1, places=3)
        one = self.run_json("bench", *device, "--formats", "q4_0", "--m", "1", "-n", "64", "-k", "256", "--search")
        self.assertGreater(one[0]["kernels"], 3)
        for option in (["--peers"], ["--tuned"], ["--threads", "2"], ["--residency", "L2"], ["--activation", "i8row"]):
            self.fails("bench", *device, *option, status=2, says=[option[0], "only the CPU"])

    def plan(self, kind):
        found, device = self.tune(kind)
        self.run_mixbit("plan", MODEL, *device, "-p", "p.json", "--formats", FEW, "--effort", "quick", "--windows", "2",
                        "--window", "64", "--eval-windows", "2", "--repeats", "1", "--text", CALIB, "--presets", "none", "-o", "out", timeout=3500)
        with open(self.path("out/plan.json")) as f:
            self.assertEqual(json.load(f)["device"], found["key"])
        self.assertTrue(os.path.getsize(self.path("out/mixed.gguf")))

    def test_external_opencl(self):
        self.tune_and_eval("opencl", 0.01)

    def test_external_opencl_bench(self):
        self.bench("opencl")

    def test_external_opencl_plan(self):
        """A GPU that is a CPU takes minutes for what is timed."""
        self.device("opencl")
        if "MIXBIT_TEST_FULL" not in os.environ:
            loud_skip("plan on an OpenCL device: MIXBIT_TEST_FULL=1 runs it")
            self.skipTest("takes long")
        self.plan("opencl")

    def test_external_ggml(self):
        """Another runtime's kernels, measured like a device."""
        self.tune_and_eval("ggml", 0.1)

    def test_external_ggml_plan(self):
        self.plan("ggml")


if __name__ == "__main__":
    main()
