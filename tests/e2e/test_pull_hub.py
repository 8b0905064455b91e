"""pull ORG/NAME and pull URL against a hub on this machine: the cache it leaves, and everything a server can do wrong."""
import hashlib
import json
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from flambeau import PATIENCE, PROGRAM, ROOT, Case, command, run, tiny, wait_for
from hub import COMMIT, Hub, git_oid

MB = 1 << 20
PART = 8 * MB
BIG = b"GGUF" + os.urandom(20 * MB + 12345)


class Pull(Case):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flambeau-hub-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.model = pathlib.Path(tiny("llama")).read_bytes()
        self.home = self.folder / "hf"
        self.repo = self.home / "hub" / "models--org--name"

    def serve(self, files=None, fault=None):
        """A hub with one repository; the environment points to it."""
        hub = Hub(files or {"README.md": b"hello\n", "model-Q8_0.gguf": BIG})
        hub.fault = fault
        self.addCleanup(hub.close)
        self.env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(self.home), "FLAMBEAU_CACHE": str(self.folder / "own"), "HF_TOKEN": "",
                    "HF_HUB_CACHE": "", "HF_HUB_OFFLINE": "", "HF_HUB_DOWNLOAD_TIMEOUT": "30", "NO_COLOR": "1"}
        return hub

    def pull(self, name="org/name", **more):
        return pathlib.Path(self.ok("pull", name, env=self.env, **more).decode().strip())

    def fails(self, words, name="org/name", *options):
        return self.refused(1, words, "pull", name, *options, env=self.env, timeout=PATIENCE)

    def blobs(self):
        return sorted(p.name for p in (self.repo / "blobs").iterdir())

    def assert_nothing_kept(self):
        self.assertFalse((self.repo / "snapshots").exists())
        self.assertFalse((self.repo / "refs").exists())

    # ---- as it should be

    def test_the_cache_is_the_python_client_s(self):
        hub = self.serve()
        path = self.pull()
        digest = hashlib.sha256(BIG).hexdigest()
        self.assertEqual(path, self.repo / "snapshots" / COMMIT / "model-Q8_0.gguf")
        self.assertEqual(os.readlink(path), f"../../blobs/{digest}")
        self.assertEqual(path.read_bytes(), BIG)
        self.assertEqual((self.repo / "refs" / "main").read_text(), COMMIT)
        self.assertEqual(self.blobs(), [digest])
        self.assertEqual(len(hub.asked("/resolve/")), 3)
        self.assertFalse(hub.asked("README"))
        before = len(hub.asked("/resolve/"))
        self.assertEqual(self.pull(), path)
        self.assertEqual(len(hub.asked("/resolve/")), before, "nothing is fetched twice")

    def test_a_model_that_runs(self):
        self.serve({"model.gguf": self.model})
        first = self.json("run", "org/name", "--tokens", "1,2,3", "-n", "4", "--temperature", "0", env=self.env)
        self.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
        again = self.json("run", "org/name", "--tokens", "1,2,3", "-n", "4", "--temperature", "0", env=self.env)
        self.assertEqual(first["tokens"], again["tokens"])
        rows = {r["name"]: r for r in json.loads(self.ok("list", "--json", env=self.env))}
        self.assertEqual(rows["org/name"]["revision"], COMMIT)
        self.assertEqual(rows["org/name"]["size"], len(self.model))
        self.assertIn("org/name", self.ok("list", env=self.env).decode())
        self.ok("rm", "org/name", env=self.env)
        self.assertFalse(self.repo.exists())
        self.refused(1, "org/name", "rm", "org/name", env=self.env)

    def test_a_folder_of_safetensors(self):
        files = {"config.json": b"{}", "README.md": b"x", "tokenizer.json": b"{}", "model.safetensors": b"w" * 1000,
                 "consolidated.safetensors": b"w" * 999, "original/x.safetensors": b"w", "pytorch_model.bin": b"w",
                 "additional_chat_templates/tool.jinja": b"t"}
        self.serve(files)
        path = self.pull()
        found = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        self.assertEqual(found, ["additional_chat_templates/tool.jinja", "config.json", "model.safetensors", "tokenizer.json"])
        self.assertEqual(os.readlink(path / "additional_chat_templates" / "tool.jinja"),
                         "../../../blobs/" + hashlib.sha256(b"t").hexdigest())
        self.assertEqual(os.readlink(path / "config.json"), "../../blobs/" + git_oid(b"{}"))
        self.refused(1, "safetensors", "run", "org/name", "hello", env=self.env)
        self.assertEqual([r["dtype"] for r in json.loads(self.ok("list", "--json", env=self.env)) if r["name"] == "org/name"],
                         ["folder"])

    def test_a_folder_runs(self):
        tiny = ROOT / "tests" / "golden" / "tiny" / "llama"
        self.serve({p.name: p.read_bytes() for p in tiny.iterdir()})
        ids = ["--tokens", "5,6,7", "--temperature", "0", "-n", "4", "--ignore-eos"]
        self.assertEqual(self.json("run", "org/name", *ids, env=self.env)["tokens"], self.json("run", tiny, *ids)["tokens"])

    def test_a_choice(self):
        files = {f"model-{q}.gguf": self.model + q.encode() for q in ("Q4_K_M", "Q4_K_S", "Q8_0", "BF16", "F16")}
        files["mmproj-F16.gguf"] = b"p"
        files.update({f"big/model-F32-{i:05}-of-00003.gguf": b"%d" % i for i in (1, 2, 3)})
        self.serve(files)
        self.assertIn("Q8_0", self.fails(["several", "Q4_K_S"]))
        self.fails(["Q4_K'", "model-Q8_0.gguf"], "org/name:Q4_K")
        self.fails(["Q9"], "org/name:Q9")
        for choice, name in (("Q4_K_M", "model-Q4_K_M"), ("f16", "model-F16"), ("model-Q8_0.gguf", "model-Q8_0"),
                             ("mmproj-F16.gguf", "mmproj-F16"), ("F32", "big/model-F32-00001-of-00003")):
            self.assertEqual(self.pull(f"org/name:{choice}"), self.repo / "snapshots" / COMMIT / f"{name}.gguf")
        self.assertEqual(len(list((self.repo / "snapshots" / COMMIT / "big").iterdir())), 3)
        names = [r["name"] for r in json.loads(self.ok("list", "--json", env=self.env))]
        self.assertIn("org/name:model-Q8_0.gguf", names)
        del files["big/model-F32-00002-of-00003.gguf"]
        self.fails(["2 of its 3 parts"], "org/name:F32")

    def test_revisions(self):
        self.serve({"model.gguf": self.model})
        self.pull("org/name@v1")
        self.assertEqual((self.repo / "refs" / "v1").read_text(), COMMIT)
        self.pull("org/name@refs/pr/1")
        self.assertEqual((self.repo / "refs" / "refs" / "pr" / "1").read_text(), COMMIT)
        self.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
        self.pull(f"org/name@{COMMIT}")
        for name in ("org/name@", "org/name@../x", "org/name@a b", "org/na--me", "org/name:", "org/name/more", "org/.."):
            self.fails("", name)

    def test_offline(self):
        hub = self.serve({"model.gguf": self.model})
        self.fails("offline", "org/name", "--offline")
        self.fails("offline", "smollm2", "--offline")
        self.refused(1, "offline", "show", "org/name", "--offline", env=self.env)
        self.assertEqual(hub.requests, [])
        path = self.pull()
        n = len(hub.requests)
        self.assertEqual(self.ok("pull", "org/name", "--offline", env=self.env).decode().strip(), str(path))
        self.ok("show", "org/name", env={**self.env, "HF_HUB_OFFLINE": "1"})
        self.assertEqual(len(hub.requests), n)

    def test_a_url(self):
        hub = self.serve({"My.Model-Q8_0.gguf": BIG, "bad.gguf": b"<html>"})
        url = f"{hub.url}/plain/My.Model-Q8_0.gguf"
        self.fails(["checksum"], url + "#sha256=" + "0" * 64)
        self.assertEqual(self.pull(url), self.pull(url + "#sha256=" + hashlib.sha256(BIG).hexdigest()))
        path = self.pull(url + "#sha256=" + hashlib.sha256(BIG).hexdigest())
        self.assertEqual(path, self.folder / "own" / "models" / "my.model-q8_0" / "My.Model-Q8_0.gguf")
        self.assertEqual(path.read_bytes(), BIG)
        self.assertEqual([p for p in (self.folder / "own" / "tmp").iterdir()], [])
        self.fails("GGUF", f"{hub.url}/plain/bad.gguf")
        self.fails("404", f"{hub.url}/plain/none.gguf")
        for wrong in ("http://example.org/x.gguf", "https://user@127.0.0.1/x.gguf", "https://", f"{hub.url}/a/b/x.bin",
                      f"{hub.url}/..gguf", "https://127.0.0.1\\@example.org/x.gguf", "http://127.0.0.1.example.org/x.gguf"):
            self.fails("wanted", wrong)
        self.assertEqual(self.pull(f"{hub.url}/org/name/resolve/main/My.Model-Q8_0.gguf").parent.name, COMMIT)

    # ---- servers that fail

    def test_cut_connections(self):
        def fault(h, path, count):
            if "/resolve/" not in path or len(cuts) >= 4:
                return False
            first, last = h.range(BIG)
            cuts.append(first)
            h.send_response(206)
            h.send_header("Content-Range", f"bytes {first}-{last}/{len(BIG)}")
            h.send_header("Content-Length", str(last - first + 1))
            h.end_headers()
            h.wfile.write(BIG[first:first + 3 * MB // 2])
            h.cut()
            return True
        cuts = []
        hub = self.serve(fault=fault)
        self.assertEqual(self.pull().read_bytes(), BIG)
        spans = {r[1]["Range"] for r in hub.asked("/resolve/")}
        self.assertTrue(any(int(s[6:].split("-")[0]) % PART for s in spans), "a part goes on where it was cut")

    def test_a_bar_never_goes_back(self):
        """On a terminal, with parts that are cut and a server that then sends the whole file from its start."""
        def fault(h, path, count):
            if "/resolve/" not in path:
                return False
            time.sleep(0.3)
            if count > 4:
                h.answer(200, BIG)
                return True
            first, last = h.range(BIG)
            h.send_response(206)
            h.send_header("Content-Range", f"bytes {first}-{last}/{len(BIG)}")
            h.send_header("Content-Length", str(last - first + 1))
            h.end_headers()
            h.wfile.write(BIG[first:first + 2 * MB])
            h.cut()
            return True
        self.serve(fault=fault)
        del self.env["NO_COLOR"]
        ours, theirs = pty.openpty()
        env = {k: v for k, v in {**os.environ, **self.env, "TERM": "xterm"}.items() if k != "NO_COLOR"}
        p = subprocess.Popen(command("pull", "org/name"), env=env, stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        text = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break
            if not chunk:
                break
            text += chunk
        os.close(ours)
        p.communicate(timeout=PATIENCE)
        self.assertEqual(p.returncode, 0, text)
        shown = [int(n) for n in re.findall(rb"downloading[^\r%]* (\d+)%", text)]
        self.assertGreater(len(shown), 3)
        self.assertEqual(shown, sorted(shown))

    def test_stalls(self):
        def fault(h, path, count):
            if "/resolve/" not in path or stalled:
                return False
            stalled.append(path)
            first, last = h.range(BIG)
            h.send_response(206)
            h.send_header("Content-Range", f"bytes {first}-{last}/{len(BIG)}")
            h.send_header("Content-Length", str(last - first + 1))
            h.end_headers()
            h.wfile.write(BIG[first:first + 1000])
            h.wfile.flush()
            done.wait(PATIENCE)
            h.cut()
            return True
        stalled, done = [], threading.Event()
        self.addCleanup(done.set)
        self.serve(fault=fault)
        self.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "1"
        self.assertEqual(self.pull().read_bytes(), BIG)

    def test_no_ranges(self):
        """200 where 206 was wanted, every time or once: the file comes in one stream."""
        def fault(h, path, count):
            if "/resolve/" not in path:
                return False
            h.answer(200, BIG)
            return True
        self.serve(fault=fault)
        self.assertEqual(self.pull().read_bytes(), BIG)

    def test_lies_about_ranges(self):
        for span, words in (("bytes 1-{last}/{all}", "other bytes"), ("bytes {first}-{last}/99", "another length"), (None, "which bytes"),
                            ("bytes {first}-999999999/{all}", "other bytes"), ("lines 1-2/3", "which bytes")):
            def fault(h, path, count, span=span):
                if "/resolve/" not in path:
                    return False
                first, last = h.range(BIG)
                more = {"Content_Range": span.format(first=first, last=last, all=len(BIG))} if span else {}
                h.answer(206, b"x" * 100, **more)
                return True
            with self.subTest(span=span):
                self.serve(fault=fault)
                self.fails(words)
                self.assert_nothing_kept()

    def test_wrong_bytes(self):
        def fault(h, path, count):
            if "/resolve/" not in path:
                return False
            h.send_file(bytes(100) + BIG[100:])
            return True
        hub = self.serve(fault=fault)
        self.fails(["model-Q8_0.gguf", "checksum"])
        self.assertEqual(self.blobs(), [])
        self.assert_nothing_kept()
        hub.fault = None
        self.pull()

    def test_wrong_bytes_of_a_small_file(self):
        def fault(h, path, count):
            if "config.json" not in path:
                return False
            h.answer(200, b"[]")
            return True
        self.serve({"config.json": b"{}", "model.safetensors": b"w"}, fault=fault)
        self.fails(["config.json", "checksum"])
        self.assert_nothing_kept()

    def test_wrong_length(self):
        for given in (BIG[:-1], BIG + b"x"):
            def fault(h, path, count, given=given):
                if "/resolve/" not in path:
                    return False
                h.answer(200, given)
                return True
            self.serve(fault=fault)
            self.fails("length")
            self.assert_nothing_kept()

    def test_busy(self):
        def fault(h, path, count):
            if count > 1 or "/tree/" in path:
                return False
            h.answer(busy, b"", Retry_After="1")
            return True
        for busy in (429, 503, 500):
            with self.subTest(busy=busy):
                self.serve({"model.gguf": self.model}, fault=fault)
                self.pull()
                shutil.rmtree(self.home)

    def test_refusals(self):
        for status, words in ((401, "HF_TOKEN"), (403, "terms"), (404, "404"), (451, "451")):
            def fault(h, path, count, status=status):
                h.answer(status, b"\x1b[31mwords of the server")
                return True
            hub = self.serve(fault=fault)
            self.fails(words)
            self.assertEqual(len(hub.requests), 1)
        self.serve(fault=lambda h, path, count: h.answer(503, b"", Retry_After="7200") or True)
        self.fails("7200")
        self.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
        self.fails("")

    def test_bad_answers(self):
        for body in (b"", b"[", b"{}", b'{"sha": 5}', b'{"sha": "../../../etc/passwd"}', b'{"sha": "' + b"A" * 40 + b'"}',
                     b"[" * 100000):
            self.serve(fault=lambda h, path, count, body=body: h.answer(200, body) or True)
            self.fails("")
            self.assertFalse(self.home.exists())

    # ---- hostile servers

    def test_the_token_stays_with_the_hub(self):
        other = self.serve()
        def fault(h, path, count):
            if "/resolve/" not in path:
                return False
            h.answer(302, b"", Location=f"{other.url}/plain/model-Q8_0.gguf")
            return True
        hub = self.serve(fault=fault)
        hub.token = "hf_secret"
        self.fails("HF_TOKEN")
        self.env["HF_TOKEN"] = "hf_secret"
        self.assertEqual(self.pull().read_bytes(), BIG)
        self.assertTrue(hub.asked("/resolve/") and other.asked("/plain/"))
        self.assertTrue(all(r[1].get("Authorization") == "Bearer hf_secret" for r in hub.asked("/resolve/")))
        for _, headers in other.requests:
            self.assertNotIn("hf_secret", json.dumps(headers))
        for wrong in ("a b", "x\r\nX-Evil: 1"):
            self.env["HF_TOKEN"] = wrong
            self.fails("HF_TOKEN")

    def test_redirects_to_bad_places(self):
        for to in ("http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "/org/name/resolve/loop", "gopher://127.0.0.1:1/"):
            def fault(h, path, count, to=to):
                if "/resolve/" not in path:
                    return False
                h.answer(302, b"", Location=to)
                return True
            with self.subTest(to=to):
                hub = self.serve(fault=fault)
                self.fails("redirect" if not to.startswith("gopher") else "")
                self.assertLess(len(hub.requests), 60)

    def test_hostile_names(self):
        good = {"type": "file", "path": "model.gguf", "size": 5, "oid": "a" * 40}
        for change in ({"path": "../../evil.gguf"}, {"path": "/etc/evil.gguf"}, {"path": "a/../../evil.gguf"}, {"path": "a//b.gguf"},
                       {"path": "./x.gguf"}, {"path": "x\x1b[31m.gguf"}, {"path": "a\\b.gguf"}, {"path": "x" * 600}, {"path": ""},
                       {"oid": "../../../../evil"}, {"oid": "A" * 40}, {"oid": "a" * 41}, {"oid": None}, {"size": -1},
                       {"size": 1 << 62}, {"size": "5"}, {"path": None}, {"lfs": {"oid": "a" * 40, "size": 5}},
                       {"lfs": {"oid": "../" + "a" * 61, "size": 5}}):
            with self.subTest(change=change):
                hub = self.serve({"model.gguf": b"GGUF5"})
                hub.entries = [{**good, **change}]
                line = self.fails("")
                self.assertNotIn("\x1b", line)
                self.assertFalse(hub.asked("/resolve/"))
                self.assertFalse(self.home.exists())

    def test_links_in_the_way(self):
        """A file where a folder must be, and links that lead out of the cache."""
        hub = self.serve({"a": b"1", "a/model.gguf": b"GGUF"})
        outside = self.folder / "outside"
        outside.mkdir()
        (self.repo / "snapshots" / COMMIT).mkdir(parents=True)
        (self.repo / "snapshots" / COMMIT / "a").symlink_to(outside)
        self.fails("a/model.gguf")
        self.assertEqual(list(outside.iterdir()), [])
        (self.repo / "snapshots" / COMMIT / "a").unlink()
        hub.files["a/model.gguf"] = b"GGUF2"
        digest = hashlib.sha256(b"GGUF2").hexdigest()
        (self.repo / "blobs" / f"{digest}.part").symlink_to(outside / "x")
        self.fails(digest)
        self.assertEqual(list(outside.iterdir()), [])

    def test_links_out_of_the_cache(self):
        """A snapshot's or a blob's link that leads to a file outside, of the right size: not read; pull puts it right."""
        self.serve({"model.gguf": self.model})
        path = self.pull()
        outside = self.folder / "outside.gguf"
        outside.write_bytes(self.model)
        blob = (path.parent / os.readlink(path)).resolve()
        for spoil in ("snapshot", "absolute", "blob"):
            with self.subTest(spoil=spoil):
                if spoil == "blob":
                    blob.unlink()
                    blob.symlink_to(outside)
                else:
                    path.unlink()
                    path.symlink_to(outside if spoil == "absolute" else os.path.relpath(outside, path.parent))
                self.refused(1, "offline", "run", "org/name", "hello", "--offline", env=self.env)
                self.assertNotIn("org/name", self.ok("list", env=self.env).decode())
                self.assertEqual(self.pull(), path)
                self.assertEqual((path.resolve(), blob.is_symlink()), (blob, False))
        own = self.folder / "own" / "models" / "mine"
        own.mkdir(parents=True)
        (own / "m.gguf").symlink_to(outside)
        self.refused(1, "mine", "show", "mine", env=self.env)
        self.assertEqual(outside.read_bytes(), self.model)

    def test_the_token_file(self):
        """Of the hub's Python client, in each of the places it may be; HF_TOKEN comes first."""
        hub = self.serve()
        del self.env["HF_TOKEN"]
        for name in ("HOME", "XDG_CACHE_HOME", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
            self.env[name] = ""
        self.home.mkdir()

        def sent():
            n = len(hub.requests)
            self.pull()
            return {r[1].get("Authorization") for r in hub.requests[n:]}

        self.assertEqual(sent(), {None})
        (self.home / "token").write_text("hf_of_home\n")
        self.assertEqual(sent(), {"Bearer hf_of_home"})
        (self.folder / "t").write_text("  hf_of_path\r\n")
        self.env["HF_TOKEN_PATH"] = str(self.folder / "t")
        self.assertEqual(sent(), {"Bearer hf_of_path"})
        self.env["HF_TOKEN"] = "hf_said"
        self.assertEqual(sent(), {"Bearer hf_said"})
        self.env["HF_TOKEN"] = ""
        self.env["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        self.assertEqual(sent(), {None})
        self.env["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = ""
        for secret in (b"hf_sec ret", b"hf_secret\nX-Evil: 1", b"hf_secret\0x", b"hf_secret" * 1000):
            (self.folder / "t").write_bytes(secret)
            self.assertNotIn("hf_sec", self.fails([str(self.folder / "t"), "no token"]))
            self.ok("list", env=self.env)
        self.env["HF_TOKEN_PATH"] = str(self.folder)
        self.fails(["token", str(self.folder)])
        self.env["HF_TOKEN_PATH"] = ""
        self.env["HF_HOME"] = ""
        self.env["XDG_CACHE_HOME"] = str(self.folder / "xdg")
        (self.folder / "xdg" / "huggingface").mkdir(parents=True)
        (self.folder / "xdg" / "huggingface" / "token").write_text("hf_of_xdg")
        self.assertEqual(sent(), {"Bearer hf_of_xdg"})

    def test_the_token_is_never_shown(self):
        """Not in what is printed, whatever the hub answers, and not in the cache."""
        secret = "hf_never_shown_7"
        for status in (200, 302, 401, 403, 404, 500):
            def fault(h, path, count, status=status):
                if status == 200:
                    return False
                auth = h.headers.get("Authorization", "")
                h.answer(status, auth.encode(), **({"Location": f"http://127.0.0.1:9/{auth}"} if status == 302 else {}))
                return True
            self.serve({"model.gguf": self.model}, fault=fault)
            self.env["HF_TOKEN"] = secret
            result = run("pull", "org/name", env=self.env)
            self.assertEqual(result.returncode, 0 if status == 200 else 1)
            self.assertNotIn(secret.encode(), result.stdout + result.stderr)
        self.assertFalse(any(secret.encode() in p.read_bytes() for p in self.home.rglob("*") if p.is_file()))

    def test_a_listing_elsewhere(self):
        def fault(h, path, count):
            if "/tree/" not in path:
                return False
            h.answer(200, b"[]", Link='<http://127.0.0.1:9/api>; rel="next"')
            return True
        self.serve(fault=fault)
        self.fails("another place")

    # ---- interruptions and disks

    def slow(self, h, path, count):
        """The first part at once, the others in drops."""
        if "/resolve/" not in path or not self.dripping:
            return False
        first, last = h.range(BIG)
        if first == 0:
            return False
        h.send_response(206)
        h.send_header("Content-Range", f"bytes {first}-{last}/{len(BIG)}")
        h.send_header("Content-Length", str(last - first + 1))
        h.end_headers()
        for at in range(first, last, 8192):
            if not self.dripping:
                break
            h.wfile.write(BIG[at:min(at + 8192, last + 1)])
            h.wfile.flush()
            time.sleep(0.05)
        h.cut()
        return True

    def start_slow_pull(self):
        """A pull that has the first part on the disk and waits for the rest."""
        self.dripping = True
        hub = self.serve(fault=self.slow)
        p = subprocess.Popen(command("pull", "org/name"), env={**os.environ, **self.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        journal = self.repo / "blobs" / (hashlib.sha256(BIG).hexdigest() + ".journal")
        self.assertTrue(wait_for(lambda: journal.exists() and "\n00000000\n" in journal.read_text()))
        return hub, p, journal

    def test_resume(self):
        for number in (signal.SIGKILL, signal.SIGINT):
            with self.subTest(number=number):
                hub, p, journal = self.start_slow_pull()
                p.send_signal(number)
                _, err = p.communicate(timeout=PATIENCE)
                self.assertEqual(p.returncode, -number if number == signal.SIGKILL else 130, err)
                self.assertTrue(journal.exists())
                self.dripping = False
                n = len(hub.requests)
                self.assertEqual(self.pull().read_bytes(), BIG)
                spans = [r[1].get("Range") for r in hub.requests[n:] if "/resolve/" in r[0]]
                self.assertEqual(len(spans), 2)
                self.assertFalse(any(s.startswith("bytes=0-") for s in spans), "the first part was there")
                self.assertEqual(len(self.blobs()), 1)
                shutil.rmtree(self.home)

    def test_a_spoilt_journal(self):
        for text in (b"", b"junk", b"parts 1 2\n00000000\n", None):
            hub, p, journal = self.start_slow_pull()
            p.kill()
            p.communicate(timeout=PATIENCE)
            self.dripping = False
            head = journal.read_bytes()
            journal.write_bytes(head + b"0000" if text is None else text)  # None: a line that was cut off
            self.assertEqual(self.pull().read_bytes(), BIG)
            shutil.rmtree(self.home)

    def test_two_pulls_share(self):
        hub, p, _ = self.start_slow_pull()
        second = subprocess.Popen(command("pull", "org/name"), env={**os.environ, **self.env}, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        said = b""
        while b"another process" not in said:
            said += second.stderr.read1() or self.fail(f"the second pull ended: {said}")
        self.dripping = False
        out1, err1 = p.communicate(timeout=PATIENCE)
        out2, err2 = second.communicate(timeout=PATIENCE)
        self.assertEqual((p.returncode, second.returncode), (0, 0), err1 + err2)
        self.assertEqual(out1, out2)
        self.assertEqual(sum(1 for r in hub.asked("/resolve/") if r[1]["Range"].startswith("bytes=0-")), 1)

    def small_disk(self, size, *options):
        self.home.mkdir(exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", *options, "none", self.home], capture_output=True,
                                 check=False)
        if mounted.returncode != 0:
            self.skipTest("cannot mount a small disk here")
        self.addCleanup(subprocess.run, ["umount", self.home], check=False)

    def test_a_full_disk(self):
        hub = self.serve()
        self.small_disk("10m")
        self.fails(["needs", "HF_HOME"])
        self.assertFalse(hub.asked("/resolve/"), "known before the first byte")

    def test_files_that_may_not_grow(self):
        """A limit on file sizes, which any user can set: an error, no signal, and nothing kept."""
        self.serve()
        result = subprocess.run(command("pull", "org/name"), env={**os.environ, **self.env}, capture_output=True, check=False,
                                timeout=PATIENCE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MB, 4 * MB)))
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(b"error: ", result.stderr)
        self.assertIn(b"no room", result.stderr)
        self.assert_nothing_kept()
        self.assertEqual(self.pull().read_bytes(), BIG)

    def test_a_read_only_folder(self):
        """The same by access rights, as another user than root has them."""
        if os.geteuid() == 0 and not shutil.which("setpriv"):
            self.skipTest("root may write anywhere")
        self.serve({"model.gguf": self.model})
        path = self.pull()
        drop = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        if drop and subprocess.run([*drop, "ls", path, PROGRAM], capture_output=True, check=False).returncode != 0:
            os.chmod(self.folder, 0o755)
            if subprocess.run([*drop, "ls", path, PROGRAM], capture_output=True, check=False).returncode != 0:
                self.skipTest("another user cannot reach the program here")
        folders = [p for p in (self.home, *self.home.rglob("*")) if p.is_dir() and not p.is_symlink()]
        for p in folders:
            os.chmod(p, 0o555)
        self.addCleanup(lambda: [os.chmod(p, 0o755) for p in folders])
        def pull(name):
            return subprocess.run([*drop, *command("pull", name)], env={**os.environ, **self.env}, capture_output=True, check=False,
                                  timeout=PATIENCE)
        self.assertEqual(pull("org/name").stdout.decode().strip(), str(path))
        result = pull("org/name@v1")
        self.assertEqual((result.returncode, result.stdout), (1, b""))
        self.assertIn(b"ermission denied", result.stderr)

    def test_a_read_only_cache(self):
        self.serve({"model.gguf": self.model})
        self.small_disk("10m")
        path = self.pull()
        subprocess.run(["mount", "-o", "remount,ro", self.home], check=True)
        self.assertEqual(self.pull(), path)
        self.ok("show", "org/name", env=self.env)
        self.fails("Read-only", "org/name@v1")

    def test_no_libcurl(self):
        self.serve()
        for name in ("libcurl.so.4", "libcurl-gnutls.so.4"):
            (self.folder / name).write_text("no library")
        self.env["LD_LIBRARY_PATH"] = str(self.folder)
        self.fails(["libcurl4"])

    def test_no_place(self):
        self.serve()
        env = {**self.env, "HF_HOME": "", "HOME": "", "XDG_CACHE_HOME": ""}
        self.refused(1, "HF_HOME", "pull", "org/name", env=env)
        for wrong in ("http://example.org", "nonsense", "https://a b", "ftp://127.0.0.1"):
            self.env["HF_ENDPOINT"] = wrong
            self.fails("HF_ENDPOINT")
