//! The vocabulary of Ringfence: labels, selectors, addresses, ports, actions, states and verdicts.
//!
//! Everything here is pure and always valid: a value that exists obeys the rules of the policy model, because the
//! only ways to make one are its checked constructors. What the words mean is said in `docs/policy-model.md`.

pub mod address;
pub mod derive;
pub mod domain;
pub mod label;
pub mod port;
pub mod selector;
pub mod values;
pub mod verdict;

pub use address::{AddressSet, NetworkId, ParseAddressError};
pub use derive::{DerivedLabels, DimensionRule, LabelMapping, LabelSource, ProfileLabels, Refusal, StringMap};
pub use domain::{DomainName, InvalidName, NamePattern};
pub use label::{Dimension, InvalidLabel, LabelValue, Labels};
pub use port::{DISCOVERY, ParsePortError, PortMatch, Ports, Protocol, Services};
pub use selector::{Constraint, Selector};
pub use values::Values;
pub use verdict::{Action, Decision, Direction, EndState, PolicyState, Verdict, Visibility};
