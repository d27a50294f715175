#!/usr/bin/env bash
# The four programs in bin/, from one run of cargo. The whole workspace is named, so that cargo unites the features of
# dependencies in the same way for build, demo and tests, and compiles each of them once.
source "$(dirname "$0")/lib.sh"
readonly PROGRAMS=(ringfence ringfence-controller cven cven-cni)

"$ROOT/scripts/deps.sh"
started=$SECONDS
cargo build --workspace --bins --locked
# The agent puts it on the node, whose libc may be older than ours or another one: it brings its own. Only this program is
# linked anew, last, so that it is the one that is found below.
cargo rustc --package ringfence-cni --bin cven-cni --locked --quiet -- -C target-feature=+crt-static
mkdir -p "$BIN"
for program in "${PROGRAMS[@]}"; do
  # Renamed into place, so that one that runs can be replaced; untouched when it is the same.
  cmp -s "$TARGET/$program" "$BIN/$program" && continue
  cp "$TARGET/$program" "$BIN/.$program.$$"
  mv "$BIN/.$program.$$" "$BIN/$program"
done
say "bin/ is up to date after $((SECONDS - started)) s"
