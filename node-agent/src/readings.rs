//! What the rules of a network namespace were when they were read back after they had been written. A rule comes back in
//! another form than it was written in; but the form stays the same, so that a change by somebody else is told from one
//! of ours, also by an agent that was restarted in between.

use ringfence_dataplane::{Family, Installed, Place};
use serde::{Deserialize, Serialize};

/// The rules of one family, read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reading {
    /// The chains that tell which text the rules were written from.
    written: String,
    /// [`Installed::digest`].
    digest: String,
}

/// The rules of both families, as far as they were read back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v4: Option<Reading>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v6: Option<Reading>,
    /// The number that the back end gave the rules when both were read: as long as it gives this one, they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
}

/// What earlier readings say of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are as they were.
    Same,
    /// Somebody else has changed them: they carry the name of a text of ours, and are not as they were.
    Touched,
    /// Nothing: they were written after the readings, or not by us.
    Unknown,
}

impl Readings {
    /// Takes in what `iptables-save` printed for a family, and what was understood of it.
    pub fn read(&mut self, family: Family, save: &str, installed: &Installed) {
        let written = fingerprints(save);
        let reading = Reading { written, digest: installed.digest() };
        *self.family(family) = (!reading.written.is_empty()).then_some(reading);
    }

    /// Takes in the number of the rules before both families were read and after: only if nobody wrote meanwhile it is that
    /// of what was read.
    pub fn read_at(&mut self, before: Option<u32>, after: Option<u32>) {
        let both = self.v4.is_some() && self.v6.is_some();
        self.generation = before.filter(|_| both && before == after);
    }

    /// What they say of the rules of ours alone.
    #[must_use]
    pub fn without_number(self) -> Self {
        Self { generation: None, ..self }
    }

    /// Whether rules with this number are those that were read.
    pub fn is_of(&self, generation: Option<u32>) -> bool {
        generation.is_some() && self.generation == generation
    }

    /// Whether what was read of a family was written from this text.
    pub fn is_of_text(&self, family: Family, text: &str) -> bool {
        self.of(family).is_some_and(|reading| reading.written == fingerprints(text))
    }

    /// Forgets what is about to be written.
    pub fn forget(&mut self, family: Family) {
        *self.family(family) = None;
        self.generation = None;
    }

    /// Whether a family was read back since it was written.
    pub fn has(&self, family: Family) -> bool {
        self.of(family).is_some()
    }

    /// Whether neither family was.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What these say of rules that were read just `now`.
    pub fn judge(&self, family: Family, now: &Self) -> Verdict {
        match (self.of(family), now.of(family)) {
            (Some(before), Some(now)) if before == now => Verdict::Same,
            (Some(before), Some(now)) if before.written == now.written => Verdict::Touched,
            _ => Verdict::Unknown,
        }
    }

    fn of(&self, family: Family) -> Option<&Reading> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    fn family(&mut self, family: Family) -> &mut Option<Reading> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The names of the chains that are called after what was written; all of them, in order.
fn fingerprints(save: &str) -> String {
    let declared = save.lines().filter_map(|line| line.trim().strip_prefix(':')?.split(' ').next());
    let ours = |name: &str| Place::ALL.iter().any(|place| name.starts_with(place.fingerprint_prefix()));
    let mut names: Vec<&str> = declared.filter(|name| ours(name)).collect();
    names.sort_unstable();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVE: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:RF-FP-1 - [0:0]\n:RF-IN - [0:0]\n\
        -A PREROUTING -j RF-IN\n-A RF-IN -i lo -j RETURN\nCOMMIT\n";

    fn readings(save: &str) -> Readings {
        let mut readings = Readings::default();
        readings.read(Family::V4, save, &Installed::parse(save));
        readings
    }

    #[test]
    fn a_rule_in_place_of_another_is_told() {
        let other = readings(&SAVE.replace("-i lo -j RETURN", "-j RETURN"));
        assert_eq!(readings(SAVE).judge(Family::V4, &other), Verdict::Touched);
    }

    #[test]
    fn what_was_read_while_somebody_wrote_has_no_number() {
        let mut read = readings(SAVE);
        read.read_at(Some(7), Some(7));
        assert!(!read.is_of(Some(7)), "of one family alone nothing is remembered");
        read.read(Family::V6, SAVE, &Installed::parse(SAVE));
        read.read_at(Some(7), Some(8));
        assert!(!read.is_of(Some(7)) && !read.is_of(Some(8)));
        read.read_at(Some(7), Some(7));
        assert!(read.is_of(Some(7)) && !read.is_of(Some(8)) && !read.is_of(None));
        assert!(read.is_of_text(Family::V4, SAVE) && !read.is_of_text(Family::V4, &SAVE.replace("FP-1", "FP-2")));
        read.forget(Family::V4);
        assert!(!read.is_of(Some(7)), "it is about to be another");
        read.read_at(None, None);
        assert!(!read.is_of(None), "where nobody counts nothing is known");
    }

    #[test]
    fn counters_and_rules_of_others_do_not_matter() {
        let counted = SAVE.replace("ACCEPT [0:0]", "ACCEPT [7:420]").replace("-A RF-IN", "[7:420] -A RF-IN");
        let counted = counted.replace("COMMIT", "-A PREROUTING -s 192.0.2.1/32 -j ACCEPT\nCOMMIT");
        assert_eq!(readings(SAVE).judge(Family::V4, &readings(&counted)), Verdict::Same);
    }

    #[test]
    fn another_text_of_ours_is_nobodys_fault() {
        let later = SAVE.replace("RF-FP-1", "RF-FP-2").replace("-i lo", "-i eth0");
        assert_eq!(readings(SAVE).judge(Family::V4, &readings(&later)), Verdict::Unknown);
        assert_eq!(readings(SAVE).judge(Family::V4, &readings("")), Verdict::Unknown);
        assert_eq!(Readings::default().judge(Family::V4, &readings(SAVE)), Verdict::Unknown);
        assert!(readings("").is_empty(), "without a text of ours there is nothing to remember");
    }
}
