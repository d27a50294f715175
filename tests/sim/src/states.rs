//! Named states: small worlds written by hand with what must be true of them, and many ways through them.
//!
//! ```text
//! State (world, expected) ──► sequences ──► expanders ──► a compiler that follows, one event or several at a time
//!                                                         └─► after every update: it equals one made anew, and says what changed
//!                                                         └─► at every state: what is expected holds, and the oracle agrees
//! ```
//!
//! Random walks find what nobody thought of; states say what somebody did think of, and a failure names it.

pub mod event;
pub mod expand;
pub mod hold;
mod machines;
mod pods;
mod references;
mod rules;
mod sequences;
mod services;
pub mod state;
pub mod text;

pub use expand::Sequence;
pub use sequences::{all, sequences};
pub use state::State;
