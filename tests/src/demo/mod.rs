//! The story that `make demo` walks: from nothing managed to a quarantine, by commits.

pub mod matrix;
pub mod shop;
mod story;

pub use story::{Summary, tell};
