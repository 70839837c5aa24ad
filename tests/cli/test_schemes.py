# SPDX-License-Identifier: Apache-2.0
"""eval --schemes: rows for schemes and formats, bits that add up, quality in the right order, and what is refused."""
import json

from harness import CALIB, HELDOUT, MODEL, Case, main

EVAL = ["eval", MODEL, "--text", HELDOUT, "--windows", "2", "--window", "64"]
PARTS = ["codes", "codebooks", "scales", "outliers", "map", "header"]


class Schemes(Case):
    def test_rows(self):
        run = self.run_mixbit(*EVAL, "--schemes", "grouped,cmpq-tensor,uniform-g32,q2_K,q8_0", "--bits", "2.625,3.25", "--json")
        document = json.loads(run.stdout)
        rows = {(row["scheme"], row["asked"]): row for row in document["schemes"]}
        self.assertEqual(set(rows), {("grouped", 2.625), ("grouped", 3.25), ("cmpq-tensor", 2.625), ("cmpq-tensor", 3.25),
                                     ("uniform-g32", 2), ("uniform-g32", 3), ("q2_K", None), ("q8_0", None)})
        self.assertEqual((document["windows"], document["window"]), (2, 64))
        for (name, asked), row in rows.items():
            stored = sum(row[part + "_bytes"] for part in PARTS)
            self.assertAlmostEqual(row["bits_per_weight"], 8 * stored / row["weights"], places=9)
            self.assertLess(row["kl_low"], row["kl"])
            self.assertLess(row["kl"], row["kl_high"])
            if name in ("grouped", "cmpq-tensor"):
                self.assertAlmostEqual(row["bits_per_weight"], asked, delta=0.01)
        self.assertAlmostEqual(rows["q2_K", None]["bits_per_weight"], 2.625)
        self.assertAlmostEqual(rows["q8_0", None]["bits_per_weight"], 8.5)
        # 16 bits for each 32 weights, and a header
        self.assertAlmostEqual(rows["uniform-g32", 2]["bits_per_weight"], 2.5, delta=0.002)
        kl = {key: row["kl"] for key, row in rows.items()}
        self.assertLess(kl["grouped", 3.25], kl["grouped", 2.625])
        self.assertLess(kl["grouped", 2.625], kl["uniform-g32", 2])
        self.assertLess(kl["q8_0", None], 0.001)

    def test_activations(self):
        run = self.run_mixbit(*EVAL, "--schemes", "a8-g32,a8-static-p99.9,q4_0+a8-token,hybrid", "--json")
        rows = {row["scheme"]: row for row in json.loads(run.stdout)["schemes"]}
        self.assertEqual(set(rows), {"file+a8-g32", "file+a8-static-p99.9", "q4_0+a8-token", "hybrid+a8-token"})
        self.assertEqual(rows["q4_0+a8-token"]["activations"], "a8-token")
        self.assertLess(rows["file+a8-g32"]["kl"], rows["file+a8-static-p99.9"]["kl"])
        self.assertLess(rows["hybrid+a8-token"]["kl"], rows["q4_0+a8-token"]["kl"])
        self.assertAlmostEqual(rows["file+a8-g32"]["bits_per_weight"], 16)

    def test_integer(self):
        """int8 throughout: more loss than int8 weights alone, about that of static activation scales, in some 8 bits."""
        run = self.run_mixbit(*EVAL, "--schemes", "integer,q8_0,q2_K,integer", "--json")
        rows = {row["scheme"]: row for row in json.loads(run.stdout)["schemes"]}
        self.assertEqual(set(rows), {"integer", "q8_0", "q2_K"})
        self.assertEqual(rows["integer"]["activations"], "integer")
        self.assertLess(rows["q8_0"]["kl"], rows["integer"]["kl"])
        self.assertLess(rows["integer"]["kl"], rows["q2_K"]["kl"])
        self.assertTrue(8 < rows["integer"]["bits_per_weight"] < 9)
        self.assertEqual(rows["integer"]["unreached"], 0)
        self.fails(*EVAL, "--schemes", "interger", status=2, says="'integer'")

    def test_kernel(self):
        """The kernels of a scheme lose what it loses read back as floats, but for their activations."""
        run = self.run_mixbit(*EVAL, "--schemes", "grouped,grouped+kernel,cmpq-tensor+kernel,grouped+kernel", "--bits", "3", "--json")
        rows = {row["scheme"]: row for row in json.loads(run.stdout)["schemes"]}
        self.assertEqual(set(rows), {"grouped", "grouped+kernel", "cmpq-tensor+kernel"})
        kernel, floats = rows["grouped+kernel"], rows["grouped"]
        self.assertEqual((kernel["activations"], floats["activations"]), ("kernel", "float"))
        self.assertNotEqual(kernel["kl"], floats["kl"])
        self.assertAlmostEqual(kernel["kl"], floats["kl"], delta=0.1 * floats["kl"])
        self.assertLess(kernel["kl"], rows["cmpq-tensor+kernel"]["kl"])
        self.assertTrue(floats["bits_per_weight"] < kernel["bits_per_weight"] < floats["bits_per_weight"] + 1.2)  # short rows: padding
        self.assertEqual(kernel["unreached"], 0)

    def test_text(self):
        run = self.run_mixbit(*EVAL, "--schemes", "kmeans-tensor", "--bits", "4", "--calibration", CALIB)
        self.assertIn("kmeans-tensor", run.stdout)
        self.assertIn("codes 4.000", run.stdout)
        self.assertIn("perplexity", run.stdout)

    def test_refused(self):
        self.fails(*EVAL, "--schemes", "groped", status=2, says="'grouped'")
        self.fails(*EVAL, "--schemes", "nothing-of-the-kind", status=2, says="nothing-of-the-kind")
        self.fails(*EVAL, "--schemes", "q4_0+a8-tokn", status=2, says="'a8-token'")
        self.fails(*EVAL, "--schemes", "cmpq-output+kernel", status=2, says="'cmpq-output' has no kernel")
        self.fails(*EVAL, "--schemes", "q4_0+kernel", status=2, says="q4_0")
        self.fails(*EVAL, "--schemes", "groped+kernel", status=2, says="'grouped'")
        self.fails(*EVAL, "--schemes", "", status=2, says="--schemes")
        self.fails(*EVAL, "--bits", "3", status=2, says="--schemes")
        for bits in ("0.5", "17", "x", "3,", "nan"):
            self.fails(*EVAL, "--schemes", "cmpq", "--bits", bits, status=2, says="--bits")
        self.fails(*EVAL, "--schemes", "cmpq", "--reference", MODEL, status=2, says="--reference")
        self.fails("eval", MODEL, "--schemes", "cmpq", status=2, says="--text")
        self.fails(*EVAL, "--schemes", "cmpq", "--calibration", HELDOUT, status=2)
        self.fails(*EVAL, "--schemes", "cmpq", "--calibration", "missing.txt", status=1, says="missing.txt")


if __name__ == "__main__":
    main()
