#!/usr/bin/env bash
# Puts Ringfence from the work tree on the cluster of the current KUBECONFIG, through the Helm chart.
#
#   HELM_ARGS        more arguments for helm, such as "--set management=cloud"
#   RINGFENCE_LOAD   for a cluster that is not one of `make cluster-up`: the command that brings an image archive to its
#                    nodes, such as "kind load image-archive"
#   RINGFENCE_BUILT  1: take the programs in bin/ as they are
source "$(dirname "$0")/lib.sh"
readonly WAIT=${RINGFENCE_INSTALL_TIMEOUT:-180}

need_cluster() {
  [[ -n ${KUBECONFIG:-} || -e ${HOME:-}/.kube/config ]] ||
    die "no cluster is chosen: run 'make cluster-up' and the export KUBECONFIG=… that it ends with"
  "$KUBECTL" --request-timeout=10s get --raw /readyz >/dev/null ||
    die "the cluster of ${KUBECONFIG:-~/.kube/config} does not answer: is it up?"
}

# The name of the test cluster whose kubeconfig is in use; nothing for any other cluster.
testbed_name() {
  local state=${RINGFENCE_STATE:-/var/tmp/ringfence} config
  config=$(readlink -f "${KUBECONFIG:-/nonexistent}" || true)
  [[ $config == "$(readlink -f "$state")"/*/admin.conf ]] && basename "$(dirname "$config")"
}

# load_images NAME "COMPONENT REFERENCE ARCHIVE"...
load_images() {
  local name=$1 entry reference archive archives=()
  shift
  for entry in "$@"; do
    read -r _ reference archive <<<"$entry"
    if [[ -n $name ]] && node_has "$name" "$reference"; then continue; fi
    archives+=("$archive")
  done
  ((${#archives[@]})) || return 0
  say "loading ${#archives[@]} images into the nodes"
  if [[ -n $name ]]; then
    "$TESTBED" load "$name" "${archives[@]}"
  elif [[ -n ${RINGFENCE_LOAD:-} ]]; then
    # shellcheck disable=SC2086  # a command with arguments
    for archive in "${archives[@]}"; do $RINGFENCE_LOAD "$archive"; done
  else
    die "this is no cluster of 'make cluster-up': set RINGFENCE_LOAD to the command that brings an image archive to its nodes, such as 'kind load image-archive'"
  fi
}

# Images are loaded into all nodes or none, and a node that joins gets those that were: one node stands for all.
node_has() {
  [[ -n $("$TESTBED" node-exec "$1" 1 ctr -n k8s.io images list -q "name==$2" 2>/dev/null) ]]
}

# Agents are privileged Pods in the eyes of Pod Security: where it is on, the namespace has to say so.
ensure_namespace() {
  "$KUBECTL" apply --server-side --field-manager=ringfence-install --force-conflicts -f - >/dev/null <<YAML
apiVersion: v1
kind: Namespace
metadata:
  name: $NAMESPACE
  labels:
    pod-security.kubernetes.io/enforce: privileged
YAML
}

cluster_id() { "$KUBECTL" get namespace kube-system -o 'jsonpath={.metadata.uid}'; }

# Helm refuses to touch a release whose last operation was killed half way. We hold the lock, so nobody is at it any more:
# without that operation's record, Helm goes on from the one before.
forget_broken_off() {
  "$KUBECTL" -n "$NAMESPACE" delete secrets --selector \
    "owner=helm,name=$RELEASE,status in (pending-install,pending-upgrade,pending-rollback)" >/dev/null
}

image_settings() {
  local entry component reference
  for entry in "$@"; do
    read -r component reference _ <<<"$entry"
    printf -- '--set-string\n%s.image.repository=%s\n--set-string\n%s.image.tag=%s\n' \
      "$component" "${reference%:*}" "$component" "${reference##*:}"
  done
}

# Definitions that someone applied by hand become the release's own.
upgrade() {
  local settings
  mapfile -t settings < <(image_settings "$@")
  # shellcheck disable=SC2086  # HELM_ARGS holds several
  "$HELM" upgrade --install "$RELEASE" "$CHART" --namespace "$NAMESPACE" --take-ownership \
    --wait --timeout "${WAIT}s" "${settings[@]}" ${HELM_ARGS:-} >"$log" 2>&1
}

# What someone needs to see who has nothing but this output.
show_failure() {
  local pod
  cat "$log" >&2
  "$KUBECTL" -n "$NAMESPACE" get pods -o wide >&2 || true
  "$KUBECTL" -n "$NAMESPACE" get events --sort-by=.lastTimestamp 2>&1 | tail -n 20 >&2 || true
  for pod in $("$KUBECTL" -n "$NAMESPACE" get pods -o name 2>/dev/null); do
    printf -- '--- %s\n' "$pod" >&2
    "$KUBECTL" -n "$NAMESPACE" logs "$pod" --tail=20 >&2 || true
    "$KUBECTL" -n "$NAMESPACE" logs "$pod" --tail=20 --previous >&2 2>/dev/null || true
  done
  die "Ringfence could not be installed, or was not ready within $WAIT s; Helm's words, Pods, events and logs are above"
}

[[ ${RINGFENCE_BUILT:-} == 1 ]] || "$ROOT/scripts/build.sh"
"$TESTBED" deps
KUBECTL=$(tool kubectl)
HELM=$(tool helm)
need_cluster
name=$(testbed_name || true)
# Demo and tests may run at the same time, on clusters of their own.
hold images
# A failure of images.sh must not pass for an empty list.
listing=$("$ROOT/scripts/images.sh")
mapfile -t images <<<"$listing"
load_images "$name" "${images[@]}"
release
hold "$(cluster_id)"
ensure_namespace
forget_broken_off
log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS
upgrade "${images[@]}" || show_failure
say "Ringfence is installed and ready after $((SECONDS - started)) s"
"$KUBECTL" -n "$NAMESPACE" get pods -o wide
