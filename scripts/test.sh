#!/bin/sh
# From a fresh Debian 12 to the result of the tests: installs the packages, builds and runs the fast suite.
#   scripts/test.sh [preset]     preset: release (default), asan, ubsan, asan-ubsan, clang
# Reference cases and real inputs beyond those in tests/ are used when KINEMA_GOLDEN and KINEMA_DATA name them.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
preset=${1:-release}
"$here/scripts/setup.sh"
"$here/scripts/build.sh" "$preset"
cd "$here"
# note: waiting threads that spin would steal the other test's core
export OMP_WAIT_POLICY=passive
ctest --preset "$preset" -L fast -j "$(nproc)"
