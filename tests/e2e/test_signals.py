"""Ctrl-C, SIGTERM, a reader that goes away, and the chat on a terminal."""
import os
import pty
import select
import signal
import subprocess
import time

from flambeau import FOLDER, Case, command, ids_text, tiny

LONG = ("--temperature", "0", "--ignore-eos")


def start(*args, **more):
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(command(*args), **more)


class Signals(Case):
    def interrupt_an_answer(self, number):
        p = start("run", tiny(context=1 << 17), "hello", *LONG)
        p.stdout.read(1)
        p.send_signal(number)
        out, err = p.communicate(timeout=30)
        self.assertEqual(p.returncode, 128 + number)
        self.assertTrue(out.endswith(b"\n"))
        self.assertIn(b"first token after", err)
        self.assertNotIn(b"error", err)

    def test_ctrl_c_stops_the_answer(self):
        self.interrupt_an_answer(signal.SIGINT)

    def test_sigterm_stops_the_answer(self):
        self.interrupt_an_answer(signal.SIGTERM)

    def test_at_any_time(self):
        ids = ids_text(5 + i % 200 for i in range(3000))
        for i in range(16):
            p = start("run", tiny(context=1 << 17), "--tokens", ids, *LONG)
            time.sleep(i * 0.006)
            p.send_signal(signal.SIGINT)
            p.communicate(timeout=30)
            self.assertIn(p.returncode, (130, -signal.SIGINT), f"after {i * 6} ms")   # the second before main

    def test_twice(self):
        p = start("run", tiny(context=1 << 17), "hello", *LONG)
        p.stdout.read(1)
        for _ in range(2):
            p.send_signal(signal.SIGINT)
        p.communicate(timeout=30)
        self.assertEqual(p.returncode, 130)

    def test_scoring_leaves_nothing_behind(self):
        folder = FOLDER / "signals"
        folder.mkdir(exist_ok=True)
        ids = ids_text(5 + i % 200 for i in range(20000))
        for number in (signal.SIGINT, signal.SIGTERM):
            p = start("score", tiny(context=1 << 17), "--tokens", ids, "--logits", folder / "l.f32", "--chunk", "1")
            deadline = time.monotonic() + 20
            while not list(folder.iterdir()) and time.monotonic() < deadline:
                time.sleep(0.01)
            p.send_signal(number)
            out, _ = p.communicate(timeout=30)
            self.assertEqual((p.returncode, out, list(folder.iterdir())), (128 + number, b"", []))

    def test_a_benchmark(self):
        p = start("bench", tiny(context=1 << 17), "-n", "20000", "-p", "0")
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=30)
        self.assertEqual((p.returncode, out), (130, b""))

    def test_a_reader_that_goes_away(self):
        p = start("run", tiny(context=1 << 17), "hello", *LONG)
        p.stdout.read(1)
        p.stdout.close()
        err = p.stderr.read()
        self.assertEqual(p.wait(timeout=30), 1)
        self.assertNotIn(b"error", err)
        p.stderr.close()
        p = start("score", tiny(), "--text", "hello", stdout=open("/dev/full", "wb"))
        _, err = p.communicate(timeout=30)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"No space left", err)


class Chat(Case):
    def talk(self, script, *args):
        """Plays a script of (wait for these bytes, then send those, or sleep) on a terminal; what was shown, the exit code."""
        try:
            master, slave = pty.openpty()
        except OSError as e:
            self.skipTest(f"no terminal to be had: {e}")
        env = {**os.environ, "TERM": "dumb"}
        p = subprocess.Popen(command("run", *args), stdin=slave, stdout=slave, stderr=slave, env=env,
                             start_new_session=True, preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))
        os.close(slave)
        shown, position = b"", 0
        for wanted, send in script:
            deadline = time.monotonic() + 30
            while wanted not in shown[position:] and time.monotonic() < deadline:
                if select.select([master], [], [], 0.2)[0]:
                    try:
                        shown += os.read(master, 65536)
                    except OSError:
                        break
            self.assertIn(wanted, shown[position:], shown[-500:])
            position = shown.index(wanted, position) + len(wanted)
            if isinstance(send, float):
                time.sleep(send)   # the terminal echoes a line before the program has read it
            else:
                os.write(master, send)
        code = p.wait(timeout=30)
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

    def test_turns(self):
        script = [(b">>> ", b"hello\n"), (b">>> ", b"and now?\n"), (b">>> ", b"/clear\n"), (b">>> ", b"\x04")]
        shown, code = self.talk(script, tiny(), "--temperature", "0", "-n", "5", "--ignore-eos")
        self.assertEqual(code, 0)
        self.assertEqual(shown.count(b"first token after"), 2)

    def test_ctrl_c(self):
        script = [(b">>> ", b"hello\n"), (b"hello", 0.5), (b"\n", b"\x03"), (b">>> ", b"/bye\n")]
        shown, code = self.talk(script, tiny(context=1 << 17), *LONG)
        self.assertEqual(code, 0, shown[-500:])
        _, code = self.talk([(b">>> ", b"\x03")], tiny())
        self.assertEqual(code, 130)

    def test_the_context_is_never_cut(self):
        script = [(b">>> ", b"a" * 200 + b"\n"), (b"error: ", b""), (b">>> ", b"/bye\n")]
        shown, code = self.talk(script, tiny(context=64), "-n", "2")
        self.assertEqual(code, 0)
        self.assertIn(b"64", shown)
