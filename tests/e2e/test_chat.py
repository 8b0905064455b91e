"""The chat on a terminal: with line editing (TERM=xterm), without (TERM=dumb), and from a pipe."""
import ctypes.util
import json
import os
import pty
import select
import stat
import subprocess
import time
import unittest

from flambeau import FOLDER, PATIENCE, Case, command, run, tiny

LONG = ("--temperature", "0", "--ignore-eos")
SHORT = ("--temperature", "0", "-n", "5", "--ignore-eos")
STATE = FOLDER / "state"


class Talk(Case):
    def talk(self, script, *args, term="dumb", name="chat"):
        """Plays a script of (wait for these bytes, or for so many, then send those) on a terminal; what was shown, the exit code."""
        try:
            master, slave = pty.openpty()
        except OSError as e:
            self.skipTest(f"no terminal to be had: {e}")
        env = {**os.environ, "TERM": term, "LANG": "C.UTF-8", "XDG_STATE_HOME": str(STATE), "HOME": str(FOLDER)}
        if term != "dumb":   # libedit never frees the names of functions bound to keys
            env["ASAN_OPTIONS"] = "detect_leaks=0"
        p = subprocess.Popen(command(name, *args), stdin=slave, stdout=slave, stderr=slave, env=env,
                             start_new_session=True, preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))
        os.close(slave)
        shown, position = b"", 0
        for wanted, send in script:
            deadline = time.monotonic() + PATIENCE
            here = (lambda: len(shown) >= position + wanted) if isinstance(wanted, int) else (lambda: wanted in shown[position:])
            while not here() and time.monotonic() < deadline:
                if select.select([master], [], [], 0.2)[0]:
                    try:
                        shown += os.read(master, 65536)
                    except OSError:
                        break
            self.assertTrue(here(), (wanted, shown[-500:]))
            position = position + wanted if isinstance(wanted, int) else shown.index(wanted, position) + len(wanted)
            os.write(master, send)
        code = p.wait(timeout=PATIENCE)
        try:
            while select.select([master], [], [], 0.1)[0]:
                data = os.read(master, 65536)
                if not data:
                    break
                shown += data
        except OSError:
            pass
        os.close(master)
        return shown, code


class Chat(Talk):
    def test_turns(self):
        script = [(b">>> ", b"hello\n"), (b">>> ", b"and now?\n"), (b">>> ", b"/clear\n"), (b">>> ", b"\x04")]
        for name in ("chat", "run"):
            shown, code = self.talk(script, tiny(), *SHORT, name=name)
            self.assertEqual(code, 0)
            self.assertEqual(shown.count(b"first token after"), 2)
            self.assertRegex(shown, rb"5 tokens, [\d.]+ tok/s; context \d+ of 512")
            self.assertNotIn(b"\033", shown)

    def test_ctrl_c(self):
        for term in ("dumb", "xterm"):
            # The terminal echoes a line before the program has read it: only the answer itself says that it has begun.
            script = [(b">>> ", b"hello\r"), (b"hello", b""), (200, b"\x03"), (b"stopped", b""), (b">>> ", b"/bye\r")]
            shown, code = self.talk(script, tiny(context=1 << 17), *LONG, term=term)
            self.assertEqual(code, 0, shown[-500:])
            _, code = self.talk([(b">>> ", b"\x03")], tiny(), term=term)
            self.assertEqual(code, 130)

    def test_the_context_is_never_cut(self):
        script = [(b">>> ", b"a" * 200 + b"\n"), (b"error: ", b""), (b">>> ", b"/bye\n")]
        shown, code = self.talk(script, tiny(context=64), "-n", "2")
        self.assertEqual(code, 0)
        self.assertIn(b"context holds 64; ask a shorter one", shown)

    def test_a_full_chat_offers_what_can_be_done(self):
        script = [(b">>> ", b"hello\n"), (b"context is full", b""), (b">>> ", b"more\n"), (b"error: the chat is ", b""),
                  (b"/drop", b""), (b">>> ", b"/drop\n"), (b"1 oldest turn forgotten", b""), (b"first token", b""),
                  (b">>> ", b"/bye\n")]
        _, code = self.talk(script, tiny(context=64), *LONG)
        self.assertEqual(code, 0)

    def test_what_the_model_writes_cannot_control_the_terminal(self):
        # Drawn at random from all bytes: a hundred tokens hold many control characters.
        script = [(b">>> ", b"hello\n"), (b"first token", b""), (b">>> ", b"/bye\n")]
        shown, _ = self.talk(script, tiny(), "-n", "300", "--temperature", "100", "--top-k", "0", "--seed", "1",
                             "--ignore-eos")
        self.assertRegex(shown, rb"\\x[01][0-9a-f]")
        self.assertEqual(set(shown) & (set(range(32)) - {9, 10, 13}) - {4}, set())


@unittest.skipUnless(ctypes.util.find_library("edit"), "this machine has no libedit")
class Editing(Talk):
    def edit(self, script, *args):
        shown, code = self.talk(script, *(args or (tiny(), *SHORT)), term="xterm")
        self.assertEqual(code, 0, shown[-500:])
        self.assertEqual(shown.count(b"\033[?2004h"), shown.count(b"\033[?2004l"))
        return shown

    def test_keys(self):
        saved = FOLDER / "keys.json"
        script = [(b">>> ", b"ello\x01h\r"), (b"first token", b""), (b">>> ", b"away\x03"),
                  (b">>> ", b"\033[200~one\rtwo \xc3\xa9\x1b[201~\r"), (b"first token", b""),
                  (b">>> ", b"\x1b[A\x1b[A!\r"), (b"first token", b""),
                  (b">>> ", b"/sa\t " + str(saved).encode() + b"\r"), (b"6 messages saved", b""), (b">>> ", b"\x04")]
        self.edit(script)
        asked = [m["content"] for m in json.loads(saved.read_text())["messages"] if m["role"] == "user"]
        self.assertEqual(asked, ["hello", "one\ntwo é", "hello!"])

    def test_a_long_paste(self):
        saved = FOLDER / "paste.json"
        text = "".join(f"{i} words\r" for i in range(1000)).rstrip("\r")
        script = [(b">>> ", b"\x1b[200~" + text.encode() + b"\x1b[201~"), (b"999 words", b"\r"), (b"first token", b""),
                  (b">>> ", b"/save " + str(saved).encode() + b"\r"), (b"saved", b""), (b">>> ", b"/bye\r")]
        self.edit(script, tiny(context=1 << 15), *SHORT)
        self.assertEqual(json.loads(saved.read_text())["messages"][0]["content"], text.replace("\r", "\n"))

    def test_history_is_kept_and_private(self):
        self.edit([(b">>> ", b"remember me\r"), (b"first token", b""), (b">>> ", b"/bye\r")])
        path = STATE / "flambeau" / "history"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertIn("remember", path.read_text())
        self.edit([(b">>> ", b"\x1b[A\x1b[A"), (b"remember me", b"\r"), (b"first token", b""), (b">>> ", b"/bye\r")])


class Commands(Talk):
    """Through a pipe: each line is a question or a command, as on a terminal."""

    def pipe(self, *lines, model=None, args=SHORT):
        result = run("chat", model or tiny(), *args, stdin="".join(f"{line}\n" for line in lines).encode())
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")

    def test_help_names_every_command(self):
        _, err = self.pipe("/help")
        for name in ("help", "system", "set", "show", "save", "load", "retry", "undo", "drop", "clear", "stats", "bye"):
            self.assertIn(f"\n  /{name} ", err)
        self.assertLessEqual(max(map(len, err.splitlines())), 80)

    def test_the_chat_is_what_the_template_gets(self):
        saved = FOLDER / "chat.json"
        out, err = self.pipe("/system be brief", "hello", "and now?", f"/save {saved}", "/stats", "/show")
        messages = json.loads(saved.read_text())["messages"]
        self.assertEqual([m["role"] for m in messages], ["system", "user", "assistant", "user", "assistant"])
        (FOLDER / "before.json").write_text(json.dumps(messages[:-1]))
        ids = self.json("template", tiny(), "--messages", FOLDER / "before.json")["tokens"]
        self.assertIn(f"prompt         {len(ids)} tokens", err)
        self.assertIn(f"{len(ids) + 5} of 512 tokens", err)
        out2, _ = self.pipe(f"/load {saved}", "/retry")
        self.assertTrue(out.endswith(out2))

    def test_undo_and_retry(self):
        saved = FOLDER / "undo.json"
        self.pipe("one", "two", "/undo", "three", "/retry", f"/save {saved}")
        asked = [m["content"] for m in json.loads(saved.read_text())["messages"] if m["role"] == "user"]
        self.assertEqual(asked, ["one", "three"])

    def test_settings(self):
        _, err = self.pipe("/set temperature 1.5", "/set max-tokens 3", "/set", "hello")
        self.assertRegex(err, r"temperature +1.5\n")
        self.assertIn("; 3 tokens", err)
        for line, words in (("/set temprature 1", "did you mean temperature"), ("/set temperature hot", "wants a number"),
                            ("/set temperature", "NAME VALUE"), ("/set stop x", "no setting"), ("/sav", "did you mean"),
                            ("/nonsense", "/help shows"), ("/load /nowhere", "/nowhere"), ("/retry", "no question"),
                            ("/undo", "nothing to undo"), ("/drop", "no older turn"), ("/save", "wants a file")):
            _, err = self.pipe(line, "hello")
            self.assertIn("error: ", err)
            self.assertIn(words, err)
            self.assertIn("first token", err)

    def test_a_file_that_is_no_chat_changes_nothing(self):
        saved, bad = FOLDER / "good.json", FOLDER / "bad.json"
        for text in ("", "{}", "[1]", '[{"role":"tool","content":"x"}]', '[{"role":"user"}]', "[" * 5000):
            bad.write_text(text)
            _, err = self.pipe("hello", f"/load {bad}", f"/save {saved}")
            self.assertIn("error: ", err)
            self.assertEqual(json.loads(saved.read_text())["messages"][0]["content"], "hello")

    def test_blocks(self):
        saved = FOLDER / "block.json"
        self.pipe('"""one', "", 'two"""', '"""three"""', f"/save {saved}")
        asked = [m["content"] for m in json.loads(saved.read_text())["messages"] if m["role"] == "user"]
        self.assertEqual(asked, ["one\n\ntwo", "three"])

    def test_a_model_without_template(self):
        _, err = self.pipe("hello", "/system x", model=tiny("gemma3"))
        self.assertIn("stands by itself", err)
        self.assertIn("needs a chat template", err)
