# SPDX-License-Identifier: Apache-2.0
"""sense in its other forms: shards and their merge, methods, the surrogate, the comparison of methods."""
import json

from harness import CALIB, MODEL, SENSE, Case, main, profile, sensitivity

JOB = ["sense", MODEL, "--text", CALIB, *SENSE]
METHODS = {"kl", "reverse", "js", "sqnr", "cosine", "forward as coded", "weight-error"}


class Shards(Case):
    def test_merge_is_the_whole(self):
        for part in (1, 2, 3):
            self.run_mixbit(*JOB, "--shard", f"{part}/3", "-o", f"s{part}.json")
        self.run_mixbit("sense", "merge", "s2.json", "s1.json", "s3.json", "-o", "merged.json")
        with open(sensitivity(), "rb") as whole:
            self.assertEqual(self.listing()["merged.json"], whole.read())
        self.assertNotIn("s1.json.journal", self.listing())
        self.fails("sense", "merge", "s1.json", "s3.json", "-o", "m.json", status=2, says="shard 2/3 is missing")
        self.fails("sense", "merge", "s1.json", "s1.json", "-o", "m.json", status=2, says="given twice")
        self.fails("sense", "merge", "s1.json", sensitivity(), "-o", "m.json", status=2, says="whole table")
        # A part answers only for itself.
        self.fails("solve", MODEL, "-s", "s1.json", "-p", profile(), "--max-size", "5M", status=1, says="shard 1/3")
        done = self.run_mixbit(*JOB, "--shard", "1/3", "-o", "s1.json")
        self.assertIn("sensed before", done.stderr)
        done = self.run_mixbit(*JOB, "--shard", "2/3", "-o", "s1.json")
        self.assertNotIn("sensed before", done.stderr)

    def test_refusals(self):
        for text in ("0/3", "4/3", "1", "x/3", "1/3x", "-1/3"):
            self.fails(*JOB, f"--shard={text}", status=2, says="--shard")
        self.fails(*JOB, "--shard", "1/1000", "-o", "o.json", status=2, says="tensors")
        self.fails("sense", "merge", status=2, says="merge")
        self.fails("sense", MODEL, MODEL, "--text", CALIB, status=2, says="one model")


class WithoutText(Case):
    def test_made_windows(self):
        def perplexity(text):
            return self.run_json("eval", MODEL, "--text", text, "--window", "32", "--windows", "4", "--no-speed")["perplexity"]
        chance, own = perplexity("random:1"), perplexity("generated:1")
        self.assertGreater(chance, 10 * own)
        self.assertEqual(own, perplexity("generated:1"))
        self.assertNotEqual(own, perplexity("generated:2"))
        self.write("ids", ", ".join(str(3 + i % 50) for i in range(200)))
        self.assertGreater(perplexity("tokens:ids"), 1)
        table = self.run_json("sense", MODEL, "--text", "random:5", *SENSE, "-o", "t.json")
        again = self.run_mixbit("sense", MODEL, "--text", "random:5", *SENSE, "-o", "t.json")
        self.assertIn("sensed before", again.stderr)
        other = self.run_json("sense", MODEL, "--text", "random:6", *SENSE, "-o", "t.json")
        self.assertNotEqual(table["units"], other["units"])

    def test_refusals(self):
        for text in ("random:x", "generated:-1", "random:99999999999999999999"):
            self.fails("sense", MODEL, "--text", text, "-o", "t.json", status=2, says="seed")
        self.fails("sense", MODEL, "--text", "tokens:none", "-o", "t.json", status=1, says="none")
        self.fails("sense", MODEL, "--text", f"tokens:{self.write('ids', '1 2 70000')}", "-o", "t.json", status=1, says="token 3")


class Methods(Case):
    def table(self, *arguments):
        self.run_mixbit(*JOB, *arguments, "-o", "t.json")
        return json.loads(self.listing()["t.json"])

    def test_each_says_what_it_is(self):
        with open(sensitivity()) as f:
            exact = json.load(f)
        for method in ("reverse", "js", "weight-error"):
            table = self.table("--method", method)
            self.assertEqual(table["method"], method)
            self.assertNotEqual(table["units"], exact["units"])
            self.assertEqual([u["name"] for u in table["units"]], [u["name"] for u in exact["units"]])
        # Two formats, two probes: the surrogate is exact, and the file says that it is one.
        table = self.table("--surrogate", "2")
        self.assertEqual(table["method"], "surrogate 2")
        self.assertEqual(table["units"], exact["units"])
        # A table of another method is not taken for one of this.
        self.assertEqual(self.table("--surrogate", "1")["method"], "surrogate 1")
        self.fails("verify", MODEL, "-s", self.path("t.json"), "--formats", "q4_0,q8_0", "-p", profile(), "--method", "js",
                   status=2, says="--method")

    def test_compare(self):
        document = self.run_json(*JOB, "--compare", "-o", "c.json")
        self.assertEqual({m["method"] for m in document["methods"]}, METHODS)
        for row in document["methods"]:
            self.assertLessEqual(-1, row["tau"])
            self.assertLessEqual(row["tau_low"], row["tau_high"])
            self.assertLessEqual(row["tau_high"], 1)
            self.assertLessEqual(0, row["decided_share"])
        published = {m["method"]: m["tau_published"] for m in document["methods"]}
        self.assertEqual((published["reverse"], published["sqnr"]), (0.7911, 0.7111))
        # Beside the comparison, the table of KL as ever.
        with open(sensitivity()) as f:
            self.assertEqual(json.loads(self.listing()["c.json"]), json.load(f))

    def test_refusals(self):
        self.fails(*JOB, "--method", "magic", status=2, says="magic")
        self.fails(*JOB, "--surrogate", "1", "--method", "js", status=2, says="--surrogate")
        self.fails(*JOB, "--compare", "--shard", "1/2", status=2, says="--compare")


if __name__ == "__main__":
    main()
