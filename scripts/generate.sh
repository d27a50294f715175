#!/usr/bin/env bash
# Writes what is generated from the Rust types: the definitions of the kinds, for kubectl (crds/yaml) and for the chart.
#   generate.sh          write
#   generate.sh --check  only say whether what is there is what would be written
source "$(dirname "$0")/lib.sh"
readonly PLACES=(crds/yaml charts/ringfence/files/crds)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[[ -x $TARGET/crdgen && ${RINGFENCE_BUILT:-} == 1 ]] || cargo build --workspace --bins --locked --quiet
"$TARGET/crdgen" "$work"

case ${1:-} in
  "")
    for place in "${PLACES[@]}"; do
      mkdir -p "$place"
      rm -f "$place"/*.yaml
      cp "$work"/*.yaml "$place/"
      say "wrote $place"
    done ;;
  --check)
    stale=()
    for place in "${PLACES[@]}"; do
      diff -r "$work" "$place" >&2 || stale+=("$place")
    done
    ((${#stale[@]} == 0)) || die "not up to date: ${stale[*]}; run 'make generate' and commit the result" ;;
  *) die "usage: generate.sh [--check]" ;;
esac
