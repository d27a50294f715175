//! A second evaluator, written the slow obvious way from `docs/policy-model.md`. It exists to disagree.
//!
//! ```text
//! World ──► holder (who is at an address) ──► rules (does a rule hit?) ──► judge (both sides, the verdict)
//!                                                                      └─► packet (one packet at one Pod)
//! ```
//!
//! It shares the vocabulary of `ringfence-model` and nothing else with the compiler: no selectors that are merged, no
//! prefixes that are subtracted, no classes, no indexes. Every question is answered by walking over everything. It
//! keeps to what the model says of Pods; what a node translates, and rules for a node's own traffic, are not in it yet.

pub mod holder;
pub mod judge;
pub mod labels;
pub mod packet;
pub mod rules;
pub mod world;

pub use judge::{Answer, Connection, Does, Party, Side, Target, judge};
pub use packet::{Packet, Ruling, judge_packet};
pub use rules::Ask;
pub use world::World;
