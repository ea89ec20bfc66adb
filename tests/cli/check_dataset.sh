#!/bin/bash
# dataset simulate and dataset check: same bytes for any thread count, order and count; interruption; every oddity named.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

expect 0 "simulate" "$kinema" dataset simulate -o a --count 12 --seed 5 -t 1
has out "a: 12 clips"
that "stdout holds one line" test "$(wc -l <out)" = 1
expect 0 "simulate with two threads" "$kinema" dataset simulate -o b --count 12 --seed 5 -t 2 -q
that "quiet is quiet" test ! -s out -a ! -s err
that "thread count does not change a byte" diff -r -x simulate.json a b
# many threads on few cores: the encoder must not look at how far its own threads are
for i in 1 2 3; do
    "$kinema" dataset simulate -o "crowd$i" --count 12 --seed 5 -t 16 -q &
done
wait
for i in 1 2 3; do
    that "nor do 48 threads at once, set $i" diff -r -x simulate.json a "crowd$i"
done
rm -rf crowd?
expect 0 "fewer clips" "$kinema" dataset simulate -o c --count 4 --seed 5 -q
for f in videos/000003.mp4 truth/000003.json; do
    that "clip 3 does not depend on the count" cmp a/$f c/$f
done
expect 0 "another seed" "$kinema" dataset simulate -o d --count 4 --seed 6 -q
that "another seed gives another clip" test "$(cmp -s c/videos/000000.mp4 d/videos/000000.mp4; echo $?)" = 1
expect 2 "a set is not overwritten" "$kinema" dataset simulate -o c --count 2
has err "--force"
expect 0 "unless asked" "$kinema" dataset simulate -o c --count 2 --force -q
that "settings are saved" grep -q '"count"' c/simulate.json
expect 0 "saved settings can be used" "$kinema" dataset simulate -c a/simulate.json -o e -q
that "and give the same set" diff -r -x simulate.json a e
expect 0 "size, rate and kinds" "$kinema" dataset simulate -o f --count 2 -W 48 -H 40 --frames 9 --fps 12 --kinds drop -q
expect 0 "check of it" "$kinema" dataset check f --strict
that "no leftovers" test -z "$(find a b c d e f -name '*.tmp*')"

for clip in a/videos/*.mp4; do
    that "$clip decodes in silence" test -z "$(ffmpeg -nostdin -v error -xerror -i "$clip" -f null - 2>&1)"
done

expect 0 "check" "$kinema" dataset check a --strict -q
has out "12 records, 12 usable; 0 fallbacks, 0 aliases, 0 drops"
expect 0 "check of the json itself" "$kinema" dataset check a/wisa.json -q

# odd records: each oddity is named with its record; strict refuses
sed -e '2s/"label":"[^"]*"/"label":"liquid objects appearance"/' \
    -e '3s/"q0":"rigid body motion"/"q0":"Rigid Body Motion."/' a/wisa.json >a/odd.json
rm a/videos/000007.mp4
truncate -s 700 a/videos/000005.mp4
expect 0 "tolerant check of an odd set" "$kinema" dataset check a/odd.json -q
has out "record 7 (videos/000007.mp4): drop"
has out "record 5 (videos/000005.mp4): drop"
has out "12 records, 10 usable"
expect 3 "strict check of an odd set" "$kinema" dataset check a/odd.json --strict -q
expect 3 "strict check of a set with a vanished clip" "$kinema" dataset check a --strict -q
has err "videos/00000"
echo '[{"file": "../x.mp4"}]' >bad.json
expect 3 "no usable record" "$kinema" dataset check bad.json -q

# an interrupted simulation leaves a usable set
"$kinema" dataset simulate -o g --count 100000 -q >out 2>err &
pid=$!
for _ in $(seq 600); do
    [ -e g/truth/000003.json ] && break
    sleep 0.1
done
kill -INT $pid
wait $pid
that "SIGINT ends with 130" test $? = 130
expect 0 "what it left is sound" "$kinema" dataset check g --strict -q

# class folders
if [ -f "${KINEMA_DATA:-}/cifar10.tar" ] && [ -z "${KINEMA_QUICK:-}" ]; then
    expect 0 "check of class folders in a tar" "$kinema" dataset check "$KINEMA_DATA/cifar10.tar" -q
    has out "12000 images, 12000 usable, 10 classes"
fi
if [ -f "${KINEMA_DATA:-}/wisa/wisa.json" ]; then
    expect 0 "check of published-style records" "$kinema" dataset check "$KINEMA_DATA/wisa" -q
    has out "6 records, 6 usable"
fi
finish
