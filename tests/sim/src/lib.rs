//! Policy and clusters, random ([`walk`]) or written by hand ([`states`]): the compiler and its evaluator held against the
//! oracle.
//!
//! ```text
//! random, states ──► World ──convert──► Policy, ClusterState ──► compiler, evaluator ──┐
//!                      └──────────────► oracle ────────────────────────────────────────┴──► compare
//! ```
//!
//! What the compiler computes is also given to the agent's data plane, whose rules are traced packet by packet: [`rendered`].

pub mod compare;
pub mod convert;
pub mod extras;
pub mod follow;
pub mod fuzz;
pub mod node;
pub mod random;
pub mod rendered;
pub mod rss;
pub mod shapes;
pub mod states;
pub mod walk;
