#!/bin/bash
# `cmake --install` into an empty folder, and the examples built against what is there alone: through pkg-config,
# with the shared library and with the static one; a program in C++. The clip and the run they make are those of the program.
#   check_install.sh BUILD-FOLDER ROOT CC CXX [FLAG...]
# shellcheck source=tests/cli/lib.sh
build=$(realpath "$1")
root=$(realpath "$2")
cc=$3
cxx=$4
flags=("${@:5}")
. "$root/tests/cli/lib.sh" "$build/kinema"

expect 0 "cmake --install" cmake --install "$build" --prefix "$work/usr"
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$(find usr -name kinema.pc)")
libdir=$(pkg-config --variable=libdir kinema)
export LD_LIBRARY_PATH=$libdir
for file in bin/kinema share/man/man1/kinema.1 share/man/man1/kinema-generate.1 include/kinema/kinema.h \
    share/kinema/bundled/model_index.json share/bash-completion/completions/kinema \
    share/zsh/vendor-completions/_kinema share/fish/vendor_completions.d/kinema.fish; do
    that "$file is there" test -s "usr/$file"
done
version=$(pkg-config --modversion kinema)
that "the shared library has its version in its name" test -f "$libdir/libkinema.so.$version"
that "programs ask for libkinema.so.${version%%.*}" test "$(objdump -p "$libdir/libkinema.so" |
    awk '$1 == "SONAME" { print $2 }')" = "libkinema.so.${version%%.*}"

compile() { # COMPILER STANDARD EXAMPLE OUT LIBRARIES...
    # shellcheck disable=SC2046
    "$1" -std="$2" -Wall -Wextra -Werror "${flags[@]}" $(pkg-config --cflags kinema) "$3" -o "$4" "${@:5}"
}
shared=$(pkg-config --libs kinema)
static="$libdir/libkinema.a $(pkg-config --static --libs kinema | sed 's/-lkinema//')"
for example in generate train; do
    # shellcheck disable=SC2086
    expect 0 "examples/$example.c in C17" compile "$cc" c17 "$root/examples/$example.c" "$example" $shared
done
# shellcheck disable=SC2086
expect 0 "examples/generate.c with the static library" compile "$cc" c17 "$root/examples/generate.c" generate_static $static
that "which needs no libkinema.so" test -z "$(objdump -p generate_static | grep 'NEEDED.*kinema')"
printf '#include <kinema/kinema.h>\n#include <cstdio>\nint main() { std::puts(kin_version()); }\n' >version.cc
# shellcheck disable=SC2086
expect 0 "a program in C++" compile "$cxx" c++17 version.cc version $shared
expect 0 "which runs" ./version
that "and tells the version" test "$(cat out)" = "$version"

# the installed program finds its model; the examples make the same frames
prompt="a red ball falls and bounces on a gray floor"
model=$(pkg-config --variable=bundled_model kinema)
frames() { ffmpeg -v error -i "$1" -f framemd5 - </dev/null 2>&1 | grep -v '^#'; }
expect 0 "the installed program" usr/bin/kinema generate "$prompt" -o program.mp4 -q
frames program.mp4 >want
that "it made 16 frames" test "$(wc -l <want)" = 16
for program in generate generate_static; do
    expect 0 "$program" "./$program" "$model" "$prompt" "$program.mp4"
    that "$program says nothing on stdout" test ! -s out
    frames "$program.mp4" | diff -q - want >/dev/null || that "$program makes the clip of the program" false
done
expect 1 "an example without its model" ./generate nowhere
has err "nowhere"

# training: the example, stopped and gone on with, ends with the weights of the program
cat >train.json <<'JSON'
{"seed": 3, "batch_size": 2, "log_every": 1,
 "transformer": {"_class_name": "KinemaTransformer3DModel", "model": "dense", "patch_size": [2, 8, 8],
  "num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 16, "text_len": 40, "freq_dim": 48, "ffn_dim": 32,
  "num_layers": 2, "phys_heads_per_class": 1, "phys_head_dim": 4, "phys_qk_norm": "layer_norm", "mopa_floor": 0,
  "prediction_type": "sample", "sample_loss_floor": 0.3, "pos_embed": "learned", "sample_frames": 4,
  "sample_height": 16, "sample_width": 16, "gate_start": 0.5},
 "text_encoder": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
  "vocab_size": 80},
 "tokenizer": {"vocab_size": 80, "sentences": 100},
 "data": {"frames": 4, "height": 16, "width": 16, "held_out": 3}, "optimizer": {"lr": 0.01},
 "objective": {"weighting_scheme": "mixed", "shift": 3}}
JSON
expect 0 "data" usr/bin/kinema dataset simulate -o clips --count 12 --frames 4 -W 16 -H 16 -q
expect 0 "training by the program" usr/bin/kinema train -c train.json --data clips -o whole --steps 6 -q
that "--quiet is quiet" test ! -s out
expect 0 "training by the example" ./train train.json clips run 4
that "a line for each step" test "$(wc -l <out)" = 4
expect 0 "and on" ./train train.json clips run 6
that "two steps more" test "$(wc -l <out)" = 2
for table in transformer/diffusion_pytorch_model text_encoder/model; do
    that "the same $table" cmp {whole,run}/checkpoint-6/$table.safetensors
done
expect 0 "the program with numbers for programs" usr/bin/kinema train -c train.json --data clips -o json --steps 2 --progress json
has err '{"task":"train","done":2,"total":2,"loss":'
finish
