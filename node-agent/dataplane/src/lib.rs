//! The data plane as pure functions: computed objects and a local Pod in, iptables and ipset text out.
//!
//! ```text
//! ObjectStore + LocalPod ──resolve──► NetnsPolicy ──render──► Rendered ──(agent)──► kernel
//!                                          │                     ▲                     │
//!                                        judge                 verify ◄── Installed ◄──┘
//! ```
//!
//! * [`chains`]: the names of our chains, and where they hang.
//! * [`family`]: IPv4 and IPv6, and how each is written.
//! * [`gate`]: what a node judges before it puts its own address in place of a client's.
//! * [`host`]: by what the policy of a node is known again.
//! * [`input`]: what the agent has read and knows about a Pod.
//! * [`interest`]: which groups the agent has to read for that.
//! * [`resolve`](mod@resolve): which rules apply to the Pod, and who their peers are, as a typed [`NetnsPolicy`].
//! * [`names`]: names in IP lists, and what a Pod learns of them.
//! * [`judge`]: what that policy does with a packet, written from the policy model and not from the rules.
//! * [`render`](mod@render): the policy as text for iptables-restore and ipset.
//! * [`sets`]: address sets, and how one revision's become the next one's.
//! * [`readback`]: what iptables-save says is there, what differs, and how to take it away.
//! * `trace` (feature `trace`, for tests): a packet's way through what was rendered.
//!
//! Absent on purpose: files, processes, sockets, clocks. Another renderer (native nftables) can stand beside
//! `render`, since nothing before it knows iptables.

pub mod chains;
pub mod family;
pub mod gate;
pub mod host;
pub mod input;
pub mod interest;
pub mod judge;
pub mod names;
pub mod policy;
pub mod readback;
pub mod render;
pub mod resolve;
pub mod sets;
#[cfg(any(test, feature = "trace"))]
pub mod trace;

pub use chains::Place;
pub use family::Family;
pub use input::{ContainerPort, LocalPod, ObjectStore, Profile};
pub use interest::{Buckets, Interest};
pub use judge::{Judgement, Packet};
pub use names::{Answer, Learned, Names};
pub use policy::{End, Enforcement, Entry, HostSet, Match, NetnsPolicy, Nets, Side};
pub use readback::{Installed, Readback, removal, restoring_text};
pub use render::{Rendered, render};
pub use resolve::{Host, Missing, Resolution, Resolver, resolve};
pub use sets::{SetChange, SetDef, SetKind};
