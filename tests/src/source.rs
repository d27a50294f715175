//! A PolicyRepository with a real repository behind it, served over HTTPS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::lab::{Lab, SLOW, ready};
use crate::manifests::OURS;
use crate::repo::Repo;
use crate::wait;

/// The namespace that Ringfence is installed in.
pub const SYSTEM: &str = "ringfence-system";

/// A policy repository of the test bed and the object that points at it.
pub struct PolicySource {
    lab: Lab,
    /// The repository.
    pub repo: Repo,
    name: String,
}

/// Why a repository is not Ready.
pub struct Refused {
    /// The condition's reason.
    pub reason: String,
    /// Reason, message and every problem, for people.
    pub text: String,
}

impl PolicySource {
    /// Starts the git server, makes an empty repository called `name` from the files of `template`, and a
    /// Secret with the server's authority. Neither commits nor makes the PolicyRepository.
    ///
    /// # Errors
    /// When one of these fails.
    pub async fn create(lab: &Lab, name: &str, template: &Path) -> Result<Self> {
        let cluster = lab.bed.name();
        lab.bed.run(&["git-server", cluster, "start"])?;
        let served = PathBuf::from(lab.bed.run(&["git-server", cluster, "dir"])?);
        let bare = served.join(format!("{name}.git"));
        let tree = served.with_file_name("git-work").join(name);
        let repo = Repo::create(&bare, &tree, template)?;
        let authority = std::fs::read_to_string(lab.bed.run(&["git-server", cluster, "ca"])?)
            .context("failed to read the git server's authority")?;
        lab.apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "git-ca", "namespace": SYSTEM}, "stringData": {"ca.crt": authority},
        }))
        .await?;
        Ok(Self { lab: lab.clone(), repo, name: name.to_owned() })
    }

    /// The spec of a PolicyRepository that points here.
    ///
    /// # Errors
    /// When the server's address cannot be asked for.
    pub fn spec(&self, path: &str) -> Result<Value> {
        let url = self.lab.bed.run(&["git-server", self.lab.bed.name(), "url"])?;
        Ok(json!({
            "url": format!("{url}/{}.git", self.name), "ref": {"branch": "main"}, "path": path,
            "interval": "2s", "secretRef": {"name": "git-ca"},
        }))
    }

    /// The same repository at the address that asks for a name and a password, which are in Secret `secret`.
    ///
    /// # Errors
    /// When the server's address cannot be asked for.
    pub fn private_spec(&self, path: &str, secret: &str) -> Result<Value> {
        let url = self.lab.bed.run(&["git-server", self.lab.bed.name(), "private-url"])?;
        let mut spec = self.spec(path)?;
        spec["url"] = json!(format!("{url}/{}.git", self.name));
        spec["secretRef"] = json!({"name": secret});
        Ok(spec)
    }

    /// Makes or changes the PolicyRepository.
    ///
    /// # Errors
    /// What the apiserver refuses.
    pub async fn point(&self, spec: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": OURS, "kind": "PolicyRepository",
            "metadata": {"name": self.name, "namespace": SYSTEM}, "spec": spec,
        });
        self.lab.apply(&object).await.map(drop)
    }

    /// Tells the controller that there is something new, as a git server's web hook would.
    ///
    /// # Errors
    /// When the apiserver does not take it.
    pub async fn notify(&self, token: &str) -> Result<()> {
        let object = json!({
            "apiVersion": OURS, "kind": "PolicyRepository",
            "metadata": {
                "name": self.name, "namespace": SYSTEM,
                "annotations": {"ringfence.dev/reconcile-requested-at": token},
            },
        });
        self.lab.apply_as("git-web-hook", &object).await.map(drop)
    }

    /// The PolicyRepository as it lives.
    ///
    /// # Errors
    /// When there is none.
    pub async fn live(&self) -> Result<Value> {
        self.lab
            .get(OURS, "PolicyRepository", Some(SYSTEM), &self.name)
            .await?
            .with_context(|| format!("there is no PolicyRepository {}", self.name))
    }

    /// Awaits that a commit is in force.
    ///
    /// # Errors
    /// When it is not within the limit; the message holds every problem.
    pub async fn await_applied(&self, commit: &str) -> Result<()> {
        wait::until(&format!("commit {commit} to be applied"), SLOW, || async {
            let object = self.live().await?;
            let applied = object["status"]["appliedCommit"] == commit;
            match ready(&object) {
                Some(condition) if applied && condition.status == "True" => Ok(Some(())),
                Some(condition) => {
                    bail!("{}: {} {}", condition.reason, condition.message, object["status"]["problems"])
                }
                None => Ok(None),
            }
        })
        .await
    }

    /// Awaits that the repository says it is not Ready, of a commit if one is given.
    ///
    /// # Errors
    /// When it does not within the limit.
    pub async fn await_refused(&self, commit: Option<&str>) -> Result<Refused> {
        wait::until("the commit to be refused", Duration::from_secs(30), || async {
            let object = self.live().await?;
            if commit.is_some_and(|commit| object["status"]["attemptedCommit"] != commit) {
                bail!("the commit was not looked at yet");
            }
            match ready(&object) {
                Some(condition) if condition.status == "False" && condition.current => {
                    let problems = &object["status"]["problems"];
                    let text = format!("{}: {} {problems}", condition.reason, condition.message);
                    Ok(Some(Refused { reason: condition.reason, text }))
                }
                other => bail!("Ready is {:?}", other.map(|condition| condition.status)),
            }
        })
        .await
    }

    /// Deletes the PolicyRepository.
    ///
    /// # Errors
    /// When the apiserver refuses.
    pub async fn delete(&self) -> Result<()> {
        self.lab.delete(OURS, "PolicyRepository", Some(SYSTEM), &self.name).await?;
        wait::until("the PolicyRepository to be gone", SLOW, || async {
            let object = self.lab.get(OURS, "PolicyRepository", Some(SYSTEM), &self.name).await?;
            Ok(object.is_none().then_some(()))
        })
        .await
    }
}
