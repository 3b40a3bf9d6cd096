#!/bin/sh
# The programs that tests run for real: tests/programs.sh DIRECTORY. Where this is root on Debian, what is missing is installed; Prometheus
# is only unpacked into DIRECTORY, as its package would start a service that listens on every address. Elsewhere it is said what is missing.
set -eu
into=$1

missing=
for name in chromium prometheus promtool kcat; do
  command -v "$name" >/dev/null || [ -x "$into/$name" ] || missing="$missing $name"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "Not on PATH:$missing. Tests that run these are skipped; with CI=true they fail."
  exit 0
fi

echo "Installing programs that tests run (once: about a minute):$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
case $missing in
  *chromium* | *kcat*) apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core kcat >/dev/null ;;
esac
case $missing in
  *prom*)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    chmod 755 "$scratch"
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root prometheus)
    dpkg-deb --fsys-tarfile "$scratch"/prometheus_*.deb | tar -x -C "$into" --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool
    ;;
esac
