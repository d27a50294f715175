# shellcheck shell=bash
# Nodes: each has its own network, mount, PID and UTS namespace, machine-id, /run, /etc, /var/lib and
# /var/log, and in them containerd, kubelet and kube-proxy at their usual paths.

# Paths in configuration files below are paths inside the node.
node_init() { # N: the host's number of the node's first process
  local keeper
  keeper=$(pid_of "node-$1") || return 1
  children_of "$keeper" | tr -d ' ' | grep .
}

# node_exec N COMMAND...: in all of the node's namespaces.
node_exec() {
  local number=$1 init
  shift
  init=$(node_init "$number") || die "node$number of cluster $NAME is not running; run '$0 up $NAME'"
  nsenter --target "$init" --net --mount --pid --uts -- "$@"
}

need_running_nodes() {
  local number any=
  for number in $(node_numbers); do
    node_init "$number" >/dev/null || die "node$number of cluster $NAME is not running; run '$0 up $NAME'"
    any=1
  done
  [[ -n $any ]] || die "there is no cluster $NAME; run '$0 up $NAME'"
}

cmd_node-exec() {
  (($# >= 3)) || die "usage: $0 node-exec NAME N COMMAND..."
  use_cluster "$1"
  need_node_number "$2"
  node_exec "${@:2}"
}

# --- making a node ----------------------------------------------------------------------

# make_node N: everything up to running daemons; needs no apiserver until the kubelet's first word.
make_node() {
  local number=$1 dir=$NODES/$1
  mkdir -p "$dir"/{lib,log,etc,etc-work} "$dir"/lib/{kubelet,containerd,cni,ringfence} "$dir"/opt/cni/bin
  # Others than the node's own installers have theirs there too.
  ln -sf /usr/lib/cni/* "$dir/opt/cni/bin/"
  pod_range_for "$number" >"$dir/pod-range"
  make_node_pki "$number"
  make_node_network "$number"
  make_tunnel "$number"
  write_node_etc "$number"
  start_node_namespaces "$number"
  start_containerd "$number"
  await 60 "containerd on node$number" "$LOG/containerd-$number.log" -- node_exec "$number" ctr version
  import_image "$number" "$BIN/images/pause.tar"
}

# The range of the node's IPv4 addresses; those of IPv6 are always from the podCIDR.
pod_range_for() {
  if [[ $1 == 3 && $(cat "$STATE/outside") == 1 ]]; then
    echo "${POD_RANGE_OUTSIDE%.*.*}.$1.0/24"
  else
    echo "$(pod_cidr_for "$1")"
  fi
}

# What Kubernetes believes.
pod_cidr_for() { echo "${POD_RANGE%.*.*}.$1.0/24"; }
pod_cidr6_for() { echo "${POD_RANGE6%::*}:$1::/64"; }

# The node's own /etc lies over the host's.
write_node_etc() {
  local number=$1 etc=$NODES/$1/etc
  mkdir -p "$etc"/{cni/net.d,containerd,kubernetes/manifests,kubernetes/pki}
  printf '%s' "$NAME/$number" | md5sum | cut -d' ' -f1 >"$etc/machine-id"
  echo "node$number" >"$etc/hostname"
  printf '127.0.0.1 localhost\n%s node%s\n' "$(node_address "$number")" "$number" >"$etc/hosts"
  : >"$etc/resolv.conf"
  cp "$PKI/ca.crt" "$PKI/node$number-serving.crt" "$PKI/node$number-serving.key" "$etc/kubernetes/pki/"
  cp "$PKI/node$number.conf" "$etc/kubernetes/kubelet.conf"
  cp "$PKI/kube-proxy.conf" "$etc/kubernetes/kube-proxy.conf"
  write_cni_config "$number" >"$etc/cni/net.d/00-pods.conflist"
  write_containerd_config >"$etc/containerd/config.toml"
  write_kubelet_config "$number" >"$etc/kubernetes/kubelet.yaml"
  write_proxy_config "$number" >"$etc/kubernetes/kube-proxy.yaml"
}

write_cni_config() {
  local mtu=1500
  [[ $(pod_net) != vxlan ]] || mtu=1450
  cat <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": $mtu,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(node_pod_range "$1")"}], [{"subnet": "$(pod_cidr6_for "$1")"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower it, and no sandbox would start.
write_containerd_config() {
  cat <<'TOML'
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "ringfence.test/pause:1"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
TOML
}

write_kubelet_config() {
  cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
staticPodPath: /etc/kubernetes/manifests
volumePluginDir: /var/lib/kubelet/volumeplugins
tlsCertFile: /etc/kubernetes/pki/node$1-serving.crt
tlsPrivateKeyFile: /etc/kubernetes/pki/node$1-serving.key
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
clusterDNS: [$DNS_SERVICE]
clusterDomain: cluster.local
resolvConf: ""
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
maxPods: 200
# The disk is the host's: how full it is says nothing about this cluster.
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
YAML
}

# write_proxy_config N: of nodes that are mixed, the odd ones translate with iptables. (On node2 it would break a test that sends
# a connection through there in one direction: kube-proxy then drops what conntrack calls invalid.)
write_proxy_config() {
  local range=$POD_RANGE mode
  mode=$(proxy_mode)
  if [[ $mode == mixed ]]; then
    if (($1 % 2)); then mode=iptables; else mode=nftables; fi
  fi
  [[ $(cat "$STATE/outside") != 1 ]] || range=$POD_RANGE_BOTH
  cat <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}
mode: $mode
clusterCIDR: $range,$POD_RANGE6
hostnameOverride: node$1
conntrack: {maxPerCore: 0}
# Sooner than the default second, so that what waits for a Service waits less.
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
iptables: {minSyncPeriod: 100ms, syncPeriod: 30s}
YAML
}

# start_node_namespaces N: the first process holds the namespaces; ending it ends all that runs in the node.
start_node_namespaces() {
  local number=$1
  mkdir -p "$STATE/bin" "$STATE/host-run"
  spawn "node-$number" nsenter --net="$(netns_path "node$number")" -- \
    unshare --mount --uts --pid --fork --kill-child --propagation private -- \
    bash "$HERE/node-init.sh" "$NODES/$number" "node$number" "$BIN" "$STATE/bin"
  await 10 "the namespaces of node$number" "$LOG/node-$number.log" -- node_is_set_up "$number"
}

node_is_set_up() {
  local init
  init=$(node_init "$1") && [[ $(cat "/proc/$init/comm") == pause ]]
}

start_containerd() {
  node_spawn "$1" containerd containerd --config /etc/containerd/config.toml
}

start_kubelet() {
  node_spawn "$1" kubelet "$STATE/bin/kubelet" --config /etc/kubernetes/kubelet.yaml \
    --kubeconfig /etc/kubernetes/kubelet.conf --hostname-override "node$1" --node-ip "$(node_address "$1"),$(node_address6 "$1")"
}

start_kube-proxy() {
  node_spawn "$1" kube-proxy "$STATE/bin/kube-proxy" --config /etc/kubernetes/kube-proxy.yaml
}

# node_spawn N COMPONENT COMMAND...
node_spawn() {
  local number=$1 component=$2 init
  shift 2
  init=$(node_init "$number") || die "node$number of cluster $NAME is not running; run '$0 up $NAME'"
  spawn "$component-$number" nsenter --target "$init" --net --mount --pid --uts -- "$@"
}

# The Node object is made before the kubelet registers, so that label, taint and podCIDR are there from the start
# and node N always has the same range.
register_node() {
  local number=$1
  kubectl_ apply -f - >>"$LOG/setup.log" <<YAML
apiVersion: v1
kind: Node
metadata:
  name: node$number
  labels: {kubernetes.io/hostname: node$number$( ((number != 1)) || echo ', node-role.kubernetes.io/control-plane: ""')}
spec:
  podCIDR: $(pod_cidr_for "$number")
  podCIDRs: ["$(pod_cidr_for "$number")", "$(pod_cidr6_for "$number")"]
$( ((number != 1)) || echo '  taints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]')
YAML
}

join_node() {
  start_kubelet "$1"
  start_kube-proxy "$1"
}

load_node_images() {
  local number=$1 tar
  for tar in "$BIN"/images/{coredns,agnhost}.tar "$STATE"/images/*.tar; do
    [[ ! -e $tar ]] || import_image "$number" "$tar"
  done
}

await_node() {
  await 90 "node$1 to be Ready" "$LOG/kubelet-$1.log" "$LOG/containerd-$1.log" -- node_is_ready "$1"
}

node_is_ready() {
  [[ $(kubectl_ get node "node$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

# --- nodes that join and leave -------------------------------------------------------------

cmd_node-add() {
  (($# == 2)) || die "usage: $0 node-add NAME N   (N from 4)"
  use_cluster "$1"
  need_extra_node "$2"
  need_running_nodes
  [[ ! -d $NODES/$2 ]] || die "node$2 of cluster $NAME is there already"
  with_lock make_extra_node "$2"
  say "node$2 is Ready"
}

make_extra_node() {
  make_node "$1"
  connect_nodes
  register_node "$1"
  join_node "$1"
  load_node_images "$1"
  await_node "$1"
}

cmd_node-del() {
  (($# == 2)) || die "usage: $0 node-del NAME N   (N from 4)"
  use_cluster "$1"
  need_extra_node "$2"
  [[ -d $NODES/$2 ]] || die "cluster $NAME has no node$2"
  with_lock remove_extra_node "$2"
  say "node$2 is gone"
}

# Everything that runs on the node ends as when its power does; what is on its disk stays.
cmd_node-restart() {
  (($# == 2)) || die "usage: $0 node-restart NAME N"
  use_cluster "$1"
  need_node_number "$2"
  with_lock restart_node "$2"
}

restart_node() {
  local number=$1 namespace component
  namespace=$(netns "node$number")
  for component in kubelet kube-proxy containerd node; do end_component "$component-$number"; done
  end_processes_in "$namespace"
  remove_cgroups "$number"
  # What the kernel of a machine forgets. The wire and its addresses are this test bed's own.
  ip -n "$namespace" link del cni0 2>/dev/null || true
  nsenter --net="$(netns_path "node$number")" nft flush ruleset
  start_node_namespaces "$number"
  start_containerd "$number"
  await 60 "containerd on node$number" "$LOG/containerd-$number.log" -- node_exec "$number" ctr version
  start_kubelet "$number"
  start_kube-proxy "$number"
}

need_extra_node() {
  need_node_number "$1"
  (($1 >= 4)) || die "node1 to node3 belong to the cluster: only nodes from 4 come and go"
}

remove_extra_node() {
  local number=$1 ranges
  read -ra ranges < <(node_pod_ranges "$number")
  kubectl_ delete node "node$number" --ignore-not-found >>"$LOG/setup.log" || true
  end_component "node-$number"
  end_processes_in "$(netns "node$number")"
  ip -n "$(netns fabric)" link del "node$number" 2>/dev/null || true
  ip netns del "$(netns "node$number")" 2>/dev/null || true
  remove_cgroups "$number"
  rm -rf "${NODES:?}/$number" "$RUN"/*-"$number".pid
  forget_node_routes "${ranges[@]}"
}

# --- looking at Pods -----------------------------------------------------------------------

# pods NAME: namespace, name, node and network namespace of every running Pod, from the runtime's own
# bundles: one jq per node whatever the number of Pods.
cmd_pods() {
  (($# == 1)) || die "usage: $0 pods NAME"
  use_cluster "$1"
  need_running_nodes
  local number init bundles bundle found
  for number in $(node_numbers); do
    init=$(node_init "$number")
    bundles=(/proc/"$init"/root/run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json)
    [[ -e ${bundles[0]} ]] || continue
    # A bundle may vanish or be half written while we read, and jq ends at the first such: then each on its own.
    if found=$(print_sandboxes "node$number" "/proc/$init" "${bundles[@]}" 2>/dev/null); then
      [[ -z $found ]] || echo "$found"
      continue
    fi
    for bundle in "${bundles[@]}"; do
      print_sandboxes "node$number" "/proc/$init" "$bundle" 2>/dev/null || true
    done
  done
}

# print_sandboxes NODE PROC BUNDLE...: PROC is the /proc folder of the node's first process.
print_sandboxes() {
  local node=$1 proc=$2
  shift 2
  jq -r --arg node "$node" --arg proc "$proc" '
    select(.annotations["io.kubernetes.cri.container-type"] == "sandbox")
    | (first(.linux.namespaces[] | select(.type == "network") | .path) // "") as $path
    | [.annotations["io.kubernetes.cri.sandbox-namespace"], .annotations["io.kubernetes.cri.sandbox-name"], $node,
       (if $path == "" then $proc + "/ns/net" else $proc + "/root" + ($path | sub("^/var/run/"; "/run/")) end)]
    | join(" ")' "$@"
}
