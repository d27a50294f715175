//! Policy objects and cluster state in, computed objects and verdicts out. Everything here is pure: no files, no
//! network, no clock.

pub mod cluster;
pub mod compile;
pub mod evaluate;
pub mod policy;
pub mod source;
