//! What the chained CNI plugin `cven-cni` and the node agent say to each other.
//!
//! ```text
//! kubelet ─► runtime ─► bridge, portmap, … ─► cven-cni ── Request ──► agent (unix socket)
//!                                                 ▲                     │ rules into the network namespace
//!                          result of the others ◄─┴────── Answer ◄──────┘
//! ```
//!
//! Goals, in order:
//! 1. A Pod that Full protects does not start before it is protected: no answer is a refusal, and the kubelet tries again.
//! 2. An agent that was taken away on purpose is in nobody's way: with it goes the [`Fallback`] file, and a plugin that
//!    finds none lets Pods start.
//! 3. The plugin is small and needs nothing of the host: no runtime, no configuration but its entry in the list.

pub mod client;
pub mod fallback;
pub mod wire;

pub use client::{ask, decide};
pub use fallback::Fallback;
pub use wire::{Answer, Attachment, Entry, Request, Start};

/// Name of the program, and `type` of its entry in a list of plugins.
pub const TYPE: &str = "cven-cni";
