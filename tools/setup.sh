#!/bin/sh
# Installs what building and testing need and is missing: the one list of packages. Debian 12, as root or with sudo.
# Does nothing, and needs no network, when everything is there.
set -eu

packages="
  gcc libc6-dev binutils make
  libjansson-dev libpcre2-dev libutf8proc-dev zlib1g-dev libminizip-dev libevent-dev
  python3 python3-pip ca-certificates libcurl4
  clang clang-format
"

missing=
for p in $packages; do
  status=$(dpkg-query -W -f='${Status}' "$p" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "error: wanted apt-get to install$missing, found none; install them by hand and run this again" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "error: installing needs root, found neither root nor sudo; as root run: apt-get install$missing" >&2
    exit 1
  fi
  as_root=sudo
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -q >&2
# shellcheck disable=SC2086
$as_root apt-get install -q -y --no-install-recommends $missing >&2
