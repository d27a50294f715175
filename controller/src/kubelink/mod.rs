//! Kubelink: watches the Kubernetes cluster, and keeps an object of ours for each namespace, Service and node.
//!
//! What it makes it may change and delete; the spec of what others made or have taken over it never touches, only the
//! status.

pub mod cluster;
pub mod identity;
pub mod owner;
pub mod profiles;
pub mod refusals;
pub mod sources;
pub mod virtual_services;
pub mod watch;
pub mod workloads;
