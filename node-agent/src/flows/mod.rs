//! Existing flows.
use crate::apply::ApplyError;
use ringfence_dataplane::NetnsPolicy;

/// Why flows could not be looked at or ended.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// x
    #[error("talk to conntrack: {0}")]
    Netlink(#[from] std::io::Error),
}

/// x
pub fn forgive_all() -> Result<(), FlowError> {
    Ok(())
}

/// x
pub fn around(
    _policy: &NetnsPolicy,
    _before: Option<&NetnsPolicy>,
    change: impl FnOnce() -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    change()
}
