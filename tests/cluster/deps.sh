# shellcheck shell=bash
# Everything the cluster is made of: Debian packages, and programs built from their Go modules
# into a cache outside the work tree.

readonly HELM_VERSION=3.22.0
readonly COREDNS_VERSION=1.14.7
readonly GO_NEEDED=1.26
# What images are made of; apart from $BIN, because its programs must not be found by PATH.
readonly PARTS=$BIN/images/parts

# package:program that it brings (a path when it is in no PATH)
readonly PACKAGES=(
  etcd-server:etcd containerd:containerd runc:runc containernetworking-plugins:/usr/lib/cni/bridge
  iptables:iptables ipset:ipset nftables:nft conntrack:conntrack iproute2:ip procps:pgrep kmod:modprobe
  openssl:openssl ca-certificates:/etc/ssl/certs/ca-certificates.crt git:git jq:jq curl:curl gcc:gcc libc6-dev:/usr/include/unistd.h
  lighttpd:lighttpd lighttpd-mod-openssl:/usr/lib/lighttpd/mod_openssl.so util-linux:nsenter
)

cmd_deps() {
  need_root
  mkdir -p "$BIN"
  (
    flock -n 9 || { say "another run is preparing $CACHE: waiting for it"; flock -w 3600 9; } ||
      die "another run has held $CACHE/.lock for an hour: end it, then try again"
    install_packages
    build_programs
    build_test_images
  ) 9>"$CACHE/.lock"
}

# path_of PROGRAM: where it is; the user's own envtest binaries come first.
path_of() {
  local own=${KUBEBUILDER_ASSETS:-/nonexistent}/$1
  case $1 in
    kube-apiserver | etcd | kubectl)
      [[ -x $own ]] && { echo "$own"; return; } ;;
  esac
  if [[ $1 == etcd ]]; then type -P etcd; else echo "$BIN/$1"; fi
}

# --- Debian packages ------------------------------------------------------------

install_packages() {
  local entry program missing=() started=$SECONDS
  for entry in "${PACKAGES[@]}"; do
    program=${entry#*:}
    if [[ $program == /* ]]; then
      [[ -e $program ]] || missing+=("${entry%%:*}")
    else
      PATH=$PATH:/usr/sbin:/sbin type -P "$program" >/dev/null || missing+=("${entry%%:*}")
    fi
  done
  ((${#missing[@]})) || return 0
  type -P apt-get >/dev/null ||
    die "not installed: ${missing[*]}; there is no apt-get here, so install them by hand and try again"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >/dev/null || die "apt-get update failed: is a Debian mirror reachable?"
  without_services apt-get -qq install -y --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 ||
    { tail_logs "$CACHE/apt.log"; die "apt-get install failed"; }
  say "packages installed in $(seconds_since "$started") s"
}

# The packages bring daemons of their own (etcd, containerd, a web server) that must not start.
without_services() {
  local policy=/usr/sbin/policy-rc.d status=0
  if [[ -e $policy ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  "$@" || status=$?
  rm -f "$policy"
  return "$status"
}

# --- programs from Go modules ---------------------------------------------------

build_programs() {
  local version_flags="-X k8s.io/component-base/version.gitVersion=v$KUBERNETES_VERSION"
  version_flags+=" -X k8s.io/component-base/version.gitMajor=${KUBERNETES_VERSION%%.*}"
  version_flags+=" -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
  local program
  # In the order in which `up` needs them.
  for program in kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet kube-proxy; do
    build_program "$program" kubernetes "k8s.io/kubernetes/cmd/$program" "$version_flags"
  done
  build_program "coredns-$COREDNS_VERSION" coredns . "-X github.com/coredns/coredns/coremain.GitCommit=ringfence-test"
  build_program agnhost kubernetes k8s.io/kubernetes/test/images/agnhost "$version_flags"
  build_program "helm-$HELM_VERSION" "" "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION" "-X helm.sh/helm/v3/internal/version.version=v$HELM_VERSION"
  ln -sfn "coredns-$COREDNS_VERSION" "$BIN/coredns"
  ln -sfn "helm-$HELM_VERSION" "$BIN/helm"
}

# build_program PROGRAM MODULE PACKAGE FLAGS: skipped when there; complete or not there at all.
# MODULE is a folder beside this file that pins versions, or empty for `go install PACKAGE@VERSION`.
build_program() {
  local program=$1 module=$2 package=$3 flags="-s -w $4" started=$SECONDS work
  [[ ! -x $(path_of "$program") ]] || return 0
  need_go
  say "building $program (minutes on the first run)"
  work=$(mktemp -d "$CACHE/build.XXXXXX")
  if [[ -n $module ]]; then
    (cd "$HERE/go/$module" &&
      CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -ldflags "$flags" -o "$work/$program" "$package")
  else
    CGO_ENABLED=0 GOBIN=$work go install -trimpath -ldflags "$flags" "$package" && mv "$work"/* "$work/$program"
  fi >"$CACHE/build-$program.log" 2>&1 || {
    tail_logs "$CACHE/build-$program.log"
    rm -rf "$work"
    die "building $program failed: the first run needs the Go module proxy (go env GOPROXY) and about 6 GB of disk"
  }
  mv "$work/$program" "$BIN/$program"
  rm -rf "$work"
  say "built $program in $(seconds_since "$started") s"
}

need_go() {
  type -P go >/dev/null || die "not installed: go; install Go $GO_NEEDED or newer and put it into PATH"
  local have
  have=$(go env GOVERSION)
  have=${have#go}
  [[ $(printf '%s\n' "$GO_NEEDED" "$have" | sort -V | head -n1) == "$GO_NEEDED" || $(go env GOTOOLCHAIN) != local ]] ||
    die "Go is too old: $have; install Go $GO_NEEDED or newer"
}

# --- images of the cluster itself -------------------------------------------------

build_test_images() {
  mkdir -p "$PARTS"
  build_c pause
  build_c bash
  unpack_busybox
  if is_stale "$BIN/images/pause.tar" "$PARTS/pause"; then
    make_image "$BIN/images/pause.tar" ringfence.test/pause:1 '["/pause"]' "$PARTS/pause:/pause"
  fi
  if is_stale "$BIN/images/coredns.tar" "$BIN/coredns"; then
    make_image "$BIN/images/coredns.tar" ringfence.test/coredns:1 '["/coredns"]' "$(readlink -f "$BIN/coredns"):/coredns"
  fi
  if is_stale "$BIN/images/agnhost.tar" "$BIN/agnhost" "$PARTS/bash" "$PARTS/busybox"; then
    build_agnhost_image
  fi
}

# is_stale TARGET SOURCE...
is_stale() {
  local target=$1 source
  shift
  [[ -e $target ]] || return 0
  for source in "$@"; do
    [[ ! $source -nt $target ]] || return 0
  done
  return 1
}

build_c() {
  local source=$HERE/c/$1.c
  is_stale "$PARTS/$1" "$source" || return 0
  gcc -static -Os -s -Wall -Werror -o "$PARTS/.$1.new" "$source"
  mv "$PARTS/.$1.new" "$PARTS/$1"
}

# A shell for the test image. Unpacked rather than installed, to leave the host's packages alone. Not the static
# one, which crashes on looking up a name.
unpack_busybox() {
  [[ ! -x $PARTS/busybox ]] || return 0
  local work
  work=$(mktemp -d "$CACHE/build.XXXXXX")
  (cd "$work" && { apt-get -qq download busybox || { apt-get -qq update && apt-get -qq download busybox; }; } &&
    dpkg-deb -x busybox_*.deb . && mv "$(find . -type f -name busybox -perm -u+x | head -n1)" "$PARTS/busybox") >"$CACHE/busybox.log" 2>&1 ||
    { tail_logs "$CACHE/busybox.log"; rm -rf "$work"; die "could not fetch the package busybox: is a Debian mirror reachable?"; }
  rm -rf "$work"
}

# agnhost, the upstream network test tool, with a shell and curl for tests and for those who look around.
build_agnhost_image() {
  local root applet
  root=$(mktemp -d "$CACHE/build.XXXXXX")
  chmod 755 "$root"
  cmd_rootfs "$root" "$PARTS/busybox" curl
  cp "$BIN/agnhost" "$root/agnhost"
  cp "$PARTS/bash" "$root/bin/bash"
  for applet in $("$PARTS/busybox" --list); do
    [[ -e $root/bin/$applet ]] || ln -s busybox "$root/bin/$applet"
  done
  make_image "$BIN/images/agnhost.tar" ringfence.test/agnhost:1 '["/agnhost"]' "$root:/"
  rm -rf "$root"
}
