"""Ctrl-C, SIGTERM, a reader that goes away."""
import pathlib
import signal
import subprocess
import time

from flambeau import FOLDER, PATIENCE, Case, command, ids_text, tiny, wait_for

LONG = ("--temperature", "0", "--ignore-eos")


def start(*args, **more):
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(command(*args), **more)


class Signals(Case):
    def interrupt_an_answer(self, number):
        p = start("run", tiny(context=1 << 17), "hello", *LONG)
        p.stdout.read(1)
        p.send_signal(number)
        out, err = p.communicate(timeout=PATIENCE)
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
            p.communicate(timeout=PATIENCE)
            self.assertIn(p.returncode, (130, -signal.SIGINT), f"after {i * 6} ms")   # the second before main

    def test_twice(self):
        p = start("run", tiny(context=1 << 17), "hello", *LONG)
        p.stdout.read(1)
        for _ in range(2):
            p.send_signal(signal.SIGINT)
        p.communicate(timeout=PATIENCE)
        self.assertEqual(p.returncode, 130)

    def test_scoring_leaves_nothing_behind(self):
        folder = FOLDER / "signals"
        folder.mkdir(exist_ok=True)
        ids = ids_text(5 + i % 200 for i in range(20000))
        for number in (signal.SIGINT, signal.SIGTERM):
            p = start("score", tiny(context=1 << 17), "--tokens", ids, "--logits", folder / "l.f32", "--chunk", "1")
            self.assertTrue(wait_for(lambda: list(folder.iterdir())))
            p.send_signal(number)
            out, _ = p.communicate(timeout=PATIENCE)
            self.assertEqual((p.returncode, out, list(folder.iterdir())), (128 + number, b"", []))

    def test_a_benchmark(self):
        p = start("bench", tiny(context=1 << 17), "-n", "20000", "-p", "0", "-t", "2")
        status = pathlib.Path(f"/proc/{p.pid}/status")
        self.assertTrue(wait_for(lambda: "\nThreads:\t1\n" not in status.read_text()))  # the team has started
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=PATIENCE)
        self.assertEqual((p.returncode, out), (130, b""))

    def test_a_reader_that_goes_away(self):
        p = start("run", tiny(context=1 << 17), "hello", *LONG)
        p.stdout.read(1)
        p.stdout.close()
        err = p.stderr.read()
        self.assertEqual(p.wait(timeout=PATIENCE), 1)
        self.assertNotIn(b"error", err)
        p.stderr.close()
        p = start("score", tiny(), "--text", "hello", stdout=open("/dev/full", "wb"))
        _, err = p.communicate(timeout=PATIENCE)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"No space left", err)
