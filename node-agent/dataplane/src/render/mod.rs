//! Room 7: a typed policy as text for iptables-restore and ipset.
//!
//! Goals and the design that meets them:
//! 1. One atomic change per family: everything that decides is in table `mangle`, in own chains that one restore
//!    with `--noflush` redeclares and fills. Rules of others stay as they are.
//! 2. Other people's rules still see what we let pass: a packet leaves our chains at their end or by RETURN, never by
//!    ACCEPT. The inner chains are entered by goto, so that their end leaves `RF-IN` or `RF-OUT` as well.
//! 3. Ports are seen before a sidecar or kube-proxy rewrites them, and conntrack's state is known: PREROUTING and
//!    OUTPUT of mangle, first.
//! 4. REJECT is not possible in mangle: packets are marked there, and chains in `filter`, which never change, reject
//!    on the mark. Rules of others may overwrite the mark of a packet in between, so the connection is marked too.
//! 5. A change of membership changes no rule: rules name sets, and the text does not depend on members.
//! 6. What is in force can be read back: a chain named after the text's hash is put in by the same restore.
//!
//! | chain | holds |
//! | --- | --- |
//! | `RF-IN`, `RF-OUT` | established, essential, loopback, OverrideDeny, Allow, Deny, state |
//! | `RF-IN-OLD`, `RF-OUT-OLD` | TCP flows older than the rules, judged in both orientations |
//! | `RF-DROP` | drops |
//! | `RF-MARK` | marks for rejection |
//! | `RF-PASS` | drops what is invalid or ended, and takes the mark back from a connection that may be carrying it |
//! | `RF-WOULD` | the same, and counts what a stricter state would block |
//! | `RF-REJECT` (filter) | finds what is marked |
//! | `RF-REFUSE` (filter) | rejects it |
//!
//! A policy that rejects nothing does without table filter: its packets are looked at once less, and a kernel need not have
//! REJECT.
//!
//! In a node's own network namespace ([`Place::Host`]) the same chains are called `RF-HOST-…` and hang in INPUT and OUTPUT, so that
//! nothing that is forwarded comes by. They use no mark, since those of a node are its network plugin's: flows are not ended
//! there, and what is blocked is dropped.
//! Where a Pod may connect to names, what its resolvers answer it is copied to who listens (NFLOG), and passes whether anybody
//! does or not.
//!
//! Both families have the same chains; IPv6 lets discovery pass besides, of which conntrack knows nothing.

mod direction;
pub(crate) mod lines;

use sha2::{Digest, Sha256};

use crate::chains::{FILTER_HOOKS, Place};
use crate::family::Family;
use crate::policy::NetnsPolicy;
use crate::readback::{Installed, Readback};
use crate::sets::{self, SetChange, SetDef};
use direction::{Chains, chains};
use lines::Lines;

/// Bit of the conntrack mark that ends a flow. Set by the agent, matched by the rules.
pub const ENDED: u32 = 0x4000_0000;
/// Bit of the packet mark, and of the conntrack mark, that asks table filter to reject.
pub const REJECT: u32 = 0x2000_0000;
/// The group of NFLOG that answers of resolvers are copied to, for whoever listens in the network namespace.
pub const ANSWERS: u16 = 0x5246;
/// How a rule ends that marks for rejection.
const MARKS: &str = "-g RF-MARK";

/// A policy as text, for one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Whose network namespace it is for.
    pub place: Place,
    /// The generation that the names of the sets carry.
    pub generation: u32,
    /// The sets that the rules name, those of IPv4 first, in the order of their slots.
    pub sets: Vec<SetDef>,
    /// `iptables-restore --noflush` input: table mangle with our chains, without hooks (see
    /// [`Rendered::restore_text`]).
    pub v4: String,
    /// The same for `ip6tables-restore --noflush`.
    pub v6: String,
}

/// Renders a policy. `generation` names the sets: rules of different generations can be in the kernel's hands while
/// one replaces the other.
pub fn render(policy: &NetnsPolicy, generation: u32) -> Rendered {
    let [v4, v6] = Family::ALL.map(|family| chains(policy, family, generation));
    let place = policy.place;
    let text = |chains: &Chains| table_text(place, "mangle", &chains.chains);
    let (v4_text, v6_text) = (text(&v4), text(&v6));
    Rendered { place, generation, sets: v4.sets.into_iter().chain(v6.sets).collect(), v4: v4_text, v6: v6_text }
}

impl Rendered {
    /// What is left of it once its text is in force: the sets. An agent keeps this of every Pod.
    #[must_use]
    pub fn without_texts(self) -> Self {
        Self { v4: String::new(), v6: String::new(), ..self }
    }

    /// The sets with the members of another policy, if that comes to the same rules as the one that this was rendered
    /// from (`own`): going there is a matter of members only. No text is made for it.
    pub fn sets_of(&self, own: &NetnsPolicy, other: &NetnsPolicy) -> Option<Vec<SetDef>> {
        if own.state != other.state {
            return None;
        }
        let mut sets = Vec::new();
        for family in Family::ALL {
            let lines = Lines::new(other, family, self.generation);
            if !lines.same_rules(&Lines::new(own, family, self.generation)) {
                return None;
            }
            sets.extend(lines.into_sets());
        }
        Some(sets)
    }

    /// `ipset restore` input that makes the sets. Before the rules.
    pub fn create_sets(&self) -> String {
        sets::create_text(&self.sets)
    }

    /// `ipset restore` input that takes the sets away. After the rules that name them are gone; the kernel lets go of
    /// a set a little later than the restore returns, so that a refusal ("in use") is to be tried again.
    pub fn destroy_sets(&self) -> String {
        sets::destroy_text(self.sets.iter().map(|set| set.name.as_str()))
    }

    /// What turns the sets that the kernel holds into these. `None` if one is not there.
    pub fn delta_from(&self, present: &[SetDef]) -> Option<Vec<SetChange>> {
        let find =
            |set: &SetDef| present.iter().find(|other| other.name == set.name && other.kind() == set.kind()).cloned();
        let present: Vec<SetDef> = self.sets.iter().map(find).collect::<Option<_>>()?;
        Some(sets::changes(&present, &self.sets))
    }

    /// Input for `iptables-restore --noflush` (`ip6tables-restore`) that puts this policy into force, whatever of ours
    /// is `installed`: hooks that are missing, doubled or not first are put right, chains that are no longer needed
    /// go. Table filter is in it only if it has to change.
    pub fn restore_text(&self, family: Family, installed: &Installed) -> String {
        let mut text = String::new();
        let filter = filter_text(family);
        if self.needs_filter(family, installed) && !installed.holds("filter", &filter, &FILTER_HOOKS) {
            text += &installed.with_hooks("filter", &filter, &FILTER_HOOKS);
        }
        text + &installed.with_hooks("mangle", self.text(family), self.place.hooks())
    }

    /// What is installed once [`Rendered::restore_text`] was restored, for whoever does not read it back at once.
    pub fn installed_after(&self, family: Family, before: Installed) -> Installed {
        let filtered = match self.needs_filter(family, &before) {
            true => before.restored("filter", &filter_text(family), &FILTER_HOOKS),
            false => before,
        };
        filtered.restored("mangle", self.text(family), self.place.hooks())
    }

    /// Whether what is installed is this policy.
    pub fn verify(&self, family: Family, installed: &Installed) -> Readback {
        if installed.is_empty() {
            return Readback::Missing;
        }
        let mangle = installed.holds("mangle", self.text(family), self.place.hooks());
        let filter =
            !self.needs_filter(family, installed) || installed.holds("filter", &filter_text(family), &FILTER_HOOKS);
        if mangle && filter { Readback::Ok } else { Readback::Changed }
    }

    /// Whether table filter has to hold our chains: where something is marked for rejection, and where they are already. They
    /// stay when nothing is marked any more: what was marked just before must not find them gone.
    pub fn needs_filter(&self, family: Family, installed: &Installed) -> bool {
        // A comment has no blanks.
        self.text(family).contains(&format!(" {MARKS}\n")) || installed.is_in("filter")
    }

    /// The text of one family.
    pub fn text(&self, family: Family) -> &str {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// A chain of ours with its rules (each without `-A CHAIN`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    name: &'static str,
    rules: Vec<String>,
}

impl Chain {
    fn new(name: &'static str, rules: impl IntoIterator<Item = String>) -> Self {
        Self { name, rules: rules.into_iter().collect() }
    }
}

/// A table with these chains and the chain that carries the fingerprint of them.
fn table_text(place: Place, table: &str, chains: &[Chain]) -> String {
    let declare: String = chains.iter().map(|chain| format!(":{} - [0:0]\n", chain.name)).collect();
    let rules: String =
        chains.iter().flat_map(|chain| chain.rules.iter().map(|rule| format!("-A {} {rule}\n", chain.name))).collect();
    let digest = Sha256::digest(format!("{declare}{rules}").as_bytes());
    let fingerprint: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let prefix = place.fingerprint_prefix();
    format!("*{table}\n{declare}:{prefix}{fingerprint} - [0:0]\n{rules}COMMIT\n")
}

/// `iptables-restore` input that closes a family whose rules cannot be put in force: nothing passes but loopback and, of
/// IPv6, discovery. It needs no set, no connection tracking and no other table.
pub fn closing_text(family: Family, installed: &Installed) -> String {
    let text = table_text(Place::Pod, "mangle", &direction::closed(family));
    installed.with_hooks("mangle", &text, Place::Pod.hooks())
}

/// Table filter with our chains that reject, which are the same for every policy.
///
/// Replies to what is rejected are RELATED to it and are no packets to reject, even if they carry its mark; and of a
/// connection that was answered, the mark is of a time when it was not.
pub fn filter_text(family: Family) -> String {
    let marked = |module: &str| format!("-m {module} --mark {REJECT:#x}/{REJECT:#x} -g RF-REFUSE");
    let known = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned();
    let refuse = [
        "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
        format!("-j REJECT --reject-with {}", family.reject_with()),
    ];
    let chains =
        [Chain::new("RF-REJECT", [known, marked("mark"), marked("connmark")]), Chain::new("RF-REFUSE", refuse)];
    table_text(Place::Pod, "filter", &chains)
}

#[cfg(test)]
mod tests;
