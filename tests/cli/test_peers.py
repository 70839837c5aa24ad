# SPDX-License-Identifier: Apache-2.0
"""bench --peers: what isn't there, what isn't what it claims to be, what computes something else, and what is right."""
import importlib.util
import os
import shutil
import subprocess

from harness import DONE_OR_BUSY, Case, environment, loud_skip, main

NOWHERE = {"MIXBIT_GGML": "/nonexistent/ggml", "MIXBIT_ONNXRUNTIME": "/nonexistent/ort"}
COMMAND = ["bench", "--peers", "--m", "1,3", "--n", "256", "--k", "512", "--residency", "L2", "--threads", "1", "--formats"]

# An ONNX Runtime in which every call succeeds and a product is whatever FILL says.
FAKE_RUNTIME = """
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
static void *ok(void) { return NULL; }
static void *make3(void *a, void *b, void **out) { (void)a; (void)b; *out = out; return NULL; }
static void *make1(void **out) { *out = out; return NULL; }
static void *environment(int a, void *b, void *c, void **out) { (void)a; (void)b; (void)c; *out = out; return NULL; }
static void *memory(int a, int b, void **out) { (void)a; (void)b; *out = out; return NULL; }
static void *session(void *environment, const void *model, size_t bytes, void *options, void **out)
{
    FILE *file = fopen("model.onnx", "wb");
    (void)environment; (void)options;
    fwrite(model, 1, bytes, file);
    fclose(file);
    *out = out;
    return NULL;
}
static struct value { float *data; size_t count; } values[2];
static void *tensor(void *m, void *data, size_t bytes, const int64_t *s, size_t r, int e, void **out)
{
    static size_t next;
    struct value *v = &values[next++ % 2];
    (void)m; (void)s; (void)r; (void)e;
    v->data = data; v->count = bytes / 4; *out = v;
    return NULL;
}
static void *run(void *s, void *o, void *in, void *iv, size_t ic, void *on, size_t oc, struct value **y)
{
    (void)s; (void)o; (void)in; (void)iv; (void)ic; (void)on; (void)oc;
    for (size_t i = 0; i < y[0]->count; i++)
        y[0]->data[i] = FILL;
    return NULL;
}
static const char *text(void) { return "a fake"; }
static void *table[300];
static const void *get_api(uint32_t version)
{
    for (size_t i = 0; i < 300; i++)
        table[i] = (void *)ok;
    table[2] = table[254] = (void *)text;
    table[8] = (void *)session; table[9] = (void *)run; table[10] = table[121] = (void *)make1;
    table[49] = (void *)tensor; table[69] = (void *)memory; table[119] = (void *)environment;
    return version > API_MOST ? NULL : table;
}
static const char *get_version(void) { return VERSION; }
static const struct { const void *(*a)(uint32_t); const char *(*b)(void); } base = {get_api, get_version};
const void *OrtGetApiBase(void) { return &base; }
"""


def fields(message):
    """The fields of a protobuf message: [(number, varint or bytes)]."""
    found, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            value, at = message[at:at + value], at + value
        found.append((tag >> 3, value))
    return found


def only(message, number):
    (value,) = [v for n, v in fields(message) if n == number]
    return value


class Peers(Case):
    def peers(self, formats, **places):
        return self.run_json(*COMMAND, formats, env=environment(**{**NOWHERE, **places}), status=DONE_OR_BUSY)

    def skipped(self, rows, peer):
        found = [r["skipped"] for r in rows if r["peer"] == peer and r["skipped"]]
        self.assertEqual(len(found), 1, rows)
        return found[0]

    def compile(self, name, source, *flags):
        compiler = shutil.which("cc")
        if compiler is None:
            loud_skip(f"{self.id()}: no C compiler to make a library of")
            self.skipTest("no compiler")
        path = self.path(name)
        subprocess.run([compiler, "-shared", "-fPIC", "-w", *flags, "-o", path, self.write("fake.c", source)], check=True)
        return path

    def test_none_there(self):
        rows = self.peers("q4_0")
        self.assertIn("/nonexistent/ggml", self.skipped(rows, "ggml"))
        self.assertIn("/nonexistent/ort", self.skipped(rows, "onnxruntime"))
        ours = [r for r in rows if r["peer"] == "mixbit"]
        self.assertEqual([r["m"] for r in ours], [1, 3])
        self.assertTrue(all(r["median_ns"] > 0 and r["ratio"] is None and r["error"] < 0.009 for r in ours))
        self.assertEqual(len(rows), 4)
        text = self.run_mixbit(*COMMAND, "q4_0", env=environment(**NOWHERE), status=DONE_OR_BUSY).stdout
        self.assertEqual(text.count("skipped: "), 2, text)

    def test_not_a_library(self):
        rows = self.peers("q4_0", MIXBIT_GGML=self.folder, MIXBIT_ONNXRUNTIME=self.write("libonnxruntime.so", "no ELF"))
        self.assertIn("no libggml.so", self.skipped(rows, "ggml"))
        self.assertIn("cannot be opened", self.skipped(rows, "onnxruntime"))

    def test_symbols_missing(self):
        """ggml_version alone doesn't make a ggml; the first function that isn't there is named."""
        path = self.compile("libggml.so", 'const char *ggml_version(void) { return "0.0.1"; }')
        for given in (path, self.folder):
            self.assertIn("ggml_log_set is missing", self.skipped(self.peers("q4_0", MIXBIT_GGML=given), "ggml"))
        rows = self.peers("q4_0", MIXBIT_ONNXRUNTIME=path)
        self.assertIn("OrtGetApiBase is missing", self.skipped(rows, "onnxruntime"))

    def fake_runtime(self, version="1.30.0", api=30, fill="0.0f"):
        path = self.compile("libonnxruntime.so.1", FAKE_RUNTIME, f'-DVERSION="{version}"', f"-DAPI_MOST={api}", f"-DFILL={fill}")
        return self.peers("q4_0,q4_K", MIXBIT_ONNXRUNTIME=path)

    def test_versions(self):
        self.assertIn("version 1.9.0", self.skipped(self.fake_runtime("1.9.0", 9), "onnxruntime"))
        self.assertIn("version 2.0.0", self.skipped(self.fake_runtime("2.0.0", 40), "onnxruntime"))
        self.assertIn("version 17", self.skipped(self.fake_runtime("1.30.0", 16), "onnxruntime"))

    def test_model(self):
        """What ONNX Runtime is given: one node, and tensors of the sizes that its operator documents."""
        path = self.compile("libonnxruntime.so.1", FAKE_RUNTIME, '-DVERSION="1.30.0"', "-DAPI_MOST=30", "-DFILL=0.0f")
        for name, bits in (("q4_0", 4), ("q8_0", 8)):
            self.peers(name, MIXBIT_ONNXRUNTIME=path)
            with open(self.path("model.onnx"), "rb") as f:
                model = f.read()
            self.assertEqual([only(v, 1) for n, v in fields(model) if n == 8], [b"", b"com.microsoft"])
            graph = only(model, 7)
            node = only(graph, 1)
            self.assertEqual((only(node, 4), only(node, 7)), (b"MatMulNBits", b"com.microsoft"))
            self.assertEqual({only(v, 1).decode(): only(v, 3) for n, v in fields(node) if n == 5},
                             {"K": 512, "N": 256, "bits": bits, "block_size": 32, "accuracy_level": 4})
            codes, scales = [v for n, v in fields(graph) if n == 5]
            self.assertEqual([v for n, v in fields(codes) if n == 1], [256, 16, 4 * bits])
            self.assertEqual(len(only(codes, 9)), 256 * 16 * 4 * bits)
            self.assertEqual([v for n, v in fields(scales) if n == 1], [256, 16])
            self.assertEqual(len(only(scales, 9)), 256 * 16 * 4)

    def test_wrong_results(self):
        """A peer that computes something else has no speed, at any m, and no mean."""
        for fill in ("0.0f", "1.0f", "0.0f/0.0f", "1e30f"):
            rows = [r for r in self.fake_runtime(fill=fill) if r["peer"] == "onnxruntime"]
            self.assertEqual([(r["format"], r["m"]) for r in rows], [("q4_0", 1), ("q4_0", 3)])
            for row in rows:
                self.assertIn("wrong results", row["skipped"])
                self.assertIsNone(row["median_ns"])
                self.assertIsNone(row["ratio"])

    def real(self, peer, formats, **places):
        rows = [r for r in self.peers(formats, **places) if r["peer"] == peer]
        missing = [r["skipped"] for r in rows if r["format"] is None]
        if missing:
            loud_skip(f"{peer}: {missing[0]}")
            self.skipTest("not installed")
        return rows

    def check_real(self, rows, formats, bound):
        for name in formats.split(","):
            for m in (1, 3):
                quoted = [r for r in rows if (r["format"], r["m"], r["quoted"]) == (name, m, "yes")]
                self.assertEqual(len(quoted), 1, (name, m, rows))
                self.assertIsNone(quoted[0]["skipped"])
                self.assertLess(quoted[0]["error"], bound[name])
                self.assertGreater(quoted[0]["ratio"], 0)
        means = {r["m"]: r["ratio"] for r in rows if r["format"] == "geometric mean"}
        for m in (1, 3):
            product = 1
            for r in rows:
                if r["m"] == m and r["quoted"] == "yes" and r["format"] != "geometric mean":
                    product *= r["ratio"]
            self.assertAlmostEqual(means[m], product ** (1 / len(formats.split(","))), places=9)

    def test_external_ggml(self):
        rows = self.real("ggml", "q4_0,q6_K,iq4_xs,f16,f32", MIXBIT_GGML=os.environ.get("MIXBIT_GGML", ""))
        bound = {"q4_0": 0.009, "q6_K": 0.012, "iq4_xs": 0.012, "f16": 0.001, "f32": 1e-5}
        self.check_real(rows, "q4_0,q6_K,iq4_xs,f16,f32", bound)

    def test_external_onnxruntime(self):
        if importlib.util.find_spec("onnxruntime") is None and "MIXBIT_ONNXRUNTIME" not in os.environ:
            loud_skip("onnxruntime: the Python package is not installed")
            self.skipTest("not installed")
        rows = self.real("onnxruntime", "q4_0,q8_0", MIXBIT_ONNXRUNTIME=os.environ.get("MIXBIT_ONNXRUNTIME", ""))
        self.check_real(rows, "q4_0,q8_0", {"q4_0": 0.009, "q8_0": 0.009})


if __name__ == "__main__":
    main()
