# SPDX-License-Identifier: Apache-2.0
"""mixbit plan as a user runs it, on a fraction of the text: what it prints, writes, refuses and resumes."""
import html.parser
import json
import os
import re
import signal
import subprocess
import time

from harness import BINARY, CALIB, HELDOUT, MODEL, TIMEOUT, Case, environment, main, profile

SMALL = ["--text", CALIB, "--eval-text", HELDOUT, "--windows", "2", "--window", "64", "--eval-windows", "4", "--formats",
         "q2_K,q4_0,q4_K,q8_0", "--repeats", "1", "--ctx", "64", "--encoder", "search",
         "--presets", "Q4_0,Q4_K_M"]
WRITTEN = ["profile.json", "sensitivity.json", "plan.json", "mixed.gguf", "recipe.llama.cpp.txt", "recipe.ik_llama.cpp.txt",
           "report.html", "losses.journal"]
HYBRID = MODEL.replace("tiny-llama", "tiny-hybrid")
VOID = {"meta", "line", "rect", "circle", "path", "polyline", "th", "td", "tr", "br"}


class Balance(html.parser.HTMLParser):
    """Tags that are opened must be closed; collects text and what the page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.fetched, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.words.append(data)


class Feedback(Case):
    def test_what_was_measured_is_what_was_written(self):
        with open(CALIB, "rb") as file:
            self.write("some.txt", file.read(40000))
        feedback = ["--encoder", "feedback", "--text", "some.txt", "--window", "64"]
        sequential = ["--encoder", "sequential", *feedback[2:]]
        small = ["some.txt" if s == CALIB else s for s in SMALL if s not in ("--encoder", "search")]
        result = self.run_json("plan", MODEL, *small, "--max-size", "4M", "--surrogate", "all")
        [chosen] = [r for r in result["rows"] if r["recommended"]]
        rows = {r["name"]: r for r in result["rows"]}
        for name in ("q2_K", "q4_0", "q4_K"):
            self.assertLess(rows[name]["kl"], 0.9 * rows[name]["kl_search"])
            self.assertLess(rows[name]["predicted_kl"], 1.5 * rows[name]["kl"])
        # What is written is the mix rounded layer after layer; beside it stands the same with each tensor alone.
        self.assertEqual((chosen["name"], chosen["kind"], chosen["predicted_kl"]), ("plan", "written", None))
        alone = rows["plan, by tensor"]
        self.assertEqual((alone["bytes"], alone["decode_tok_s"]), (chosen["bytes"], chosen["decode_tok_s"]))
        self.assertLess(chosen["kl"], 0.97 * alone["kl"])
        self.assertGreater(alone["kl_over_plan"], 0)
        evaluate = ["--reference", MODEL, "--text", HELDOUT, "--no-speed", "--windows", "4", "--window", "64"]
        self.assertAlmostEqual(self.run_json("eval", "out/mixed.gguf", *evaluate)["kl"]["mean"], chosen["kl"], places=9)
        self.fails("eval", "out/mixed.gguf", "--text", "some.txt", status=2, says="rounding")
        # Plan and table say how they were made, and other verbs make the same again.
        with open(self.path("out/plan.json"), encoding="utf-8") as file:
            made_with = json.load(file)["feedback"]
        for encoder, row in ((sequential, chosen), (feedback, alone)):
            self.run_mixbit("quantize", MODEL, "--plan", "out/plan.json", *encoder, "-o", "again.gguf")
            self.assertAlmostEqual(self.run_json("eval", "again.gguf", *evaluate)["kl"]["mean"], row["kl"], places=9)
        self.assertIn("layer after layer", self.run_mixbit("refine", "out/mixed.gguf", "--source", MODEL, *feedback[2:], "--windows", "2",
                                                           "-o", "refined.gguf").stderr)
        self.assertIn("loses more", self.run_mixbit("quantize", MODEL, "--plan", "out/plan.json", "-o", "searched.gguf").stderr)
        self.assertGreater(self.run_json("eval", "searched.gguf", *evaluate)["kl"]["mean"], 1.1 * chosen["kl"])
        verify = ["verify", MODEL, "-s", "out/sensitivity.json", "-p", "out/profile.json", "--formats", "q2_K,q4_0,q4_K,q8_0",
                  "--eval-text", HELDOUT]
        self.fails(*verify, status=1, says="--encoder feedback")
        self.fails(*verify, *feedback[:4], "--windows", "2", status=1, says="other")
        self.run_mixbit("sense", MODEL, *feedback, "--windows", "2", "--formats", "q4_0", "--numerics", "kernel", "-o", "s.json")
        with open(self.path("s.json"), encoding="utf-8") as one, open(self.path("out/sensitivity.json"), encoding="utf-8") as other:
            one, other = json.load(one), json.load(other)
        self.assertEqual((one["feedback"], other["feedback"]), (made_with, made_with))
        at = other["formats"].index("q4_0")
        for a, b in zip(one["units"], other["units"]):
            self.assertEqual(a["loss"][0], b["loss"][at])
        # A table that probed everything answers for one that need not.
        # The file that is there is the one to be written: it stays. Rounded in another way it is another.
        before = os.stat(self.path("out/mixed.gguf"))
        again = self.run_mixbit("plan", MODEL, *small, "--max-size", "4M")
        self.assertIn("sensed before", again.stderr)
        after = os.stat(self.path("out/mixed.gguf"))
        self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))
        result = self.run_json("plan", MODEL, *small, "--max-size", "4M", "--encoder", "feedback")
        self.assertEqual([r["kl"] for r in result["rows"] if r["recommended"]], [alone["kl"]])
        self.assertAlmostEqual(self.run_json("eval", "out/mixed.gguf", *evaluate)["kl"]["mean"], alone["kl"], places=9)
        self.fails("plan", MODEL, *small, "--surrogate", "0", status=2, says="--surrogate")
        self.fails("plan", MODEL, *small, "--surrogate", "some", status=2, says="--surrogate")


class Plan(Case):
    def read(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()

    def test_whole_loop(self):
        done = self.run_mixbit("plan", MODEL, *SMALL, "--json", "--verbose")
        result = json.loads(done.stdout)
        out = self.path("out")
        self.assertEqual(sorted(os.listdir(out)), sorted(WRITTEN))
        rows = {r["name"]: r for r in result["rows"]}
        for name in ("q2_K", "q4_0", "q8_0", "Q4_K_M"):
            self.assertIn(name, rows)
        chosen = [r for r in result["rows"] if r["recommended"]]
        self.assertEqual(len(chosen), 1)
        # The file is what the table says, to the provenance keys and alignment.
        self.assertEqual(json.loads(self.read("out/sensitivity.json"))["method"], "surrogate 2")
        size = os.path.getsize(os.path.join(out, "mixed.gguf"))
        self.assertLess(abs(size - chosen[0]["bytes"]), 4096)
        # At 4.5 bits per weight: no larger than uniform q4_K but for the same slack.
        self.assertLess(chosen[0]["bytes"], rows["q4_K"]["bytes"] + 4096 if "q4_K" in rows else 1e99)
        # Mixes were tried for the reference's speed; few of them became rows.
        self.assertIn("for the speed of uniform", done.stderr)
        self.assertIn("tried: KL", done.stderr)
        plans = [r for r in result["rows"] if r["kind"] == "plan"]
        self.assertLessEqual(len(plans), 3)
        for r in plans:
            self.assertLess(r["bytes"], rows["q4_0"]["bytes"] + 4096)
        # The solver's answer to a row is as small and loses no more than a percent of speed is worth. (It is as fast by
        # calibrated costs; the row's own predicted speed stands as it was before, so the two don't compare.)
        for r in result["rows"]:
            if r["kind"] == "answer" and r["name"].startswith("plan (as "):
                rival = rows[r["name"][len("plan (as "):-1]]
                self.assertIn(rival["kind"], ("uniform", "preset"))
                self.assertLessEqual(r["bytes"], rival["bytes"])
                self.assertLess(r["predicted_kl"], 1.5 * rival["predicted_kl"])
        for r in result["rows"]:
            self.assertGreater(r["decode_tok_s"], 0)
            self.assertGreater(r["kl"], 0)
            self.assertLessEqual(r["kl_low"], r["kl"])
            self.assertGreater(r["predicted_decode_tok_s"] or 1, 0)
            # Matrix products are a part of a token's time, measured and predicted.
            for kind in ("decode", "prefill"):
                whole = 1e9 / r[f"{kind}_tok_s"]
                self.assertGreater(r[f"{kind}_matmul_ns"], 0)
                self.assertLessEqual(r[f"{kind}_matmul_ns"], whole)
                # A preset may use formats that are no candidates here: nothing is predicted for it.
                self.assertEqual(r[f"predicted_{kind}_matmul_ns"] is None, r["predicted_kl"] is None)
                if r["predicted_kl"] is not None:
                    self.assertGreater(r[f"predicted_{kind}_matmul_ns"], 0)
                    self.assertLessEqual(r[f"predicted_{kind}_matmul_ns"], 1e9 / r[f"predicted_{kind}_tok_s"])
            # Beside the recommended row: paired differences, and none for that row itself.
            if r["recommended"]:
                self.assertIsNone(r["kl_over_plan"])
                self.assertIsNone(r["decode_time_over_plan"])
            else:
                self.assertAlmostEqual(r["kl_over_plan"], r["kl"] - chosen[0]["kl"], places=6)
                self.assertLessEqual(r["kl_over_plan_low"], r["kl_over_plan"])
                self.assertLessEqual(r["kl_over_plan"], r["kl_over_plan_high"])
                if r["decode_time_over_plan"] is not None: # both were timed in turns
                    self.assertLessEqual(r["decode_time_over_plan_low"], r["decode_time_over_plan"])
                    self.assertLessEqual(r["decode_time_over_plan"], r["decode_time_over_plan_high"])
        self.assertGreater(rows["q2_K"]["kl"], 10 * rows["q8_0"]["kl"])
        self.assertIn("measured no slower than uniform", result["objective"])
        # What is recommended is no worse than what it is recommended over (a preset of formats that are no candidates is
        # named, not recommended).
        for r in result["rows"]:
            if (r["kind"] in ("uniform", "preset") and not r["recommended"] and r["predicted_kl"] is not None
                    and r["bytes"] <= chosen[0]["bytes"]):
                self.assertTrue(r["kl_over_plan"] >= 0 or r["decode_time_over_plan_low"] > 1, r["name"])
        # What was measured from memory is what the written file gives.
        again = self.run_json("eval", os.path.join(out, "mixed.gguf"), "--reference", MODEL, "--text", HELDOUT, "--window",
                              "64", "--windows", "4")
        self.assertAlmostEqual(again["perplexity"], chosen[0]["perplexity"], delta=1e-5 * again["perplexity"])
        for kind in ("decode", "prefill"):
            self.assertGreater(again["speed"][f"{kind}_matmul_ns"], 0)
            self.assertLessEqual(again["speed"][f"{kind}_matmul_ns"], again["speed"][f"{kind}_ns"])

        page = self.read("out/report.html")
        parser = Balance()
        parser.feed(page)
        self.assertEqual((parser.open, parser.faults), ([], []))
        self.assertEqual([f for f in parser.fetched if not f.startswith("#")], [])
        words = " ".join(parser.words)
        kinds = {cell for cell in parser.words if cell in ("uniform", "preset", "neighbour", "plan", "answer")}
        self.assertLessEqual({r["kind"] for r in result["rows"]}, kinds)
        for r in result["rows"]:
            self.assertIn(r["name"], words)
            self.assertIn(f"{r['kl']:.5f}", words)
        plan = json.loads(self.read("out/plan.json"))
        self.assertIn("blk.0.attn_q.weight", json.dumps(plan))
        for kind in ("decode", "prefill"):
            total, fixed, products = (plan[k][f"{kind}_ns"] for k in ("total", "fixed", "matmul"))
            self.assertAlmostEqual(total - fixed, products, delta=1e-6 * total)
            # Uniform rows and presets were predicted before the costs were calibrated by them.
            if chosen[0]["kind"] in ("plan", "answer"):
                self.assertAlmostEqual(1e9 / chosen[0][f"predicted_{kind}_tok_s"], total, delta=1e-6 * total)
                self.assertAlmostEqual(chosen[0][f"predicted_{kind}_matmul_ns"], products, delta=1e-6 * total)
        recipe = self.read("out/recipe.llama.cpp.txt")
        self.assertRegex(recipe, r"\^blk\\\.0\\\.ffn_down\\\.weight\$=")

        # A second run takes what is there: sensing is not repeated, and replaces its own files.
        before = os.path.getmtime(os.path.join(out, "sensitivity.json"))
        first = self.read("out/losses.journal")
        self.run_mixbit("plan", MODEL, *SMALL)
        self.assertEqual(os.path.getmtime(os.path.join(out, "sensitivity.json")), before)
        # No loss is measured twice: mixes that are new to it are added, each under its own name.
        second = self.read("out/losses.journal")
        self.assertTrue(second.startswith(first))
        names = [line.split()[-1] for line in second.splitlines()[1:]]
        self.assertGreaterEqual(len(names), sum(r["kind"] in ("uniform", "preset") for r in result["rows"]))
        self.assertEqual(len(names), len(set(names)))

    def test_losses_of_another_text(self):
        """What the journal of losses knows is of one text; of another it starts anew, and what is no journal stays."""
        small = ["q4_0,q8_0" if x == "q2_K,q4_0,q4_K,q8_0" else x for x in SMALL]
        self.run_mixbit("plan", MODEL, *small)
        first = self.read("out/losses.journal").splitlines()
        fewer = [small[i] if small[i - 1] != "--eval-windows" else "3" for i in range(len(small))]
        self.run_mixbit("plan", MODEL, *fewer)
        second = self.read("out/losses.journal").splitlines()
        self.assertNotEqual(first[0], second[0])
        self.assertEqual(set(first) & set(second), set())
        self.write("out/losses.journal", "a diary\n")
        self.fails("plan", MODEL, *small, status=1, says="not a mixbit journal", keeps=False)
        self.assertEqual(self.read("out/losses.journal"), "a diary\n")

    def test_weights_and_groups(self):
        """Priorities in place of budgets; what is written holds the groups, whatever was measured beside it."""
        small = ["q2_K,q8_0" if x == "q2_K,q4_0,q4_K,q8_0" else x for x in SMALL]
        result = json.loads(self.run_mixbit("plan", MODEL, *small, "--weights", "memory=2,latency=1,accuracy=1", "--group", "qkv",
                                            "--runtime", "ik_llama.cpp", "--exclude", "*ffn_down*=q2_K", "--json").stdout)
        self.assertIn("least sum by weights memory=2,latency=1,accuracy=1; one format each: qkv", result["objective"])
        self.assertEqual({r["name"] for r in result["rows"] if r["kind"] == "preset"}, {"Q4_K_M", "Q4_0"})
        self.assertEqual(len([r for r in result["rows"] if r["recommended"]]), 1)
        plan = json.loads(self.read("out/plan.json"))
        self.assertEqual(plan["objective"], "weights memory=2,latency=1,accuracy=1")
        self.assertEqual(plan["groups"], "qkv")
        formats = {t["name"]: t["format"] for t in plan["tensors"]}
        for block in range(6):
            self.assertEqual(len({formats[f"blk.{block}.attn_{part}.weight"] for part in "qkv"}), 1)
            self.assertNotEqual(formats[f"blk.{block}.ffn_down.weight"], "q2_K")
        self.assertIn("least sum by weights", self.read("out/report.html"))
        self.run_mixbit("recipe", self.path("out/plan.json"))

    def test_as_fast_as_a_format(self):
        """Of its size and no slower in decode and prefill: both are timed in turns with it."""
        done = self.run_mixbit("plan", MODEL, *SMALL, "--as-fast-as", "q4_0", "--json", "--verbose")
        result = json.loads(done.stdout)
        rows = {r["name"]: r for r in result["rows"] if r["kind"] == "uniform"}
        chosen = next(r for r in result["rows"] if r["recommended"])
        size = f"{rows['q4_0']['bytes'] / 1e6:.3f} MB or less"
        self.assertEqual(result["objective"].split(" with ", 1)[1].rstrip("."),
                         f"decode measured no slower than uniform q4_0, prefill measured no slower than uniform q4_0, {size}")
        self.assertLess(chosen["bytes"], rows["q4_0"]["bytes"] + 4096)
        self.assertLessEqual(chosen["kl"], rows["q4_0"]["kl"])
        self.assertIn("for the speed of uniform q4_0", done.stderr)
        self.assertRegex(done.stderr, r"and prefill \d\.\d+ \(\d\.\d+ to \d\.\d+\)")
        budget = json.loads(self.read("out/plan.json"))["budget"]
        self.assertTrue(all(budget[speed] for speed in ("decode_ns", "prefill_ns")), budget)

    def test_mistakes_are_found_before_any_work(self):
        for arguments, says in ((("--pin", "*nothing*=q4_0"), "--pin"), (("--group", "qvk"), "qkv"), (("--weights", "memory=x"), "memory"),
                                (("--exclude", "all"), "no candidate"), (("--granularity", "block"), "layer"),
                                (("--as-fast-as", "q5_K"), "candidate"), (("--as-fast-as", "q4"), "candidate"),
                                (("--as-fast-as", "q4_0", "--min-decode", "5"), "--min-decode"),
                                (("--presets", "Q4_KM"), "Q4_K_M"), (("--presets", "none,Q4_0"), "unknown preset 'none'")):
            small = SMALL[:-2] if "--presets" in arguments else SMALL
            self.fails("plan", MODEL, *small, *arguments, status=2, says=says, keeps=False)
            self.assertFalse(os.path.exists(self.path("out/sensitivity.json")))

    def test_budget_that_nothing_meets(self):
        error = self.fails("plan", MODEL, *SMALL, "--max-size", "1M", status=3, says="smallest", keeps=False)
        self.assertRegex(error, r"\d MB")
        self.assertFalse(os.path.exists(self.path("out/mixed.gguf")))

    def test_profile_without_a_time(self):
        """Another machine's profile can't be added to: what it lacks is found before anything is sensed."""
        with open(profile(), encoding="utf-8") as file:
            other = json.load(file)
        other["device"]["name"] = "Somebody else's CPU"
        self.write("other.json", json.dumps(other))
        formats = ["q5_1" if s == "q2_K,q4_0,q4_K,q8_0" else s for s in SMALL]
        self.fails("plan", MODEL, *formats, "-p", "other.json", status=1, says=["no time", "q5_1", "mixbit tune"], keeps=False)
        self.assertEqual(os.listdir(self.path("out")), [])

    def test_contradicting_budgets(self):
        self.fails("plan", MODEL, *SMALL, "--max-size", "2.5M", "--max-kl", "1e-9", status=3, keeps=False)

    def test_same_text_twice(self):
        self.fails("plan", MODEL, "--text", CALIB, "--eval-text", CALIB, status=2, says="text")

    def test_files_that_are_not_ours(self):
        os.mkdir(self.path("out"))
        with open(self.path("out/mixed.gguf"), "w", encoding="utf-8") as f:
            f.write("somebody's own")
        self.fails("plan", MODEL, *SMALL, status=1, says="mixed.gguf")

    def test_state_space_layers(self):
        """The other embedded model: its small tensors stay, its matrices are sensed, the mix loads again."""
        other = {"q2_K,q4_0,q4_K,q8_0": "q4_0,q8_0", "Q4_0,Q4_K_M": "none"}
        small = [other.get(x, x) for x in SMALL]
        result = json.loads(self.run_mixbit("plan", HYBRID, *small, "--json").stdout)
        self.assertFalse([r for r in result["rows"] if r["kind"] == "preset"])
        self.assertEqual(len([r for r in result["rows"] if r["recommended"]]), 1)
        sensed = {unit["name"] for unit in json.loads(self.read("out/sensitivity.json"))["units"]}
        self.assertIn("blk.0.ssm_in.weight", sensed)
        self.assertIn("blk.5.attn_q.weight", sensed)
        self.assertFalse([name for name in sensed if "conv1d" in name or "norm" in name or name.endswith("ssm_a")])
        done = json.loads(self.run_mixbit("eval", "out/mixed.gguf", "--reference", HYBRID, "--text", HELDOUT, "--windows", "2", "--window",
                                          "64", "--no-speed", "--json").stdout)
        self.assertGreater(done["kl"]["mean"], 0)
        self.assertLess(done["kl"]["mean"], 0.05)

    def test_unsupported_architecture(self):
        with open(MODEL, "rb") as f:
            data = f.read()
        at = data.index(b"general.architecture") + len("general.architecture") + 12
        unknown = self.write("unknown.gguf", data[:at] + b"lxema" + data[at + 5:])
        self.fails("plan", unknown, *SMALL, status=1, says=["lxema", "supported: llama"], keeps=False)

    def test_interrupted_and_resumed(self):
        more_text = ["8" if x == "2" else "128" if x == "64" else x for x in SMALL]
        arguments = [BINARY, "plan", MODEL, *more_text]
        process = subprocess.Popen(arguments, cwd=self.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        journal = None
        for _ in range(600):
            time.sleep(0.1)
            found = [f for f in os.listdir(self.path("out"))] if os.path.isdir(self.path("out")) else []
            journal = next((f for f in found if "journal" in f), None)
            if process.poll() is not None or (journal and os.path.getsize(self.path("out/" + journal)) > 600):
                break
        self.assertIsNone(process.poll(), "ended before it could be interrupted")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 130, error)
        self.assertEqual(len([line for line in error.decode().splitlines() if "interrupted" in line]), 1)
        self.assertGreater(len(self.read("out/" + journal).splitlines()), 1)
        self.run_mixbit(*arguments[1:])
        self.assertTrue(os.path.exists(self.path("out/mixed.gguf")))


if __name__ == "__main__":
    main()
