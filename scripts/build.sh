#!/usr/bin/env bash
# The three programs in bin/, from one run of cargo. The whole workspace is named, so that cargo unites the features of
# dependencies in the same way for build, demo and tests, and compiles each of them once.
source "$(dirname "$0")/lib.sh"
readonly PROGRAMS=(ringfence ringfence-controller cven)

"$ROOT/scripts/deps.sh"
started=$SECONDS
cargo build --workspace --bins --locked
mkdir -p "$BIN"
for program in "${PROGRAMS[@]}"; do
  # Renamed into place, so that one that runs can be replaced; untouched when it is the same.
  cmp -s "$TARGET/$program" "$BIN/$program" && continue
  cp "$TARGET/$program" "$BIN/.$program.$$"
  mv "$BIN/.$program.$$" "$BIN/$program"
done
say "bin/ is up to date after $((SECONDS - started)) s"
