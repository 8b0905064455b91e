#!/usr/bin/env python3
"""Prints the table of docs/models.md from what tests/e2e/test_families.py recorded: models_table.py [build/families.json]."""
import json
import pathlib
import sys

path = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/families.json")
print("| checkpoint | container | tokens compared | largest difference of a logit | greedy tokens, all equal | date |")
print("|---|---|---|---|---|---|")
for r in sorted(json.loads(path.read_text()), key=lambda r: (r["family"], r["container"])):
    print(f"| {r['family']} | {r['container']} | {r['tokens']} | {r['difference']:.1e} | {r['greedy'] or '-'} | {r['date']} |")
