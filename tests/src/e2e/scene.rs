//! A server in Full that one client may reach and another may not: two verdicts that no outage may change.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::dual_stack::both;
use crate::lab::{Lab, SLOW, pod_ips};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::{self, LongFlow, Seen, Try};

/// The scene.
pub struct Scene {
    /// Name of its namespace and of its RuleSet.
    pub name: String,
    /// The network namespace of the client that a rule lets in.
    pub allowed: PathBuf,
    /// The network namespace of the one that no rule names.
    pub denied: PathBuf,
    /// Where the server listens.
    pub target: SocketAddr,
    /// The same over each family.
    pub targets: [SocketAddr; 2],
}

impl Scene {
    /// Makes the scene, and awaits that both verdicts are in force.
    ///
    /// # Errors
    /// When they are not within the limit.
    pub async fn create(lab: &Lab, name: &str) -> Result<Self> {
        lab.apply(&namespace(name)).await?;
        lab.apply(&profile(name, "Full", &["client", "server", "stranger"])).await?;
        lab.apply(&rule_set(name, &[rule("client-to-server", "Allow", (name, "client"), (name, "server"))])).await?;
        for (pod_name, node) in [("server", "node2"), ("client", "node3"), ("stranger", "node2")] {
            lab.apply(&pod(name, pod_name, pod_name, Some(node))).await?;
        }
        let server = lab.await_pod(name, "server").await?;
        lab.await_pod(name, "client").await?;
        lab.await_pod(name, "stranger").await?;
        let targets = both(&pod_ips(&server)?)?.map(|address| SocketAddr::new(address, 8080));
        let [target, _] = targets;
        let (allowed, denied) = (lab.netns(name, "client")?, lab.netns(name, "stranger")?);
        lab.await_seen(&allowed, target, Seen::Open, SLOW).await?;
        lab.await_seen(&denied, target, Seen::Dropped, SLOW).await?;
        Ok(Self { name: name.to_owned(), allowed, denied, target, targets })
    }

    /// Tries both at the same time.
    fn check(&self, begin: Instant) -> Result<()> {
        let tries =
            [&self.allowed, &self.denied].map(|netns| Try { netns: netns.clone(), target: self.target, udp: false });
        let seen = probe::all(&tries).into_iter().collect::<std::io::Result<Vec<_>>>()?;
        ensure!(seen == [Seen::Open, Seen::Dropped], "after {:?} the verdicts are {seen:?}", begin.elapsed());
        Ok(())
    }

    /// Both verdicts, again and again, for a while.
    ///
    /// # Errors
    /// When one of them changes.
    pub fn hold(&self, how_long: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < how_long {
            self.check(begin)?;
        }
        Ok(())
    }

    /// Both verdicts and a connection that is already open, until something is over and for a while after that.
    ///
    /// # Errors
    /// When a verdict changes, the connection dies, or it is never over.
    pub fn hold_through(
        &self,
        flow: &mut LongFlow,
        what: &str,
        mut over: impl FnMut() -> Result<bool>,
        after: Duration,
    ) -> Result<()> {
        let begin = Instant::now();
        let mut since: Option<Instant> = None;
        loop {
            self.check(begin)?;
            ensure!(flow.speaks(), "after {:?} the connection that was open is dead", begin.elapsed());
            match since {
                Some(since) if since.elapsed() > after => return Ok(()),
                Some(_) => {}
                None if over().with_context(|| format!("failed to look for {what}"))? => since = Some(Instant::now()),
                None if begin.elapsed() > SLOW => bail!("gave up after {}s waiting for {what}", SLOW.as_secs()),
                None => {}
            }
        }
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// When the apiserver refuses.
    pub async fn remove(self, lab: &Lab) -> Result<()> {
        lab.delete("v1", "Namespace", None, &self.name).await?;
        lab.delete(OURS, "RuleSet", None, &self.name).await
    }
}
