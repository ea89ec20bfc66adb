#!/bin/bash
# generate for class-conditional models: which class each image shows, same bytes for any batch and threads, NumPy
# archives, going on with an unfinished output, settings that differ, a second process, full disk. The model's weights
# are random; it draws noise. $2: the program random_model.
random_model=$(realpath "$2")
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive

# classes DIR N: the classes of the images 0..N-1, from their metadata
classes() {
    for ((i = 0; i < $2; i++)); do
        grep -aoP 'class\0\K\d+' "$1/$(printf %06d $i).png" | tr '\n' ' '
    done
}

# same A B WHAT: the folders hold the same, but for threads, batch and who gave each value in the record
same() {
    for d in "$1" "$2"; do
        sed -e '/"from":/,/}/d' -e '/"threads"/d' -e '/"batch"/d' "$d/generate.json" >"$d.record"
    done
    that "$3" diff -rq --exclude=generate.json "$1" "$2"
    that "$3: record" cmp "$1.record" "$2.record"
}

expect 0 "a model with random weights" "$random_model" "$here/tiny-dit.json" m f32
gen=("$kinema" generate -m m --steps 2)
other=("$kinema" generate -m m --steps 3 --seed 4)
expect 0 "a batch of images" "${gen[@]}" --count 24 -b 5 -o "a/%06d.png"
has out "a/%06d.png: 24 images 8x8, seed 0, 24 made"
has err "24/24 images"
has err "images/s"
that "24 files and the record" test "$(find a -type f | wc -l)" = 25
for t in 1 2; do
    expect 0 "other batch, $t threads" "${gen[@]}" --count 24 -b $((7 * t)) -t $t -o "b$t/%06d.png" -q
    that "quiet is quiet" test ! -s out -a ! -s err
    same a b$t "batch $((7 * t)) with $t threads"
done
expect 0 "from the record" "$kinema" generate -c a/generate.json -o "c/%06d.png" -q
same a c "settings from the record"
drawn=$(classes a 24)
that "classes are drawn" test "$(tr ' ' '\n' <<<"$drawn" | sort -nu | grep -c .)" -ge 5
expect 0 "other seed" "${gen[@]}" --count 24 --seed 1 -b 24 -o "s/%06d.png" -q
that "other seed, other classes" test "$(classes s 24)" != "$drawn"

expect 0 "classes in turn" "${gen[@]}" --class 1,5,7-9 --balanced --count 7 -b 2 -o "turn/%06d.png" -q
that "1 5 7 8 9 1 5" test "$(classes turn 7)" = "1 5 7 8 9 1 5 "
expect 0 "one class" "${gen[@]}" --class 3 --count 3 -o "three/%06d.png" -q
that "3 3 3" test "$(classes three 3)" = "3 3 3 "
printf '4\n\n 2 \r\n9\n' >labels.txt
expect 0 "classes from a file" "${gen[@]}" --class-file labels.txt -o "file/%06d.png" -q
that "as many images as lines" test "$(classes file 4 2>/dev/null)" = "4 2 9 "
expect 0 "fewer than lines" "${gen[@]}" --class-file labels.txt --count 2 -o "two/%06d.png" -q
that "the first two" test "$(classes two 3 2>/dev/null)" = "4 2 "
expect 2 "file and list" "${gen[@]}" --class-file labels.txt --class 3 -o x.png
expect 3 "no such file" "${gen[@]}" --class-file none.txt -o x.png
printf '4\nx\n' >bad.txt
expect 3 "bad file" "${gen[@]}" --class-file bad.txt -o "x/%d.png"
has err "bad.txt: line 2: class 'x'"
expect 2 "class out of range" "${gen[@]}" --class 0-10 -o x.png
has err "class 10 must lie in 0 to 9"
expect 2 "no such class" "${gen[@]}" --class ball -o x.png
sed -i 's/"vae"/"id2label": {"2": "bird", "3": "cat", "8": "ship, steam boat", "9": "truck"}, "vae"/' m/model_index.json
expect 0 "classes by name" "${gen[@]}" --class "truck,2,cat" --balanced --count 3 -o "names/%06d.png" -q
that "9 2 3" test "$(classes names 3)" = "9 2 3 "
expect 0 "one of two names" "${gen[@]}" --class "steam boat" -o "comma/%06d.png" -q
that "8" test "$(classes comma 1)" = "8 "
expect 2 "a name misspelt" "${gen[@]}" --class trucc -o x.png
has err "did you mean 'truck'?"
expect 0 "names survive a conversion" "$kinema" convert m -o m2 --dtype f32
that "in the index" grep -q '"ship, steam boat"' m2/model_index.json

# going on
expect 0 "nothing to do" "${gen[@]}" --count 24 -o "a/%06d.png"
has out "0 made"
cp -r a d
rm d/000003.png d/000020.png
truncate -s 100 d/000007.png
: >d/000011.png.tmp.1
expect 0 "what is missing" "${gen[@]}" --count 24 -b 3 -o "d/%06d.png"
has out "3 made"
has err "21 of 24 are there"
same a d "completed"
expect 0 "more of them" "${gen[@]}" --count 30 -b 4 -o "d/%06d.png"
has out "6 made"
expect 2 "other settings" "${other[@]}" --count 24 -o "a/%06d.png"
has err "a/generate.json is of a run with other settings: steps was 2, now 3; seed was 0, now 4"
expect 2 "another pattern" "${gen[@]}" --count 24 -o "a/%05d.png"
has err "output was"
expect 0 "started over" "${other[@]}" --count 6 -o "d/%06d.png" --force
that "nothing of the old run is left" test "$(find d -name '*.png' | wc -l)" = 6
mkdir e
cp a/000001.png e/000004.png
expect 2 "files of no known run" "${gen[@]}" --count 24 -o "e/%06d.png"
has err "e/000004.png is there"
that "nothing was written" test "$(find e -type f | wc -l)" = 1
expect 0 "forced" "${gen[@]}" --count 24 -o "e/%06d.png" --force -q
same a e "forced"
echo '{' >e/generate.json
expect 3 "a damaged record" "${gen[@]}" --count 24 -o "e/%06d.png"
expect 0 "forced again" "${gen[@]}" --count 24 -o "e/%06d.png" --force -q

# archives: the arrays by their bytes; a zip reader of the system, if there is one, agrees
expect 0 "archive" "${gen[@]}" --count 24 -b 5 --npz a.npz
has out "a.npz: 24 images 8x8"
that "nothing beside it" test "$(echo a.npz*)" = "a.npz a.npz.json"
expect 0 "the same by -o" "${gen[@]}" --count 24 -b 24 -t 1 -o b.npz -q
that "same bytes" cmp a.npz b.npz
that "shape of the images" grep -qaF "'|u1', 'fortran_order': False, 'shape': (24, 8, 8, 3), }" a.npz
that "shape of the labels" grep -qaF "'<i8', 'fortran_order': False, 'shape': (24,), }" a.npz
# image k begins behind the local header (59 bytes) and the array's header (128)
ffmpeg -v error -i a/000017.png -f rawvideo -pix_fmt rgb24 raw.rgb </dev/null
that "image 17" cmp raw.rgb <(tail -c +$((59 + 128 + 17 * 192 + 1)) a.npz | head -c 192)
labels=$(tail -c +$((59 + 128 + 24 * 192 + 59 + 128 + 1)) a.npz | head -c 192 | od -An -v -tu8 | tr -s ' \n' ' ')
that "the labels" test "$labels" = " $drawn"
command -v unzip >/dev/null && that "unzip reads it" unzip -tq a.npz
expect 0 "nothing to do" "${gen[@]}" --count 24 --npz a.npz
has out "0 made"
expect 2 "another number" "${gen[@]}" --count 25 --npz a.npz
has err "count was 24, now 25"
expect 0 "forced" "${gen[@]}" --count 25 --npz a.npz --force -q
expect 2 "both outputs" "${gen[@]}" --npz a.npz -o x.png
expect 2 "two frames" "${gen[@]}" --npz x.npz --frames 2

# memory: the plan holds the process of a run; a sanitizer's own memory would count too
expect 0 "dry run" "${gen[@]}" --count 300 -b 100 -o "p/%06d.png" --dry-run
that "a dry run writes nothing" test ! -e p
planned=$(grep -o '[0-9]* bytes' out | cut -d' ' -f1)
ldd "$kinema" >libraries
if ! grep -q asan libraries && [ -n "${KIN_PEAK:-}" ]; then
    peak=$("$KIN_PEAK" "${gen[@]}" --count 300 -b 100 -o "p/%06d.png" -q)
    that "planned $planned bytes hold $peak" test "$planned" -ge "$peak" -a $((planned * 5)) -le $((peak * 6))
fi

# a signal leaves whole images, and the same command goes on; meanwhile no second process gets in
long=("$kinema" generate -m m --steps 60)
"${long[@]}" --count 5000 -b 2 -o "k/%06d.png" >out 2>err &
pid=$!
for _ in $(seq 600); do
    [ -e k/000010.png ] && break
    sleep 0.1
done
expect 1 "a second process" "${long[@]}" --count 5000 -b 2 -o "k/%06d.png" -q
has err "process $pid is writing this output"
kill -INT $pid
wait $pid
that "SIGINT ends it with 130" test $? = 130
that "no half image is left" test -z "$(find k -name '*.tmp*')"
n=$(find k -name '*.png' | wc -l)
that "$n images are there" test "$n" -ge 11
that "without gaps" test -e "k/$(printf %06d $((n - 1))).png"
expect 0 "it goes on" "${long[@]}" --count $((n + 5)) -b 4 -o "k/%06d.png"
has out "5 made"
expect 0 "the same at once" "${long[@]}" --count $((n + 5)) -b 9 -o "l/%06d.png" -q
that "same images" diff -rq --exclude=generate.json k l

# a folder that cannot be written, a file system that is full
expect 1 "no such place" "${gen[@]}" --count 3 -o "/proc/%06d.png" -q
expect 1 "no such place for an archive" "${gen[@]}" --count 3 --npz /proc/x.npz -q
mkdir full
# a small file system where that is allowed, else a limit on the size of files
if mount -t tmpfs -o size=32k none full 2>/dev/null; then
    trap 'umount "$work/full"; rm -rf "$work"' EXIT
    expect 1 "full disk" "${gen[@]}" --count 500 -b 4 -o "full/%06d.png" -q
    has err "No space left on device"
    n=$(find full -name '*.png' | wc -l)
    that "images until then" test "$n" -ge 2
    that "no half image is left" test -z "$(find full -name '*.tmp*')"
    for f in full/*.png; do
        that "$f is as it should be" cmp "$f" "${f/full/a}"
    done
    rm full/*
    expect 1 "full disk, archive" "${gen[@]}" --count 500 -b 4 --npz full/x.npz -q
    has err "No space left on device"
    that "no archive appears" test ! -e full/x.npz
    umount full
    trap 'rm -rf "$work"' EXIT
else
    limited() (
        trap '' XFSZ
        ulimit -f 8
        "$@"
    )
    expect 1 "limit of file size, archive" limited "${gen[@]}" --count 500 -b 4 --npz full/x.npz -q
    has err "File too large"
    that "no archive appears" test ! -e full/x.npz
    expect 0 "it goes on without the limit" "${gen[@]}" --count 500 -b 50 --npz full/x.npz
fi
finish
