# shellcheck shell=bash
# What every other file here uses: messages, waiting, names, the address plan, and
# processes that can be found and ended again.

readonly KUBERNETES_VERSION=1.36.3
readonly CACHE=${RINGFENCE_CACHE:-$HOME/.cache/ringfence}
readonly BIN=$CACHE/bin/k8s-$KUBERNETES_VERSION
readonly STATE_ROOT=${RINGFENCE_STATE:-/var/tmp/ringfence}
# First two octets of the nodes' networks; every cluster takes one /24 of it.
readonly NET=${RINGFENCE_NET:-172.30}
# The same octets as groups of an IPv6 prefix: fd00:172:30. Every cluster takes one /64 of it.
readonly NET6=fd00:${NET/./:}

readonly SERVICE_RANGE=10.96.0.0/16
readonly SERVICE_RANGE6=fd00:10:96::/112
readonly DNS_SERVICE=10.96.0.10
readonly DNS_SERVICE6=fd00:10:96::a
readonly POD_RANGE=10.244.0.0/16
readonly POD_RANGE6=fd00:10:244::/48
# With RINGFENCE_POD_CIDR_OUTSIDE=1 one node takes its Pods' IPv4 addresses from here,
# although Kubernetes believes in a podCIDR of POD_RANGE.
readonly POD_RANGE_OUTSIDE=10.245.0.0/16
readonly POD_RANGE_BOTH=10.244.0.0/15

say() { printf 'cluster: %s\n' "$*" >&2; }
die() {
  printf 'cluster: error: %s\n' "$*" >&2
  exit 1
}

seconds_since() { echo $((SECONDS - $1)); }

# need_tools TOOL...: name everything that is missing at once.
need_tools() {
  local tool missing=()
  for tool in "$@"; do
    type -P "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || die "not installed: ${missing[*]}; run '$0 deps' as root"
}

need_root() {
  ((EUID == 0)) || die "this makes network and mount namespaces: run it as root"
}

# tail_logs FILE...: the end of each log that exists.
tail_logs() {
  local log
  for log in "$@"; do
    [[ -s $log ]] || continue
    printf -- '--- last lines of %s\n' "$log" >&2
    tail -n 25 "$log" >&2
  done
}

# await SECONDS WHAT [LOG...] -- COMMAND...: try until it succeeds, or say what the logs say.
await() {
  local limit=$1 what=$2 deadline logs=()
  shift 2
  while [[ $1 != -- ]]; do
    logs+=("$1")
    shift
  done
  shift
  deadline=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= deadline)); then
      say "gave up after $limit s waiting for $what; last try said:"
      "$@" 2>&1 | tail -n 10 >&2 || true
      tail_logs "${logs[@]}"
      return 1
    fi
    sleep 0.2
  done
}

# --- names and addresses ------------------------------------------------------

# The host's end of the link is called rf-NAME, and a link's name has 15 characters at most.
need_cluster_name() {
  [[ $NAME =~ ^[a-z][a-z0-9-]{0,11}$ ]] ||
    die "'$NAME' is no cluster name: use up to 12 of a-z, 0-9 and '-', beginning with a letter"
}

# use_cluster NAME: set what depends on the cluster. Its index decides its addresses.
use_cluster() {
  NAME=$1
  need_cluster_name
  STATE=$STATE_ROOT/$NAME
  LOG=$STATE/log RUN=$STATE/run PKI=$STATE/pki NODES=$STATE/nodes
  KUBECONFIG=$STATE/admin.conf
  export KUBECONFIG
  INDEX=$(cluster_index)
  [[ -n $INDEX ]] || die "there is no cluster $NAME; run '$0 up $NAME'"
  NODE_NET=$NET.$INDEX
  FABRIC_ADDRESS=$NODE_NET.1
  APISERVER_ADDRESS=$NODE_NET.2
  HOST_ADDRESS=$NODE_NET.254
  EXT_ROUTER=198.51.100.$((INDEX * 16 + 1))
  EXT_ADDRESS=198.51.100.$((INDEX * 16 + 2))
  NODE_NET6=$NET6:$INDEX
  FABRIC_ADDRESS6=$NODE_NET6::1
  APISERVER_ADDRESS6=$NODE_NET6::2
  HOST_ADDRESS6=$NODE_NET6::254
  EXT_ROUTER6=2001:db8:51:$INDEX::1
  EXT_ADDRESS6=2001:db8:51:$INDEX::2
}

# demo and test have fixed addresses; any other name keeps the index that `up` claimed for it.
cluster_index() {
  case $NAME in
    demo) echo 0 ;;
    test) echo 1 ;;
    *) { grep -lx -- "$NAME" "$STATE_ROOT"/.index/* 2>/dev/null || true; } | sed 's|.*/||' ;;
  esac
}

# claim_cluster NAME: use_cluster, and a name that is new gets the first free index.
claim_cluster() {
  NAME=$1
  mkdir -p "$STATE_ROOT/.index"
  (
    flock -w 10 9 || die "another run holds $STATE_ROOT/.index/.lock"
    [[ -n $(cluster_index) ]] || first_free_index
  ) 9>"$STATE_ROOT/.index/.lock"
  use_cluster "$NAME"
}

first_free_index() {
  local i
  need_cluster_name
  for i in {2..15}; do
    [[ ! -e $STATE_ROOT/.index/$i ]] || continue
    echo "$NAME" >"$STATE_ROOT/.index/$i"
    return
  done
  die "sixteen clusters exist already; end one with '$0 down NAME' (names in $STATE_ROOT/.index)"
}

release_index() {
  local file
  for file in "$STATE_ROOT"/.index/*; do
    [[ -e $file && $(cat "$file") == "$NAME" ]] && rm -f "$file"
  done
  return 0
}

netns() { echo "rf-$NAME-$1"; }
netns_path() { echo "/run/netns/rf-$NAME-$1"; }
node_address() { echo "$NODE_NET.$((10 + $1))"; }
node_address6() { echo "$NODE_NET6::$((10 + $1))"; }

need_node_number() {
  [[ ${1:-} =~ ^[0-9]+$ ]] && (($1 >= 1 && $1 <= 200)) || die "'${1:-}' is no node number: use 1 to 200"
}

# The numbers of the nodes that exist, in order.
node_numbers() {
  local dir
  for dir in "$NODES"/*/; do
    [[ -d $dir ]] && basename "$dir"
  done | sort -n
}

kubectl_() { "$(path_of kubectl)" --request-timeout=10s "$@"; }

# --- processes ----------------------------------------------------------------

# in_netns WHICH COMMAND...: in one of the cluster's network namespaces. Not by `ip netns exec`,
# which mounts a fresh /sys and so hides the control groups.
in_netns() {
  local which=$1
  shift
  nsenter --net="$(netns_path "$which")" -- "$@"
}

# The time at which a process started tells it from a later one with the same number.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# spawn COMPONENT COMMAND...: start a daemon; output to its log, number to its pid file.
spawn() {
  local component=$1 pid
  shift
  printf -- '--- started %s\n' "$(date -Is)" >>"$LOG/$component.log"
  # Descriptors above 2 are closed: a daemon must not keep a lock of ours.
  (
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      ((fd <= 2)) || eval "exec $fd>&-"
    done
    exec setsid "$@"
  ) </dev/null >>"$LOG/$component.log" 2>&1 &
  pid=$!
  echo "$pid $(start_time "$pid")" >"$RUN/$component.pid"
}

# pid_of COMPONENT: prints the number only if that very process is still there.
pid_of() {
  local pid started
  [[ -e $RUN/$1.pid ]] || return 1
  read -r pid started <"$RUN/$1.pid" || return 1
  [[ -n $started && $(start_time "$pid") == "$started" ]] && ! is_gone "$pid" || return 1
  echo "$pid"
}

children_of() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }

# end_component COMPONENT: SIGKILL, as a crash would; a TERM makes an apiserver linger for a minute.
end_component() {
  local pid children
  pid=$(pid_of "$1") || return 0
  # nsenter and unshare wait for the program proper, which is their child.
  case $(cat "/proc/$pid/comm" 2>/dev/null) in
    nsenter | unshare) children=$(children_of "$pid") ;;
    *) children= ;;
  esac
  # shellcheck disable=SC2086  # several numbers
  kill -KILL $children "$pid" 2>/dev/null || true
  await 10 "the end of $1" -- is_gone "$pid"
  rm -f "$RUN/$1.pid"
}

# A zombie is gone: it only waits for its parent to notice.
is_gone() { [[ ! -e /proc/$1 || $(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) == Z ]]; }
