# SPDX-License-Identifier: Apache-2.0
"""The profiles that come with mixbit: each loads, is shown, is named by its device and small."""
import glob
import json
import os

from harness import SOURCE, Case, main

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


if __name__ == "__main__":
    main()
