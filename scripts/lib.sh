# shellcheck shell=bash disable=SC2034  # set here, used where this is sourced
# What the scripts behind the Makefile share. Sourced first: it sets strict mode and goes to the root of the tree.
set -euo pipefail
# So that a failure inside $(...) is one outside it too.
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
cd "$ROOT"

readonly RUSTC_NEEDED=1.95
# One profile for what demo, tests and `make install` run, so that nothing is compiled twice.
readonly TARGET=${CARGO_TARGET_DIR:-$ROOT/target}/debug
readonly BIN=$ROOT/bin
readonly DIST=$ROOT/dist
readonly CHART=$ROOT/charts/ringfence
readonly TESTBED=$ROOT/tests/cluster/cluster.sh
readonly NAMESPACE=${RINGFENCE_NAMESPACE:-ringfence-system}
readonly RELEASE=ringfence

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() {
  printf '%s: error: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

has() { type -P "$1" >/dev/null; }

# kubectl and helm are those that the test cluster was built with; on a machine without them, those of the user.
tool() {
  local own
  own=$("$TESTBED" bin)/$1
  if [[ -x $own ]]; then
    echo "$own"
  else
    type -P "$1" || die "there is no $1: put one into PATH, or build it with 'tests/cluster/cluster.sh deps'"
  fi
}

# is_older VERSION NEEDED
is_older() { [[ $1 != "$2" && $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

# hold LOCK: one run at a time from here to `release`, or to the end of this process.
hold() {
  mkdir -p "$DIST"
  exec {LOCKED}>"$DIST/.lock-$1"
  flock -w 900 "$LOCKED" || die "another run has held $DIST/.lock-$1 for a quarter of an hour: end it, then try again"
}
release() { exec {LOCKED}>&-; }
