#!/bin/bash
# plot: the curves of a run's log and of reports beside it; logs that are cut, damaged or empty.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
log=$here/../../docs/bundled/log.jsonl

size() { # FILE: width and height of a PNG
    od -An -tu4 --endian=big -j 16 -N 8 "$1" | tr -s ' '
}
mkdir run
cp "$log" run/log.jsonl
expect 0 "the log of the bundled model" "$kinema" plot run
has out "plot.png: 8 panels" # loss, its parts, gradient, rate, three blocks of experts, noise levels
that "four rows of two" test "$(size plot.png)" = " 1000 1034"
expect 0 "as SVG" "$kinema" plot run -o x.svg -W 600 -q
that "quiet" test ! -s out
expect 0 "again" "$kinema" plot run -o y.svg -W 600 -q
that "same bytes" cmp x.svg y.svg
that "600 wide" grep -q 'width="600' x.svg

report() { # ERROR
    printf '{"suite": "physics", "generated": {"total": {"velocity_error_median": %s, "period_error_median": null}}}' "$1"
}
report 0.5 >run/physics-100.json
report 0.1 >run/physics-1000.json
echo "not this one" >run/physics-1000.json.bak
expect 0 "with reports of evaluate" "$kinema" plot run -o laws.png
has out "laws.png: 9 panels"
printf '{"suite": "loss"}' >run/physics-7.json
expect 3 "another report" "$kinema" plot run
has err "physics-7.json: is no report"
rm run/physics-*

# the last line of a run that goes on
head -c 5000 "$log" >run/log.jsonl
expect 0 "an unfinished line" "$kinema" plot run -o part.png
has out "part.png: 8 panels"
{ head -3 "$log"; echo '{"step": 4,'; tail -3 "$log"; } >run/log.jsonl
expect 3 "a damaged line" "$kinema" plot run
has err "log.jsonl line 4"
: >run/log.jsonl
expect 3 "an empty log" "$kinema" plot run
has err "holds no step yet"
rm run/log.jsonl
expect 3 "no log" "$kinema" plot run
expect 3 "no run" "$kinema" plot nothing
expect 2 "no argument" "$kinema" plot
cp "$log" run
expect 2 "another kind of file" "$kinema" plot run -o x.jpg
expect 1 "a folder that is not there" "$kinema" plot run -o none/x.png
that "no leftovers" test -z "$(find . -name '*.tmp*')"
finish
