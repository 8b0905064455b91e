#!/usr/bin/env python3
"""Speed of flambeau beside llama.cpp on the same files, interleaved in one run.

usage: bench/compare.py --flambeau build/flambeau --llama DIR [-r 5] [-t 2] MODEL.gguf ...

DIR holds llama-bench and llama-batched-bench, built on this machine for this CPU. Each round measures every
program once, one after the other, so that a change of the machine's speed hits all; the table shows medians and the
ratio of medians. llama.cpp runs with flash attention off and on, and its better median counts.
"""
import argparse
import json
import pathlib
import statistics
import subprocess


def flambeau(program, model, threads, what):
    out = subprocess.run([program, "bench", model, "-t", str(threads), "-r", "1", "--json", *what],
                         capture_output=True, text=True, check=True).stdout
    return {r["test"]: r["samples"][0] for r in json.loads(out)["results"]}


def llama_bench(folder, model, threads, attention):
    out = subprocess.run([folder / "llama-bench", "-m", model, "-t", str(threads), "-r", "1", "-p", "512", "-n", "128", "-fa", attention,
                          "-o", "json"], capture_output=True, text=True, check=True).stdout
    return {("pp512" if r["n_prompt"] else "tg128"): r["avg_ts"] for r in json.loads(out)}


def llama_batched(folder, model, threads, attention):
    out = subprocess.run([folder / "llama-batched-bench", "-m", model, "-t", str(threads), "-tb", str(threads), "-c", "4096", "-npp", "1",
                          "-ntg", "128", "-npl", "8", "-fa", attention, "--output-format", "jsonl"],
                         capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {"tg128xb8": rows[-1]["speed_tg"]}


def measure(args, model):
    samples = {}
    for _ in range(args.repeats):
        runs = {"flambeau": [flambeau(args.flambeau, model, args.threads, ["-p", "512", "-n", "128", "-b", "1,8"])]}
        for attention in "01":
            runs["llama.cpp -fa " + attention] = [llama_bench(args.llama, model, args.threads, attention),
                                                 llama_batched(args.llama, model, args.threads, attention)]
        for who, results in runs.items():
            for result in results:
                for test, value in result.items():
                    samples.setdefault(test, {}).setdefault(who, []).append(value)
    return samples


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--flambeau", default="build/flambeau")
    p.add_argument("--llama", type=pathlib.Path, required=True)
    p.add_argument("-r", "--repeats", type=int, default=5)
    p.add_argument("-t", "--threads", type=int, default=2)
    p.add_argument("models", nargs="+")
    args = p.parse_args()
    print("| model | test | flambeau tok/s (min-max) | llama.cpp tok/s (min-max) | ratio |\n|---|---|---|---|---|")
    for model in args.models:
        for test, who in measure(args, model).items():
            best = max((w for w in who if w != "flambeau"), key=lambda w: statistics.median(who[w]))
            ours, theirs = who["flambeau"], who[best]
            print(f"| {pathlib.Path(model).stem} | {test} | {statistics.median(ours):.1f} ({min(ours):.1f}-{max(ours):.1f}) | "
                  f"{statistics.median(theirs):.1f} ({min(theirs):.1f}-{max(theirs):.1f}), {best[10:]} | "
                  f"{statistics.median(ours) / statistics.median(theirs):.2f} |", flush=True)


if __name__ == "__main__":
    main()
