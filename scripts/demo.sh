#!/bin/sh
# From a fresh Debian 12 to a video: installs the packages, builds, and lets the bundled model make a clip.
#   scripts/demo.sh ["PROMPT" [OUTPUT]]
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
prompt=${1:-"a red ball falls and bounces on a gray floor"}
output=${2:-ball.mp4}
"$here/scripts/setup.sh"
"$here/scripts/build.sh" release
"$here/build/kinema" generate "$prompt" -o "$output" --seed 1
