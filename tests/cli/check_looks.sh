#!/bin/bash
# Ways to look at clips: every kind of file, sheets, video on standard output, a reader that goes away, going on.
random_model=$(realpath "$2")
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive
clip=("$kinema" generate "a red ball falls" --steps 3 --allow-flat --seed 4)

size() { # FILE: width and height of a PNG
    od -An -tu4 --endian=big -j 16 -N 8 "$1" | tr -s ' '
}
pixels() { # FILE: its frames as RGB
    ffmpeg -v error -i "$1" -f rawvideo -pix_fmt rgb24 - | cksum
}

for kind in mp4 y4m gif apng; do
    expect 0 "$kind" "${clip[@]}" -o a.$kind
    has out "a.$kind: 16 frames 32x32"
    that "$kind has 16 frames" test "$(ffprobe -v error -count_frames -select_streams v -show_entries \
        stream=nb_read_frames -of default=nk=1:nw=1 a.$kind)" = 16
done
expect 0 "an animated PNG" "${clip[@]}" -o a.png --animated -q
that "it is the APNG" cmp a.png a.apng
expect 0 "the frames side by side" "${clip[@]}" -o strip.png -q
that "APNG keeps every pixel" test "$(pixels a.apng)" = "$(ffmpeg -v error -i strip.png -vf untile=16x1 \
    -f rawvideo -pix_fmt rgb24 - | cksum)"

# standard output
"${clip[@]}" -o - >piped.y4m 2>err
that "video on standard output" cmp piped.y4m a.y4m
has err "16 frames 32x32"
that "no settings file for it" test -z "$(find . -name '-*')"
"${clip[@]}" -o - -q 2>err | true
that "a reader that goes away: exit code 1" test "${PIPESTATUS[0]}" = 1
has err "standard output: Broken pipe"
if [ -w /dev/full ]; then
    "${clip[@]}" -o - -q >/dev/full 2>err
    that "a full disk behind the pipe" test $? = 1
    has err "No space left"
fi
expect 2 "several clips on standard output" "${clip[@]}" --count 2 -o -
expect 2 "standard output is a terminal" script -qec "'$kinema' generate x -o - -q" /dev/null

# previews: on standard error alone, only on terminals unless asked for
expect 0 "no terminal, no preview" "${clip[@]}" -o a.mp4
that "no escape sequences" test -z "$(tr -cd '\033' <err)"
expect 0 "a preview that is asked for" "${clip[@]}" -o a.mp4 --preview kitty
that "it is on standard error" test "$(tr -cd '\033' <err | wc -c)" -gt 2 -a -z "$(tr -cd '\033' <out)"
expect 0 "quiet" "${clip[@]}" -o a.mp4 --preview kitty -q
that "quiet is quiet" test ! -s err
terminal() { # VARIABLE=VALUE...: what a terminal gets
    env -u NO_COLOR -u TMUX -u KITTY_WINDOW_ID -u TERM_PROGRAM "$@" \
        script -qec "'$kinema' generate 'a red ball falls' --steps 3 --allow-flat -o a.mp4" /dev/null </dev/null >out 2>err
}
terminal TERM=xterm-256color
has out "▀"
terminal TERM=xterm-kitty
has out "a=T,q=2,f=24"
terminal TERM=foot
that "sixels" grep -qa $'\033P' out
terminal TERM=xterm-256color NO_COLOR=1
that "without colour no picture" test "$(grep -ca "▀" out)" = 0

# sheets
expect 0 "a sheet of frames" "${clip[@]}" -o sheet.png --grid 4x4 -q
that "4 x 4 frames" test "$(size sheet.png)" = " 128 128"
expect 0 "fewer cells than frames" "${clip[@]}" -o three.png --grid 3x1 -q
that "3 frames" test "$(size three.png)" = " 96 32"
frame() { ffmpeg -v error -i "$1" -vf "crop=32:32:$2:0" -f rawvideo -pix_fmt rgb24 - | cksum; }
for pair in 0:0 1:8 2:15; do
    that "cell ${pair%:*} is frame ${pair#*:}" test "$(frame three.png $((32 * ${pair%:*})))" = \
        "$(frame strip.png $((32 * ${pair#*:})))"
done
expect 0 "a sheet per clip" "${clip[@]}" --count 3 -o "s/%d.png" --grid 4x4 -q
that "three sheets" test "$(size s/2.png)" = " 128 128"
rm s/1.png
expect 0 "the missing one is made" "${clip[@]}" --count 3 -o "s/%d.png" --grid 4x4
has err "2 of 3 are there"
for name in x.mp4 x.npz; do
    expect 2 "a grid in $name" "${clip[@]}" -o $name --grid 4x4
done
for grid in 4 0x4 4x 4x4x 300x1 axb; do
    expect 2 "grid $grid" "${clip[@]}" -o x.png --grid $grid
done
expect 2 "one sheet for several clips" "${clip[@]}" --count 2 -o x.png --grid 4x4
has err "needs a number"
expect 2 "both looks" "${clip[@]}" -o x.png --grid 4x4 --animated
expect 2 "an animated MP4" "${clip[@]}" -o x.mp4 --animated
expect 2 "a GIF of 60 frames a second" "${clip[@]}" -o x.gif --fps 60
that "no leftovers" test -z "$(find . -name '*.tmp*' -o -name 'x.*')"

# images of a batch
expect 0 "a model of images" "$random_model" "$here/tiny-dit.json" m f32
img=("$kinema" generate -m m --steps 2)
expect 0 "a sheet of images" "${img[@]}" --count 6 -o images.png --grid 3x2
has out "images.png: 6 images 8x8"
that "3 x 2 images" test "$(size images.png)" = " 24 16"
expect 0 "another batch" "${img[@]}" --count 6 -b 4 -t 1 -o images2.png --grid 3x2 -q
that "same pixels" test "$(pixels images.png)" = "$(pixels images2.png)"
expect 0 "the images alone" "${img[@]}" --count 6 -o "i/%d.png" -q
that "cell 4 is image 4" test "$(ffmpeg -v error -i images.png -vf crop=8:8:8:8 -f rawvideo -pix_fmt rgb24 - | cksum)" = \
    "$(pixels i/4.png)"
expect 2 "more images than cells" "${img[@]}" --count 7 -o x.png --grid 3x2
expect 2 "a sheet of images with a number" "${img[@]}" --count 6 -o "x%d.png" --grid 3x2

# a series of another kind goes on
expect 0 "three GIFs" "${clip[@]}" --count 3 -o "g/%d.gif" -q
cp g/1.gif one.gif
rm g/1.gif
echo damaged >g/2.gif
expect 0 "what is missing or damaged is made" "${clip[@]}" --count 3 -o "g/%d.gif"
has err "1 of 3 are there"
that "with the same bytes" cmp one.gif g/1.gif
finish
