#!/usr/bin/env bash
# Everything that can fail, cheapest first: from the format of the sources to a real cluster of its own. A rung that cannot
# run says "not run" and counts as skipped. Ends with the sum over all rungs.
#   test.sh [RUNG...]   all rungs, or only these: fmt generated shell clippy unit integration chart examples cluster
source "$(dirname "$0")/lib.sh"
readonly RUNGS=(fmt generated shell clippy unit integration chart examples cluster)
# Never the user's cluster.
unset KUBECONFIG

passed=0 failed=0 skipped=0 summary=()
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

# --- rungs: each prints what it does, and fails if something is wrong; one that cannot run prints "not run: why" -----------

rung_fmt() { if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; else echo "not run: there is no rustfmt"; fi; }

rung_generated() {
  RINGFENCE_BUILT=1 "$ROOT/scripts/generate.sh" --check
  "$ROOT/scripts/bench-table.sh" --check
}

# Where packages may be installed, what is missing is.
need_shellcheck() {
  has shellcheck && return
  ((EUID == 0)) && has apt-get || return 1
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends shellcheck >/dev/null 2>&1
}

rung_shell() {
  local programs parts
  need_shellcheck || { echo "not run: there is no shellcheck"; return; }
  mapfile -t programs < <(grep -lE '^#!.*bash' scripts/*.sh tests/cluster/*.sh .ci/run)
  mapfile -t parts < <(grep -LE '^#!' scripts/*.sh tests/cluster/*.sh)
  shellcheck -x -P SCRIPTDIR "${programs[@]}"
  # What others source sets variables that it does not use itself.
  shellcheck --severity=warning --exclude=SC2034 "${parts[@]}"
}

rung_clippy() {
  if ! cargo clippy --version >/dev/null 2>&1; then echo "not run: there is no clippy"; return; fi
  cargo clippy --workspace --all-targets --locked -- -D warnings
}

rung_unit() { cargo test --workspace --lib --bins --locked --no-fail-fast; }

# Files, programs, and packets through real network namespaces.
rung_integration() {
  cargo test --workspace --test '*' --locked --no-fail-fast
  # The walk that these tests take goes through the library: here it is taken as people take it.
  make --silent sim SECONDS=1
}

rung_chart() { "$ROOT/scripts/chart-test.sh"; }

rung_examples() { "$ROOT/scripts/examples-test.sh"; }

# Brings up the cluster `test` from nothing, and ends it.
rung_cluster() { "$TARGET/e2e"; }

# --- running and counting -----------------------------------------------------------------------------------------------------

# Rungs that count themselves end with "N passed, N failed, N skipped"; cargo says so for each of its programs, and counts as
# passed a test that only prints "NAME: not run: WHY": here it is skipped. Any other rung is one test.
count() {
  local status=$1 sums p f s
  sums=$(awk '
    /^test result:/ { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i; if ($(i+1) ~ /^ignored/) s += $i } seen = 1 }
    /[[:alnum:]_]: not run: / { n += 1 }
    /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped/ { p = $1 + 0; f = $3 + 0; s = $5 + 0; seen = 1 }
    END { if (seen) print (p > n ? p - n : 0), f + 0, s + n }' "$LOG")
  read -r p f s <<<"${sums:-none}"
  if [[ $p == none ]]; then
    p=0 f=0 s=0
    if ((status)); then f=1; elif grep -q '^not run:' "$LOG"; then s=1; else p=1; fi
  fi
  # A rung that ends badly without a failed test, such as one that does not compile, is a failure too.
  ((status == 0 || f > 0)) || f=1
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  COUNTED="$p passed, $f failed, $s skipped"
}

run_rung() {
  local name=$1 started=$SECONDS status=0
  printf '\n=== %s\n' "$name"
  # A process of its own, in which every failing command counts; in a condition none would.
  "$0" "_$name" 2>&1 | tee "$LOG" || status=$?
  count "$status"
  summary+=("$(printf '%-12s %4d s  %s' "$name" $((SECONDS - started)) "$COUNTED")")
  printf '=== %s: %s, %d s\n' "$name" "$COUNTED" $((SECONDS - started))
}

if [[ ${1:-} == _* ]]; then
  "rung${1}"
  exit
fi
rungs=("$@")
((${#rungs[@]})) || rungs=("${RUNGS[@]}")
for rung in "${rungs[@]}"; do
  [[ " ${RUNGS[*]} " == *" $rung "* ]] || die "there is no rung '$rung'; there are: ${RUNGS[*]}"
done

# `make lint` is to be quick: it needs neither programs nor a cluster.
case " ${rungs[*]} " in
  *" generated "* | *" integration "* | *" chart "* | *" examples "* | *" cluster "*)
    "$ROOT/scripts/build.sh"
    "$TESTBED" deps ;;
  *) "$ROOT/scripts/deps.sh" ;;
esac
for rung in "${rungs[@]}"; do run_rung "$rung"; done

printf '\n'
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
