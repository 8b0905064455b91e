#!/usr/bin/env python3
"""Fails when a function has more than 70 lines or a file more than 1,200, unless tools/ratchet.txt lists it with at
least that size; says so when an entry of the ratchet could shrink. Micro-kernels may have long functions."""
import pathlib
import re
import sys

FUNCTION_MAX, FILE_MAX = 70, 1200
KERNELS = ("src/dev/cpu/x86/", "src/dev/cpu/arm/", "src/dev/gpu/")

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
allowed = {}
for line in (root / "tools/ratchet.txt").read_text().splitlines():
    line = line.split("#")[0].split()
    if line:
        allowed[line[0]] = int(line[1])

found = {}
for top in ("src", "include", "tests/unit", "examples"):
    for path in sorted((root / top).rglob("*.[ch]")):
        name = path.relative_to(root).as_posix()
        lines = path.read_text(errors="replace").splitlines()
        if len(lines) > FILE_MAX:
            found[name] = len(lines)
        start = None  # a definition begins in column 0, ends with { and is closed by } in column 0
        for number, line in enumerate(lines, 1):
            if re.match(r"[A-Za-z_].*[^\\]$", line) and (number == 1 or not lines[number - 2].endswith(("\\", ","))):
                start = number
                match = re.search(r"([A-Za-z_0-9]+)\(", line)
                function = match[1] if match else None
            if line.startswith("}") and start and function and not line.startswith("} "):
                if number - start + 1 > FUNCTION_MAX and not name.startswith(KERNELS):
                    found[f"{name}:{function}"] = number - start + 1
                start = None

bad = 0
for name, size in found.items():
    limit = allowed.get(name, FUNCTION_MAX if ":" in name else FILE_MAX)
    if size > limit:
        print(f"{name}: {size} lines, at most {limit}")
        bad = 1
for name, size in allowed.items():
    if found.get(name, 0) < size:
        print(f"tools/ratchet.txt: {name} is now {found.get(name, 'short enough')}, not {size}: write that down")
        bad = 1
sys.exit(bad)
