#!/bin/bash
# What the flag table becomes: manual pages that man reads without complaint, completions that answer in their shells.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

expect 0 "--write-help" "$kinema" --write-help help
that "and nothing is said" test ! -s out -a ! -s err
expect 1 "--write-help where nothing can be written" "$kinema" --write-help /proc/nowhere

# every page, and in it every flag of the verb
verbs=$("$kinema" --help | sed -n 's/^  \([a-z][a-z ]*[a-z]\)  .*/\1/p')
that "as many pages as verbs, and one" test "$(find help/man1 -name '*.1' | wc -l)" = $(($(wc -l <<<"$verbs") + 1))
for page in help/man1/*.1; do
    groff -man -Tutf8 -ww -z "$page" >out 2>err
    that "$page without warnings" test ! -s err
done
# a page as text without bold and underlining
plain() { groff -man -Tascii -rLL=200n -P-cbou "$1"; }
while read -r verb; do
    # shellcheck disable=SC2086
    "$kinema" $verb --help >out 2>err </dev/null
    plain "help/man1/kinema-${verb// /-}.1" >page
    for flag in $(grep -o '^ *\(-., \)*--[a-z-]*' out | grep -o -- '--.*'); do
        grep -q -- "^ *\(-., \)*$flag\( \|$\)" page || that "$flag in the page of $verb" false
    done
done <<<"$verbs"
plain help/man1/kinema.1 >page
has page "kinema-dataset-simulate"
has page "kinema generate -m MODEL --class 0-9 --count 50000 -o out/%06d.png"
has page "kinema/config.json"

# the examples of the pages: N-th of PAGE
example() { awk -v n="$2" '/^\.EX/ {i++; p = 1; next} /^\.EE/ {p = 0} p && i == n' "help/man1/$1.1" | sed 's/\\-/-/g; s/\\(S3/³/'; }
example kinema-train 1 >train.json
example kinema-train 2 >images.json
example kinema-train 3 | sed 's/"model"/"run"/' >tune.json
expect 0 "clips" "$kinema" dataset simulate -o clips --count 6 -q
expect 0 "the configuration of the page" "$kinema" train -c train.json --data clips -o run --steps 1 -q
expect 0 "the one that goes on" "$kinema" train -c tune.json --data clips -o tuned --steps 1 -q
for class in 0 1 2 3 4 5 6 7 8 9; do
    expect 0 "pictures" "$kinema" generate "a red ball" -m run --steps 1 --allow-flat --seed $class -o "pictures/$class/%02d.png" -q
done
expect 0 "the one of images" "$kinema" train -c images.json --data pictures -o drawn --steps 1 -q
echo '{"num_heads": 4}' >heads.json
expect 0 "its checkpoint" "$kinema" convert drawn -o checkpoint.pth --dtype f32
expect 0 "and back" "$kinema" convert checkpoint.pth -c heads.json -o back --dtype f32
example kinema-generate 5 >physics.json
expect 0 "the physics of the page" "$kinema" generate "a ball" -m run --physics physics.json --steps 1 --allow-flat -o x.mp4
has err "physics: collision, rigid body motion"
that "nothing in it is left out" test "$(grep -c 'physics: [nq][0-4]:' err)" = 0
sed 's/rigid body motion, collision/gravity/' physics.json >odd.json
expect 0 "a word that nobody knows" "$kinema" generate "a ball" -m run --physics odd.json --steps 1 --allow-flat -o odd.mp4
has err 'physics: q0: no known category in "gravity"'
sed 's/, collision/, colision/' physics.json >odd.json
expect 0 "one beside a word that is known" "$kinema" generate "a ball" -m run --physics odd.json --steps 1 --allow-flat -o odd.mp4
has err 'physics: q0: no known category in "colision"'
mkdir -p own/videos
cp clips/videos/000000.mp4 own/videos/0.mp4
example kinema-train 4 >own/wisa.json
expect 0 "the set of the page" "$kinema" dataset check own
that "nothing in it is dropped" test "$(grep -c ': drop:' out)" = 0

# bash: the words offered behind what is typed so far
bash_offers() {
    bash -c '. help/bash/kinema; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kinema; printf "%s\n" "${COMPREPLY[@]}"' _ "$@" >out
}
fish_offers() {
    fish --no-config -c "source help/fish/kinema.fish; complete -C '$*'" 2>err | cut -f1 >out
    [ ! -s err ] || that "fish has nothing to say: $(head -1 err)" false
}
# zsh in a terminal of its own: typed, Tab pressed twice, until WANT is on the screen
zsh_completes() { # WANT TYPED
    cat >z.zsh <<'SCRIPT'
zmodload zsh/zpty
zpty -b z "zsh -f -i"
zpty -w z "PS1=; fpath=(help/zsh \$fpath); autoload -U compinit; compinit -D; print rea''dy"
wait_for() { local all= part; until [[ $all == *$1* ]]; do zpty -r -t z part && all+=$part || sleep 0.05; done }
wait_for ready
zpty -w -n z "$2"$'\t\t'
wait_for $1
SCRIPT
    timeout 60 zsh -f z.zsh "$1" "$2" 2>err
}
for shell in bash fish; do
    "${shell}_offers" kinema ge
    has out generate
    "${shell}_offers" kinema dataset ""
    has out simulate
    "${shell}_offers" kinema generate --cfg-m
    has out --cfg-mode
    "${shell}_offers" kinema generate --cfg-mode ""
    has out multi
    "${shell}_offers" kinema dataset simulate --fps-j
    has out --fps-jitter
    "${shell}_offers" kinema dataset check --fps-j
    that "$shell: no flag of another verb" test "$(grep -c fps-jitter out)" = 0
    "${shell}_offers" kinema bench --cal
    has out --calibrate
    "${shell}_offers" kinema bench ops --filt
    has out --filter
done
that "zsh: verbs" zsh_completes generate "kinema ge"
that "zsh: second words" zsh_completes simulate "kinema dataset "
that "zsh: flags" zsh_completes --cfg-mode "kinema generate --cfg-m"
that "zsh: choices" zsh_completes multi "kinema generate --cfg-mode "
that "zsh: flags of two words" zsh_completes --fps-jitter "kinema dataset simulate --fps-j"
finish
