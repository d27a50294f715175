//! Namespaces and Pods that come, change and go.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::Outcome;
use crate::kernel;
use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{OURS, controller, namespace, pod, profile, rule, rule_set};
use crate::probe::{LongFlow, Seen};
use crate::wait;

/// How long a change of membership may take to reach the peers' kernels before the test gives up.
const SOON: Duration = Duration::from_secs(20);

/// A namespace gets an unmanaged profile at once; managed, its Pods are enforced; unmanaged again, nothing is left.
pub async fn a_namespace_is_created_managed_and_unmanaged(lab: Lab) -> Result<Outcome> {
    let name = "lc-space";
    lab.apply(&namespace(name)).await?;
    let made =
        wait::until("a profile for the new namespace", SLOW, || lab.ours("ContainerWorkloadProfile", name)).await?;
    ensure!(made["spec"]["managed"] == false, "the profile of a new namespace is managed: {}", made["spec"]);

    lab.apply(&pod(name, "server", "server", None)).await?;
    let server = lab.await_pod(name, "server").await?;
    let netns = lab.netns(name, "server")?;
    let target = SocketAddr::new(pod_ip(&server)?, 8080);
    lab.await_seen(&lab.bed.client_netns(), target, Seen::Open, SLOW).await?;
    ensure!(kernel::ours(&netns)?.is_empty(), "an unmanaged Pod has rules of ours");
    let sysctls = kernel::sysctls(&netns)?;
    ensure!(sysctls.iter().any(|line| line.contains("/ip_forward:")), "no settings were read");

    lab.apply(&profile(name, "Full", &["server"])).await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    lab.await_seen(&lab.bed.client_netns(), target, Seen::Dropped, Duration::ZERO).await?;
    ensure!(!kernel::ours(&netns)?.is_empty(), "a Pod in Full has no rules of ours");
    ensure!(crate::lab::is_ready(&lab.await_pod(name, "server").await?), "the Pod in Full is not ready any more");

    lab.apply(&json!({
        "apiVersion": OURS, "kind": "ContainerWorkloadProfile", "metadata": {"name": name},
        "spec": {"managed": false},
    }))
    .await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    let left = kernel::ours(&netns)?;
    ensure!(left.is_empty(), "left in the namespace of an unmanaged Pod: {left:?}");
    ensure!(kernel::sysctls(&netns)? == sysctls, "settings of an unmanaged Pod are not what they were");
    lab.await_seen(&lab.bed.client_netns(), target, Seen::Open, Duration::ZERO).await?;

    lab.delete("v1", "Namespace", None, name).await?;
    Ok(Outcome::Passed)
}

/// Pods are added, scaled, relabelled within and outside the allowed list, and deleted.
pub async fn pods_are_added_scaled_relabelled_and_deleted(lab: Lab) -> Result<Outcome> {
    let (name, roles) = ("lc-pods", ["web", "worker", "db", "tools"]);
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Full", &roles)).await?;
    let web = rule("web-to-db", "Allow", (name, "web"), (name, "db"));
    let mut worker = rule("worker-to-db", "Allow", (name, "worker"), (name, "db"));
    worker["services"][0]["endPort"] = json!(8081);
    lab.apply(&rule_set("lc-pods", &[web, worker])).await?;
    lab.apply(&pod(name, "db", "db", None)).await?;
    lab.apply(&controller("Deployment", name, "web", "web", 1)).await?;
    let target = SocketAddr::new(pod_ip(&lab.await_pod(name, "db").await?)?, 8080);
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    for count in [1, 3] {
        lab.apply(&controller("Deployment", name, "web", "web", count)).await?;
        for web in lab.await_pods(name, "name=web", count as usize).await? {
            let netns = lab.netns(name, &web.name_any())?;
            lab.await_seen(&netns, target, Seen::Open, SOON).await?;
        }
    }
    relabel(&lab, name, target).await?;
    scale_down(&lab, name).await?;

    lab.delete("v1", "Pod", Some(name), "db").await?;
    wait::until("the deleted Pod's address to leave its group", SOON, || async {
        let groups: Api<ringfence_crds::AddressGroup> = Api::all(lab.client.clone());
        let list = groups.list(&ListParams::default()).await?;
        let address = target.ip().to_string();
        let there = list.items.iter().any(|group| group.spec.members.iter().any(|m| m.address == address));
        Ok((!there).then_some(()))
    })
    .await?;
    lab.delete("v1", "Namespace", None, name).await?;
    lab.delete(OURS, "RuleSet", None, "lc-pods").await?;
    Ok(Outcome::Passed)
}

/// The addresses of Pods that are gone leave the kernel of the Pod that let them in; the one that stays keeps its place.
async fn scale_down(lab: &Lab, name: &str) -> Result<()> {
    let before = lab.await_pods(name, "name=web", 3).await?;
    let db = lab.netns(name, "db")?;
    for web in &before {
        annotate(lab, name, &web.name_any(), "web").await?;
        let address = pod_ip(web)?;
        wait::until(&format!("{} to be known", web.name_any()), SOON, || async {
            Ok(kernel::knows(&db, address)?.then_some(()))
        })
        .await?;
    }
    lab.apply(&controller("Deployment", name, "web", "web", 1)).await?;
    let stays = lab.await_pods(name, "name=web", 1).await?.first().context("one Pod was awaited")?.name_any();
    for web in &before {
        let (address, there) = (pod_ip(web)?, web.name_any() == stays);
        wait::until(&format!("{} to be known: {there}", web.name_any()), SOON, || async {
            Ok((kernel::knows(&db, address)? == there).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn relabel(lab: &Lab, name: &str, target: SocketAddr) -> Result<()> {
    let webs = lab.await_pods(name, "name=web", 3).await?;
    let first = webs.first().context("three Pods were awaited")?.name_any();
    let netns = lab.netns(name, &first)?;
    // From one role to another, both of which may: a connection that is open lives through the change of class.
    let second = SocketAddr::new(target.ip(), 8081);
    lab.await_seen(&netns, second, Seen::Dropped, Duration::ZERO).await?;
    let mut flow = LongFlow::open(&netns, target)?;
    ensure!(flow.speaks(), "the connection that is to live does not work");
    for (role, seen) in [("worker", Seen::Open), ("web", Seen::Dropped)] {
        annotate(lab, name, &first, role).await?;
        lab.await_seen(&netns, second, seen, SOON).await?;
        ensure!(flow.speaks(), "a connection ended although its client may connect as {role} too");
    }
    annotate(lab, name, &first, "tools").await?;
    lab.await_seen(&netns, target, Seen::Dropped, SOON).await?;
    annotate(lab, name, &first, "web").await?;
    lab.await_seen(&netns, target, Seen::Open, SOON).await?;
    // Outside the list: the value is not taken, the Pod has no role, and an Event on it says so.
    annotate(lab, name, &first, "admin").await?;
    lab.await_seen(&netns, target, Seen::Dropped, SOON).await?;
    let events: Api<Event> = Api::namespaced(lab.client.clone(), name);
    wait::until("an Event about the refused label", SOON, || async {
        let list = events.list(&ListParams::default()).await?;
        let found = list.items.iter().any(|event| {
            event.involved_object.name.as_deref() == Some(&first)
                && event.message.as_deref().is_some_and(|message| message.contains("admin"))
        });
        if found { Ok(Some(())) } else { bail!("{} Events, none of them", list.items.len()) }
    })
    .await
}

async fn annotate(lab: &Lab, namespace: &str, name: &str, role: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), namespace);
    let patch = json!({"metadata": {"annotations": {"ringfence.dev/role": role}}});
    pods.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
