//! Looking which addresses connections use.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Heard, What};
use crate::flows;
use crate::netns::{self, Cookie, Location};

/// Looks in the network namespace of a sandbox which of these addresses its connections lead to.
pub fn look(id: String, location: &Location, cookie: Cookie, asked: &BTreeSet<IpAddr>) -> Heard {
    let looked = netns::run_in(location, |found| match found == cookie {
        true => flows::in_use(asked).map_err(|error| error.to_string()),
        false => Err(format!("look for connections in {location}: that is another namespace than before")),
    });
    Heard { id, what: What::InUse(looked.unwrap_or_else(|error| Err(error.to_string()))) }
}
