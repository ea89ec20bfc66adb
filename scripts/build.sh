#!/bin/sh
# Configures (when needed) and builds one preset: scripts/build.sh [preset], default release.
set -eu
cd "$(dirname "$0")/.."
preset=${1:-release}
case $preset in
release) dir=build ;;
*) dir=build-$preset ;;
esac
[ -f "$dir/build.ninja" ] || cmake --preset "$preset"
cmake --build "$dir"
