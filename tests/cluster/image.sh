# shellcheck shell=bash
# Container images without a container engine: a docker-archive with one layer, from plain files.

# image OUT.tar REF ENTRYPOINT_JSON SRC:DEST...
cmd_image() {
  (($# >= 4)) || die "usage: $0 image OUT.tar REF ENTRYPOINT_JSON SRC:DEST..."
  make_image "$@"
}

# SRC may be a file, or a directory whose content goes to DEST. The same files give the same bytes.
make_image() {
  local out=$1 ref=$2 entrypoint=$3 work mapping
  shift 3
  [[ $ref == *:* ]] || die "image reference '$ref' has no tag: write name:tag"
  jq -e 'type == "array"' <<<"$entrypoint" >/dev/null 2>&1 || die "entrypoint '$entrypoint' is no JSON array of strings"
  for mapping in "$@"; do
    check_mapping "$mapping"
  done
  work=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX")
  mkdir -m 755 "$work/root" "$work/image"
  for mapping in "$@"; do
    add_to_root "$work/root" "${mapping%%:*}" "${mapping#*:}"
  done
  plain_tar "$work/layer.tar" "$work/root" .
  write_archive "$work" "$ref" "$entrypoint"
  plain_tar "$work/out.tar" "$work/image" manifest.json config.json layer.tar
  mkdir -p "$(dirname "$out")"
  # Moved in one step on the target's own file system, so that a reader never sees half an image.
  mv "$work/out.tar" "$out.new.$$"
  mv "$out.new.$$" "$out"
  rm -rf "$work"
}

check_mapping() {
  [[ $1 == *:/* ]] || die "image: '$1' is not of the form SRC:/DEST"
  [[ -e ${1%%:*} ]] || die "image: there is no '${1%%:*}'"
}

add_to_root() {
  local root=$1 src=$2 dest=$3
  if [[ -d $src ]]; then
    mkdir -p "$root$dest"
    cp -a "$src/." "$root$dest/"
  else
    mkdir -p "$root$(dirname "$dest")"
    cp "$src" "$root$dest"
  fi
}

# Owner, time and order are fixed, so that unchanged files give an unchanged image.
plain_tar() {
  local out=$1 dir=$2
  shift 2
  tar --create --file="$out" --directory="$dir" --format=gnu --sort=name --mtime=@0 \
    --owner=0 --group=0 --numeric-owner -- "$@"
}

write_archive() {
  local work=$1 ref=$2 entrypoint=$3 digest
  digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  mv "$work/layer.tar" "$work/image/layer.tar"
  cat >"$work/image/config.json" <<JSON
{"architecture":"$(image_architecture)","os":"linux","config":{"Entrypoint":$entrypoint,"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$digest"]},"history":[{"created_by":"ringfence"}]}
JSON
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]\n' "$ref" >"$work/image/manifest.json"
}

image_architecture() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "no image for a $(uname -m) machine: only x86_64 and aarch64 are known" ;;
  esac
}

# --- a root file system for dynamically linked programs ----------------------------

# rootfs DIR BINARY...: programs by name or path, with what they need to run.
cmd_rootfs() {
  (($# >= 2)) || die "usage: $0 rootfs DIR BINARY..."
  local root=$1 program path
  shift
  mkdir -p "$root"/{etc/ssl/certs,proc,sys,dev,run,var,usr/bin,usr/sbin,usr/lib}
  mkdir -p "$root/tmp"
  chmod 1777 "$root/tmp"
  # As Debian has it: /bin and the like are links into /usr, and /var/run is /run.
  local dir
  for dir in bin sbin lib lib64; do
    [[ -e $root/$dir ]] || ln -s "usr/$dir" "$root/$dir"
  done
  mkdir -p "$root/usr/lib64"
  [[ -e $root/var/run ]] || ln -s /run "$root/var/run"
  printf 'passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n' >"$root/etc/nsswitch.conf"
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  local file
  for file in /etc/protocols /etc/services /etc/ethertypes; do
    [[ ! -e $file ]] || cp -L "$file" "$root/etc/"
  done
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" ||
    die "not installed: ca-certificates; run '$0 deps' as root"
  for program in "$@"; do
    path=$(PATH=$PATH:/usr/sbin:/sbin type -P "$program") || die "rootfs: there is no program '$program'"
    add_program "$root" "$path"
  done
}

add_program() {
  local root=$1 path=$2 real
  real=$(readlink -f "$path")
  case $(basename "$real") in
    xtables-nft-multi | xtables-legacy-multi) add_iptables "$root" ;;
    *) copy_linked "$root" "$real" "/usr/$(bin_or_sbin "$path")/$(basename "$path")" ;;
  esac
}

bin_or_sbin() { case $1 in */sbin/*) echo sbin ;; *) echo bin ;; esac; }

# copy_linked ROOT FILE DEST: the file, and every shared library that it names.
copy_linked() {
  local root=$1 file=$2 dest=$3 library
  mkdir -p "$root$(dirname "$dest")"
  cp -L "$file" "$root$dest"
  ldd "$file" 2>/dev/null | grep -oE '/[^ ]+' | while read -r library; do
    copy_library "$root" "$library"
  done || true # a static program names none
}

copy_library() {
  local root=$1 library=$2 dest=$2
  # ldd says /lib/…, which is /usr/lib/… here and there.
  [[ $dest != /lib/* && $dest != /lib64/* ]] || dest=/usr$dest
  [[ ! -e $root$dest ]] || return 0
  mkdir -p "$root$(dirname "$dest")"
  cp -L "$library" "$root$dest"
}

# Both back ends, their names, and the match and target modules that they load.
add_iptables() {
  local root=$1 backend family tool plugin
  for backend in nft legacy; do
    copy_linked "$root" "/usr/sbin/xtables-$backend-multi" "/usr/sbin/xtables-$backend-multi"
    for family in iptables ip6tables; do
      for tool in "" -save -restore; do
        ln -sfn "xtables-$backend-multi" "$root/usr/sbin/$family-$backend$tool"
        # Like a fresh Debian, the plain names mean the nft back end.
        [[ $backend != nft ]] || ln -sfn "xtables-nft-multi" "$root/usr/sbin/$family$tool"
      done
    done
  done
  for plugin in /usr/lib/*/xtables/*.so; do
    copy_linked "$root" "$plugin" "$plugin"
  done
}

# --- loading into the nodes ----------------------------------------------------------

# load NAME TAR...: import into every node; remembered, so that a node that joins later has it too.
cmd_load() {
  (($# >= 2)) || die "usage: $0 load NAME TAR..."
  use_cluster "$1"
  shift
  local tar numbers
  need_running_nodes
  mkdir -p "$STATE/images"
  for tar in "$@"; do
    [[ -e $tar ]] || die "there is no image '$tar'"
    # Named after its path, so that a newer build of the same tar takes the older one's place.
    cp "$tar" "$STATE/images/$(readlink -f "$tar" | tr '/' '_')"
  done
  mapfile -t numbers < <(node_numbers)
  in_parallel load_images_from "$@" -- "${numbers[@]}"
}

load_images_from() { # N is last
  local number=${*: -1} tar
  for tar in "${@:1:$#-1}"; do
    import_image "$number" "$tar"
  done
}

import_image() {
  local number=$1 tar=$2
  node_exec "$number" ctr -n k8s.io images import - <"$tar" >>"$LOG/images-$number.log" 2>&1 ||
    { tail_logs "$LOG/images-$number.log"; die "node$number would not take the image $tar"; }
}

# in_parallel FUNCTION ARG... -- ITEM...: FUNCTION ARG... ITEM for each item at once; fails if one fails.
in_parallel() {
  local call=() jobs=() item status=0
  while [[ $1 != -- ]]; do
    call+=("$1")
    shift
  done
  shift
  for item in "$@"; do
    "${call[@]}" "$item" &
    jobs+=($!)
  done
  for item in "${jobs[@]}"; do
    wait "$item" || status=1
  done
  return "$status"
}
