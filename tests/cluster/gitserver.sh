# shellcheck shell=bash
# A git server in the namespace outside the cluster: git's own HTTP backend behind TLS.
#   https://ADDRESS/REPO.git            for everyone
#   https://ADDRESS/private/REPO.git    the same repositories for user ringfence with the password from a file
# Repositories are the bare ones in $STATE/git; commits come by the file system, so it serves reading only.

cmd_git-server() {
  (($# == 2)) || die "usage: $0 git-server NAME start|stop|url|private-url|ca|dir|password-file"
  use_cluster "$1"
  case $2 in
    start) start_git-server ;;
    stop) end_component git-server ;;
    url) echo "https://$EXT_ADDRESS" ;;
    private-url) echo "https://$EXT_ADDRESS/private" ;;
    ca) echo "$STATE/git-server/ca.crt" ;;
    dir) echo "$STATE/git" ;;
    password-file) echo "$STATE/git-server/password" ;;
    *) die "git-server cannot '$2': it knows start, stop, url, private-url, ca, dir and password-file" ;;
  esac
}

start_git-server() {
  local dir=$STATE/git-server
  pid_of git-server >/dev/null && return 0
  [[ -e $(netns_path ext) ]] || die "there is no cluster $NAME; run '$0 up $NAME'"
  need_tools lighttpd git
  mkdir -p "$dir/empty" "$STATE/git"
  [[ -e $dir/ca.crt ]] || make_git_pki "$dir"
  [[ -e $dir/password ]] || (umask 077 && openssl rand -hex 16 >"$dir/password")
  (umask 077 && printf 'ringfence:%s\n' "$(cat "$dir/password")" >"$dir/users")
  write_lighttpd_config "$dir" >"$dir/lighttpd.conf"
  spawn git-server nsenter --net="$(netns_path ext)" -- lighttpd -D -f "$dir/lighttpd.conf"
  await 15 "the git server" "$LOG/git-server.log" -- \
    in_netns ext curl -s --cacert "$dir/ca.crt" -o /dev/null "https://$EXT_ADDRESS/"
}

# An authority of its own: that the cluster trusts itself must not make it trust the git server.
make_git_pki() {
  local dir=$1
  PKI=$dir make_ca ca "/CN=ringfence-git-$NAME"
  PKI=$dir make_cert server "/CN=git.ringfence.test" serverAuth "IP:$EXT_ADDRESS,DNS:git.ringfence.test"
}

# receive-pack stays off: git would switch it on for whoever has logged in.
write_lighttpd_config() {
  local dir=$1 backend
  backend=$(git --exec-path)/git-http-backend
  cat <<CONF
server.modules = ("mod_openssl", "mod_auth", "mod_authn_file", "mod_alias", "mod_setenv", "mod_cgi")
server.document-root = "$dir/empty"
server.bind = "$EXT_ADDRESS"
server.port = 443
server.errorlog = "/dev/stderr"
ssl.engine = "enable"
ssl.pemfile = "$dir/server.crt"
ssl.privkey = "$dir/server.key"
alias.url = ("/private/" => "$backend/", "/" => "$backend/")
cgi.assign = ("" => "")
setenv.add-environment = ("GIT_PROJECT_ROOT" => "$STATE/git", "GIT_HTTP_EXPORT_ALL" => "1", "HOME" => "$dir/empty",
  "GIT_CONFIG_COUNT" => "2", "GIT_CONFIG_KEY_0" => "safe.directory", "GIT_CONFIG_VALUE_0" => "*",
  "GIT_CONFIG_KEY_1" => "http.receivepack", "GIT_CONFIG_VALUE_1" => "false")
auth.backend = "plain"
auth.backend.plain.userfile = "$dir/users"
auth.require = ("/private/" => ("method" => "basic", "realm" => "ringfence", "require" => "valid-user"))
CONF
}
