//! What identifies the policy of a node, so that one that was taken back is known again.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::policy::{Entry, Match, NetnsPolicy, Side};

/// A hash over everything that people have written into a policy, and nothing that comes and goes by itself: members of groups
/// and ends of Services are not in it, so that a Pod that starts makes no other policy of it.
pub fn fingerprint(policy: &NetnsPolicy) -> String {
    let mut text = format!("{:?}", policy.state);
    for side in [&policy.inbound, &policy.outbound] {
        let Side { essential, override_deny, allow, deny } = side;
        for (step, entries) in [essential, override_deny, allow, deny].into_iter().enumerate() {
            entries.iter().for_each(|entry| note(&mut text, step, entry));
        }
        text.push('|');
    }
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn note(text: &mut String, step: usize, Entry { matching, rule, .. }: &Entry) {
    // Writing to a String cannot fail.
    let _ = match matching {
        Match::Hosts { peers, services } => write!(text, "\n{step} {rule} {:?} {services:?}", peers.origins),
        Match::Ends(_) => write!(text, "\n{step} {rule} ends"),
        Match::OwnOrigin => write!(text, "\n{step} {rule} own"),
    };
}
