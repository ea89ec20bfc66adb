#!/bin/sh
# Installs the Debian 12 packages that kinema needs. Works as root without a terminal and as a normal user
# with sudo; does nothing (and asks for nothing) when all of them are there.
#   scripts/setup.sh         what the build and the tests need
#   scripts/setup.sh --dev   also clang, clang-format and shellcheck, as CI uses them
set -eu

packages="
build-essential cmake ninja-build pkg-config
libavcodec-dev libavformat-dev libswscale-dev libavutil-dev
libpng-dev libsixel-dev zlib1g-dev libcjson-dev libcairo2-dev chipmunk-dev librandom123-dev
libsentencepiece-dev libutf8proc-dev libgumbo-dev libdnnl-dev liblapacke-dev libopenblas-serial-dev libzip-dev
libcmocka-dev ffmpeg groff-base zsh fish"
dev_packages="clang libclang-rt-14-dev libomp-dev clang-format"

case "${1:-}" in
"") ;;
--dev) packages="$packages $dev_packages" ;;
--list)
    # shellcheck disable=SC2086
    printf '%s\n' $packages
    exit 0
    ;;
*)
    echo "setup: unknown argument '$1' (only --dev or --list)" >&2
    exit 2
    ;;
esac

missing=""
for p in $packages; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: not root and no sudo; as root run: apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi

echo "setup: installing$missing" >&2
# note: sudo drops the environment, so the variable is set again behind it
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >&2
