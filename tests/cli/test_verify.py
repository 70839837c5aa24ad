# SPDX-License-Identifier: Apache-2.0
"""mixbit verify on a fraction of the work: the document, the same mixes for a seed, what is refused. Whether limits hold is
a matter of time, which tests don't judge: they set limits that hold or fail in any case."""
import json

from harness import CALIB, HELDOUT, MODEL, Case, main, profile, sensitivity

SMALL = ["--text", CALIB, "--eval-text", HELDOUT, "--formats", "q4_0,q8_0", "--windows", "4", "--window", "64", "--repeats",
         "1", "--ctx", "64", "--mixes", "3", "--fit", "4"]
LOOSE = ["--median-error", "1e6", "--worst-error", "1e6", "--rank-correlation", "1e-9", "--coverage", "1e-9",
         "--half-width", "1e6"]
TIMES = ["decode_ns", "decode_matmul_ns", "prefill_ns", "prefill_matmul_ns"]


class Verify(Case):
    def verify(self, *arguments, costs=None, **kwargs):
        return self.run_mixbit("verify", MODEL, "-s", sensitivity(), "-p", costs or profile(), *SMALL, *arguments, **kwargs)

    def test_document(self):
        document = json.loads(self.verify("--seed", "5", "--json", *LOOSE).stdout)
        self.assertEqual(len(document["mixes"]), 3)
        for mix in document["mixes"]:
            for side in ("predicted", "measured"):
                for key in ["bytes", "kl", *TIMES]:
                    self.assertGreater(mix[side][key], 0, key)
                for kind in ("decode", "prefill"):
                    self.assertGreater(mix[side][f"{kind}_ns"], mix[side][f"{kind}_matmul_ns"])
            self.assertLessEqual(mix["predicted"]["kl_low"], mix["predicted"]["kl"])
            self.assertLess(mix["predicted"]["kl"], mix["predicted"]["kl_high"])
            self.assertEqual(mix["predicted"]["bytes"], mix["measured"]["bytes"])
            self.assertLessEqual(set(mix["tensors"].values()), {"q4_0", "q8_0"})
        # The part that is fitted is one for all mixes.
        summary = document["summary"]
        for kind in ("decode", "prefill"):
            for mix in document["mixes"]:
                self.assertAlmostEqual(mix["predicted"][f"{kind}_ns"] - mix["predicted"][f"{kind}_matmul_ns"],
                                       summary["fixed"][f"{kind}_ns"], delta=1)
        line = summary["additivity"]
        for mix in document["mixes"]:
            self.assertAlmostEqual(mix["predicted"]["kl"], line["offset"] + line["scale"] * mix["predicted"]["kl_sum"], places=9)
        # The summary says what the mixes say.
        for key in TIMES:
            errors = sorted(abs(m["predicted"][key] / m["measured"][key] - 1) for m in document["mixes"])
            self.assertAlmostEqual(summary[key]["median_error"], errors[1], places=9)
            self.assertAlmostEqual(summary[key]["worst_error"], errors[2], places=9)
        inside = sum(m["predicted"]["kl_low"] <= m["measured"]["kl"] <= m["predicted"]["kl_high"] for m in document["mixes"])
        self.assertAlmostEqual(summary["kl"]["coverage"], inside / 3, places=9)
        # Seeds name mixes; a mix that is measured again loses the same.
        again = json.loads(self.verify("--seed", "5", "--json", *LOOSE).stdout)
        other = json.loads(self.verify("--seed", "6", "--json", *LOOSE).stdout)
        for a, b in zip(document["mixes"], again["mixes"]):
            self.assertEqual(a["tensors"], b["tensors"])
            self.assertEqual(a["measured"]["kl"], b["measured"]["kl"])
        self.assertNotEqual([m["tensors"] for m in document["mixes"]], [m["tensors"] for m in other["mixes"]])
        self.assertEqual(self.listing(), {})

    def test_phase_of_the_machine(self):
        """What products take is the profile's times, brought to what the machine does now by mixes that are not judged."""
        with open(profile(), encoding="utf-8") as file:
            slower = json.load(file)
        for entry in slower["entries"]:
            for key in ("median_ns", "min_ns", "mad_ns", "prepare_ns"):
                entry[key] *= 2
        self.write("slower.json", json.dumps(slower))
        first, second = (json.loads(self.verify("--seed", "5", "--json", *LOOSE, costs=path).stdout) for path in (profile(), "slower.json"))
        for kind in ("decode", "prefill"):
            plain = [[mix["predicted"][f"{kind}_matmul_ns"] / d["summary"]["phase"][kind] for mix in d["mixes"]] for d in (first, second)]
            for once, twice in zip(*plain):
                self.assertAlmostEqual(twice, 2 * once, delta=0.05 * once)
            self.assertLess(second["summary"]["phase"][kind], 0.8 * first["summary"]["phase"][kind])

    def test_missed_limit(self):
        done = self.verify("--worst-error", "1e-9", status=4)
        self.assertIn("missed", done.stdout)
        self.assertRegex(done.stderr, r"mixbit verify: error: \d+ of 11 limits missed: ")

    def test_refusals(self):
        self.fails("verify", MODEL, "-s", sensitivity(), "--eval-text", CALIB, "-p", profile(), "--formats", "q4_0,q8_0",
                   status=2, says="text")
        self.fails("verify", MODEL, "--formats", "q4_0", status=2, says="two formats")
        self.fails("verify", MODEL, "--fit", "3", status=2, says="--fit")
        self.fails("verify", MODEL, "-s", sensitivity(), "-p", profile(), "--text", CALIB, "--eval-text", HELDOUT, "--formats",
                   "q4_0,q5_K", status=1, says="q5_K")


if __name__ == "__main__":
    main()
