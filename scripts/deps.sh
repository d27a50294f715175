#!/usr/bin/env bash
# What it takes to compile: a Rust toolchain, which the user brings, and a C compiler with OpenSSL's headers for libgit2,
# which are installed where this may install packages.
source "$(dirname "$0")/lib.sh"

# package:what it brings, as something that check_part knows
readonly PARTS=(
  gcc:program:cc libc6-dev:file:/usr/include/unistd.h pkg-config:program:pkg-config libssl-dev:pkg:openssl
  binutils:program:strip git:program:git
)

check_rust() {
  local have
  if ! has cargo || ! has rustc; then
    die "there is no Rust: install rustc $RUSTC_NEEDED or newer with cargo (https://rustup.rs) and put it into PATH"
  fi
  have=$(rustc --version | cut -d' ' -f2)
  ! is_older "$have" "$RUSTC_NEEDED" ||
    die "rustc is $have and Ringfence needs $RUSTC_NEEDED or newer: run 'rustup update stable'"
}

is_there() {
  case $1 in
    program:*) has "${1#*:}" ;;
    file:*) [[ -e ${1#*:} ]] ;;
    pkg:*) has pkg-config && pkg-config --exists "${1#*:}" ;;
  esac
}

missing_packages() {
  local part
  for part in "${PARTS[@]}"; do
    is_there "${part#*:}" || echo "${part%%:*}"
  done
}

install_packages() {
  if ((EUID != 0)) || ! has apt-get; then
    die "not installed: $*; install them (these are Debian's names), or run this as root on Debian"
  fi
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update || die "apt-get update failed: is a Debian mirror reachable?"
  apt-get -qq install -y --no-install-recommends "$@" >/dev/null || die "apt-get could not install: $*"
}

check_rust
missing=$(missing_packages)
# shellcheck disable=SC2086  # several packages
[[ -z $missing ]] || install_packages $missing
missing=$(missing_packages)
[[ -z $missing ]] || die "still missing after the installation: ${missing//$'\n'/ }"
