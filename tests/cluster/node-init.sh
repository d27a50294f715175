#!/usr/bin/env bash
# A node's first process: gives the node a file system view of its own, then only holds the namespaces.
#   node-init.sh NODE_DIR HOSTNAME BINARIES BINARIES_IN_NODE
set -euo pipefail
dir=$1 hostname=$2 binaries=$3 binaries_here=$4

hostname "$hostname"
mount -t proc proc /proc

# The programs keep a path that nothing below hides, wherever the cache is.
mount --bind "$binaries" "$binaries_here"

# Copies of the host's named network namespaces would keep them alive after their cluster's end.
if mountpoint -q /run/netns; then umount -l -R /run/netns; fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/containerd /run/ringfence

mount --bind "$dir/lib" /var/lib
mount --bind "$dir/log" /var/log
mount --bind "$dir/opt" /opt
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc-work" overlay /etc

# Kubernetes refuses Pods with mount propagation unless the root is shared; network namespaces
# that the runtime mounts must show in Pods that have /run/netns from the host.
mount --make-rshared /
mount --bind /run/netns /run/netns
mount --make-shared /run/netns

exec "$binaries_here/images/parts/pause"
