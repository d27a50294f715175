#!/usr/bin/env bash
# Fuzzes: what tests/sim/src/fuzz does with bytes, with bytes that a fuzzer makes up. Takes a nightly compiler and cargo-fuzz,
# which is installed where it is missing. CI does not fuzz: its tests replay the corpus.
#   fuzz.sh [TARGET...]   each target for FUZZ_SECONDS=60; all targets if none is named
#   fuzz.sh --keep        what was found on the way goes into the corpus, reduced to what takes a way of its own
source "$(dirname "$0")/lib.sh"
readonly FUZZ=tests/fuzz
# The corpus that is kept holds only what is worth keeping; what a run finds goes here.
readonly FOUND=$FUZZ/target/found
readonly TARGETS=(policy compiler)
# Bytes of one input: beyond it, the bounds of the parser say no.
readonly LONGEST=8192
# Of each target. SECONDS itself is the shell's own.
readonly SECONDS_EACH=${FUZZ_SECONDS:-60}

need_nightly() {
  has cargo || die "there is no cargo: install Rust (https://rustup.rs)"
  cargo +nightly --version >/dev/null 2>&1 ||
    die "there is no nightly compiler, which fuzzing takes: run 'rustup toolchain install nightly --profile minimal'"
}

need_cargo_fuzz() {
  cargo fuzz --version >/dev/null 2>&1 && return
  say "installing cargo-fuzz"
  cargo install --quiet --locked cargo-fuzz ||
    die "there is no cargo-fuzz, and it could not be installed: run 'cargo install cargo-fuzz' and try again"
}

# There is no unsafe code in what is fuzzed: the sanitizers would only cost time.
fuzz() {
  local command=$1
  shift
  cargo +nightly fuzz "$command" --fuzz-dir "$FUZZ" --sanitizer none "$@"
}

run_target() {
  local target=$1 dictionary=$FUZZ/$1.dict options
  options=(-len_control=0 "-max_total_time=${SECONDS_EACH}" -timeout=10 -rss_limit_mb=2048 "-max_len=$LONGEST" -print_final_stats=1)
  [[ ! -e $dictionary ]] || options+=("-dict=$dictionary")
  mkdir -p "$FOUND/$target"
  say "$target, $SECONDS_EACH s"
  fuzz run "$target" "$FOUND/$target" "$FUZZ/corpus/$target" -- "${options[@]}" ||
    die "$target: found something; the bytes are in $FUZZ/artifacts/$target, and 'cargo +nightly fuzz run --fuzz-dir $FUZZ $target FILE' does it again"
}

keep() {
  local target=$1
  mkdir -p "$FOUND/$target"
  cp -n "$FUZZ/corpus/$target"/* "$FOUND/$target/"
  fuzz cmin "$target" "$FOUND/$target" -- -timeout=10
  say "$target: what is worth keeping is in $FOUND/$target; copy a few of them to $FUZZ/corpus/$target"
}

need_nightly
need_cargo_fuzz
case ${1:-} in
  --keep) for target in "${TARGETS[@]}"; do keep "$target"; done ;;
  *)
    wanted=("$@")
    ((${#wanted[@]})) || wanted=("${TARGETS[@]}")
    for target in "${wanted[@]}"; do run_target "$target"; done ;;
esac
