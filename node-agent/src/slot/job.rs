//! Work in the network namespace of a sandbox: what is to be done, by what it may go, and what came of it.

use std::time::Duration;

use tokio::time::Instant;

use crate::apply::{Known, Outcome, Terms, Wanted};
use crate::names::{Ear, EarError};
use crate::netns::Cookie;

/// Work in a network namespace. Whoever takes it must hand back [`Finished`].
#[derive(Debug)]
pub enum Job {
    /// Bring it to what is wanted.
    Apply {
        /// What is wanted.
        wanted: Wanted,
        /// What it is known to hold.
        known: Known,
        /// How.
        terms: Terms,
    },
    /// Do what was left for later.
    CleanUp(Known),
}

/// What a job may go by.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time.
    pub now: Instant,
    /// Whether the policy is known to be that of now: if not, rules that are already in the kernel are left alone.
    pub fresh: bool,
    /// Whether everything of the newest publication is here.
    pub closed: bool,
}

/// What came of work in a network namespace.
#[derive(Debug)]
pub struct Finished {
    /// The sandbox.
    pub id: String,
    /// The namespace, if it could be entered.
    pub cookie: Option<Cookie>,
    /// An ear that was opened in it, or why not.
    pub ear: Option<Result<Ear, EarError>>,
    /// What it holds now and what was done, or why that failed.
    pub result: Result<Outcome, String>,
    /// How long it took.
    pub took: Duration,
}
