//! The connection to a remote: its references, authentication, and errors in words.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use git2::{
    CertificateCheckStatus, Cred, ErrorClass, ErrorCode, FetchOptions, Oid, ProxyOptions, RemoteCallbacks,
    RemoteRedirect,
};

use super::{Credentials, GitError, Limits, Reference, Remote, certificate};

/// The reason why a callback of ours ended a transfer: libgit2 keeps only a code.
pub(super) type Verdict = Rc<RefCell<Option<GitError>>>;

/// Callbacks that authenticate, verify the server and keep the limits. A refusal is left in `verdict`.
pub(super) fn callbacks<'a>(
    remote: &'a Remote,
    limits: &'a Limits,
    deadline: Instant,
    verdict: &Verdict,
) -> RemoteCallbacks<'a> {
    let mut callbacks = RemoteCallbacks::new();
    let mut tried = false;
    let auth = Rc::clone(verdict);
    callbacks.credentials(move |_, _, _| {
        let answer = authenticate(remote, tried);
        tried = true;
        answer.map_err(|error| refuse(&auth, ErrorCode::Auth, error))
    });
    if let Some(ca) = &remote.ca {
        let tls = Rc::clone(verdict);
        callbacks.certificate_check(move |cert, host| {
            let Some(x509) = cert.as_x509() else {
                return Ok(CertificateCheckStatus::CertificatePassthrough);
            };
            match certificate::verify(x509.data(), host, ca) {
                Ok(()) => Ok(CertificateCheckStatus::CertificateOk),
                Err(reason) => {
                    let error = GitError::Certificate { url: remote.url.clone(), reason };
                    Err(refuse(&tls, ErrorCode::Certificate, error))
                }
            }
        });
    }
    let progress = Rc::clone(verdict);
    callbacks.transfer_progress(move |stats| {
        let error = if stats.received_bytes() > limits.download_bytes {
            GitError::DownloadTooBig { limit: limits.download_bytes }
        } else if Instant::now() > deadline {
            GitError::Timeout(limits.time)
        } else {
            return true;
        };
        *progress.borrow_mut() = Some(error);
        false
    });
    callbacks
}

/// Options of a fetch, with a depth of one where the transport can do that.
pub(super) fn fetch_options<'a>(remote: &Remote, callbacks: RemoteCallbacks<'a>, shallow: bool) -> FetchOptions<'a> {
    let mut options = FetchOptions::new();
    options.remote_callbacks(callbacks);
    options.proxy_options(proxy());
    options.update_fetchhead(false);
    options.download_tags(git2::AutotagOption::None);
    if shallow {
        options.depth(1);
    }
    // A password goes to the server that it is meant for and to no other.
    if remote.credentials.is_some() {
        options.follow_redirects(RemoteRedirect::None);
    }
    options
}

/// The proxy of the environment (`HTTPS_PROXY`), if any.
pub(super) fn proxy<'a>() -> ProxyOptions<'a> {
    let mut proxy = ProxyOptions::new();
    proxy.auto();
    proxy
}

/// libgit2 asks again and again as long as it gets an answer: the second time means that the first was wrong.
fn authenticate(remote: &Remote, tried: bool) -> Result<Cred, GitError> {
    let hint = match &remote.credentials {
        Some(Credentials { username, password }) if !tried => return Ok(Cred::userpass_plaintext(username, password)?),
        Some(_) => "check username and password in the Secret that spec.secretRef names",
        None => "name a Secret with username and password in spec.secretRef",
    };
    Err(GitError::Authentication { url: remote.url.clone(), hint })
}

fn refuse(verdict: &Verdict, code: ErrorCode, error: GitError) -> git2::Error {
    let text = error.to_string();
    *verdict.borrow_mut() = Some(error);
    git2::Error::new(code, ErrorClass::Callback, text)
}

/// What libgit2 says, in our words. A verdict of our own callbacks comes first.
pub(super) fn explain(error: git2::Error, remote: &Remote, verdict: &Verdict) -> GitError {
    if let Some(own) = verdict.borrow_mut().take() {
        return own;
    }
    let url = remote.url.clone();
    let message = error.message();
    let status = |code: &str| error.class() == ErrorClass::Http && message.contains(code);
    if error.code() == ErrorCode::Certificate {
        let reason =
            format!("{message} (for a private authority, put ca.crt into the Secret that spec.secretRef names)");
        return GitError::Certificate { url, reason };
    }
    if error.code() == ErrorCode::Auth || status("401") || status("403") || status("authentication replays") {
        let hint = match remote.credentials {
            Some(_) => "check username and password in the Secret that spec.secretRef names",
            None => "name a Secret with username and password in spec.secretRef",
        };
        return GitError::Authentication { url, hint };
    }
    let no_folder = error.class() == ErrorClass::Os && url.starts_with("file://");
    if no_folder || error.code() == ErrorCode::NotFound || error.class() == ErrorClass::Repository || status("404") {
        return GitError::Gone { url };
    }
    match error.class() {
        ErrorClass::Net | ErrorClass::Os | ErrorClass::Http | ErrorClass::Ssl => {
            GitError::Unreachable { url, reason: message.to_owned() }
        }
        _ => GitError::Git(error),
    }
}

/// A reference that the remote advertises.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// Full name, such as `refs/heads/main`.
    pub name: String,
    /// Commit, or tag object.
    pub id: Oid,
}

/// The advertised reference that is asked for; none for a commit, which need not be advertised.
pub(super) fn choose<'h>(heads: &'h [Head], reference: &Reference) -> Result<Option<&'h Head>, GitError> {
    let others = |prefix: &str| {
        heads
            .iter()
            .filter_map(|head| head.name.strip_prefix(prefix))
            .filter(|n| !n.ends_with("^{}"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let find = |name: String| heads.iter().find(|head| head.name == name);
    if !heads.iter().any(|head| head.name.starts_with("refs/")) {
        return Err(GitError::Empty);
    }
    match reference {
        Reference::Branch(name) => find(format!("refs/heads/{name}"))
            .map(Some)
            .ok_or_else(|| GitError::BranchMissing { name: name.clone(), others: others("refs/heads/") }),
        Reference::Tag(name) => find(format!("refs/tags/{name}"))
            .map(Some)
            .ok_or_else(|| GitError::TagMissing { name: name.clone(), others: others("refs/tags/") }),
        Reference::Commit(_) => Ok(None),
    }
}
