#!/usr/bin/env bash
# Sets up, builds and runs every test: unit tests, end-to-end tests, the checks of `make check`.
# The last line is `N passed, N failed, N skipped`; the exit code is 0 when none failed.
#   ./test.sh            everything
#   ./test.sh WORD       only test programs and end-to-end files whose name contains WORD
set -u
cd "$(dirname "$0")" || exit 1
word=${1:-}
passed=0 failed=0 skipped=0

# Adds up the last counting line of a log; a program that dies before it counts as one failure.
add_log() {  # name, log, exit code
  local line
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$2" | tail -n 1)
  if [ -z "$line" ]; then
    echo "FAILED $1: ended with exit code $3 before counting its tests"
    failed=$((failed + 1))
    return
  fi
  # shellcheck disable=SC2086
  set -- "$1" "$2" "$3" $line
  passed=$((passed + $4)) failed=$((failed + $6)) skipped=$((skipped + $8))
  if [ "$3" != 0 ] && [ "$6" = 0 ]; then
    echo "FAILED $1: exit code $3 after its tests"
    failed=$((failed + 1))
  fi
}

run() {  # name, seconds, command...
  local name=$1 limit=$2 log code
  shift 2
  log=build/log/$(echo "$name" | tr / -).txt
  timeout -k 10 "$limit" "$@" </dev/null >"$log" 2>&1
  code=$?
  [ $code = 0 ] && grep -E '^skipped' "$log" | sed "s|^|$name: |"
  [ $code = 0 ] || { echo "== $name"; tail -n 60 "$log"; }
  add_log "$name" "$log" $code
}

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] || exit 1
  exit 0
}

mkdir -p build/log
if ! tools/setup.sh || ! make -j"$(nproc)" test-programs >build/log/make.txt 2>&1; then
  tail -n 40 build/log/make.txt 2>/dev/null
  echo "FAILED build"
  failed=1
  finish
fi

for source in tests/unit/*/*_test.c; do
  name=${source#tests/unit/} name=${name%.c}
  case $name in *"$word"*) run "$name" 300 "build/tests/$name" ;; esac
done
for file in tests/e2e/test_*.py; do
  name=e2e/$(basename "$file" .py)
  case $name in *"$word"*) run "$name" 600 python3 -B tests/e2e/run.py "$file" ;; esac
done
if [ -z "$word" ]; then
  if make -s check >build/log/check.txt 2>&1; then
    passed=$((passed + 1))
  else
    echo "== make check"
    cat build/log/check.txt
    failed=$((failed + 1))
  fi
fi
finish
