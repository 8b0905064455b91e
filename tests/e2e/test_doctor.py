"""doctor: a verdict for everything looked at, on a sound machine and on one with things missing."""
import json

from flambeau import FOLDER, Case, run


class Doctor(Case):
    def checks(self, **more):
        return {c["name"]: c for c in self.json("doctor", **more)["checks"]}

    def test_a_line_each(self):
        out = self.json("doctor")
        self.assertEqual((list(out), out["bad"]), (["version", "checks", "bad"], 0))
        lines = self.ok("doctor").decode().splitlines()
        self.assertEqual([line.split()[0] for line in lines], [c["verdict"] for c in out["checks"]])
        checks = {c["name"]: c for c in out["checks"]}
        self.assertLessEqual({"flambeau", "cpu", "cpu features", "kernels scalar", "memory", "open files", "libedit",
                              "python3", "cache", "free disk"}, set(checks))
        self.assertIn("the same bits", checks["kernels scalar"]["text"])

    def test_what_is_missing(self):
        checks = self.checks(env={"FLAMBEAU_CACHE": str(FOLDER / "no" / "such"), "PATH": "/nonexistent"})
        self.assertIn("0 models", checks["cache"]["text"])
        self.assertEqual(checks["python3"]["verdict"], "note")

    def test_what_is_bad(self):
        result = run("doctor", "--json", env={"FLAMBEAU_CACHE": "", "HOME": ""})
        self.assertEqual(result.returncode, 1)
        self.assertEqual(json.loads(result.stdout)["bad"], 1)
        self.assertIn(b"error: 1 of the checks", result.stderr)
