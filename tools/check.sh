#!/usr/bin/env bash
# What a script can see of STYLE: floors, formatting, names, sizes, banned functions, headers that stand alone.
# Prints each finding; exit code 1 if there is any.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
report() { echo "check: $*"; bad=1; }

python3 -B tools/check_layers.py || report "a folder includes one that tools/layers.txt does not allow"
python3 -B tools/check_sizes.py || report "functions or files are too long (tools/ratchet.txt may only shrink)"

mapfile -t sources < <(find src include tests examples -name '*.[ch]' | LC_ALL=C sort)
version=$(clang-format --version | grep -oE '[0-9]+' | head -n 1)
if [ "$version" = 14 ]; then
  clang-format --dry-run -Werror "${sources[@]}" 2>&1 | grep -E 'error:' | cut -d: -f1 | sort | uniq -c
  [ "${PIPESTATUS[0]}" = 0 ] || report "formatting: run make format"
else
  echo "check: formatting not looked at: wanted clang-format 14, found $version"
fi

# Memory comes from base/mem.h, failures are values, and no call may overrun or guess.
banned='(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof|alloca|system|popen|rand|srand|malloc|calloc|realloc|free|strdup|strndup|asprintf|assert|abort|exit)'
hits=$(grep -nE "(^|[^A-Za-z0-9_.>])$banned\(" $(find src examples -name '*.[ch]' ! -path src/base/mem.c ! -path src/base/assert.c))
[ -z "$hits" ] || { echo "$hits"; report "banned functions"; }
hits=$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' "${sources[@]}")
[ -z "$hits" ] || { echo "$hits"; report "unfinished marks"; }
hits=$(grep -nE '^typedef .*_t;|^} [a-z_]+_t;' $(find src include -name '*.[ch]'))
[ -z "$hits" ] || { echo "$hits"; report "types end in _t"; }

for header in $(find src include -name '*.h' | LC_ALL=C sort); do
  ${CC:-gcc} -std=c17 -D_GNU_SOURCE -Iinclude -Isrc -fsyntax-only -x c "$header" 2>&1 | grep -m1 error: && report "$header does not compile alone"
done

if [ -e build/libflambeau.so ]; then
  hits=$(nm -D --defined-only build/libflambeau.so | awk '$2 != "A" && $3 !~ /^fl_/ {print $3}')
  [ -z "$hits" ] || { echo "$hits"; report "libflambeau.so exports names without fl_"; }
  hits=$(grep -oE '\bfl_[a-z0-9_]+\(' include/flambeau.h | tr -d '(' | sort -u | while read -r f; do
    nm -D --defined-only build/libflambeau.so | grep -q " $f\$" || echo "$f"
  done)
  [ -z "$hits" ] || { echo "$hits"; report "declared in flambeau.h, not exported"; }
fi
exit $bad
