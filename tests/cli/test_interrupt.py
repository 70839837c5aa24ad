# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C anywhere: exit status 130, nothing half-written, and long jobs go on where they stopped."""
import json
import os
import random
import signal
import struct
import subprocess
import time

from harness import BINARY, CALIB, HELDOUT, MODEL, TIMEOUT, Case, environment, main, make_gguf


class Interrupt(Case):
    def start(self, *arguments):
        return subprocess.Popen([BINARY, *arguments], cwd=self.folder, env=environment(), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_for(self, condition, process, what):
        end = time.monotonic() + TIMEOUT
        while not condition():
            self.assertIsNone(process.poll(), f"ended before {what}: {process.stderr.read() if process.poll() else ''}")
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.002)

    def stop(self, process, number=signal.SIGINT):
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 130, err)
        last = err.decode().splitlines()[-1]
        self.assertIn("interrupted: ", last)
        return last

    def size(self, name):
        try:
            return os.path.getsize(self.path(name))
        except FileNotFoundError:
            return 0

    def test_sense(self):
        command = ["sense", MODEL, "--text", CALIB, "--windows", "4", "--window", "128", "--formats", "q4_0,q2_K,q5_K", "-o"]
        self.run_mixbit(*command, "whole.json")
        process = self.start(*command, "parts.json")
        self.wait_for(lambda: self.size("parts.json.journal") > 1500, process, "the first probes")
        self.assertIn("parts.json.journal", self.stop(process))
        self.assertEqual(sorted(self.listing()), ["parts.json.journal", "whole.json"])
        kept = self.size("parts.json.journal")
        process = self.start(*command, "parts.json")
        self.wait_for(lambda: self.size("parts.json.journal") > kept, process, "the next probe")
        self.stop(process, signal.SIGTERM)
        self.assertGreater(self.size("parts.json.journal"), kept, "the second run began anew")
        # A record cut off by a crash is dropped, not trusted.
        with open(self.path("parts.json.journal"), "r+b") as f:
            f.truncate(self.size("parts.json.journal") - 3)
        self.run_mixbit(*command, "parts.json")
        files = self.listing()
        self.assertEqual(sorted(files), ["parts.json", "whole.json"])
        self.assertEqual(json.loads(files["parts.json"]), json.loads(files["whole.json"]))

    def test_journal_of_another_job(self):
        command = ["sense", MODEL, "--text", CALIB, "--windows", "4", "--window", "128", "-o", "s.json", "--formats"]
        process = self.start(*command, "q4_0")
        self.wait_for(lambda: self.size("s.json.journal") > 1000, process, "the first probes")
        self.stop(process)
        other = [*command, "q4_0"]
        other[other.index("128")] = "64"
        line = self.fails(*other, status=1)
        self.assertIn("journal", line)

    def test_tune(self):
        command = ["tune", "--model", MODEL, "-o", "p.json"]
        process = self.start(*command)
        self.wait_for(lambda: process.stderr.readline().startswith(b"timing"), process, "the timing stage")
        time.sleep(1)
        self.assertIn("p.json", self.stop(process))
        with open(self.path("p.json")) as f:
            first = json.load(f)["entries"]
        self.assertEqual(list(self.listing()), ["p.json"])
        self.run_mixbit("profile", "show", "p.json")
        self.run_mixbit(*command[:3], "--formats", "q4_0", "-o", "p.json")
        with open(self.path("p.json")) as f:
            second = json.load(f)["entries"]
        for entry in first:
            self.assertIn(entry, second)

    def test_quantize(self):
        """A file large enough to be stopped in: 64 million weights of noise."""
        block = struct.pack("<32768e", *(random.Random(5).gauss(0, 0.02) for _ in range(32768)))
        tensors = [(f"blk.{i}.ffn_down.weight", [4096, 2048], 1, i * 2**24) for i in range(8)]
        big = self.write("big.gguf", make_gguf([("general.architecture", "llama")], tensors, block * (2**27 // len(block))))
        process = self.start("quantize", big, "--format", "q3_K", "-o", "out.gguf")
        self.wait_for(lambda: any(".tmp." in name and self.size(name) > 0 for name in os.listdir(self.folder)), process,
                      "the first bytes")
        self.stop(process)
        self.assertEqual(os.listdir(self.folder), ["big.gguf"])

    def test_quantize_scheme(self):
        process = self.start("quantize", MODEL, "--scheme", "packed-feedback", "--bits", "3", "--windows", "8", "-o", "out.gguf")
        self.wait_for(lambda: process.stderr.readline().startswith(b"quantizing"), process, "the first matrix")
        self.stop(process)
        self.assertEqual(os.listdir(self.folder), [])

    def test_eval(self):
        process = self.start("eval", MODEL, "--reference", MODEL, "--text", HELDOUT)
        self.wait_for(lambda: process.stderr.readline().startswith(b"evaluating"), process, "the evaluation")
        self.stop(process)
        self.assertEqual(self.listing(), {})

    def test_second_signal_kills(self):
        process = self.start("eval", MODEL, "--reference", MODEL, "--text", HELDOUT)
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
        self.assertIn(process.returncode, (130, -signal.SIGINT))


if __name__ == "__main__":
    main()
