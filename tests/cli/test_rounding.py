# SPDX-License-Identifier: Apache-2.0
"""Rounding by what layers put out: quantize --encoder feedback, and refine. Less loss on text that neither has seen, in a
file of the same bytes and formats that any reader of GGUF takes."""
import os
import signal
import struct
import subprocess
import time

from harness import BINARY, CALIB, HELDOUT, MODEL, SOURCE, TIMEOUT, Case, environment, main, make_gguf, once

WINDOWS = ["--windows", "8"]
SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 10: (256, 84), 11: (256, 110)}  # type: weights and bytes of a block


def searched(name):
    return once(f"searched-{name}.gguf", lambda path: ["quantize", MODEL, "--format", name, "--imatrix", imatrix(), "-o", path])


def imatrix():
    return once("imatrix.gguf", lambda path: ["imatrix", MODEL, "--text", CALIB, *WINDOWS, "-o", path])


def fed_back(name):
    return once(f"feedback-{name}.gguf", lambda path: ["quantize", MODEL, "--format", name, "--encoder", "feedback", "--text", CALIB,
                                                       *WINDOWS, "-o", path])


def refined(name):
    return once(f"refined-{name}.gguf", lambda path: ["refine", searched(name), "--source", MODEL, "--text", CALIB, *WINDOWS, "-o", path])


def tensors_of(path):
    """A plain reader: {name: (dims, type, bytes)} of a GGUF, nothing but the specification."""
    with open(path, "rb") as f:
        data = f.read()
    at = 24
    magic, version, count, pairs = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def text():
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, length = take("I"), take("Q")
            return [value(inner) for _ in range(length)]
        return take("BbHhIifB??QqdB"[kind] if kind < 8 else {10: "Q", 11: "q", 12: "d"}[kind])

    metadata = {}
    for _ in range(pairs):
        key = text()
        metadata[key] = value(take("I"))
    infos = []
    for _ in range(count):
        name, dims = text(), take("I")
        infos.append((name, [take("Q") for _ in range(dims)], take("I"), take("Q")))
    start = at + -at % metadata.get("general.alignment", 32)
    found = {}
    for name, dims, kind, offset in infos:
        weights = 1
        for d in dims:
            weights *= d
        block, size = SIZES[kind]
        found[name] = (dims, kind, data[start + offset:start + offset + weights // block * size])
    return metadata, found


class Rounding(Case):
    def kl(self, path):
        result = self.run_json("eval", path, "--reference", MODEL, "--text", HELDOUT, "--windows", "12", "--no-speed")
        return result["kl"]["mean"]

    def test_loss(self):
        """A tenth less than by search with importance, on little text; a third and more on all of it."""
        for name in ("q2_K", "q3_K", "q4_0"):
            before = self.kl(searched(name))
            self.assertLess(self.kl(fed_back(name)), 0.9 * before, name)
            self.assertLess(self.kl(refined(name)), 0.9 * before, name)

    def test_same_file_but_for_the_weights(self):
        for name in ("q2_K", "q3_K", "q4_0"):
            _, old = tensors_of(searched(name))
            for path in (fed_back(name), refined(name)):
                metadata, new = tensors_of(path)
                self.assertEqual({n: t[:2] for n, t in old.items()}, {n: t[:2] for n, t in new.items()})
                changed = [n for n in old if old[n][2] != new[n][2]]
                self.assertEqual(len(changed), 43)  # all matrices but the embedding, which multiplies nothing
                self.assertNotIn("token_embd.weight", changed)
                self.assertTrue(any(key.endswith("_text") for key in metadata))

    def test_text_is_remembered(self):
        for path in (fed_back("q4_0"), refined("q4_0")):
            self.fails("eval", path, "--no-speed", "--text", CALIB, status=2, says="another text")

    def test_result(self):
        result = self.run_json("refine", searched("q4_0"), "--source", MODEL, "--text", CALIB, *WINDOWS, "-o", "r.gguf")
        self.assertEqual((result["refined"], result["tensors"]), (43, 57))
        self.assertEqual(result["bytes"], os.path.getsize(self.path("r.gguf")))

    def test_memory_and_threads_do_not_show(self):
        command = ["quantize", MODEL, "--format", "q4_0", "--encoder", "feedback", "--text", CALIB, "--windows", "4", "-o"]
        self.run_mixbit(*command, "a.gguf", "--threads", "1")
        self.run_mixbit(*command, "b.gguf", "--threads", "2", "--memory", "3M")
        files = self.listing()
        self.assertEqual(files["a.gguf"], files["b.gguf"])

    def test_little_text(self):
        """A short window is fewer rows than a matrix has columns: that is said once, and the file is made."""
        done = self.run_mixbit("quantize", MODEL, "--format", "q4_0", "--encoder", "feedback", "--text", CALIB, "--windows", "1",
                               "--window", "64", "-o", "q.gguf")
        self.assertEqual(done.stderr.count("warning"), 1)
        self.assertIn("rounded by search", done.stderr)
        copy = self.run_mixbit("refine", searched("q4_0"), "--source", MODEL, "--text", CALIB, "--windows", "1", "--window", "64",
                               "-o", "r.gguf")
        self.assertIn("stay as they are", copy.stderr)
        self.assertEqual(tensors_of(self.path("r.gguf"))[1], tensors_of(searched("q4_0"))[1])

    def test_usage(self):
        quantize = ["quantize", MODEL, "--format", "q4_0", "-o", "q.gguf"]
        self.fails(*quantize, "--encoder", "feedback", status=2, says="--text")
        self.fails(*quantize, "--text", CALIB, status=2, says="--encoder feedback")
        self.fails(*quantize, "--encoder", "feedbakc", "--text", CALIB, status=2, says="feedback")
        self.fails(*quantize, "--encoder", "feedback", "--text", CALIB, "--memory", "4bpw", status=2, says="bytes")
        self.fails(*quantize, "--encoder", "feedback", "--text", "no-such.txt", status=1, says="no-such.txt")
        refine = ["refine", searched("q4_0")]
        self.fails(*refine, "--text", CALIB, "-o", "r.gguf", status=2, says="--source")
        self.fails(*refine, "--source", MODEL, "-o", "r.gguf", status=2, says="--text")
        self.fails(*refine, "--source", MODEL, "--text", CALIB, status=2, says="-o")

    def test_bad_sources(self):
        refine = ["refine", searched("q4_0"), "--text", CALIB, "--windows", "2", "-o", "r.gguf", "--source"]
        self.fails(*refine, os.path.join(SOURCE, "models", "tiny-hybrid.f16.gguf"), status=1, says="was not made from")
        self.fails(*refine, "no-such.gguf", status=1, says="no-such.gguf")
        self.fails(*refine, self.write("cut.gguf", make_gguf([], [("a", [32], 0, 0)], b"")), status=1, says="cut.gguf")
        self.write("mine.gguf", "not a model")
        self.fails("refine", searched("q4_0"), "--source", MODEL, "--text", CALIB, "-o", "mine.gguf", status=1, says="--force")

    def test_interrupt(self):
        for command in (["quantize", MODEL, "--format", "q2_K", "--encoder", "feedback"], ["refine", searched("q2_K"), "--source", MODEL]):
            process = subprocess.Popen([BINARY, *command, "--text", CALIB, "-o", "half.gguf"], cwd=self.folder, env=environment(),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for line in process.stderr:
                if b"half.gguf" in line:
                    break
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT)
            self.assertEqual(process.returncode, 130, err)
            self.assertEqual(self.listing(), {})


if __name__ == "__main__":
    main()
