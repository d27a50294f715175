//! The spec of a PolicyRepository, read.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use ringfence_crds::policy_repository::GitRef;
use ringfence_crds::{PolicyRepository, PolicyRepositorySpec};

use super::refusal::Refusal;
use crate::git::{Credentials, Reference, Remote};

/// How often to look, unless the spec says otherwise.
const INTERVAL: Duration = Duration::from_secs(60);
/// More often than this is never.
const LEAST: Duration = Duration::from_secs(1);
/// What a label's value may hold.
const LABEL_LENGTH: usize = 63;

/// The time between two rounds: `10s`, `1m`, `1h30m`.
pub(super) fn interval(spec: &PolicyRepositorySpec) -> Duration {
    spec.interval.as_deref().and_then(parse).unwrap_or(INTERVAL).max(LEAST)
}

fn parse(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut number = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    (number.is_empty() && !text.is_empty()).then_some(Duration::from_secs(seconds))
}

/// The value of the label that marks this repository's objects: `<namespace>.<name>`.
pub(super) fn owner(repository: &PolicyRepository) -> Result<String, Refusal> {
    let owner = label(repository);
    if owner.len() > LABEL_LENGTH {
        return Err(Refusal::Settings(format!(
            "the namespace and the name of a PolicyRepository have at most {} characters together, and this one has \
             {}: give it a shorter name",
            LABEL_LENGTH - 1,
            owner.len() - 1
        )));
    }
    Ok(owner)
}

/// The label's value, whatever its length.
pub(super) fn label(repository: &PolicyRepository) -> String {
    format!("{}.{}", repository.namespace().unwrap_or_default(), repository.name_any())
}

/// Where to fetch from, with what the Secret holds.
pub(super) async fn remote(client: &Client, repository: &PolicyRepository) -> Result<Remote, Refusal> {
    let spec = &repository.spec;
    let authority = spec.url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(Refusal::Settings(
            "spec.url contains a user name or password: put them into a Secret and name it in spec.secretRef"
                .to_owned(),
        ));
    }
    let secret = match &spec.secret_ref {
        None => Secrets::default(),
        Some(secret) => {
            let namespace = repository.namespace().unwrap_or_default();
            read_secret(client, &namespace, &secret.name).await?
        }
    };
    Ok(Remote {
        url: spec.url.clone(),
        reference: reference(spec.reference.as_ref()),
        credentials: secret.credentials,
        ca: secret.ca,
    })
}

fn reference(reference: Option<&GitRef>) -> Reference {
    let GitRef { branch, tag, commit } = reference.cloned().unwrap_or_default();
    match (branch, tag, commit) {
        (_, _, Some(commit)) => Reference::Commit(commit),
        (_, Some(tag), _) => Reference::Tag(tag),
        (branch, _, _) => Reference::Branch(branch.unwrap_or_else(|| "main".to_owned())),
    }
}

#[derive(Default)]
struct Secrets {
    credentials: Option<Credentials>,
    ca: Option<Vec<u8>>,
}

async fn read_secret(client: &Client, namespace: &str, name: &str) -> Result<Secrets, Refusal> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    match api.get_opt(name).await.map_err(|error| unreadable(error, namespace, name))? {
        Some(secret) => secrets(&secret.data.unwrap_or_default(), name),
        None => Err(Refusal::Settings(format!(
            "Secret '{name}' is not in namespace '{namespace}': create it or correct spec.secretRef"
        ))),
    }
}

/// Why the Secret was not read. The controller's rights do not come by waiting: the chart gives them in its own
/// namespace only.
fn unreadable(error: kube::Error, namespace: &str, name: &str) -> Refusal {
    match error {
        kube::Error::Api(status) if status.code == 403 => Refusal::Settings(format!(
            "the controller may not read Secret '{name}' in namespace '{namespace}': grant `get` on it to the \
             controller's service account, or move PolicyRepository and Secret to the namespace of the release"
        )),
        error => Refusal::Cluster("read the Secret of spec.secretRef", error),
    }
}

fn secrets(data: &BTreeMap<String, ByteString>, name: &str) -> Result<Secrets, Refusal> {
    let text = |key: &str| match data.get(key).map(|value| String::from_utf8(value.0.clone())) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Some(Err(_)) => Err(Refusal::Settings(format!("'{key}' in Secret '{name}' is not text"))),
    };
    let credentials = match (text("username")?, text("password")?) {
        (Some(username), Some(password)) => Some(Credentials { username, password }),
        (None, None) => None,
        _ => {
            return Err(Refusal::Settings(format!(
                "Secret '{name}' has only one of username and password: give both or neither"
            )));
        }
    };
    Ok(Secrets { credentials, ca: data.get("ca.crt").map(|value| value.0.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn intervals_are_read() {
        let seconds = |text: &str| parse(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("10s"), Some(10));
        assert_eq!(seconds("1m"), Some(60));
        assert_eq!(seconds("1h"), Some(3600));
        assert_eq!(seconds("1h2m3s"), Some(3723));
        for nonsense in ["", "10", "s", "1d", "99999999999999999999s"] {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn an_interval_is_never_zero() {
        let spec = |interval: &str| PolicyRepositorySpec {
            interval: Some(interval.to_owned()),
            ..PolicyRepositorySpec::default()
        };
        assert_eq!(interval(&spec("0s")), Duration::from_secs(1));
        assert_eq!(interval(&spec("")), Duration::from_secs(60));
        assert_eq!(interval(&PolicyRepositorySpec::default()), Duration::from_secs(60));
    }

    #[test]
    fn a_secret_that_may_not_be_read_takes_somebody_and_a_broken_apiserver_does_not() {
        let refusal = |code| {
            let status = Status::failure("no", "no").with_code(code);
            unreadable(kube::Error::Api(status.boxed()), "team-a", "git-login")
        };
        let forbidden = refusal(403);
        assert_eq!((forbidden.reason(), forbidden.stalls()), ("InvalidSettings", true));
        assert_eq!(
            forbidden.to_string(),
            "the controller may not read Secret 'git-login' in namespace 'team-a': grant `get` on it to the \
             controller's service account, or move PolicyRepository and Secret to the namespace of the release"
        );
        let broken = refusal(500);
        assert_eq!((broken.reason(), broken.stalls()), ("ClusterError", false));
    }

    #[test]
    fn half_of_a_login_is_refused() {
        let data = |keys: &[&str]| keys.iter().map(|k| ((*k).to_owned(), ByteString(b"x\n".to_vec()))).collect();
        assert!(secrets(&data(&["username"]), "s").is_err());
        assert!(secrets(&data(&["password"]), "s").is_err());
        let both = secrets(&data(&["username", "password", "ca.crt"]), "s").expect("complete");
        let credentials = both.credentials.expect("both are there");
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("x", "x"), "without the newline");
        assert!(both.ca.is_some());
        assert!(secrets(&data(&["ca.crt"]), "s").expect("a CA alone is fine").credentials.is_none());
    }
}
