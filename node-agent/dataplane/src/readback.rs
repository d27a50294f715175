//! What is in the kernel, as iptables-save prints it: whether it is what was rendered, how to put it right, how to
//! take it away. Chains and rules of others are only read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::chains::{CHAIN_PREFIX, Hook, Place};
use crate::sets;

/// Whether what is in the kernel is what was rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readback {
    /// It is.
    Ok,
    /// Nothing of ours is there.
    Missing,
    /// Something of ours is not as it was put there.
    Changed,
}

/// The chains and rules of one family in one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// What the names of the chains begin with that are meant by ours.
    own: &'static str,
    /// By table and chain, the rules without `-A CHAIN`.
    tables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Default for Installed {
    fn default() -> Self {
        Self { own: CHAIN_PREFIX, tables: BTreeMap::new() }
    }
}

impl Installed {
    /// Reads the output of `iptables-save` (all tables, or `-t mangle` and `-t filter` one after the other), with or
    /// without counters. Anything else in it is left out.
    pub fn parse(save: &str) -> Self {
        Self::parse_at(Place::Pod, save)
    }

    /// Nothing.
    pub fn nothing_at(place: Place) -> Self {
        Self { own: place.chain_prefix(), tables: BTreeMap::new() }
    }

    /// The same for a place.
    pub fn parse_at(place: Place, save: &str) -> Self {
        Self::parse_of(place.chain_prefix(), save)
    }

    /// The same, where only chains whose names begin so are ours.
    pub fn parse_of(own: &'static str, save: &str) -> Self {
        let mut tables: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        let mut table = String::new();
        for line in save.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(declared) = line.strip_prefix(':') {
                let name = declared.split(' ').next().unwrap_or_default();
                tables.entry(table.clone()).or_default().entry(name.to_owned()).or_default();
            } else if let Some((chain, rule)) = appended(line) {
                let rules = tables.entry(table.clone()).or_default().entry(chain.to_owned()).or_default();
                rules.push(rule.to_owned());
            }
        }
        Self { own, tables }
    }

    /// Whether nothing of ours is there.
    pub fn is_empty(&self) -> bool {
        !self.tables.keys().any(|table| self.is_in(table))
    }

    /// Whether something of ours is in a table.
    pub(crate) fn is_in(&self, table: &str) -> bool {
        self.own(table).next().is_some() || !self.jumps(table).is_empty()
    }

    /// The generation of the sets that our rules name, if they name any.
    pub fn generation(&self) -> Option<u32> {
        let mut words = self.own("mangle").flat_map(|(_, rules)| rules).flat_map(|rule| rule.split(' '));
        words.find_map(sets::generation)
    }

    /// What is left of it for whoever puts something else in its place: what our rules say is forgotten, but for how many there
    /// are and whose sets they name. Its digest says nothing any more. An agent keeps this of every Pod.
    #[must_use]
    pub fn without_texts(mut self) -> Self {
        let prefix = self.own;
        let chains = self.tables.values_mut().flatten();
        for (_, rules) in chains.filter(|(chain, _)| chain.starts_with(prefix)) {
            let naming = rules.iter().position(|rule| rule.split(' ').any(|word| sets::generation(word).is_some()));
            for (_, rule) in rules.iter_mut().enumerate().filter(|(number, _)| Some(*number) != naming) {
                *rule = String::new();
            }
            rules.shrink_to_fit();
        }
        self
    }

    /// A hash over all that is ours. Remembered after a restore, it tells later whether anything was touched, down to
    /// a single rule.
    pub fn digest(&self) -> String {
        let mut text = String::new();
        for table in self.tables.keys() {
            for (chain, rules) in self.own(table) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{table} {chain} {}", rules.join("\n"));
            }
            for (chain, rule) in self.jumps(table) {
                let _ = writeln!(text, "{table} {chain} {rule}");
            }
        }
        Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a table holds exactly the chains of `wanted` as ours, with as many rules each, hooked first and once.
    /// (The text of a rule comes back in another form; that it is the right text is told by the fingerprint chain,
    /// which is among the chains, and by [`Installed::digest`].)
    pub(crate) fn holds(&self, table: &str, wanted: &str, hooks: &[Hook]) -> bool {
        let wanted = Self::parse_of(self.own, wanted);
        self.counts(table) == wanted.counts(table) && self.hooked(table, hooks)
    }

    /// Whether a chain of ours is there, in whatever table.
    pub fn has_chain(&self, name: &str) -> bool {
        self.tables.values().any(|chains| chains.contains_key(name))
    }

    /// How many rules each of our chains of a table has.
    pub(crate) fn counts(&self, table: &str) -> BTreeMap<String, usize> {
        self.own(table).map(|(chain, rules)| (chain.clone(), rules.len())).collect()
    }

    /// Whether these hooks are there, once each, and no others. Before them others may have put theirs.
    pub(crate) fn is_hooked(&self, hooks: &[Hook]) -> bool {
        hooks.iter().all(|hook| {
            let jumps = self.jumps(hook.table);
            let there = jumps.iter().filter(|(chain, rule)| *chain == hook.chain && **rule == jump(hook)).count();
            there == 1 && jumps.len() == hooks.iter().filter(|other| other.table == hook.table).count()
        })
    }

    /// Lines of a restore that leave these hooks and no others in a table, first of all; none if that is so.
    pub(crate) fn hooks_to(&self, table: &str, hooks: &[Hook]) -> String {
        if !hooks.is_empty() && self.is_hooked(hooks) {
            return String::new();
        }
        let put = |hook: &Hook| format!("-I {} 1 {}\n", hook.chain, jump(hook));
        self.unhook(table) + &hooks.iter().map(put).collect::<String>()
    }

    /// These chains of ours in tables, with the hooks of those tables that have any.
    pub(crate) fn with<const N: usize>(
        own: &'static str,
        tables: [(&str, BTreeMap<String, Vec<String>>, &[Hook]); N],
    ) -> Self {
        let hooked = |(table, mut chains, hooks): (&str, BTreeMap<String, Vec<String>>, &[Hook])| {
            if !chains.is_empty() {
                hooks.iter().for_each(|hook| drop(chains.insert(hook.chain.to_owned(), vec![jump(hook)])));
            }
            (table.to_owned(), chains)
        };
        Self { own, tables: tables.into_iter().map(hooked).collect() }
    }

    fn hooked(&self, table: &str, hooks: &[Hook]) -> bool {
        let first = |hook: &Hook| {
            let rules = self.tables.get(table).and_then(|chains| chains.get(hook.chain));
            rules.and_then(|rules| rules.first()).is_some_and(|rule| *rule == jump(hook))
        };
        hooks.iter().all(first) && self.jumps(table).len() == hooks.len()
    }

    /// Restore input for one table: `text` with hooks put right and our chains that it does not declare taken away.
    pub(crate) fn with_hooks(&self, table: &str, text: &str, hooks: &[Hook]) -> String {
        let wanted = Self::parse_of(self.own, text);
        let mut extra = String::new();
        if !self.hooked(table, hooks) {
            extra += &self.unhook(table);
            for hook in hooks {
                let _ = writeln!(extra, "-I {} 1 {}", hook.chain, jump(hook));
            }
        }
        let declared = |chain: &String| wanted.tables.get(table).is_some_and(|chains| chains.contains_key(chain));
        let stale = self.own(table).map(|(chain, _)| chain).filter(|chain| !declared(chain));
        extra += &delete_chains(stale);
        let body = text.strip_suffix("COMMIT\n").unwrap_or(text);
        format!("{body}{extra}COMMIT\n")
    }

    /// What a restore with [`Installed::with_hooks`] leaves behind, before anybody has read it back. (Our rules are in
    /// the form in which they were written.)
    pub(crate) fn restored(mut self, table: &str, text: &str, hooks: &[Hook]) -> Self {
        let wanted = Self::parse_of(self.own, text);
        let chains = self.tables.entry(table.to_owned()).or_default();
        chains.retain(|chain, _| !chain.starts_with(self.own));
        chains.values_mut().for_each(|rules| rules.retain(|rule| !leads_to(self.own, rule)));
        for hook in hooks {
            chains.entry(hook.chain.to_owned()).or_default().insert(0, jump(hook));
        }
        chains.extend(wanted.own(table).map(|(chain, rules)| (chain.clone(), rules.clone())));
        self
    }

    /// `iptables-restore --noflush` input for table mangle with our chains as they are, without hooks: what brings them back
    /// ([`restoring_text`]). Empty if there are none.
    pub fn own_text(&self) -> String {
        let own: Vec<_> = self.own("mangle").collect();
        if own.is_empty() {
            return String::new();
        }
        let declare: String = own.iter().map(|(chain, _)| format!(":{chain} - [0:0]\n")).collect();
        let rules = own.iter().flat_map(|(chain, rules)| rules.iter().map(move |rule| format!("-A {chain} {rule}\n")));
        format!("*mangle\n{declare}{}COMMIT\n", rules.collect::<String>())
    }

    /// Our chains of a table.
    fn own<'a>(&'a self, table: &str) -> impl Iterator<Item = (&'a String, &'a Vec<String>)> {
        let chains = self.tables.get(table).into_iter().flatten();
        chains.filter(|(chain, _)| chain.starts_with(self.own))
    }

    /// Rules in chains of others that lead to ours.
    fn jumps<'a>(&'a self, table: &str) -> Vec<(&'a String, &'a String)> {
        let chains = self.tables.get(table).into_iter().flatten();
        let foreign = chains.filter(|(chain, _)| !chain.starts_with(self.own));
        foreign
            .flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)))
            .filter(|(_, rule)| leads_to(self.own, rule))
            .collect()
    }

    fn unhook(&self, table: &str) -> String {
        self.jumps(table).iter().map(|(chain, rule)| format!("-D {chain} {rule}\n")).collect()
    }
}

/// `iptables-restore --noflush` input that takes away every chain and hook of ours, and nothing else. Empty if there
/// is nothing. Sets can be destroyed afterwards.
pub fn removal(installed: &Installed) -> String {
    let mut text = String::new();
    // Table filter last: what is marked must be rejected for as long as something marks.
    let mut tables: Vec<&String> = installed.tables.keys().collect();
    tables.sort_by_key(|table| (table.as_str() == "filter", table.as_str()));
    for table in tables {
        let hooks = installed.unhook(table);
        let chains = delete_chains(installed.own(table).map(|(chain, _)| chain));
        if !(hooks.is_empty() && chains.is_empty()) {
            let _ = write!(text, "*{table}\n{hooks}{chains}COMMIT\n");
        }
    }
    text
}

/// `iptables-restore --noflush` input that brings back what [`Installed::own_text`] gave before, whatever of ours is there now.
/// The sets that it names must still be there.
pub fn restoring_text(place: Place, before: &str, installed: &Installed) -> String {
    if before.is_empty() { removal(installed) } else { installed.with_hooks("mangle", before, place.hooks()) }
}

/// Flushes all before it deletes any: they lead to one another.
fn delete_chains<'a>(chains: impl Iterator<Item = &'a String>) -> String {
    let chains: Vec<&String> = chains.collect();
    let flush = chains.iter().map(|chain| format!("-F {chain}\n"));
    let delete = chains.iter().map(|chain| format!("-X {chain}\n"));
    flush.chain(delete).collect()
}

fn jump(hook: &Hook) -> String {
    format!("-j {}", hook.target)
}

fn leads_to(own: &str, rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && pair[1].starts_with(own))
}

/// Chain and rule of a line `-A CHAIN rule`, with or without counters before it.
fn appended(line: &str) -> Option<(&str, &str)> {
    let line = match line.strip_prefix('[') {
        Some(counted) => counted.split_once("] ")?.1,
        None => line,
    };
    let rest = line.strip_prefix("-A ")?;
    Some(rest.split_once(' ').unwrap_or((rest, "")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;
    use crate::policy::{Enforcement, Entry, HostSet, Match, NetnsPolicy};
    use crate::render::render;
    use ringfence_model::Services;

    const SAVE: &str = "# Generated by iptables-nft-save\n*mangle\n:PREROUTING ACCEPT [1:60]\n:OUTPUT ACCEPT [0:0]\n\
        :RF-IN - [0:0]\n:RF-OUT - [0:0]\n[1:60] -A PREROUTING -j RF-IN\n[0:0] -A PREROUTING -s 192.0.2.1/32 -j ACCEPT\n\
        [0:0] -A OUTPUT -p tcp -j RF-OUT\n[0:0] -A RF-IN -m set --match-set RF4-12-0 src -j RETURN\nCOMMIT\n\
        *filter\n:INPUT ACCEPT [0:0]\n:RF-REJECT - [0:0]\n-A INPUT -j RF-REJECT\nCOMMIT\n";

    #[test]
    fn only_what_is_ours_is_removed_and_the_rejecting_chain_last() {
        let expected = "*mangle\n-D OUTPUT -p tcp -j RF-OUT\n-D PREROUTING -j RF-IN\n-F RF-IN\n-F RF-OUT\n-X RF-IN\n\
            -X RF-OUT\nCOMMIT\n*filter\n-D INPUT -j RF-REJECT\n-F RF-REJECT\n-X RF-REJECT\nCOMMIT\n";
        assert_eq!(removal(&Installed::parse(SAVE)), expected);
        assert_eq!(removal(&Installed::parse("*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\nCOMMIT\n")), "");
    }

    #[test]
    fn the_generation_is_read_from_the_sets() {
        assert_eq!(Installed::parse(SAVE).generation(), Some(12));
        assert_eq!(Installed::default().generation(), None);
    }

    /// What iptables-save would say after a first restore.
    fn saved(text: &str) -> Installed {
        let hooks = ["PREROUTING", "OUTPUT", "INPUT", "FORWARD"];
        let text = hooks
            .iter()
            .fold(text.to_owned(), |text, hook| text.replace(&format!("-I {hook} 1"), &format!("-A {hook}")));
        Installed::parse(&text)
    }

    /// Full, and one rule that rejects.
    fn rejecting() -> NetnsPolicy {
        let mut policy = NetnsPolicy::new(Enforcement::Full);
        let matching = Match::Hosts { peers: HostSet::anyone(), services: Services::All };
        policy.inbound.deny.push(Entry { matching, reject: true, rule: "shop/no".to_owned() });
        policy
    }

    #[test]
    fn what_was_restored_is_verified_and_restoring_it_again_hooks_nothing() {
        let rendered = render(&rejecting(), 1);
        let first = rendered.restore_text(Family::V4, &Installed::default());
        assert!(first.contains("-I PREROUTING 1 -j RF-IN\n") && first.contains("-I FORWARD 1 -j RF-REJECT\n"));
        let saved = saved(&first);
        assert_eq!(rendered.verify(Family::V4, &saved), Readback::Ok);
        assert_eq!(rendered.installed_after(Family::V4, Installed::default()), saved, "as it was foreseen");
        assert_eq!(rendered.restore_text(Family::V4, &saved), rendered.v4, "filter is right, hooks are right");
        assert_eq!(rendered.verify(Family::V4, &Installed::default()), Readback::Missing);
        assert_eq!(rendered.verify(Family::V4, &Installed::parse(SAVE)), Readback::Changed);
        let other = render(&NetnsPolicy::new(Enforcement::Selective), 1);
        assert_eq!(other.verify(Family::V4, &saved), Readback::Changed);
        let text = other.restore_text(Family::V4, &saved);
        assert!(text.contains("-X RF-FP-"), "the old fingerprint goes: {text}");
    }

    #[test]
    fn what_rules_say_is_not_needed_to_replace_them() {
        let (rendered, next) = (render(&rejecting(), 1), render(&NetnsPolicy::new(Enforcement::Full), 2));
        let whole = saved(&rendered.restore_text(Family::V4, &Installed::default()));
        let rest = whole.clone().without_texts();
        assert!(!format!("{rest:?}").contains("RETURN"), "{rest:?}");
        assert_eq!(rendered.verify(Family::V4, &rest), Readback::Ok);
        assert_eq!(next.restore_text(Family::V4, &rest), next.restore_text(Family::V4, &whole));
        assert_eq!(next.installed_after(Family::V4, rest.clone()).generation(), None);
        assert_eq!(removal(&rest), removal(&whole));
        assert_eq!(Installed::parse(SAVE).without_texts().generation(), Some(12));
    }

    #[test]
    fn table_filter_is_ours_from_the_first_rule_that_rejects() {
        let (plain, rejecting) = (render(&NetnsPolicy::new(Enforcement::Full), 1), render(&rejecting(), 1));
        let first = plain.restore_text(Family::V4, &Installed::default());
        assert!(!first.contains("*filter"), "{first}");
        let without = saved(&first);
        assert_eq!(plain.installed_after(Family::V4, Installed::default()), without);
        assert_eq!(plain.verify(Family::V4, &without), Readback::Ok);

        // What rejects is there before anything is marked.
        let text = rejecting.restore_text(Family::V4, &without);
        assert!(text.starts_with("*filter\n") && text.contains("*mangle\n"), "{text}");
        let with = rejecting.installed_after(Family::V4, without);
        assert_eq!(rejecting.verify(Family::V4, &with), Readback::Ok);

        // It stays, and has to be right, when nothing is marked any more.
        assert!(!plain.restore_text(Family::V4, &with).contains("*filter"));
        let after = plain.installed_after(Family::V4, with);
        assert_eq!(plain.verify(Family::V4, &after), Readback::Ok);
        assert!(removal(&after).contains("-X RF-REJECT\n"));
        let changed = Installed::parse("*filter\n:RF-REJECT - [0:0]\nCOMMIT\n");
        assert!(plain.restore_text(Family::V4, &changed).starts_with("*filter\n"));
    }
}
