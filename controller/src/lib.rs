//! The controller of Ringfence: one process that turns policy and the live cluster into what agents enforce.
//!
//! ```text
//! repository (git) ──► policy objects ──┐
//!                                       ├─► engine ──► compile ──► publish ──► computed objects ──► agents
//! kubelink: watches of the cluster ─────┘      └─► chores: profiles, virtual services, workloads, every status
//! ```
//!
//! Everything runs only in the replica that holds the Lease ([`leader`]).

pub mod engine;
pub mod git;
pub mod health;
pub mod kubelink;
pub mod leader;
pub mod publish;
pub mod repository;
pub mod status;
pub mod suspend;
pub mod write;
