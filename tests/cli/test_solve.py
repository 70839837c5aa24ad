# SPDX-License-Identifier: Apache-2.0
"""mixbit solve beyond one quantity under budgets: weights, groups, exclusions, target runtimes, other allocators."""
import json
import math
import re

from harness import MODEL, Case, environment, main, once, profile, sensitivity

BITS = {"q8_0": 8.5, "q6_K": 6.5625, "q4_K": 4.5, "q4_0": 4.5, "q2_K": 2.625, "iq2_s": 2.5625, "tq2_0": 2.0625, "iq2_xxs": 2.0625, "f16": 16}
FORMATS = ["q8_0", "q6_K", "q4_K", "q4_0", "q2_K", "iq2_s", "tq2_0", "iq2_xxs"]


def wide_table():
    """A table of more formats than the tests sense: losses that fall by a factor of four per bit."""
    def make(path):
        with open(sensitivity()) as f:
            table = json.load(f)
        table["formats"] = FORMATS
        for u, unit in enumerate(table["units"]):
            weight = 0.3 + (u * 37 % 11) / 5
            unit["loss"] = [[weight * 4 ** -BITS[name] * (1.3 if name == "q4_0" else 1), 0, 1, 0.1] for name in FORMATS]
        with open(path, "w") as f:
            json.dump(table, f)
        return ["--version"]
    return once("wide.json", make)


class Solve(Case):
    def solve(self, *arguments, **kwargs):
        return self.run_json("solve", MODEL, "-s", sensitivity(), "-p", profile(), *arguments, **kwargs)

    def wide(self, *arguments, **kwargs):
        env = environment(MIXBIT_PROFILE=self.path("none.json"))
        return self.run_json("solve", MODEL, "-s", wide_table(), *arguments, env=env, **kwargs)

    def refused(self, *arguments, says):
        env = environment(MIXBIT_PROFILE=self.path("none.json"))
        self.fails("solve", MODEL, "-s", wide_table(), *arguments, status=2, says=says, env=env)


class Weights(Solve):
    def test_corners(self):
        memory = self.solve("--weights", "memory=1")
        self.assertEqual({t["format"] for t in memory["tensors"]}, {"q4_0"})
        self.assertEqual(memory["objective"], "weights memory=1")
        self.assertNotIn("groups", memory)
        accuracy = self.solve("--weights", "accuracy=0.5")
        self.assertEqual({t["format"] for t in accuracy["tensors"]}, {"f16"})
        for name, quantity, key in (("latency", "decode", "decode_ns"), ("decode", "decode", "decode_ns"),
                                    ("prefill", "prefill", "prefill_ns")):
            fastest = self.solve("--weights", name + "=2")
            products = fastest["total"][key] - fastest["fixed"][key]
            wanted = self.solve("--minimize", quantity)
            self.assertTrue(math.isclose(products, wanted["total"][key] - wanted["fixed"][key], rel_tol=1e-9), name)

    def test_between_the_corners(self):
        last = None
        for accuracy in (0, 1, 4, 16, 64, 256):
            now = self.wide("--weights", f"memory=8,accuracy={accuracy}", "--exclude", "f16")["total"]
            if last:
                self.assertGreaterEqual(now["bytes"], last["bytes"])
                self.assertLessEqual(now["loss"], last["loss"])
            last = now
        first = self.wide("--weights", "memory=8", "--exclude", "f16")["total"]
        self.assertGreater(last["bytes"], 1.2 * first["bytes"])

    def test_with_budgets(self):
        plain = self.wide("--max-size", "3M")
        weighted = self.wide("--max-size", "3M", "--weights", "accuracy=3")
        self.assertTrue(math.isclose(plain["total"]["loss"], weighted["total"]["loss"], rel_tol=1e-9))
        mixed = self.wide("--max-size", "3M", "--weights", "memory=1,accuracy=1")
        self.assertLessEqual(mixed["total"]["bytes"], plain["total"]["bytes"])
        self.assertGreaterEqual(mixed["total"]["loss"], plain["total"]["loss"])
        self.assertEqual(mixed["budget"]["bytes"], 3e6)
        self.fails("solve", MODEL, "-s", wide_table(), "--weights", "memory=1", "--max-size", "1M", status=3, says="smallest",
                   env=environment(MIXBIT_PROFILE=self.path("none.json")))
        timed = self.solve("--weights", "memory=1,latency=2,accuracy=3", "--max-size", "5M", "--max-kl", "1", "--min-decode", "1")
        self.assertEqual(timed["objective"], "weights memory=1,latency=2,accuracy=3")
        self.assertLessEqual(timed["total"]["bytes"], 5e6)
        self.solve("--weights", "memory=1", "--max-kl", "1", "--min-decode", "1", "--min-prefill", "1")

    def test_by_layer(self):
        document = self.wide("--weights", "memory=1,accuracy=2", "--granularity", "layer", "--contribution", "q2_K")
        self.assertEqual(document["groups"], "layer")
        self.assertEqual(document["objective"], "weights memory=1,accuracy=2, contribution q2_K")
        for formats in by_block(document).values():
            self.assertEqual(len(formats), 1)
        text = self.run_mixbit("solve", MODEL, "-s", wide_table(), "--weights", "memory=1", "--granularity", "layer",
                               env=environment(MIXBIT_PROFILE=self.path("none.json"))).stdout
        self.assertIn("by weights memory=1", text)
        self.assertIn("one format each: layer", text)

    def test_mistakes(self):
        for text, reason in (("memory", "NAME=NUMBER"), ("", "empty"), ("memory=1,", "NAME=NUMBER"), ("memory=", "0 or more"),
                             ("memory=-1", "0 or more"), ("memory=nan", "0 or more"), ("memory=inf", "0 or more"),
                             ("memory=0x1", "0 or more"), ("memory=1e999", "0 or more"), ("memory=1x", "0 or more"),
                             ("memory=0,accuracy=0", "all weights are 0"), ("memry=1", "did you mean 'memory'"),
                             ("speed=1", "latency"), ("memory=1,memory=2", "twice"), ("latency=1,decode=1", "in its place"),
                             ("memory=1 accuracy=2", "0 or more"), ("x" * 200, "NAME=NUMBER")):
            self.refused("--weights", text, says=["--weights", reason])
        self.refused("--weights", "memory=1", "--minimize", "size", says="--minimize")
        self.refused("--weights", "memory=1", "--front", says="--front")
        self.refused("--contribution", "q4_0", "--max-size", "3M", says="--contribution")
        self.refused("--weights", "memory=1", "--contribution", "q4_0", says="--contribution")
        self.refused("--weights", "memory=1", "--max-size", "3M", "--min-decode", "1", "--min-prefill", "1", "--max-kl", "1",
                     says="leave one out")


def by_block(document, *parts):
    """Formats by number of block, of all tensors or those whose name has one of the parts."""
    found = {}
    for tensor in document["tensors"]:
        match = re.match(r"blk\.(\d+)\.(.*)", tensor["name"])
        if match and (not parts or any(part in match.group(2) for part in parts)):
            found.setdefault(match.group(1), set()).add(tensor["format"])
    return found


class Groups(Solve):
    def test_named(self):
        document = self.wide("--max-size", "3M", "--group", "qkv", "--group", "gate-up")
        self.assertEqual(document["groups"], "qkv gate-up")
        for parts in (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up")):
            for formats in by_block(document, *parts).values():
                self.assertEqual(len(formats), 1)
        free = self.wide("--max-size", "3M")
        self.assertLess(free["total"]["loss"], document["total"]["loss"])
        layers = self.wide("--max-size", "3M", "--granularity", "layer")
        self.assertLess(document["total"]["loss"], layers["total"]["loss"])
        for formats in by_block(layers).values():
            self.assertEqual(len(formats), 1)
        # Totals are those of the tensors, whatever was merged for solving.
        for plan in (document, layers):
            for key, tolerance in (("bytes", 0), ("loss", 1e-12)):
                total = sum(t[key] for t in plan["tensors"]) + plan["fixed"][key]
                self.assertAlmostEqual(total, plan["total"][key], delta=tolerance + 1e-9 * total)

    def test_patterns(self):
        document = self.wide("--max-size", "3M", "--group", "*.ffn_down.weight", "--group", "blk.#.attn_*")
        self.assertEqual(len({t["format"] for t in document["tensors"] if "ffn_down" in t["name"]}), 1)
        for formats in by_block(document, "attn_").values():
            self.assertEqual(len(formats), 1)
        both = self.wide("--max-size", "3M", "--group", "token_embd.weight,output.weight")
        ends = {t["format"] for t in both["tensors"] if t["name"] in ("token_embd.weight", "output.weight")}
        self.assertEqual(len(ends), 1)

    def test_pins(self):
        """A pin pins its named group; a layer goes on without its pinned tensors."""
        document = self.wide("--max-size", "3M", "--group", "qkv", "--pin", "blk.2.attn_v.weight=q8_0")
        self.assertEqual(by_block(document, "attn_q", "attn_k", "attn_v")["2"], {"q8_0"})
        document = self.wide("--max-size", "3M", "--granularity", "layer", "--pin", "blk.2.attn_v.weight=q8_0")
        self.assertEqual(by_block(document, "attn_v")["2"], {"q8_0"})
        others = {t["format"] for t in document["tensors"] if t["name"].startswith("blk.2.") and "attn_v" not in t["name"]}
        self.assertEqual(len(others), 1)

    def test_front(self):
        env = environment(MIXBIT_PROFILE=self.path("none.json"))
        rows = self.run_json("solve", MODEL, "-s", wide_table(), "--front", "--points", "5", "--granularity", "layer", env=env)
        self.assertGreater(len(rows), 2)
        for row in rows:
            free = self.wide("--max-size", f"{row['bytes']:.0f}")["total"]
            layers = self.wide("--max-size", f"{row['bytes']:.0f}", "--granularity", "layer")["total"]
            self.assertLessEqual(free["loss"], row["kl"] * (1 + 1e-9) + 1e-12)
            self.assertAlmostEqual(layers["loss"], row["kl"], delta=1e-9 * row["kl"] + 1e-12)

    def test_the_plan_is_a_plan(self):
        path = self.path("p.json")
        env = environment(MIXBIT_PROFILE=self.path("none.json"))
        self.run_mixbit("solve", MODEL, "-s", wide_table(), "--weights", "memory=1,accuracy=20", "--group", "qkv", "-o", path, env=env)
        written = self.run_json("quantize", MODEL, "--plan", path, "-o", "mixed.gguf")
        with open(path) as f:
            document = json.load(f)
        self.assertEqual(document["groups"], "qkv")
        self.assertLess(abs(written["bytes"] - document["total"]["bytes"]), 2048)

    def test_mistakes(self):
        self.refused("--max-size", "3M", "--group", "qvk", says=["--group", "did you mean 'qkv'"])
        self.refused("--max-size", "3M", "--group", "blk.99.*", says=["--group", "no two"])
        self.refused("--max-size", "3M", "--group", "blk.0.attn_q.weight", says="no two")
        self.refused("--max-size", "3M", "--group", "qkv", "--pin", "blk.0.attn_q.weight=q8_0", "--pin", "blk.0.attn_k.weight=q4_0",
                     says=["blk.0.attn_k.weight", "blk.0.attn_q.weight", "share a format"])


class Exclusions(Solve):
    def test_exclude(self):
        document = self.wide("--weights", "memory=1", "--exclude", "iq2_xxs,iq2_s,tq2_0", "--exclude", "*ffn_down*=q2_K")
        for tensor in document["tensors"]:
            # Of q4_0 and q4_K, of one size, the one that loses less.
            self.assertEqual(tensor["format"], "q4_K" if "ffn_down" in tensor["name"] else "q2_K")

    def test_runtimes(self):
        ends = ("token_embd.weight", "output.weight")
        formats = {}
        for runtime in ("mixbit", "llama.cpp", "ik_llama.cpp"):
            document = self.wide("--weights", "memory=1", "--runtime", runtime, "--exclude", "tq2_0")
            formats[runtime] = ({t["format"] for t in document["tensors"] if t["name"] in ends},
                                {t["format"] for t in document["tensors"] if t["name"] not in ends})
        self.assertEqual(formats["mixbit"], ({"iq2_xxs"}, {"iq2_xxs"}))
        self.assertEqual(formats["llama.cpp"], ({"iq2_s"}, {"q2_K"}))
        self.assertEqual(formats["ik_llama.cpp"], ({"q2_K"}, {"q2_K"}))
        with open(wide_table(), encoding="utf-8") as file:
            table = json.load(file)
        table["importance"] = "0123456789abcdef" * 2
        weighed = self.write("weighed.json", json.dumps(table))
        document = self.run_json("solve", MODEL, "-s", weighed, "--weights", "memory=1", "--runtime", "llama.cpp", "--exclude",
                                 "tq2_0", env=environment(MIXBIT_PROFILE=self.path("none.json")))
        self.assertEqual({t["format"] for t in document["tensors"]}, {"iq2_xxs"})
        document = self.wide("--weights", "memory=1", "--runtime", "ik_llama.cpp")
        self.assertNotIn("tq2_0", {t["format"] for t in document["tensors"]})

    def test_recipes_say_what_the_tools_refuse(self):
        env = environment(MIXBIT_PROFILE=self.path("none.json"))
        small = ["solve", MODEL, "-s", wide_table(), "--weights", "memory=1"]
        self.run_mixbit(*small, "--exclude", "tq2_0", "-o", "small.json", env=env)
        done = self.run_mixbit("recipe", "small.json", "-o", "types.txt")
        self.assertIn("--imatrix IMATRIX.gguf", done.stdout)
        self.assertIn("makes only with --imatrix", done.stderr)
        self.run_mixbit(*small, "--exclude", "iq2_xxs", "-o", "ternary.json", env=env)
        self.fails("recipe", "ternary.json", "--for", "ik_llama.cpp", status=1, says=["tq2_0", "--runtime ik_llama.cpp"])
        self.run_mixbit(*small, "--runtime", "llama.cpp", "--exclude", "tq2_0", "-o", "fine.json", env=env)
        done = self.run_mixbit("recipe", "fine.json", "-o", "types.txt")
        self.assertNotIn("imatrix", done.stdout + done.stderr)

    def test_mistakes(self):
        for text, reason in (("q9", "unknown format"), ("=q4_0", "PATTERN=FORMATS"), ("*nothing*=q4_0", "no quantizable tensor"),
                             ("all", "no candidate"), ("*=q4_0,q4_0", "twice"), ("output.weight=all", "output.weight")):
            self.refused("--max-size", "3M", "--exclude", text, says=reason)
        self.refused("--max-size", "3M", "--exclude", "q4_0", "--pin", "output.weight=q4_0", says=["--pin", "output.weight"])
        self.refused("--max-size", "3M", "--runtime", "llamacpp", says=["llama.cpp"])


class Allocators(Solve):
    def test_cuts(self):
        """Ten cuts, smaller and worse one after the other; the exact solver is ahead at each one's size."""
        last, better = None, 0
        for cut in range(1, 11):
            document = self.wide("--allocator", "kl-lens-b", "--cut", cut)
            self.assertEqual(document["objective"], f"kl-lens-b cut {cut} of 10")
            self.assertEqual(document["gap"], 1)
            now = document["total"]
            if last:
                self.assertLessEqual(now["bytes"], last["bytes"])
                self.assertGreaterEqual(now["loss"], last["loss"])
            exact = self.wide("--max-size", f"{now['bytes']:.0f}")["total"]
            self.assertLessEqual(exact["loss"], now["loss"] * (1 + 1e-12))
            better += exact["loss"] < 0.95 * now["loss"]
            last = now
        self.assertGreater(better, 2)

    def test_to_a_size(self):
        for kind in ("kl-lens-a", "kl-lens-b"):
            document = self.wide("--allocator", kind, "--max-size", "4M")
            self.assertLessEqual(document["total"]["bytes"], 4e6)
            self.assertIn(kind, document["objective"])
        text = self.run_mixbit("solve", MODEL, "-s", wide_table(), "--allocator", "kl-lens-a", "--max-size", "4M",
                               env=environment(MIXBIT_PROFILE=self.path("none.json"))).stdout
        self.assertIn("not proven", text)

    def test_the_guard(self):
        loose = self.wide("--allocator", "kl-lens-a")["total"]
        tight = self.wide("--allocator", "kl-lens-a", "--gamma", "1.0001")["total"]
        fixed = self.wide("--allocator", "kl-lens-a", "--gamma", "1.01", "--fixed-reference")["total"]
        self.assertLess(tight["loss"], loose["loss"])
        self.assertLessEqual(fixed["loss"], math.log(1.01) * (1 + 1e-12))
        self.fails("solve", MODEL, "-s", wide_table(), "--allocator", "kl-lens-a", "--gamma", "1", "--max-size", "2.5M", status=3,
                   says="allocator ends at", env=environment(MIXBIT_PROFILE=self.path("none.json")))

    def test_mistakes(self):
        self.refused("--allocator", "kl-lens-b", says="--cut or --max-size")
        self.refused("--allocator", "kl-lens-b", "--cut", "11", says="at most 10")
        self.refused("--allocator", "kl-lens-a", "--gamma", "0.9", says="--gamma")
        self.refused("--allocator", "kl-lens-a", "--weights", "memory=1", says="--max-size only")
        self.refused("--cut", "3", "--max-size", "3M", says="--allocator")
        self.refused("--allocator", "kl-lens", "--cut", "3", says="kl-lens-a")


if __name__ == "__main__":
    main()
