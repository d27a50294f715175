//! The gate of a node: connections towards its Pods, judged where the node has translated their destination and not yet
//! their source.
//!
//! A node puts an address of its own in place of a client that comes through a NodePort, a load balancer, an externalIP
//! or a hostPort, and of a Pod that reaches itself through a Service; its probes and processes come from such an address
//! anyway. The Pod cannot tell them apart. Chain `RF-GATE`, first in `mangle` POSTROUTING of the node's network namespace, sees
//! the client, the Pod and the port on the Pod. It judges every new connection towards a Pod that has rules which block, by that Pod's inbound rules; and the Pod
//! lets the node's addresses in where that is so ([`admit`]).
//!
//! * [`policy`](GatePolicy): who is behind the gate, and by which rules each is judged.
//! * [`render`]: that as text for iptables-restore, and as sets.
//! * [`names`]: what chains and sets are called.

mod admit;
pub mod names;
mod policy;
mod render;
#[cfg(test)]
mod tests;

pub use admit::{Ports, admit};
pub use policy::{Door, GateJudge, GatePolicy};
pub use render::RenderedGate;
