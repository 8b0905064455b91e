#!/usr/bin/env python3
"""Runs end-to-end test files: python3 tests/e2e/run.py [FILE...] [-k WORD]. Prints a line for each test that failed or was
skipped and closes with `N passed, N failed, N skipped`."""
import pathlib
import sys
import unittest

here = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(here))


class Result(unittest.TestResult):
    n_passed = 0

    def addSuccess(self, test):
        self.n_passed += 1

    def report(self, test, text):
        print(f"FAILED {test.id()}\n{text}", flush=True)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.report(test, self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.report(test, self.errors[-1][1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"skipped {test.id()}: {reason}", flush=True)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            print(f"FAILED {subtest.id()}\n{err[1]}", flush=True)


arguments, word = sys.argv[1:], None
if "-k" in arguments:
    at = arguments.index("-k")
    word = arguments[at + 1]
    del arguments[at:at + 2]
names = [pathlib.Path(f).stem for f in arguments] or sorted(f.stem for f in here.glob("test_*.py"))
loader = unittest.TestLoader()
loader.testNamePatterns = [f"*{word}*"] if word else None
result = Result()
loader.loadTestsFromNames(names).run(result)
# Several subtests of one test that fail are one failure: n_passed leaves the test out already.
failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
print(f"{result.n_passed} passed, {failed} failed, {len(result.skipped)} skipped")
sys.exit(failed != 0)
