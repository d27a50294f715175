# shellcheck shell=bash
# The networks: a fabric with a bridge and a router, and everyone's link to it.
#
#   host ──┐
#   cp ────┤ bridge in rf-NAME-fabric ── router ── rf-NAME-ext (another subnet)
#   nodeN ─┘ (Pods behind each node, by route)

make_fabric() {
  [[ -e $(netns_path fabric) ]] && die "$(netns_path fabric) exists already: run '$0 down $NAME' first"
  need_ipv6
  need_free_subnet
  add_netns fabric
  in_netns fabric sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 \
    net.ipv6.conf.all.forwarding=1
  ip -n "$(netns fabric)" link add br0 type bridge
  ip -n "$(netns fabric)" addr add "$FABRIC_ADDRESS/24" dev br0
  ip -n "$(netns fabric)" addr add "$FABRIC_ADDRESS6/64" dev br0
  ip -n "$(netns fabric)" link set br0 up
  # The fabric is a switch: no packet filter of its own may see what it bridges.
  set_bridge_filter fabric 0
  link_host
  add_netns cp
  link_to_bridge cp "$APISERVER_ADDRESS" "$APISERVER_ADDRESS6"
  add_netns ext
  link_ext
}

need_ipv6() {
  [[ -e /proc/sys/net/ipv6 ]] || die "the kernel has no IPv6, and clusters have addresses of both families"
}

# The host's addresses in the cluster's subnets must not hide someone else's network.
need_free_subnet() {
  local subnet taken
  for subnet in "$NODE_NET.0/24" "$NODE_NET6::/64"; do
    taken=$(routes_on_host "$subnet")
    [[ -z $taken ]] || die "$subnet is in use on this host ($taken); set RINGFENCE_NET to two other octets, such as 172.29"
  done
}

# The host's routes that lie in a subnet or hold it.
routes_on_host() {
  local family=-4
  [[ $1 != *:* ]] || family=-6
  ip -o "$family" route show to root "$1"
  ip -o "$family" route show to match "$1" | grep -v '^default' || true
}

# An IPv6 address is usable at once, without a second's search for somebody else who has it.
add_netns() {
  ip netns add "$(netns "$1")"
  in_netns "$1" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
  ip -n "$(netns "$1")" link set lo up
}

# The host reaches the apiserver and the nodes through an address of its own on the bridge.
link_host() {
  ip link add "rf-$NAME" type veth peer name host netns "$(netns fabric)"
  ip -n "$(netns fabric)" link set host master br0 up
  ip addr add "$HOST_ADDRESS/24" dev "rf-$NAME"
  # A host that has IPv6 switched off keeps it off elsewhere.
  sysctl -qw "net.ipv6.conf.rf-$NAME.disable_ipv6=0"
  ip addr add "$HOST_ADDRESS6/64" dev "rf-$NAME" nodad
  ip link set "rf-$NAME" up
}

link_to_bridge() {
  local which=$1 address=$2 address6=$3
  ip -n "$(netns fabric)" link add "$which" type veth peer name eth0 netns "$(netns "$which")"
  ip -n "$(netns fabric)" link set "$which" master br0 up
  ip -n "$(netns "$which")" addr add "$address/24" dev eth0
  ip -n "$(netns "$which")" addr add "$address6/64" dev eth0
  ip -n "$(netns "$which")" link set eth0 up
  ip -n "$(netns "$which")" route add default via "$FABRIC_ADDRESS"
  ip -n "$(netns "$which")" -6 route add default via "$FABRIC_ADDRESS6"
}

# The client outside: other subnets, so that it is no neighbour of the nodes and its address is seen as it is.
link_ext() {
  ip -n "$(netns fabric)" link add ext type veth peer name eth0 netns "$(netns ext)"
  ip -n "$(netns fabric)" addr add "$EXT_ROUTER/28" dev ext
  ip -n "$(netns fabric)" addr add "$EXT_ROUTER6/64" dev ext
  ip -n "$(netns fabric)" link set ext up
  ip -n "$(netns ext)" addr add "$EXT_ADDRESS/28" dev eth0
  ip -n "$(netns ext)" addr add "$EXT_ADDRESS6/64" dev eth0
  ip -n "$(netns ext)" link set eth0 up
  ip -n "$(netns ext)" route add default via "$EXT_ROUTER"
  ip -n "$(netns ext)" -6 route add default via "$EXT_ROUTER6"
}

# Absent where the kernel has no br_netfilter: then there is nothing to set.
set_bridge_filter() {
  in_netns "$1" sysctl -qw net.bridge.bridge-nf-call-iptables="$2" net.bridge.bridge-nf-call-ip6tables="$2" 2>/dev/null || true
}

need_bridge_filter() {
  [[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || modprobe br_netfilter 2>/dev/null ||
    die "the kernel has no br_netfilter: Pods could not reach Services behind Pods of their own node"
}

# --- nodes ---------------------------------------------------------------------------

make_node_network() {
  local number=$1 which=node$1
  add_netns "$which"
  link_to_bridge "$which" "$(node_address "$number")" "$(node_address6 "$number")"
  in_netns "$which" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
    net.ipv4.conf.all.send_redirects=0 net.ipv6.conf.all.forwarding=1
  # Pods of one node talk over a bridge; answers of a Service's backend must pass the node's filter to be translated back.
  set_bridge_filter "$which" 1
}

node_pod_range() { cat "$NODES/$1/pod-range"; }
# Of both families.
node_pod_ranges() { echo "$(node_pod_range "$1") $(pod_cidr6_for "$1")"; }
pod_net() { cat "$STATE/pod-net"; }
proxy_mode() { cat "$STATE/proxy-mode"; }

# node_address_for N RANGE: the node's address of the same family.
node_address_for() {
  if [[ $2 == *:* ]]; then node_address6 "$1"; else node_address "$1"; fi
}

# Everyone learns the way to everyone's Pods. Run again whenever a node comes or goes.
connect_nodes() {
  local to range
  for to in $(node_numbers); do
    for range in $(node_pod_ranges "$to"); do
      connect_range "$to" "$range"
    done
  done
}

connect_range() {
  local to=$1 range=$2 from
  # The router and the control plane always go by the node's own address, so that the client outside reaches Pods too.
  for from in fabric cp; do
    ip -n "$(netns "$from")" route replace "$range" via "$(node_address_for "$to" "$range")"
  done
  for from in $(node_numbers); do
    ((from == to)) || connect_node "$from" "$to" "$range"
  done
}

connect_node() {
  local from=$1 to=$2 range=$3
  if [[ $(pod_net) == hostgw ]]; then
    ip -n "$(netns "node$from")" route replace "$range" via "$(node_address_for "$to" "$range")"
    return
  fi
  local tunnel=${range%/*} mac
  mac=$(tunnel_mac "$to")
  bridge -n "$(netns "node$from")" fdb replace "$mac" dev tunnel dst "$(node_address "$to")"
  ip -n "$(netns "node$from")" neigh replace "$tunnel" lladdr "$mac" dev tunnel nud permanent
  ip -n "$(netns "node$from")" route replace "$range" via "$tunnel" dev tunnel onlink
}

tunnel_mac() { printf '02:72:66:00:00:%02x\n' "$1"; }

# The tunnel carries the first address of each of the node's Pod ranges, as flannel does it.
make_tunnel() {
  local number=$1 range
  [[ $(pod_net) == vxlan ]] || return 0
  ip -n "$(netns "node$number")" link add tunnel address "$(tunnel_mac "$number")" type vxlan id 1 \
    local "$(node_address "$number")" dstport 8472 nolearning
  for range in $(node_pod_ranges "$number"); do
    ip -n "$(netns "node$number")" addr add "${range%/*}" dev tunnel
  done
  ip -n "$(netns "node$number")" link set tunnel mtu 1450 up
}

# forget_node_routes RANGE...
forget_node_routes() {
  local range from others=()
  for from in $(node_numbers); do others+=("node$from"); done
  for range in "$@"; do
    for from in fabric cp "${others[@]}"; do
      ip -n "$(netns "$from")" route del "$range" 2>/dev/null || true
    done
  done
}
