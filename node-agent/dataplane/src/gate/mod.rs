//! The gate of a node: connections towards its Pods, judged where the node has translated their destination and not yet
//! their source.
//!
//! A node puts an address of its own in place of a client that comes through a NodePort, a load balancer, an externalIP
//! or a hostPort, and of a Pod that reaches itself through a Service; its probes and processes come from such an address
//! anyway. The Pod cannot tell them apart. Chain `RF-GATE`, first in `mangle` POSTROUTING of the node's network namespace, sees
//! the client, the Pod and the port on the Pod. It judges every new connection towards a Pod that has rules which block, by that Pod's inbound rules; and the Pod
//! lets the node's addresses in where that is so ([`admit`]).
//!
//! Where the Pod is on another node, the one that a client has dialled translates the connection and hides the client all the
//! same. So every node's gate also judges what is to go on to *exposed* Pods of other nodes, and *seals* what their rules let pass: it
//! sets [`SEAL`] in the packets, and takes it from everything else that leaves the node. The Pod lets such nodes in by their seal
//! alone ([`admit_sealed`]). A gate that does not know a Pod yet, or that somebody has taken away, so opens nothing.
//!
//! * [`policy`](GatePolicy): who is behind the gate, and by which rules each is judged.
//! * [`render`]: that as text for iptables-restore, and as sets; [`judging`]: the chains that judge; [`away`]: what is about Pods of
//!   other nodes.
//! * [`names`]: what chains and sets are called.

mod admit;
mod away;
mod judging;
pub mod names;
mod policy;
mod render;
#[cfg(test)]
mod tests;

pub use admit::{Ports, admit, admit_sealed};
pub use policy::{Door, Exposed, GateJudge, GatePolicy};
pub use render::RenderedGate;

/// The codepoint (DSCP) of a packet that a gate has let pass: of those for local use (RFC 2474, section 6: `xxxx11`) the one that asks
/// for no better service than any packet has.
pub const SEAL: &str = "0x03";
