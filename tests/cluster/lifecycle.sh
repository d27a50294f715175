# shellcheck shell=bash
# up, down, and stopping and starting single components.

cmd_up() {
  need_root
  claim_cluster "${1:-demo}"
  cmd_deps
  need_tools etcd containerd ctr runc nsenter unshare ip nft iptables openssl jq curl
  with_lock ensure_up
  echo "export KUBECONFIG=$KUBECONFIG"
}

# One run at a time changes a cluster.
with_lock() {
  mkdir -p "$STATE_ROOT"
  (
    flock -w 600 8 || die "another run has been changing cluster $NAME for ten minutes"
    "$@"
  ) 8>"$STATE_ROOT/.$NAME.lock"
}

ensure_up() {
  if is_healthy; then
    say "cluster $NAME is up"
    return
  fi
  # A run of its own, so that any failing command in it ends it, and ends only it.
  "$0" _bring-up "$NAME" && return
  say "setting up cluster $NAME failed: once more from scratch"
  "$0" _bring-up "$NAME" && return
  tail_logs "$LOG"/*.log
  die "cluster $NAME could not be set up; the logs are in $LOG"
}

# Up with the Pod network asked for, every daemon alive, and the apiserver answers.
is_healthy() {
  local number component
  [[ -e $STATE/ready && $(pod_net) == "$(wanted_pod_net)" && $(cat "$STATE/outside") == "$(wanted_outside)" ]] || return 1
  [[ $(proxy_mode) == "$(wanted_proxy_mode)" ]] || return 1
  for component in $CONTROL_PLANE; do
    pid_of "$component" >/dev/null || return 1
  done
  for number in $(node_numbers); do
    for component in node containerd kubelet kube-proxy; do
      pid_of "$component-$number" >/dev/null || return 1
    done
  done
  kubectl_ get --raw /readyz >/dev/null 2>&1 || return 1
  for number in $(node_numbers); do
    node_is_ready "$number" || return 1
  done
}

wanted_pod_net() {
  local mode=${RINGFENCE_POD_NET:-hostgw}
  [[ $mode == hostgw || $mode == vxlan ]] || die "RINGFENCE_POD_NET is '$mode': use hostgw or vxlan"
  echo "$mode"
}
wanted_outside() { if [[ ${RINGFENCE_POD_CIDR_OUTSIDE:-} == 1 ]]; then echo 1; else echo 0; fi; }

wanted_proxy_mode() {
  local mode=${RINGFENCE_PROXY_MODE:-nftables}
  [[ $mode == nftables || $mode == iptables || $mode == mixed ]] ||
    die "RINGFENCE_PROXY_MODE is '$mode': use nftables, iptables or mixed"
  echo "$mode"
}

cmd__bring-up() {
  use_cluster "$1"
  local started=$SECONDS mode outside proxy
  mode=$(wanted_pod_net) outside=$(wanted_outside) proxy=$(wanted_proxy_mode)
  take_down
  need_bridge_filter
  mkdir -p "$STATE" "$LOG" "$RUN" "$NODES"
  echo "$mode" >"$STATE/pod-net"
  echo "$outside" >"$STATE/outside"
  echo "$proxy" >"$STATE/proxy-mode"
  # The nodes' mounts hide these folders, so state in them would be out of the daemons' sight.
  case $STATE in /run/* | /var/run/* | /var/lib/* | /var/log/* | /etc/*) die "RINGFENCE_STATE may not be below ${STATE%/*}: use a folder such as /var/tmp/ringfence" ;; esac
  say "cluster $NAME: certificates and networks"
  make_pki
  make_fabric
  start_etcd
  start_apiserver
  say "cluster $NAME: apiserver starting, nodes being made"
  for number in 1 2 3; do mkdir -p "$NODES/$number"; done
  in_parallel make_node -- 1 2 3
  connect_nodes
  await_apiserver
  say "cluster $NAME: apiserver answers after $(seconds_since "$started") s"
  start_controller-manager
  start_scheduler
  for number in 1 2 3; do
    register_node "$number"
    join_node "$number"
  done
  install_basics
  in_parallel load_node_images -- 1 2 3
  for number in 1 2 3; do await_node "$number"; done
  say "cluster $NAME: three nodes Ready after $(seconds_since "$started") s"
  await 90 "CoreDNS" "$LOG/kubelet-2.log" "$LOG/kubelet-3.log" "$LOG/controller-manager.log" -- \
    kubectl_ -n kube-system wait --for=condition=Available deployment/coredns --timeout=5s
  await 30 "the default service account" "$LOG/controller-manager.log" -- kubectl_ get serviceaccount default
  touch "$STATE/ready"
  say "cluster $NAME: up after $(seconds_since "$started") s"
}

# For what needs no node: no controller runs, and a Service Account does not come by itself.
cmd_up-apiserver() {
  need_root
  claim_cluster "${1:-demo}"
  cmd_deps
  need_tools etcd nsenter ip openssl curl
  with_lock "$0" _bring-up-apiserver "$NAME"
  echo "export KUBECONFIG=$KUBECONFIG"
}

cmd__bring-up-apiserver() {
  use_cluster "$1"
  take_down
  need_bridge_filter
  mkdir -p "$STATE" "$LOG" "$RUN" "$NODES"
  make_pki
  make_fabric
  start_etcd
  start_apiserver
  await_apiserver
}

# --- down ---------------------------------------------------------------------------------

cmd_down() {
  need_root
  NAME=${1:-demo}
  need_cluster_name
  [[ -n $(cluster_index) ]] || { say "there is no cluster $NAME"; return; }
  use_cluster "$NAME"
  with_lock take_down
  release_index
  say "cluster $NAME is down"
}

# Works from what there is, not from what a finished `up` would have noted.
take_down() {
  local namespace component number
  for component in "$RUN"/*.pid; do
    [[ ! -e $component ]] || end_component "$(basename "$component" .pid)" || true
  done
  for namespace in $(cluster_netns); do
    end_processes_in "$namespace"
  done
  ip link del "rf-$NAME" 2>/dev/null || true
  for namespace in $(cluster_netns); do
    ip netns del "$namespace" || true
  done
  for number in $(node_numbers); do
    remove_cgroups "$number"
  done
  remove_state
}

cluster_netns() {
  local file
  # Names of this cluster only: demo must not match demo-2.
  for file in "/run/netns/rf-$NAME-"{fabric,cp,ext} "/run/netns/rf-$NAME-node"[0-9]*; do
    [[ ! -e $file ]] || basename "$file"
  done
}

# end_processes_in NETNS: by the namespace itself, so that it finds what no pid file tells of. A node's first
# process is among them, and with it the kernel ends everything in the node, Pods too.
end_processes_in() {
  local namespace=$1 inode pids attempt
  inode=$(stat -Lc %i "/run/netns/$namespace" 2>/dev/null) || return 0
  for attempt in {1..50}; do
    pids=$(processes_in "$inode")
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086  # several numbers
    ((attempt % 10 != 1)) || kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  say "still running in $namespace after 5 s: $pids"
}

processes_in() {
  { stat -Lc '%i %n' /proc/[0-9]*/ns/net 2>/dev/null || true; } | awk -v inode="$1" '$1 == inode { split($2, part, "/"); print part[3] }'
}

# The control groups that the runtime made for a node's Pods: their numbers are in its records on disk.
remove_cgroups() {
  local record id group
  for record in "$NODES/$1"/lib/containerd/io.containerd.grpc.v1.cri/{sandboxes,containers}/*; do
    id=${record##*/}
    for group in /sys/fs/cgroup/k8s.io/"$id" /sys/fs/cgroup/*/k8s.io/"$id"; do
      [[ ! -d $group ]] || rmdir "$group" 2>/dev/null || true
    done
  done
}

# Repositories go too: a cluster starts with nothing.
remove_state() {
  local attempt
  [[ -d $STATE ]] || return 0
  # The kernel lets go of an ended node's mounts a moment after its processes.
  for attempt in {1..50}; do
    rm -rf "${STATE:?}" 2>/dev/null && return 0
    sleep 0.1
  done
  rm -rf "${STATE:?}" || die "cannot remove $STATE: what holds it? (fuser -vm $STATE)"
}

# --- single components -----------------------------------------------------------------------

# stop|start NAME etcd|apiserver|controller-manager|scheduler
# stop|start NAME containerd|kubelet|kube-proxy N
cmd_stop() {
  use_component stop "$@"
  pid_of "$COMPONENT" >/dev/null || die "$COMPONENT of cluster $NAME is not running"
  end_component "$COMPONENT"
}

cmd_start() {
  use_component start "$@"
  pid_of "$COMPONENT" >/dev/null && { say "$COMPONENT of cluster $NAME is running already"; return; }
  case $2 in
    apiserver) start_apiserver; await_apiserver ;;
    *) "start_$2" ${3:+"$3"} ;;
  esac
}

use_component() {
  local verb=$1
  shift
  case $#:${2:-} in
    2:etcd | 2:apiserver | 2:controller-manager | 2:scheduler) COMPONENT=$2 ;;
    3:containerd | 3:kubelet | 3:kube-proxy)
      need_node_number "$3"
      COMPONENT=$2-$3 ;;
    *) die "usage: $0 $verb NAME etcd|apiserver|controller-manager|scheduler, or $0 $verb NAME containerd|kubelet|kube-proxy N" ;;
  esac
  use_cluster "$1"
  [[ -d $RUN ]] || die "there is no cluster $NAME; run '$0 up $NAME'"
}

cmd_ext() {
  (($# >= 2)) || die "usage: $0 ext NAME COMMAND..."
  use_cluster "$1"
  [[ -e $(netns_path ext) ]] || die "there is no cluster $NAME; run '$0 up $NAME'"
  in_netns ext "${@:2}"
}
