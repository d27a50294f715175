//! Random policy and clusters: the compiler and its evaluator held against the oracle.
//!
//! ```text
//! random ──► World ──convert──► Policy, ClusterState ──► compiler, evaluator ──┐
//!              └──────────────► oracle ────────────────────────────────────────┴──► compare
//! ```

pub mod compare;
pub mod convert;
pub mod extras;
pub mod node;
pub mod random;
pub mod rss;
pub mod shapes;
pub mod walk;
