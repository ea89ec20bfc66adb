#!/bin/bash
# Makes the Debian package, installs it in a bare Debian 12 of its own and uses it there: a clip, the manual page, a
# program built against the library. Needs root and debootstrap; nothing outside its folder is touched.
#   scripts/check-package.sh [BUILD-FOLDER [MIRROR]]     default: build/, the mirror that apt uses here
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(realpath "${1:-$root/build}")
mirror=${2:-$(apt-get indextargets --format '$(REPO_URI)' | head -1)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$build" && cpack -B "$work" >/dev/null)
deb=$(find "$work" -maxdepth 1 -name 'kinema_*.deb')
dpkg-deb -f "$deb" Package Version Architecture Depends

debian=$work/debian
debootstrap --variant=minbase bookworm "$debian" "$mirror" >"$work/log" 2>&1 || {
    tail "$work/log" >&2
    exit 1
}
cp "$deb" "$debian/root/kinema.deb"
cp "$root"/examples/*.c "$debian/root/"
inside() { chroot "$debian" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive OMP_WAIT_POLICY=passive "$@"; }
inside apt-get install -y -qq --no-install-recommends /root/kinema.deb >"$work/log" 2>&1 || {
    tail "$work/log" >&2
    exit 1
}
inside kinema --version
inside kinema generate "a red ball falls and bounces on a gray floor" -o /root/ball.mp4
cmp <(head -c 8 "$debian/root/ball.mp4" | tail -c 4) <(printf ftyp)
test -s "$debian/usr/share/man/man1/kinema-generate.1" -o -s "$debian/usr/share/man/man1/kinema-generate.1.gz"
# and a program against the library
inside apt-get install -y -qq --no-install-recommends gcc libc6-dev pkg-config >"$work/log" 2>&1
inside sh -c 'cd /root && cc generate.c $(pkg-config --cflags --libs kinema) -o generate &&
    ./generate $(pkg-config --variable=bundled_model kinema) "a blue ball rolls down a ramp" x.mp4 2>/dev/null && ls -s x.mp4'
inside dpkg --remove kinema >/dev/null
test ! -e "$debian/usr/bin/kinema"
echo "check-package: $(basename "$deb") installs, runs, is built against and goes away in a bare Debian 12"
