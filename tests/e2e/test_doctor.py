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
        self.assertLessEqual({"flambeau", "cpu", "cpu features", "kernels scalar", "memory", "memory limit", "open files",
                              "libedit", "libcurl", "python3", "cache", "repositories"}, set(checks))
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

    def test_libraries(self):
        """Each library by its own name and version, or what to install."""
        checks = self.checks()
        for name, pattern in (("libedit", r"libedit\.so[.0-9]*: chats"), ("libcurl", r"libcurl/[0-9.]+ \S+: pull")):
            if checks[name]["verdict"] == "ok":
                self.assertRegex(checks[name]["text"], pattern)
            else:
                self.assertIn("install", checks[name]["text"])
        folder = FOLDER / "no-curl"
        folder.mkdir()
        for name in ("libcurl.so.4", "libcurl-gnutls.so.4", "libedit.so.2", "libedit.so.0"):
            (folder / name).write_text("no library")
        checks = self.checks(env={"LD_LIBRARY_PATH": str(folder)})
        self.assertEqual((checks["libcurl"]["verdict"], checks["libedit"]["verdict"]), ("note", "note"))
        self.assertIn("libcurl4", checks["libcurl"]["text"])
        self.assertIn("libedit2", checks["libedit"]["text"])

    def test_folders(self):
        """Models of both caches, and a folder where nothing can be written."""
        own, hf = FOLDER / "own", FOLDER / "hf"
        snapshot = hf / "models--org--name" / "snapshots" / ("0" * 40)
        (own / "models" / "tiny").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        (hf / "models--org--name" / "refs").mkdir()
        (hf / "models--org--name" / "refs" / "main").write_text("0" * 40)
        for path in (own / "models" / "tiny" / "m.gguf", snapshot / "m.gguf"):
            path.write_bytes(b"x" * 2500)
        env = {"FLAMBEAU_CACHE": str(own), "HF_HUB_CACHE": str(hf)}
        checks = self.checks(env=env)
        self.assertIn("1 models, 2.5 kB", checks["cache"]["text"])
        self.assertIn("1 models, 2.5 kB", checks["repositories"]["text"])
        checks = self.checks(env={**env, "FLAMBEAU_CACHE": "/proc/nothing"})
        self.assertEqual(checks["cache"]["verdict"], "note")  # no room, and for most users no right to write
