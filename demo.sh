#!/usr/bin/env bash
# From a clone to an answer: installs what is missing, builds, fetches SmolLM2-135M-Instruct (98 MB) and asks it.
#   ./demo.sh ["another question"]
set -eu
cd "$(dirname "$0")"
question=${1:-Why is the sky blue?}

tools/setup.sh
mkdir -p build/log
echo "building (log: build/log/make.txt)" >&2
make -j"$(nproc)" >build/log/make.txt 2>&1 || {
  tail -n 20 build/log/make.txt >&2
  echo "error: the build failed; the whole log is in build/log/make.txt" >&2
  exit 1
}
echo "\$ build/flambeau run smollm2 \"$question\"" >&2
build/flambeau run smollm2 --temperature 0 --max-tokens 150 "$question"
