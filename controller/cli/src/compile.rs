//! `ringfence compile`: what the agents would enforce, as a folder of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use kube::{CustomResourceExt, Resource};
use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Computed, compile};
use ringfence_compile::policy::{Kind, Policy};
use ringfence_crds::container_workload_profile::ContainerWorkloadProfileStatus;
use ringfence_crds::{
    AddressGroup, ContainerCluster, ContainerWorkloadProfile, NodePolicy, PeerGroup, Revision, WorkloadPolicy,
    WorkloadPolicySpec, names,
};
use serde::Serialize;

use crate::files::Folder;
use crate::{Outcome, report};

/// First line of every file that is written here. Only files that begin with it are ever removed.
const HEADER: &str = "# Computed by `ringfence compile`. Do not edit.\n";

/// Arguments of `ringfence compile`.
#[derive(clap::Args)]
#[command(after_help = "\
The folder holds one file per computed object, <plural>/<name>.yaml, and the profiles and the ContainerCluster that an
agent needs beside them: `cven --objects DIR --pods FILE` enforces it without Kubernetes. The same input gives the same
files; files of an earlier run that are no longer computed are removed.

Exit status: 0 written, 2 bad input or could not run.

Example:
  kubectl get ns,nodes,pods,services,endpointslices,replicasets,daemonsets,statefulsets,replicationcontrollers \\
    -A -o yaml > cluster.yaml
  ringfence compile --policy examples/policy-repo --cluster cluster.yaml --out computed")]
pub struct Arguments {
    /// Folder of policy.
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// What `kubectl get … -A -o yaml` prints.
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Folder to write to; made when it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes the computed objects of a folder of policy and a cluster.
pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some((policy, cluster)) = read_input(&arguments.policy, &arguments.cluster)? else {
        return Ok(Outcome::BadInput);
    };
    let computed = compile(&policy, &cluster);
    for warning in warnings(&computed) {
        eprintln!("warning: {warning}");
    }
    let files = files(&policy, computed)?;
    write(&arguments.out, &files)?;
    println!("{} objects in {}", files.values().map(BTreeMap::len).sum::<usize>(), arguments.out.display());
    Ok(Outcome::Done)
}

/// Policy and cluster, or nothing when the policy has errors, which are then printed.
pub fn read_input(policy: &Path, cluster: &Path) -> Result<Option<(Policy, ClusterState)>> {
    let folder = Folder::read(policy)?;
    if folder.has_errors() {
        eprint!("{}", report::text(&folder));
        return Ok(None);
    }
    let text = fs::read_to_string(cluster).with_context(|| format!("failed to read {}", cluster.display()))?;
    let state =
        ClusterState::from_list_yaml(&text).map_err(|error| anyhow!("failed to {error} (in {})", cluster.display()))?;
    Ok(Some((folder.policy, state)))
}

fn warnings(computed: &Computed) -> Vec<String> {
    let rule_sets = computed.warnings.iter();
    let rule_sets = rule_sets.flat_map(|(name, list)| list.iter().map(move |text| format!("RuleSet {name}: {text}")));
    let services = computed.service_warnings.iter();
    let services = services.flat_map(|(name, list)| list.iter().map(move |text| format!("Service {name}: {text}")));
    let hidden = computed.hidden_sources.iter().map(|(name, text)| format!("Service {name}: {text}"));
    computed.cluster_warnings.iter().cloned().chain(rule_sets).chain(services).chain(hidden).collect()
}

/// Content of every file, by kind's plural and object's name. Kinds without objects are there, and empty.
type Files = BTreeMap<String, BTreeMap<String, String>>;

fn files(policy: &Policy, computed: Computed) -> Result<Files> {
    // The marker closes a publication: an agent that follows the folder waits for it.
    let revision = Revision { epoch: 0, number: 1 };
    let marker = WorkloadPolicySpec { revision, ..WorkloadPolicySpec::default() };
    let workload_policies = computed.workload_policies.into_iter().chain([(names::MARKER.to_owned(), marker)]);
    let cluster = policy.origins.keys().find(|key| key.kind == Kind::ContainerCluster);
    let cluster = cluster.map_or(names::CLUSTER, |key| key.name.as_str());

    let mut files = Files::new();
    add(&mut files, computed.node_policies.into_iter().map(|(name, spec)| NodePolicy::new(&name, spec)))?;
    add(&mut files, workload_policies.map(|(name, spec)| WorkloadPolicy::new(&name, spec)))?;
    add(&mut files, computed.peer_groups.into_iter().map(|(name, spec)| PeerGroup::new(&name, spec)))?;
    add(&mut files, computed.address_groups.into_iter().map(|(name, spec)| AddressGroup::new(&name, spec)))?;
    add(&mut files, [ContainerCluster::new(cluster, policy.cluster.clone())])?;
    add(&mut files, profiles(policy))?;
    Ok(files)
}

/// The profiles in the state that they ask for, as the controller would have them enforced.
fn profiles(policy: &Policy) -> impl Iterator<Item = ContainerWorkloadProfile> {
    policy.profiles.iter().map(|(name, spec)| {
        let mut profile = ContainerWorkloadProfile::new(name, spec.clone());
        let enforced_state = spec.wanted_state();
        profile.status = Some(ContainerWorkloadProfileStatus { enforced_state, ..Default::default() });
        profile
    })
}

fn add<K>(files: &mut Files, objects: impl IntoIterator<Item = K>) -> Result<()>
where
    K: Resource<DynamicType = ()> + CustomResourceExt + Serialize,
{
    let folder = files.entry(K::plural(&()).into_owned()).or_default();
    for object in objects {
        let name = object.meta().name.clone().unwrap_or_default();
        let body = serde_saphyr::to_string(&object);
        let body = body.with_context(|| format!("failed to write {} {name} as YAML", K::kind(&())))?;
        folder.insert(name, format!("{HEADER}{body}"));
    }
    Ok(())
}

fn write(out: &Path, files: &Files) -> Result<()> {
    for (plural, objects) in files {
        let folder = out.join(plural);
        fs::create_dir_all(&folder).with_context(|| format!("failed to make folder {}", folder.display()))?;
        let wanted: BTreeSet<String> = objects.keys().map(|name| format!("{name}.yaml")).collect();
        remove_stale(&folder, &wanted)?;
        for (name, text) in objects {
            let path = folder.join(format!("{name}.yaml"));
            // A file that is right is left alone, so that who follows the folder sees only what changed.
            if fs::read_to_string(&path).is_ok_and(|present| present == *text) {
                continue;
            }
            fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
    }
    Ok(())
}

fn remove_stale(folder: &Path, wanted: &BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to read folder {}", folder.display()))? {
        let entry = entry.with_context(|| format!("failed to read folder {}", folder.display()))?;
        let path = entry.path();
        let ours = fs::read_to_string(&path).is_ok_and(|text| text.starts_with(HEADER));
        if ours && !wanted.contains(&*entry.file_name().to_string_lossy()) {
            fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
    }
    Ok(())
}
