# SPDX-License-Identifier: Apache-2.0
"""Profiles: each that comes with mixbit loads, is shown, is named by its device and small; a machine's own that can't be
read any more is measured anew, one that the user named is not; what one of another system is good for."""
import glob
import json
import os

from harness import HELDOUT, MODEL, SOURCE, Case, environment, main

FOLDER = os.path.join(SOURCE, "profiles")
BYTES_MOST = 600_000


class Profiles(Case):
    def test_each(self):
        paths = glob.glob(os.path.join(FOLDER, "*.json"))
        self.assertTrue(paths)
        with open(os.path.join(FOLDER, "README.md")) as f:
            provenance = f.read()
        for path in paths:
            with self.subTest(path):
                with open(path) as f:
                    document = json.load(f)
                key = document["device"]["key"]
                self.assertEqual(os.path.basename(path), f"{key}.json")
                self.assertIn(key, provenance)
                self.assertLess(os.path.getsize(path), BYTES_MOST)
                self.assertTrue(document["entries"])
                self.assertFalse([e for e in document["entries"] if e["failed"]])
                self.assertTrue(self.run_mixbit("profile", "show", path).stdout)

    def test_of_another_version(self):
        tune = ["tune", "--model", MODEL, "--formats", "q4_0", "--time-limit", "5"]
        own = environment(XDG_CACHE_HOME=self.path("cache"))
        self.run_mixbit(*tune, env=own)
        path, = glob.glob(self.path("cache/mixbit/profiles/*.json"))
        with open(path) as f:
            document = json.load(f)
        version = document["version"]
        with open(path, "w") as f:
            json.dump(document | {"version": version - 1}, f)
        self.assertIn("measuring a new one", self.run_mixbit(*tune, env=own).stderr)
        with open(path) as f:
            self.assertEqual(json.load(f)["version"], version)

        with open(path, "w") as f:
            json.dump(document | {"version": version - 1}, f)
        named = self.run_mixbit(*tune, "-o", path, env=own, status=1)
        self.assertIn(f"profile version {version - 1}", named.stderr)
        with open(path) as f:
            self.assertEqual(json.load(f)["version"], version - 1)

    def test_of_another_system(self):
        """Measured anew where that can be, a warning where its times are used, no word where only its kernels are."""
        own = environment(XDG_CACHE_HOME=self.path("cache"))
        tune = ["tune", "--model", MODEL, "--formats", "q4_0", "--time-limit", "5"]
        evaluate = ["eval", MODEL, "--text", HELDOUT, "--windows", "1", "--no-speed"]
        self.run_mixbit(*tune, env=own)
        path, = glob.glob(self.path("cache/mixbit/profiles/*.json"))
        with open(path) as f:
            document = json.load(f)
        system = document["device"]["os"]
        document["device"]["os"] = "Plan 9"
        with open(path, "w") as f:
            json.dump(document, f)
        self.assertEqual(len(self.run_mixbit(*evaluate, env=own).stderr.splitlines()), 1)
        self.assertIn("is stale (measured under 'Plan 9'", self.run_mixbit(*evaluate, "--verbose", env=own).stderr)
        self.assertEqual(self.run_mixbit(*evaluate, "--quiet", env=own).stderr, "")
        with open(path) as f:
            self.assertEqual(json.load(f)["device"]["os"], "Plan 9")
        self.assertIn("measuring anew", self.run_mixbit(*tune, env=own).stderr)
        with open(path) as f:
            self.assertEqual(json.load(f)["device"]["os"], system)


if __name__ == "__main__":
    main()
