//! Settings of libgit2 that hold for the whole process.

use std::sync::Once;

use git2::ConfigLevel;

/// Milliseconds that a connection may take to come about.
const CONNECT_TIMEOUT_MS: i32 = 10_000;
/// Milliseconds that a server may be silent.
const SILENCE_TIMEOUT_MS: i32 = 20_000;

/// Makes libgit2 independent of the machine it runs on, and unable to wait for ever. Done once per process, before
/// anything else of libgit2 is used.
pub(super) fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = configure() {
            tracing::warn!(%error, "libgit2 could not be configured, its defaults stay");
        }
    });
}

#[allow(unsafe_code)]
fn configure() -> Result<(), git2::Error> {
    // SAFETY: these change globals of libgit2 without a lock. `once` is the only caller and every use of libgit2 in
    // this process comes after it (it is the first statement of `fetch`), with `Once` ordering the two.
    unsafe {
        // A configuration file of the image or the user must not rewrite addresses or turn verification off.
        for level in [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData] {
            git2::opts::set_search_path(level, "")?;
        }
        // Who owns the files of a repository matters to tools that run its hooks and settings. We only read objects,
        // and a mounted volume rarely belongs to the user of the Pod.
        git2::opts::set_verify_owner_validation(false)?;
        git2::opts::set_server_connect_timeout_in_milliseconds(CONNECT_TIMEOUT_MS)?;
        git2::opts::set_server_timeout_in_milliseconds(SILENCE_TIMEOUT_MS)
    }
}
