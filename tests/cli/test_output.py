# SPDX-License-Identifier: Apache-2.0
"""Where output goes: files that aren't ours stay, folders that can't be written say so, terminals get what fits them."""
import os
import pty
import re
import resource
import shutil
import struct
import subprocess
import termios
import fcntl

import harness
from harness import (BINARY, CALIB, HELDOUT, MODEL, SENSE, Case, environment, loud_skip, main, plan, profile, sensitivity)

NOBODY = 65534


class Existing(Case):
    def test_foreign_files_stay(self):
        for name, content in (("notes.txt", b"my notes\n"), ("data.json", b'{"schema": "mine"}'), ("a.gguf", b"GGUF\x03\0\0\0")):
            path = self.write(name, content)
            for command in (["quantize", MODEL, "--format", "q4_0", "-o", path],
                            ["solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "5M", "-o", path],
                            ["recipe", plan(), "-o", path],
                            ["sense", MODEL, "--text", CALIB, *SENSE, "-o", path]):
                self.fails(*command, status=1, says=[name, "--force"])

    def test_models_that_others_wrote_stay(self):
        shutil.copy(MODEL, self.path("theirs.gguf"))
        self.fails("quantize", MODEL, "--format", "q4_0", "-o", "theirs.gguf", status=1, says="--force")
        self.run_mixbit("quantize", MODEL, "--format", "q4_0", "-o", "theirs.gguf", "--force")
        self.assertLess(os.path.getsize(self.path("theirs.gguf")), 4_000_000)

    def test_our_own_files_are_replaced(self):
        self.run_mixbit("quantize", MODEL, "--format", "q8_0", "-o", "q.gguf")
        before = os.path.getsize(self.path("q.gguf"))
        self.run_mixbit("quantize", MODEL, "--format", "q4_0", "-o", "q.gguf")
        self.assertLess(os.path.getsize(self.path("q.gguf")), before)
        for size in ("5M", "4M"):
            self.run_mixbit("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", size, "-o", "plan.json")
            for runtime in ("llama.cpp", "ik_llama.cpp"):
                self.run_mixbit("recipe", "plan.json", "--for", runtime, "-o", "recipe.txt")

    def test_the_model_is_not_its_own_output(self):
        shutil.copy(MODEL, self.path("m.gguf"))
        os.link(self.path("m.gguf"), self.path("same.gguf"))
        for name in ("m.gguf", "./m.gguf", "same.gguf"):
            self.fails("quantize", "m.gguf", "--format", "q4_0", "-o", name, "--force", status=2, says="the model itself")

    def test_special_files(self):
        self.fails("quantize", MODEL, "--format", "q4_0", "-o", "/dev/full", status=1, says="/dev/full")
        self.fails("quantize", MODEL, "--format", "q4_0", "-o", self.folder, status=1, says="folder")
        self.fails("quantize", MODEL, "--format", "q4_0", "-o", "nowhere/x.gguf", status=1, says="nowhere/x.gguf")
        self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "5M", "-o", "/dev/full", status=1,
                   says="/dev/full")


class Folders(Case):
    COMMANDS = (["quantize", "{m}", "--format", "q4_0", "-o", "{o}/q.gguf"],
                ["sense", "{m}", "--text", "{t}", *SENSE, "-o", "{o}/s.json"],
                ["tune", "--model", "{m}", "--formats", "q4_0", "-o", "{o}/p.json"])

    def test_read_only(self):
        """As somebody whom permissions bind: root drops to nobody for the run, with copies of what that needs to read."""
        place = {"m": self.path("m.gguf"), "t": self.path("t.txt"), "o": self.path("locked")}
        shutil.copy(MODEL, place["m"])
        shutil.copy(CALIB, place["t"])
        program = self.path("mixbit")
        shutil.copy(BINARY, program)
        os.mkdir(place["o"])
        os.chmod(place["o"], 0o555)
        drop = None
        if os.geteuid() == 0:
            for folder in (harness.SHARED, self.folder):
                os.chmod(folder, 0o755)
            probe = subprocess.run([program, "--version"], preexec_fn=lambda: os.setuid(NOBODY), capture_output=True)
            if probe.returncode != 0:
                loud_skip("read-only folder: this root user can't become nobody here")
                return
            drop = lambda: os.setuid(NOBODY)  # noqa: E731
        for command in self.COMMANDS:
            filled = [part.format(**place) for part in command]
            done = subprocess.run([program, *filled], preexec_fn=drop, capture_output=True, env=environment(), timeout=120)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(b"ermission", done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertEqual(os.listdir(place["o"]), [])

    def test_no_space(self):
        """A limit on file size stops a write in the middle as a full disk does, for root too."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        self.fails("quantize", MODEL, "--format", "q4_0", "-o", "q.gguf", status=1, says="q.gguf", preexec_fn=limit)
        self.write("old.txt", "x")

        def tiny():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        self.fails("solve", MODEL, "-s", sensitivity(), "-p", profile(), "--max-size", "5M", "-o", "p.json", status=1,
                   says="p.json", preexec_fn=tiny)

    def test_no_space_keeps_the_old_file(self):
        self.run_mixbit("quantize", MODEL, "--format", "q4_0", "-o", "q.gguf")

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        self.fails("quantize", MODEL, "--format", "q8_0", "-o", "q.gguf", status=1, says="q.gguf", preexec_fn=limit)


def on_terminal(arguments, columns, env):
    """Run with stdout and stderr on a terminal of that width; (exit status, what it showed)."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen([BINARY, *arguments], stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(leader)
    return process.wait(), shown.decode()


class Terminals(Case):
    def test_width(self):
        for columns in (60, 100, 200):
            status, shown = on_terminal(["profile", "show", profile(), "--formats", "q4_0"], columns,
                                        environment(NO_COLOR="1"))
            self.assertEqual(status, 0, shown)
            lines = shown.replace("\r", "").splitlines()
            rows = [line for line in lines if line.startswith("q4_0 ") or line.startswith("format ")]
            self.assertGreater(len(rows), 2)
            for row in rows:
                self.assertLessEqual(len(row), columns, row)
            self.assertEqual(any("wider terminal" in line for line in lines), columns == 60, shown)

    def test_colours(self):
        command = ["profile", "show", profile(), "--formats", "q4_0"]
        self.assertIn("\033[", on_terminal(command, 200, environment())[1])
        self.assertNotIn("\033", on_terminal(command, 200, environment(NO_COLOR="1"))[1])
        self.assertNotIn("\033", on_terminal(command, 200, environment(TERM="dumb"))[1])
        self.assertNotIn("\033", self.run_mixbit(*command).stdout)
        self.assertNotIn("\033[1;31m", on_terminal(["eval", "none"], 200, environment(NO_COLOR="1"))[1])

    def test_progress(self):
        """A bar on a terminal, a line per stage elsewhere, nothing with --quiet; data on stdout in all cases."""
        command = ["eval", MODEL, "--text", HELDOUT, "--windows", "8", "--no-speed"]
        status, shown = on_terminal(command, 100, environment())
        self.assertEqual(status, 0)
        self.assertRegex(shown, r"evaluating 8 windows.*\[#*\.*\] +\d+ %")
        for piece in re.split(r"[\r\n]", shown):
            self.assertLessEqual(len(re.sub(r"\033\[[0-9;]*[A-Za-z]", "", piece)), 200)
        done = self.run_mixbit(*command)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertNotIn("PPL", done.stderr)
        self.assertEqual(self.run_mixbit(*command, "--quiet").stderr, "")
        self.assertGreater(len(self.run_mixbit(*command, "--verbose").stderr.splitlines()), 1)


if __name__ == "__main__":
    main()
