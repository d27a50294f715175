# shellcheck shell=bash
# Certificates: one authority per cluster, one identity per component, every name verifiable.

make_pki() {
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  make_ca ca "/CN=ringfence-$NAME"
  make_key sa
  openssl pkey -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub"
  make_cert etcd /CN=etcd serverAuth "IP:127.0.0.1"
  make_cert apiserver /CN=kube-apiserver serverAuth \
    "IP:$APISERVER_ADDRESS,IP:127.0.0.1,IP:${SERVICE_RANGE%.*}.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost"
  make_cert apiserver-etcd /CN=kube-apiserver-etcd-client clientAuth
  make_cert apiserver-kubelet /CN=kube-apiserver-kubelet-client clientAuth
  make_client admin /O=system:masters/CN=admin
  make_client controller-manager /CN=system:kube-controller-manager
  make_client scheduler /CN=system:kube-scheduler
  make_client kube-proxy /CN=system:kube-proxy
  mv "$PKI/admin.conf" "$KUBECONFIG"
}

make_node_pki() {
  local number=$1
  make_client "node$number" "/O=system:nodes/CN=system:node:node$number"
  make_cert "node$number-serving" "/O=system:nodes/CN=system:node:node$number" serverAuth \
    "IP:$(node_address "$number"),DNS:node$number"
}

make_key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$PKI/$1.key"; }

make_ca() {
  make_key "$1"
  openssl req -x509 -new -key "$PKI/$1.key" -subj "$2" -days 365 -out "$PKI/$1.crt" \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
}

# make_cert NAME SUBJECT serverAuth|clientAuth [SUBJECT_ALT_NAMES]
make_cert() {
  local name=$1 subject=$2 usage=$3 names=${4:-}
  make_key "$name"
  openssl req -new -key "$PKI/$name.key" -subj "$subject" 2>/dev/null |
    openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 16)" -days 365 \
      -out "$PKI/$name.crt" -extfile <(certificate_extensions "$usage" "$names") 2>/dev/null ||
    die "could not sign a certificate for $subject"
}

certificate_extensions() {
  printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$1"
  [[ -z $2 ]] || printf 'subjectAltName=%s\n' "$2"
}

# make_client NAME SUBJECT: a client certificate and $PKI/NAME.conf, a kubeconfig that uses it.
make_client() {
  make_cert "$1" "$2" clientAuth
  cat >"$PKI/$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: ringfence-$NAME
  cluster:
    server: https://$APISERVER_ADDRESS:6443
    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$PKI/$1.crt")
    client-key-data: $(base64 -w0 "$PKI/$1.key")
contexts:
- name: ringfence-$NAME
  context: {cluster: ringfence-$NAME, user: $1}
current-context: ringfence-$NAME
YAML
  chmod 600 "$PKI/$1.conf"
}
