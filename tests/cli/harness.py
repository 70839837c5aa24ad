# SPDX-License-Identifier: Apache-2.0
"""Running mixbit from the outside. `python3 test_x.py BINARY SOURCE_DIR [unittest arguments]`.

Every run has its own folder, its own cache and no terminal. A failing run must say one line on stderr that begins with
"mixbit", must not be ended by a signal, and must leave nothing behind that was not there before."""
import atexit
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

BINARY = os.path.abspath(sys.argv[1]) if len(sys.argv) > 2 else ""
SOURCE = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else ""
MODEL = os.path.join(SOURCE, "models", "tiny-llama.f16.gguf")
CALIB = os.path.join(SOURCE, "models", "calib.txt")
HELDOUT = os.path.join(SOURCE, "models", "heldout.txt")
SHARED = tempfile.mkdtemp(prefix="mixbit-cli-")
atexit.register(shutil.rmtree, SHARED, ignore_errors=True)
# A small sensing job: the whole path at a fraction of the work.
SENSE = ["--windows", "2", "--window", "64", "--formats", "q4_0,q8_0"]
# Seconds that one command may take; sanitized code on a busy machine needs many.
TIMEOUT = int(os.environ.get("MIXBIT_TEST_TIMEOUT", "600"))
skipped = []


class Either(int):
    """An exit status that equals any of several."""
    def __new__(cls, *statuses):
        made = super().__new__(cls, statuses[0])
        made.statuses = statuses
        return made

    def __eq__(self, other):
        return other in self.statuses

    __hash__ = int.__hash__


# A row of bench that beats its limit is exit status 4; on a busy machine that may happen.
DONE_OR_BUSY = Either(0, 4)


def environment(**extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MIXBIT_")}
    env.update(XDG_CACHE_HOME=os.path.join(SHARED, "cache"), TERM="xterm", LC_ALL="C.UTF-8")
    env.pop("NO_COLOR", None)
    env.update(extra)
    return env


def loud_skip(reason):
    """A skip that cannot be overlooked: said at once, and counted at the end."""
    skipped.append(reason)
    print(f"SKIPPED: {reason}", file=sys.stderr)


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="run-", dir=SHARED)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def tool(self, name):
        """One of llama.cpp's programs; without it the test is skipped."""
        folder = os.environ.get("MIXBIT_LLAMA_BIN")
        path = os.path.join(folder, name) if folder else shutil.which(name)
        if path is None or not os.path.exists(path):
            loud_skip(f"{name} is not installed (MIXBIT_LLAMA_BIN, PATH)")
            self.skipTest("not installed")
        return path

    def peer(self, name, *arguments, status=0):
        """What it prints."""
        done = subprocess.run([self.tool(name), *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def run_mixbit(self, *arguments, status=0, env=None, timeout=TIMEOUT, **kwargs):
        """Run, check the exit status, return the finished process."""
        done = subprocess.run([BINARY, *map(str, arguments)], cwd=self.folder, env=env or environment(), timeout=timeout,
                              stdin=subprocess.DEVNULL, capture_output=True, **kwargs)
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        self.assertEqual(done.returncode, status, f"mixbit {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done

    def run_json(self, *arguments, **kwargs):
        return json.loads(self.run_mixbit(*arguments, "--json", **kwargs).stdout)

    def fails(self, *arguments, status, says=(), keeps=True, **kwargs):
        """A refused run: the status, one line that contains every word of `says`, the folder as it was."""
        before = self.listing()
        done = self.run_mixbit(*arguments, status=status, **kwargs)
        errors = [line for line in done.stderr.splitlines() if ": error: " in line or ": interrupted: " in line]
        self.assertEqual(len(errors), 1, f"expected one error line, got:\n{done.stderr}")
        self.assertTrue(errors[0].startswith("mixbit"), errors[0])
        self.assertLess(len(errors[0]), 600)
        for word in [says] if isinstance(says, str) else says:
            self.assertIn(word, errors[0])
        if keeps:
            self.assertEqual(self.listing(), before, "files changed or were left behind")
        return errors[0]

    def listing(self):
        """Every file under the run's folder with its size and content."""
        found = {}
        for root, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(root, name)
                with open(path, "rb") as f:
                    found[os.path.relpath(path, self.folder)] = f.read()
        return found


def once(name, make):
    """A file that several tests of one program share; made at first use."""
    path = os.path.join(SHARED, name)
    if not os.path.exists(path):
        done = subprocess.run([BINARY, *make(path)], env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=TIMEOUT, cwd=SHARED)
        if done.returncode != 0:
            raise RuntimeError(f"cannot make {name}: {done.stderr.decode()}")
    return path


def sensitivity():
    return once("sensitivity.json", lambda path: ["sense", MODEL, "--text", CALIB, *SENSE, "-o", path])


def profile():
    return once("profile.json", lambda path: ["tune", "--model", MODEL, "--formats", "q4_0,q8_0,f16", "--time-limit", "20",
                                              "-o", path])


def plan():
    return once("plan.json", lambda path: ["solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "5M",
                                           "-o", path])


# ---- GGUF by hand, for files that no writer would make ----

def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def make_gguf(metadata, tensors, data, alignment=32, version=3, tensor_count=None):
    """metadata: [(key, text or int)]; tensors: [(name, dims, type, offset)]."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if tensor_count is None else tensor_count, len(metadata))
    for key, value in metadata:
        out += gguf_string(key)
        out += struct.pack("<I", 8) + gguf_string(value) if isinstance(value, str) else struct.pack("<II", 4, value)
    for name, dims, kind, offset in tensors:
        out += gguf_string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, offset)
    out += b"\0" * (-len(out) % alignment)
    return out + data


def patch_string(data, key, old, new):
    """The string value of a metadata key, replaced by one of the same length."""
    assert len(old) == len(new)
    needle = gguf_string(key) + struct.pack("<I", 8) + gguf_string(old)
    assert data.count(needle) == 1, key
    return data.replace(needle, gguf_string(key) + struct.pack("<I", 8) + gguf_string(new))


class OwnTests(unittest.TestLoader):
    """Those that need nothing but mixbit: each test_external_* is a ctest test of its own, which can be seen to be skipped."""
    def getTestCaseNames(self, case):
        return [name for name in super().getTestCaseNames(case) if not name.startswith("test_external_")]


def main():
    if not BINARY:
        sys.exit("usage: test_x.py BINARY SOURCE_DIR [unittest arguments]")
    loader = unittest.TestLoader() if sys.argv[3:] else OwnTests()
    program = unittest.main(argv=[sys.argv[0], *sys.argv[3:]], testLoader=loader, exit=False, verbosity=2)
    result = program.result
    if skipped:
        print(f"SKIPPED {len(skipped)}: " + "; ".join(skipped), file=sys.stderr)
    if not result.wasSuccessful() or result.testsRun == 0:
        sys.exit(1)
    sys.exit(77 if len(result.skipped) == result.testsRun else 0)
