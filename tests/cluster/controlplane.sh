# shellcheck shell=bash
# etcd, kube-apiserver, kube-controller-manager and kube-scheduler in a network namespace of their own.

readonly CONTROL_PLANE="etcd apiserver controller-manager scheduler"

start_etcd() {
  # A test cluster's data need not survive a power cut, so no write waits for the disk.
  local speed=()
  mapfile -t speed < <(etcd_speed_flag)
  spawn etcd nsenter --net="$(netns_path cp)" -- "$(path_of etcd)" --data-dir "$STATE/etcd" --name "$NAME" \
    "${speed[@]}" \
    --listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "$NAME=http://127.0.0.1:2380" \
    --cert-file "$PKI/etcd.crt" --key-file "$PKI/etcd.key" --trusted-ca-file "$PKI/ca.crt" --client-cert-auth
}

etcd_speed_flag() {
  # Read in full before it is searched: etcd does not like a closed pipe.
  local help
  help=$("$(path_of etcd)" --help 2>&1 || true)
  [[ $help != *--unsafe-no-fsync* ]] || echo --unsafe-no-fsync
}

start_apiserver() {
  spawn apiserver nsenter --net="$(netns_path cp)" -- "$(path_of kube-apiserver)" \
    --advertise-address="$APISERVER_ADDRESS" --secure-port=6443 \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" --client-ca-file="$PKI/ca.crt" \
    --etcd-servers=https://127.0.0.1:2379 --etcd-cafile="$PKI/ca.crt" \
    --etcd-certfile="$PKI/apiserver-etcd.crt" --etcd-keyfile="$PKI/apiserver-etcd.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate="$PKI/apiserver-kubelet.crt" --kubelet-client-key="$PKI/apiserver-kubelet.key" \
    --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-cluster-ip-range="$SERVICE_RANGE,$SERVICE_RANGE6" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --audit-policy-file="$HERE/manifests/audit.yaml" --audit-log-path="$LOG/audit.log" --enable-aggregator-routing=true
}

start_controller-manager() {
  spawn controller-manager nsenter --net="$(netns_path cp)" -- "$(path_of kube-controller-manager)" \
    --kubeconfig="$PKI/controller-manager.conf" --authentication-kubeconfig="$PKI/controller-manager.conf" \
    --authorization-kubeconfig="$PKI/controller-manager.conf" --bind-address=127.0.0.1 --leader-elect=false \
    --use-service-account-credentials=true --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
    --cluster-cidr="$POD_RANGE,$POD_RANGE6" --service-cluster-ip-range="$SERVICE_RANGE,$SERVICE_RANGE6" --allocate-node-cidrs=true
}

start_scheduler() {
  spawn scheduler nsenter --net="$(netns_path cp)" -- "$(path_of kube-scheduler)" \
    --kubeconfig="$PKI/scheduler.conf" --authentication-kubeconfig="$PKI/scheduler.conf" \
    --authorization-kubeconfig="$PKI/scheduler.conf" --bind-address=127.0.0.1 --leader-elect=false
}

await_apiserver() {
  await 90 "the apiserver at $APISERVER_ADDRESS" "$LOG/apiserver.log" "$LOG/etcd.log" -- kubectl_ get --raw /readyz
}

# What the apiserver may do at a kubelet (exec, logs), and CoreDNS.
install_basics() {
  kubectl_ apply -f - >>"$LOG/setup.log" <<'YAML'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ringfence-test-apiserver-kubelet}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:kubelet-api-admin"}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: kube-apiserver-kubelet-client}
YAML
  sed "s/@DNS_SERVICE@/$DNS_SERVICE/g; s/@DNS_SERVICE6@/$DNS_SERVICE6/; s/@EXT_ADDRESS@/$EXT_ADDRESS/" "$HERE/manifests/coredns.yaml" |
    kubectl_ apply -f - >>"$LOG/setup.log"
}
