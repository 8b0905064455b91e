#!/usr/bin/env bash
# tools/dist.sh VERSION BUILD: makes BUILD/dist/flambeau-VERSION-linux-ARCH.tar.gz of what was built, after proving
# that the program needs nothing but the C library.
set -eu
version=$1 build=$2
name=flambeau-$version-linux-$(uname -m)
tree=$build/dist/$name

needs() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
for library in $(needs "$build/flambeau"); do
  case $library in
    libc.so.6 | libm.so.6 | ld-linux*) ;;
    *)
      echo "error: the program must need libc and libm only, found $library; link it statically or open it at run time" >&2
      exit 1
      ;;
  esac
done

rm -rf "$tree"
mkdir -p "$tree/bin" "$tree/lib" "$tree/include" "$tree/examples"
install -m 755 "$build/flambeau" "$tree/bin/flambeau"
install -m 755 "$build/libflambeau.so" "$tree/lib/libflambeau.so.0"
install -m 644 "$build/libflambeau.a" "$tree/lib/libflambeau.a"
strip "$tree/bin/flambeau" && strip --strip-unneeded "$tree/lib/libflambeau.so.0" && strip --strip-debug "$tree/lib/libflambeau.a"
ln -s libflambeau.so.0 "$tree/lib/libflambeau.so"
install -m 644 include/flambeau.h include/fl_err.h "$tree/include/"
install -m 644 examples/hello.c "$tree/examples/"
install -m 644 README.md LICENSE "$tree/"
date=$(git log -1 --format=%ct 2>/dev/null || date +%s)
tar -C "$build/dist" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$date" -cf - "$name" | gzip -9n >"$tree.tar.gz"
echo "$tree.tar.gz"
