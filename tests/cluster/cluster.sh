#!/usr/bin/env bash
# Real Kubernetes clusters on one Linux machine, for the demo and the tests: real etcd, apiserver,
# controller-manager, scheduler, and nodes with containerd, kubelet and kube-proxy, each in its own
# namespaces; no container engine and no image registry. README.md has the picture and the addresses.
set -euo pipefail
# So that a failure inside $(...) is one outside it too.
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

usage() {
  cat <<'TEXT'
usage: cluster.sh COMMAND...

  deps                              packages and programs, the latter built once into the cache
  bin                               the folder with kubectl, helm and the rest
  up [NAME]                         a cluster with three Ready nodes (NAME: demo); last line: export KUBECONFIG=…
  up-apiserver [NAME]               etcd and an apiserver alone, empty; the same last line
  down [NAME]                       end it, whatever state it is in
  node-add NAME N, node-del NAME N  a node that joins later (N from 4), and leaves
  node-restart NAME N               a node that loses power and comes back, whether an apiserver is there or not
  node-exec NAME N COMMAND...       a command in a node's namespaces
  ext NAME COMMAND...               a command in the client's network namespace outside the cluster
  stop NAME COMPONENT [N]           kill a component as a crash would: etcd, apiserver, controller-manager, scheduler,
  start NAME COMPONENT [N]            or containerd, kubelet, kube-proxy of node N; and start it again
  pods NAME                         namespace, name, node and network namespace of every running Pod
  addresses NAME                    the addresses of this cluster's parts, as shell assignments
  git-server NAME ACTION            start, stop, url, private-url, ca, dir, password-file
  image OUT.tar REF ENTRYPOINT_JSON SRC:DEST...   an image of files and folders
  rootfs DIR BINARY...              programs with all that they need to run, as a folder for an image
  load NAME TAR...                  images into every node, also into those that join later

environment: RINGFENCE_CACHE, RINGFENCE_STATE: where programs and clusters are kept;
  RINGFENCE_POD_NET=hostgw|vxlan, RINGFENCE_POD_CIDR_OUTSIDE=1: the Pod network of the next up;
  RINGFENCE_PROXY_MODE=nftables|iptables|mixed: how its kube-proxies translate;
  KUBEBUILDER_ASSETS: a folder whose kube-apiserver, etcd and kubectl are used instead of ours
TEXT
}

source "$HERE/lib.sh"
source "$HERE/deps.sh"
source "$HERE/image.sh"
source "$HERE/pki.sh"
source "$HERE/network.sh"
source "$HERE/controlplane.sh"
source "$HERE/node.sh"
source "$HERE/gitserver.sh"
source "$HERE/lifecycle.sh"

cmd_bin() { echo "$BIN"; }

cmd_addresses() {
  (($# == 1)) || die "usage: $0 addresses NAME"
  use_cluster "$1"
  cat <<TEXT
APISERVER_ADDRESS=$APISERVER_ADDRESS
HOST_ADDRESS=$HOST_ADDRESS
NODE1_ADDRESS=$(node_address 1)
NODE2_ADDRESS=$(node_address 2)
NODE3_ADDRESS=$(node_address 3)
EXT_ADDRESS=$EXT_ADDRESS
DNS_SERVICE=$DNS_SERVICE
DNS_SERVICE6=$DNS_SERVICE6
SERVICE_RANGE=$SERVICE_RANGE
POD_RANGE=$POD_RANGE
APISERVER_ADDRESS6=$APISERVER_ADDRESS6
HOST_ADDRESS6=$HOST_ADDRESS6
NODE1_ADDRESS6=$(node_address6 1)
NODE2_ADDRESS6=$(node_address6 2)
NODE3_ADDRESS6=$(node_address6 3)
EXT_ADDRESS6=$EXT_ADDRESS6
SERVICE_RANGE6=$SERVICE_RANGE6
POD_RANGE6=$POD_RANGE6
TEXT
}

case ${1:-} in
  deps | bin | up | up-apiserver | down | node-add | node-del | node-restart | node-exec | ext | stop | start | pods | addresses | git-server | image | rootfs | load | _bring-up | _bring-up-apiserver)
    "cmd_$1" "${@:2}" ;;
  help | --help | -h) usage ;;
  *)
    usage >&2
    exit 2 ;;
esac
