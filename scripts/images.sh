#!/usr/bin/env bash
# Builds both images into dist/, without a container engine, and prints for each: component, reference, archive.
# The tag is a hash of the content: a changed program is another image, and Helm replaces the Pods that run it.
source "$(dirname "$0")/lib.sh"

# What the agent calls, and what people look with who are in its container. iptables brings both back ends.
readonly AGENT_TOOLS=(iptables ip6tables ipset conntrack)

# content_hash DIR: of names, kinds, modes, link targets and contents, whoever owns them and however old they are.
content_hash() {
  tar --create --directory="$1" --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . |
    sha256sum | cut -c1-12
}

# What the agent puts on its node: `cven --cni-program` looks for it here.
readonly CNI_PROGRAM=usr/libexec/ringfence/cven-cni

# build_image COMPONENT PROGRAM TOOL...
build_image() {
  local component=$1 program=$2 root=$DIST/rootfs/$1 archive=$DIST/$1.tar tag reference
  shift 2
  [[ -x $BIN/$program ]] || die "there is no bin/$program: run 'make build'"
  rm -rf "$root"
  mkdir -p "$root"
  # Into a folder that is itself called bin, because that decides where in the image a program goes.
  mkdir -p "$DIST/bin"
  strip --strip-debug -o "$DIST/bin/$program" "$BIN/$program"
  "$TESTBED" rootfs "$root" "$DIST/bin/$program" "$@" >&2
  [[ -x $root/usr/bin/$program ]] || die "the root file system of $component has no $program: did another run remove it?"
  if [[ $component == agent ]]; then
    mkdir -p "$root/$(dirname "$CNI_PROGRAM")"
    strip -o "$root/$CNI_PROGRAM" "$BIN/cven-cni"
  fi
  tag=$(content_hash "$root")
  reference=ringfence.test/$component:$tag
  if [[ ! -e $archive || $(cat "$archive.reference" 2>/dev/null) != "$reference" ]]; then
    rm -f "$archive.reference"
    "$TESTBED" image "$archive" "$reference" "[\"/usr/bin/$program\"]" "$root:/" >&2
    echo "$reference" >"$archive.reference"
    say "built $reference ($(du -h "$archive" | cut -f1))"
  fi
  echo "$component $reference $archive"
}

mkdir -p "$DIST"
build_image controller ringfence-controller
build_image agent cven "${AGENT_TOOLS[@]}"
