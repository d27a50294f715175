#!/usr/bin/env bash
# What must hold of the examples, without a cluster: the policy has no problem, and the shop renders with the roles that the
# policy speaks of. Ends with "N passed, N failed, N skipped".
source "$(dirname "$0")/lib.sh"
KUBECTL=$(tool kubectl)
readonly POLICY=examples/policy-repo/clusters/demo

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok: $what"
  else
    failed=$((failed + 1))
    printf 'FAILED: %s\n%s\n' "$what" "$output"
  fi
}

# A role that no profile allows would be refused at the Pod, and its rules would match nothing.
roles_are_allowed() {
  local namespace=$1 asked allowed unknown
  asked=$("$KUBECTL" kustomize "examples/shop/${namespace#shop-}" | sed -n 's/^ *ringfence.dev\/role: //p' | sort -u) || return 1
  [[ -n $asked ]] || { echo "no Pod of $namespace has a role"; return 1; }
  allowed=$(sed -n "/name: $namespace}/,/^---/s/.*role: {allowed: \[\(.*\)\]}.*/\1/p" "$POLICY/profiles.yaml" | tr -d ' ' | tr ',' '\n' | sort -u)
  unknown=$(comm -13 - <(echo "$asked") <<<"$allowed")
  [[ -z $unknown ]] || { echo "$namespace asks for roles that its profile does not allow: $unknown"; return 1; }
}

mkdir "$work/sample"
cp examples/policy-sample.yaml "$work/sample/"
check "the policy repository has no problem" "$BIN/ringfence" check "$POLICY"
check "the sample has no problem" "$BIN/ringfence" check "$work/sample"
for namespace in shop-prod shop-dev monitoring; do
  check "roles of $namespace" roles_are_allowed "$namespace"
done
check "the whole shop renders" "$KUBECTL" kustomize examples/shop
for file in examples/policy-repository.yaml examples/argo-cd/*.yaml examples/flux/*.yaml; do
  check "$file parses" "$KUBECTL" annotate --local --filename "$file" --output json ringfence.test/read=1
done
echo "$passed passed, $failed failed, 0 skipped"
((failed == 0))
