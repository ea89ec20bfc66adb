#!/bin/bash
# generate --prompts: jobs from a file and from standard input, what a line may say, kills at random moments, going on,
# jobs that fail. $2: kills.
kills=$2
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
export OMP_WAIT_POLICY=passive
RANDOM=${KIN_SEED:-7}
gen=("$kinema" generate --allow-flat)

cat >jobs.txt <<'END'
# three plain prompts, three with settings of their own

a red ball falls
  a "green" ball bounces on the floor, 100% -- \n
{"prompt": "a blue ball rolls", "seed": 5, "steps": 2}
{"prompt": "a blue ball rolls", "seed": 5, "steps": 2, "output": "own/roll.gif"}
{"prompt": "a red ball falls", "count": 2, "output": "two-%d.png", "grid": "2x2"}
a ball
END
mkdir whole one
(cd whole && expect 0 "a file of jobs" "${gen[@]}" --prompts ../jobs.txt -o "%02d.mp4" --steps 3 --seed 1 -t 1)
cp whole/out whole/err .
has out "00.mp4: 16 frames 32x32"
has out "two-1.png: 16 frames"
has err "generate 6/6"
has err "6 jobs, 7 made now"
for f in 00.mp4 01.mp4 02.mp4 05.mp4 own/roll.gif two-0.png two-1.png; do
    that "$f is there" test -s whole/$f
done
that "a job's number counts jobs alone" test ! -e whole/03.mp4 -a ! -e whole/04.mp4
rm -f whole/out whole/err

# as if called alone
(cd one && expect 0 "the first alone" "${gen[@]}" "a red ball falls" -o 00.mp4 --steps 3 --seed 1 -q
    expect 0 "the second" "${gen[@]}" "a \"green\" ball bounces on the floor, 100% -- \\n" -o 01.mp4 --steps 3 --seed 1 -q
    expect 0 "the third" "${gen[@]}" "a blue ball rolls" -o 02.mp4 --steps 2 --seed 5 -q
    expect 0 "the fourth" "${gen[@]}" "a blue ball rolls" -o roll.gif --steps 2 --seed 5 -q)
for f in 00.mp4 01.mp4 02.mp4; do
    that "$f is what it is alone" cmp one/$f whole/$f
done
that "roll.gif is what it is alone" cmp one/roll.gif whole/own/roll.gif

# again: nothing is made, the files stay as they are
find whole -type f -printf '%p %T@ %i\n' | sort >before
(cd whole && expect 0 "again" "${gen[@]}" --prompts ../jobs.txt -o "%02d.mp4" --steps 3 --seed 1 -t 1)
cp whole/err .
has err "6 jobs, 0 made now"
rm -f whole/out whole/err
find whole -type f -printf '%p %T@ %i\n' | sort >after
that "nothing is written again" cmp before after

# kill -9 anywhere, the same command goes on
killed=0
mkdir part
while [ $killed -lt "$kills" ]; do
    { (cd part && exec timeout -s KILL "0.$(printf %03d $((RANDOM % 700 + 60)))" \
        "${gen[@]}" --prompts - -o "%02d.mp4" --steps 3 --seed 1 -q -t 1 <../jobs.txt >/dev/null); } 2>/dev/null
    if [ $? = 137 ]; then
        killed=$((killed + 1))
    else
        that "what $killed kills left, completed" diff -r whole part
        rm -rf part
        mkdir part
    fi
done
(cd part && "${gen[@]}" --prompts - -o "%02d.mp4" --steps 3 --seed 1 -q -t 1 <../jobs.txt >/dev/null)
that "the end" test $? = 0
that "what kills left, completed" diff -r whole part

# the end of the list may grow; a changed job is refused, unless forced
cp -r whole more
(cat jobs.txt; echo "one more") >more.txt
(cd more && expect 0 "one more job" "${gen[@]}" --prompts ../more.txt -o "%02d.mp4" --steps 3 --seed 1 -t 1)
cp more/err .
has err "7 jobs, 1 made now"
sed 's/a red ball falls$/a red ball rises/' jobs.txt >changed.txt
(cd more && expect 2 "a changed job" "${gen[@]}" --prompts ../changed.txt -o "%02d.mp4" --steps 3 --seed 1 -t 1)
cp more/err .
has err "prompts line 3: output: 00.mp4.json is of a run with other settings: prompt"
(cd more && expect 0 "forced" "${gen[@]}" --prompts ../changed.txt -o "%02d.mp4" --steps 3 --seed 1 -t 1 --force)
cp more/err .
has err "6 jobs, 1 made now"

# a job without usable frames (its noise is not a number) does not stop the others
mkdir flat
json='{"latents":{"dtype":"F32","shape":[1,3,16,32,32],"data_offsets":[0,196608]}}    ' # 80 bytes
{ printf '\x50\0\0\0\0\0\0\0%s' "$json" && head -c 196608 /dev/zero | tr '\0' '\377'; } >nan.safetensors
printf 'a ball\n{"prompt": "a ball", "noise": "../nan.safetensors"}\na red ball falls\n' >flat.txt
(cd flat && expect 5 "a clip of nothing" "${gen[@]}" --prompts ../flat.txt -o "%d.mp4" --steps 2)
cp flat/err .
has err "prompts line 2: "
has err "3 jobs, 2 made now, 1 without usable frames"
that "the last is made" test -s flat/2.mp4 -a ! -e flat/1.mp4

# every line is read first
bad() { # TEXT WANT CODE
    printf 'a ball\n%s\n' "$1" >bad.txt
    expect "$3" "line '$1'" "${gen[@]}" --prompts bad.txt -o "x%d.mp4" --steps 2 -q
    has err "prompts line 2: "
    has err "$2"
}
bad '{"prompt": "x", "sed": 3}' "did you mean 'seed'?" 3
bad '{"prompt": "x", "seed": "3"}' "'seed' must be a number" 3
bad '{"prompt": "x", "seed": -1}' "must be between" 2
bad '{"prompt": "x", "seed": 1, "seed": 2}' "seed" 3
bad '{"prompt": 3}' "'prompt' must be a string" 3
bad '{"prompt": "x", "allow-flat": 1}' "must be a true or false" 3
bad '{"prompt": "x", "model": "y"}' "is the same for every job" 3
bad '{"prompt": "x"' "prompts line 2" 3
bad $'a \xff ball' "is not UTF-8" 3
bad '{"prompt": "x", "output": "x0.mp4"}' "as line 1 does" 2
bad '{"prompt": "x", "output": "-"}' "must name a file" 2
that "nothing was made" test ! -e x0.mp4
printf '\n# nothing\n' >empty.txt
expect 3 "no job" "${gen[@]}" --prompts empty.txt -o "x%d.mp4"
expect 3 "no file" "${gen[@]}" --prompts none.txt -o "x%d.mp4"
expect 2 "no number" "${gen[@]}" --prompts jobs.txt -o x.mp4
has err "needs a number"
expect 2 "a prompt beside them" "${gen[@]}" "a ball" --prompts jobs.txt -o "x%d.mp4"
expect 2 "frames of a job in files of their own" "${gen[@]}" --prompts flat.txt -o "x%d.png" --steps 2 --grid 0x1
printf '{"prompt": "a ball", "output": "f%%d.png"}\n' >frames.txt
expect 2 "a clip must be one file" "${gen[@]}" --prompts frames.txt --steps 2
has err "must be one file"
expect 0 "dry run" "${gen[@]}" --prompts jobs.txt -o "x%d.mp4" --dry-run
has out "peak memory: "
that "a dry run makes nothing" test ! -e x0.mp4
finish
