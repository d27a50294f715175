//! What the controller reports in the status of policy objects. Everything here is pure: the time comes in.

pub mod condition;
pub mod definitions;
pub mod nodes;
pub mod profile;
pub mod rule_set;

pub use condition::Ready;
pub use nodes::{Node, Reports};
