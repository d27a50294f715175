//! What rules refer to, and nobody knows yet.

use std::time::Duration;

use ringfence_dataplane::Missing;
use tokio::time::Instant;

/// A rule whose peers are not all known may wait this long for them before it is reported.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// So much of what is missing is named.
const MOST_NAMED: usize = 3;

/// What is missing, and since when something is.
#[derive(Debug)]
pub struct Lacking {
    since: Instant,
    missing: Vec<Missing>,
}

impl Lacking {
    /// This is missing now. Where something was missing `before`, it is missing since then, whatever it was.
    pub fn carry_on(before: Option<&Self>, missing: Vec<Missing>, now: Instant) -> Self {
        Self { since: before.map_or(now, |before| before.since), missing }
    }

    /// What has been missing for too long, for people; `who` waits for it.
    pub fn stalled(&self, who: &str, now: Instant) -> Option<String> {
        let names: Vec<String> = self.missing.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        (now >= self.deadline()).then(|| format!("{who}: waits for {}", names.join(", ")))
    }

    /// When that is too long.
    pub fn deadline(&self) -> Instant {
        self.since + PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_one_thing_after_another_has_waited_since_the_first() {
        let (now, missing) = (Instant::now(), |name: &str| vec![Missing::PeerGroup(name.to_owned())]);
        let first = Lacking::carry_on(None, missing("p-1"), now);
        let second = Lacking::carry_on(Some(&first), missing("p-2"), now + PATIENCE / 2);
        assert_eq!(second.deadline(), now + PATIENCE);
        assert_eq!(second.stalled("shop/web", now + PATIENCE / 2), None);
        let said = Some("shop/web: waits for PeerGroup p-2".to_owned());
        assert_eq!(second.stalled("shop/web", now + PATIENCE), said);
    }
}
