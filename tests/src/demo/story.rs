//! The steps of the story. What is expected after each is written from the policy model and the example's policy.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};

use super::matrix::{Matrix, Places};
use super::shop;
use crate::lab::{Lab, SLOW};
use crate::probe::{self, Seen};
use crate::source::PolicySource;
use crate::testbed::root;
use crate::wait;

/// Folder of the policy within the example repository.
const FOLDER: &str = "clusters/demo";

/// With the example's policy and both shops in Full. The monitoring and guest namespaces are not enforced, so that what
/// their Pods may reach is decided at the other end. `-`: a Pod to itself, or an address that has no way from there.
const FULL: &str = "
              web api api:9000 api:9100 db svc/api svc/db dev/api dev/db nodeport guest
  prod/web    x   o   x        x        x  o       x      x       x      -        x
  prod/api    x   x   x        x        o  -       o      x       x      -        x
  prod/db     x   x   x        x        -  x       -      x       x      -        x
  prod/tools  x   x   x        x        x  x       x      x       x      -        x
  prod/legacy x   x   x        x        o  x       o      x       x      -        x
  dev/web     x   x   x        x        x  x       x      o       x      -        x
  dev/tools   x   x   x        x        x  x       x      o       o      -        x
  scraper     x   x   x        o        x  x       x      x       x      -        o
  office      o   x   x        x        x  -       -      x       x      o        o
";

/// What the whole story came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Connections tried.
    pub checked: usize,
    /// Those that were not as expected.
    pub wrong: usize,
    /// From a pushed commit to the first connection that shows it, for every step that changes one.
    pub latencies: Vec<Duration>,
}

impl Summary {
    /// The last line of the demo.
    pub fn line(&self) -> String {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let millis = |duration: Option<&Duration>| duration.map_or(0, Duration::as_millis);
        format!(
            "demo: {} connections checked, {} wrong; commit to kernel p50 {} ms, max {} ms",
            self.checked,
            self.wrong,
            millis(sorted.get(sorted.len() / 2)),
            millis(sorted.last()),
        )
    }
}

/// A connection that a step opens or closes.
struct Flip {
    row: &'static str,
    column: &'static str,
    opens: bool,
}

struct Story<'a> {
    lab: &'a Lab,
    source: PolicySource,
    places: Places,
    summary: &'a mut Summary,
    number: usize,
}

/// Walks the whole story on a cluster with Ringfence and the shop, and says how far it came if a step could not be
/// walked. Connections that are not as expected are counted instead.
pub async fn tell(lab: &Lab) -> (Summary, Result<()>) {
    let mut summary = Summary::default();
    let told = walk(lab, &mut summary).await;
    (summary, told)
}

async fn walk(lab: &Lab, summary: &mut Summary) -> Result<()> {
    let template = root().join("examples/policy-repo");
    let source = PolicySource::create(lab, shop::REPOSITORY, &template).await?;
    let places = shop::places(lab).await?;
    let mut story = Story { lab, source, places, summary, number: 0 };
    let full = Matrix::parse(FULL)?;
    story.watch_and_rules(&full).await?;
    story.full_and_changes(&full).await?;
    story.quarantine_and_broken_commit(&full).await?;
    story.edits(&full).await
}

impl Story<'_> {
    fn begin(&mut self, title: &str) {
        self.number += 1;
        println!("\n{}. {title}", self.number);
    }

    fn check(&mut self, matrix: &Matrix) -> Result<()> {
        let tally = matrix.check(&self.places)?;
        self.summary.checked += tally.checked;
        self.summary.wrong += tally.wrong;
        Ok(())
    }

    /// Commits what was written, awaits that it is in force on every node, and measures the flip if there is one.
    async fn commit(&mut self, message: &str, flip: Option<Flip>) -> Result<()> {
        let watcher = flip.map(|flip| self.watch(&flip)).transpose()?;
        let commit = self.source.repo.commit(message)?;
        let pushed = Instant::now();
        self.source.notify(&commit).await?;
        self.source.await_applied(&commit).await?;
        self.await_in_force().await?;
        println!("    commit {} \"{message}\"", &commit[..8]);
        println!("    commit to kernel, acknowledged by every node: {} ms", pushed.elapsed().as_millis());
        if let Some(watcher) = watcher {
            let seen = watcher.await??.context("the connection that the commit changes did not change")?;
            let latency = seen.saturating_duration_since(pushed);
            println!("    commit to kernel, shown by a connection: {} ms", latency.as_millis());
            self.summary.latencies.push(latency);
        }
        Ok(())
    }

    fn watch(&self, flip: &Flip) -> Result<tokio::task::JoinHandle<std::io::Result<Option<Instant>>>> {
        let netns = self.places.clients.get(flip.row).context("no such client")?.clone();
        let target = *self.places.listeners.get(flip.column).context("no such listener")?;
        let opens = flip.opens;
        Ok(tokio::task::spawn_blocking(move || {
            probe::watch_flip(&netns, target, opens, Duration::from_millis(2), SLOW)
        }))
    }

    /// Every RuleSet and profile says that all nodes have acknowledged it.
    async fn await_in_force(&self) -> Result<()> {
        for plural in ["rulesets.ringfence.dev", "containerworkloadprofiles.ringfence.dev"] {
            let names = self.lab.kubectl(&["get", plural, "-o", "name"], &[])?;
            let kind = if plural.starts_with("rule") { "RuleSet" } else { "ContainerWorkloadProfile" };
            for name in names.lines().filter_map(|line| line.split_once('/')).map(|(_, name)| name) {
                self.lab.await_ready(kind, None, name).await?;
            }
        }
        Ok(())
    }

    fn file(name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    fn edit(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let path = Self::file(name);
        let text = self.source.repo.read(&path)?;
        if !text.contains(from) {
            bail!("{path} does not contain '{from}'");
        }
        self.source.repo.write(&path, &text.replace(from, to))
    }

    async fn watch_and_rules(&mut self, full: &Matrix) -> Result<()> {
        let (shop_rules, monitoring, quarantine) = (
            self.source.repo.read(&Self::file("shop.yaml"))?,
            self.source.repo.read(&Self::file("monitoring.yaml"))?,
            self.source.repo.read(&Self::file("quarantine.yaml"))?,
        );
        let profiles = self.source.repo.read(&Self::file("profiles.yaml"))?;
        for name in ["shop.yaml", "monitoring.yaml", "quarantine.yaml", "profiles.yaml"] {
            self.source.repo.remove(&Self::file(name))?;
        }
        self.begin("Nothing is managed");
        let spec = self.source.spec(FOLDER)?;
        self.source.point(&spec).await?;
        self.commit("Names for addresses and ports", None).await?;
        self.check(&full.all_open())?;

        self.begin("VisibilityOnly: the shop is managed, nothing is blocked");
        self.source.repo.write(
            &Self::file("profiles.yaml"),
            &profiles.replace("policyState: Full", "policyState: VisibilityOnly"),
        )?;
        self.commit("Manage the shop", None).await?;
        self.check(&full.all_open())?;

        self.begin("Rules: still nothing is blocked");
        self.source.repo.write(&Self::file("shop.yaml"), &shop_rules)?;
        self.source.repo.write(&Self::file("monitoring.yaml"), &monitoring)?;
        self.source.repo.write(&Self::file("quarantine.yaml"), &quarantine)?;
        self.commit("Rules of the shop", None).await?;
        self.check(&full.all_open())
    }

    async fn full_and_changes(&mut self, full: &Matrix) -> Result<()> {
        self.begin("Full: what no rule allows is blocked");
        self.edit("profiles.yaml", "policyState: VisibilityOnly", "policyState: Full")?;
        let flip = Flip { row: "prod/tools", column: "db", opens: false };
        self.commit("Enforce", Some(flip)).await?;
        self.check(full)?;

        self.begin("A rule is added: tools may reach the API's administration");
        let rule = "  - name: tools-to-admin\n    consumers: [{labels: {role: [tools]}}]\n    providers: [{labels: {role: [api]}}]\n    services: [{protocol: TCP, port: 9000}]\n";
        self.edit("shop.yaml", "  - name: office-to-web\n", &format!("{rule}  - name: office-to-web\n"))?;
        let flip = Flip { row: "prod/tools", column: "api:9000", opens: true };
        self.commit("Tools may reach administration", Some(flip)).await?;
        self.check(&full.with(&[("prod/tools", "api:9000", Seen::Open)])?)?;

        self.begin("The rule is revoked");
        self.edit("shop.yaml", rule, "")?;
        let flip = Flip { row: "prod/tools", column: "api:9000", opens: false };
        self.commit("Tools may not reach administration", Some(flip)).await?;
        self.check(full)
    }

    async fn quarantine_and_broken_commit(&mut self, full: &Matrix) -> Result<()> {
        let cut = full.with(&[
            ("prod/web", "api", Seen::Dropped),
            ("prod/web", "svc/api", Seen::Dropped),
            ("prod/api", "db", Seen::Dropped),
            ("prod/api", "svc/db", Seen::Dropped),
            ("scraper", "api:9100", Seen::Dropped),
        ])?;
        self.begin("Quarantine: an OverrideDeny cuts production's API off, whatever else allows it");
        self.edit("quarantine.yaml", "enabled: false", "enabled: true")?;
        let flip = Flip { row: "prod/web", column: "api", opens: false };
        self.commit("Quarantine the API", Some(flip)).await?;
        self.check(&cut)?;

        self.begin("A broken commit: refused whole, nothing changes");
        self.edit("quarantine.yaml", "enabled: true", "enabled: false")?;
        self.edit("shop.yaml", "consumers: [{ipList: office}]", "consumers: [{ipList: offices}]")?;
        let commit = self.source.repo.commit("Lift the quarantine, with a slip")?;
        self.source.notify(&commit).await?;
        let said = self.source.await_refused(Some(&commit)).await?;
        println!("    refused: {}", said.text);
        self.check(&cut)?;

        self.begin("The slip is mended");
        self.edit("shop.yaml", "consumers: [{ipList: offices}]", "consumers: [{ipList: office}]")?;
        let flip = Flip { row: "prod/web", column: "api", opens: true };
        self.commit("Lift the quarantine", Some(flip)).await?;
        self.check(full)
    }

    async fn edits(&mut self, full: &Matrix) -> Result<()> {
        self.begin("kubectl edit of a profile that git does not own: takes effect");
        self.kubectl_edit(shop::GUEST, r"s/managed: false/managed: true\n  policyState: Full/")?;
        let edited = Instant::now();
        self.lab.await_ready("ContainerWorkloadProfile", None, shop::GUEST).await?;
        println!("    edit to kernel, acknowledged by every node: {} ms", edited.elapsed().as_millis());
        let closed = full.with(&[("scraper", "guest", Seen::Dropped), ("office", "guest", Seen::Dropped)])?;
        self.check(&closed)?;

        self.begin("kubectl edit of a profile that git owns: put back, with an Event");
        self.kubectl_edit("shop-prod", "s/policyState: Full/policyState: Idle/")?;
        let edited = Instant::now();
        let events: Api<Event> = Api::all(self.lab.client.clone());
        wait::until("the edited profile to be put back, with an Event", SLOW, || async {
            let profile = self.lab.ours("ContainerWorkloadProfile", "shop-prod").await?.context("no profile")?;
            let list = events.list(&ListParams::default()).await?;
            let event = list.items.iter().find(|event| {
                let regarding = event.regarding.as_ref().and_then(|object| object.name.as_deref());
                regarding == Some("shop-prod")
                    && event.note.as_deref().is_some_and(|note| note.contains("kubectl-edit"))
            });
            let note = event.and_then(|event| event.note.clone());
            match note {
                Some(note) if profile["spec"]["policyState"] == "Full" => {
                    println!("    Event: {note}");
                    Ok(Some(()))
                }
                _ => bail!("policyState is {}", profile["spec"]["policyState"]),
            }
        })
        .await?;
        self.await_in_force().await?;
        println!("    put back and acknowledged by every node: {} ms after the edit", edited.elapsed().as_millis());
        self.check(&closed)
    }

    /// What a person does with `kubectl edit`; their editor is `sed` with this script. The editor is a file of its own,
    /// since kubectl takes KUBE_EDITOR apart at spaces.
    fn kubectl_edit(&self, profile: &str, script: &str) -> Result<()> {
        let editor = std::env::temp_dir().join(format!("ringfence-demo-editor-{}", std::process::id()));
        std::fs::write(&editor, format!("#!/bin/sh\nexec sed -i '{script}' \"$1\"\n"))?;
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755))?;
        let arguments = ["edit", "containerworkloadprofiles.ringfence.dev", profile];
        let said = self.lab.kubectl(&arguments, &[("KUBE_EDITOR", &editor.display().to_string())]);
        std::fs::remove_file(&editor)?;
        let said = said?;
        if said.contains("no changes") {
            bail!("kubectl edit of {profile} changed nothing: {said}");
        }
        Ok(())
    }
}
