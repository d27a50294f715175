#!/usr/bin/env bash
# What must hold of the chart, without a cluster: it renders in every mode, its schema refuses nonsense, and it asks for no
# more rights than it needs. Ends with "N passed, N failed, N skipped".
source "$(dirname "$0")/lib.sh"
HELM=$(tool helm) KUBECTL=$(tool kubectl)
has jq || die "there is no jq: install it"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# shellcheck disable=SC2016  # variables of jq
readonly RULES='.[] | .kind as $kind | .metadata.name as $name | .rules? // [] | .[]'
readonly DEPLOYMENT='.[] | select(.kind == "Deployment")'
readonly DAEMONSET='.[] | select(.kind == "DaemonSet")'

# check WHAT COMMAND...: the command succeeds and prints nothing but the reason why not.
check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok: $what"
  else
    failed=$((failed + 1))
    printf 'FAILED: %s\n%s\n' "$what" "$output"
  fi
}

# render NAME HELM_ARGUMENT...: the chart's objects as a JSON list in $work/NAME.json. kubectl reads YAML without a cluster.
render() {
  local name=$1
  shift
  "$HELM" template ringfence "$CHART" --namespace ringfence-system --kube-version 1.36.0 "$@" >"$work/$name.yaml" || return 1
  "$KUBECTL" annotate --local --filename "$work/$name.yaml" --output json ringfence.test/read=1 | jq --slurp . >"$work/$name.json"
}

# holds NAME JQ_PROGRAM: the program yields nothing but true, at least once.
holds() { jq --exit-status "[$2] | length > 0 and all" "$work/$1.json"; }

# finds_none NAME JQ_PROGRAM: the program yields nothing; what it yields is printed.
finds_none() {
  local found
  found=$(jq --compact-output "$2" "$work/$1.json") || return 1
  [[ -z $found ]] || { echo "$found"; return 1; }
}

# refuses MESSAGE HELM_ARGUMENT...: the values are turned down, with a message that names the value.
refuses() {
  local message=$1
  shift
  if render refused "$@" >"$work/refusal" 2>&1; then
    echo "was accepted"
    return 1
  fi
  grep -q -- "$message" "$work/refusal" || { cat "$work/refusal"; return 1; }
}

all_kinds_are_there() {
  diff <(jq -r '.[] | select(.kind == "CustomResourceDefinition") | .metadata.name' "$work/self.json" | sort) \
    <(sed -n 's/^  name: \(.*\.ringfence\.dev\)$/\1/p' crds/yaml/*.yaml | sort)
}

# A misspelt resource in a role grants nothing and is an error nowhere.
roles_name_existing_kinds() {
  local named unknown
  named=$(jq -r "$RULES"' | select(.apiGroups == ["ringfence.dev"]) | .resources[] | split("/")[0]' "$work/self.json" | sort -u) || return 1
  [[ -n $named ]] || { echo "no role names any kind"; return 1; }
  unknown=$(comm -13 <(sed -n 's/^  name: \(.*\)\.ringfence\.dev$/\1/p' crds/yaml/*.yaml | sort -u) - <<<"$named")
  [[ -z $unknown ]] || { echo "no such kinds: $unknown"; return 1; }
}

test_rendering() {
  check "lint" "$HELM" lint --strict --quiet --kube-version 1.36.0 "$CHART"
  check "renders with management=self" render self
  check "renders with management=cloud" render cloud --set management=cloud
  check "renders with privileged agents" render privileged --set agent.privileged=true
  check "renders with every list filled" render filled --set image.pullSecrets[0].name=registry \
    --set controller.nodeSelector.disk=ssd --set controller.tolerations[0].operator=Exists
  check "renders without the CNI plugin" render plain --set agent.cni.enabled=false
  check "renders without what runs before an uninstallation" render unclean --set uninstall.clean=false
  check "renders without the kinds" render bare --set crds.install=false
  check "every kind is there" all_kinds_are_there
  check "no kind without crds.install" finds_none bare '.[] | select(.kind == "CustomResourceDefinition") | .metadata.name'
  check "kinds survive an uninstall" holds self \
    '.[] | select(.kind == "CustomResourceDefinition") | .metadata.annotations["helm.sh/resource-policy"] == "keep"'
}

test_placement() {
  check "self: agents tolerate every taint" holds self "$DAEMONSET | .spec.template.spec.tolerations == [{operator: \"Exists\"}]"
  check "self: agents go to every node" holds self "$DAEMONSET | .spec.template.spec.affinity == null"
  check "cloud: agents stay off masters" holds cloud "$DAEMONSET | .spec.template.spec.affinity.nodeAffinity
    .requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions
    == ([\"control-plane\", \"master\"] | map({key: (\"node-role.kubernetes.io/\" + .), operator: \"DoesNotExist\"}))"
  check "the controller is one, and bound to no node" holds self \
    "$DEPLOYMENT | .spec.replicas == 1 and .spec.template.spec.affinity == null and .spec.template.spec.nodeSelector == null"
  check "the controller knows the management" holds cloud \
    "$DEPLOYMENT | .spec.template.spec.containers[0].env | any(.name == \"RINGFENCE_MANAGEMENT\" and .value == \"cloud\")"
}

test_rights() {
  local star='any(.verbs[], .resources[]?, .apiGroups[]?; contains("*"))'
  check "no '*' in any role" finds_none self "$RULES | select($star)"
  check "no verb that leads to more rights" finds_none self \
    "$RULES | select(any(.verbs[]; IN(\"bind\", \"escalate\", \"impersonate\", \"deletecollection\", \"approve\")))"
  check "Secrets: get, in the own namespace only" finds_none self \
    "$RULES | select(any(.resources[]; . == \"secrets\")) | select(\$kind != \"Role\" or .verbs != [\"get\"])"
  check "agents write nothing but their report" finds_none self \
    "$RULES | select(\$name == \"ringfence-agent\") | select(any(.verbs[]; IN(\"get\", \"list\", \"watch\") | not))
      | select(.resources != [\"nodepolicies/status\"] or .verbs != [\"patch\"])"
  check "roles name existing kinds" roles_name_existing_kinds
  check "the controller has no rights on its node" holds self "$DEPLOYMENT | .spec.template.spec
    | .securityContext.runAsNonRoot and .securityContext.seccompProfile.type == \"RuntimeDefault\"
      and (.containers[0].securityContext | .readOnlyRootFilesystem and .allowPrivilegeEscalation == false and .capabilities.drop == [\"ALL\"])
      and .hostNetwork == null and .hostPID == null and all(.volumes[]; .hostPath == null)"
  check "agents are not privileged" holds self "$DAEMONSET | .spec.template.spec.containers[0].securityContext
    | .privileged == false and .allowPrivilegeEscalation == false and .readOnlyRootFilesystem
      and .capabilities == {drop: [\"ALL\"], add: [\"NET_ADMIN\", \"NET_RAW\", \"SYS_ADMIN\", \"SYS_PTRACE\"]}"
  check "what runs before an uninstallation has no rights of its own" holds self '.[] | select(.kind == "Job")
    | .metadata.annotations["helm.sh/hook"] == "pre-delete" and .spec.template.spec.serviceAccountName == "ringfence-controller"
      and (.spec.template.spec.containers[0].securityContext | .readOnlyRootFilesystem and .capabilities.drop == ["ALL"])'
  check "nothing runs before an uninstallation when that is not wanted" finds_none unclean '.[] | select(.kind == "Job") | .metadata.name'
  check "agents mount nothing of the CNI without the plugin" finds_none plain \
    "$DAEMONSET | .spec.template.spec.volumes[] | select(.name | startswith(\"cni\")) | .name"
  check "agents are privileged when asked for" holds privileged \
    "$DAEMONSET | .spec.template.spec.containers[0].securityContext | .privileged and .capabilities == null"
}

test_schema() {
  check "refuses another management" refuses management --set management=both
  check "refuses an unknown value" refuses managment --set managment=cloud
  check "refuses an unknown value further in" refuses replicas --set controller.replicas=2
  check "refuses a text for a switch" refuses privileged --set-string agent.privileged=yes
  check "refuses another pull policy" refuses pullPolicy --set image.pullPolicy=Sometimes
  check "refuses a tag with a space" refuses tag --set 'agent.image.tag=a b'
  check "refuses a relative socket" refuses criSocket --set agent.criSocket=containerd.sock
  check "refuses a wait of nothing" refuses wait --set agent.cni.wait=0
  check "refuses to replace no agent at a time" refuses maxUnavailable --set agent.maxUnavailable=0
  check "refuses resources that are no quantities" refuses memory --set controller.resources.limits.memory=plenty
  check "refuses an old Kubernetes" refuses kubeVersion --kube-version 1.29.0
}

test_rendering
test_placement
test_rights
test_schema
echo "$passed passed, $failed failed, 0 skipped"
((failed == 0))
