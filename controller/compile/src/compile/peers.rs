//! PeerGroups: which classes a peer selector selects.
//!
//! Goals, and the design that meets them:
//! 1. A PeerGroup changes only when a class is born or dies, or a Service in front of one comes or goes: it holds
//!    classes and never members.
//! 2. A class that is born finds its groups without a walk over all of them: a group is filed under the labels that fewest
//!    classes have among those that it asks for, so that it is looked at only by classes that have one of these.
//! 3. Rules share groups: a selector has one group, however many rules ask for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_crds::PeerGroupSpec;
use ringfence_model::{Constraint, Dimension, LabelValue};
use roaring::RoaringBitmap;
use rustc_hash::{FxHashMap, FxHashSet};

use super::class::{Class, ClassId};
use super::classes::Classes;
use super::selector::{PeerSelector, WorkloadSelector};

/// Number of a group, as long as it lives.
pub type GroupId = u32;

#[derive(Debug, Clone)]
struct Group {
    selector: Arc<PeerSelector>,
    /// RuleSets that ask for it.
    users: usize,
    classes: RoaringBitmap,
    /// The dimension that it is filed under; none if it asks for no value in particular.
    filed_under: Option<Dimension>,
}

/// All groups.
#[derive(Debug, Clone, Default)]
pub struct PeerGroups {
    living: Vec<Option<Group>>,
    free: Vec<GroupId>,
    numbers: FxHashMap<Arc<PeerSelector>, GroupId>,
    /// Groups by the labels that they are filed under.
    filed: FxHashMap<Dimension, FxHashMap<LabelValue, RoaringBitmap>>,
    /// Groups that ask for no value in particular.
    open: RoaringBitmap,
    changed: BTreeSet<GroupId>,
    /// Names of groups that are gone.
    gone: Vec<String>,
}

impl PeerGroups {
    /// The number of a selector's group, for one more user of it.
    pub fn acquire(&mut self, selector: &Arc<PeerSelector>, classes: &mut Classes) -> GroupId {
        let number = match self.numbers.get(selector) {
            Some(number) => *number,
            None => self.bear(selector, classes),
        };
        if let Some(group) = self.living.get_mut(number as usize).and_then(Option::as_mut) {
            group.users += 1;
        }
        number
    }

    /// One user less; without users a group is gone.
    pub fn release(&mut self, number: GroupId, classes: &mut Classes) {
        let Some(slot) = self.living.get_mut(number as usize) else { return };
        let Some(group) = slot else { return };
        group.users = group.users.saturating_sub(1);
        if group.users > 0 {
            return;
        }
        let Some(group) = slot.take() else { return };
        for class in &group.classes {
            if let Some(living) = classes.get_mut(class) {
                living.groups.remove(number);
            }
        }
        self.file(number, &group.selector, group.filed_under.as_ref(), RoaringBitmap::remove);
        self.numbers.remove(&group.selector);
        self.changed.remove(&number);
        self.gone.push(group.selector.name.clone());
        self.free.push(number);
    }

    fn bear(&mut self, selector: &Arc<PeerSelector>, classes: &mut Classes) -> GroupId {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.living.push(None);
                GroupId::try_from(self.living.len() - 1).unwrap_or(GroupId::MAX)
            }
        };
        let selected = classes.selected(selector);
        for class in &selected {
            if let Some(living) = classes.get_mut(class) {
                living.groups.insert(number);
            }
        }
        let asked = selector.labels.constraints().filter_map(|(dimension, constraint)| match constraint {
            Constraint::In(values) => Some((values.len(), classes.count(dimension, values), dimension)),
            Constraint::NotIn(_) => None,
        });
        let filed_under =
            asked.min_by_key(|(values, count, _)| (*count, *values)).map(|(_, _, dimension)| dimension.clone());
        self.numbers.insert(Arc::clone(selector), number);
        self.file(number, selector, filed_under.as_ref(), RoaringBitmap::insert);
        let group = Group { selector: Arc::clone(selector), users: 0, classes: selected, filed_under };
        self.living[number as usize] = Some(group);
        self.changed.insert(number);
        number
    }

    /// Files a group, or takes it out of the files.
    fn file(
        &mut self,
        number: GroupId,
        selector: &WorkloadSelector,
        under: Option<&Dimension>,
        note: fn(&mut RoaringBitmap, u32) -> bool,
    ) {
        let asked = selector.labels.constraints().find(|(dimension, _)| Some(*dimension) == under);
        let Some((dimension, Constraint::In(values))) = asked else {
            note(&mut self.open, number);
            return;
        };
        let by_value = self.filed.entry(dimension.clone()).or_default();
        for value in values.iter() {
            let groups = by_value.entry(value.clone()).or_default();
            note(groups, number);
            if groups.is_empty() {
                by_value.remove(value);
            }
        }
    }

    /// A class was born: it joins the groups that select it.
    pub fn join(&mut self, number: ClassId, classes: &mut Classes) {
        let Some(living) = classes.get_mut(number) else { return };
        for group_number in self.candidates(&living.class) {
            let Some(group) = self.living.get_mut(group_number as usize).and_then(Option::as_mut) else { continue };
            if group.selector.matches(&living.class) && group.classes.insert(number) {
                living.groups.insert(group_number);
                self.changed.insert(group_number);
            }
        }
    }

    fn candidates(&self, class: &Class) -> RoaringBitmap {
        let mut candidates = self.open.clone();
        for (dimension, value) in class.labels.iter() {
            if let Some(groups) = self.filed.get(dimension).and_then(|by_value| by_value.get(value)) {
                candidates |= groups;
            }
        }
        candidates
    }

    /// A class died: it leaves its groups.
    pub fn leave(&mut self, number: ClassId, groups: &RoaringBitmap) {
        for group_number in groups {
            if let Some(group) = self.living.get_mut(group_number as usize).and_then(Option::as_mut) {
                group.classes.remove(number);
                self.changed.insert(group_number);
            }
        }
    }

    /// The Services in front of a class are others now.
    pub fn touch(&mut self, groups: &RoaringBitmap) {
        self.changed.extend(groups);
    }

    /// Names of groups that are gone, and the groups that changed, since the last call.
    pub fn take_changed(
        &mut self,
        classes: &Classes,
        service_id: impl Fn(u32) -> String,
    ) -> (Vec<String>, Vec<(String, PeerGroupSpec)>) {
        let changed = std::mem::take(&mut self.changed);
        let groups = changed.into_iter().filter_map(|number| self.living.get(number as usize)?.as_ref());
        let specs: Vec<_> =
            groups.map(|group| (group.selector.name.clone(), group.spec(classes, &service_id))).collect();
        // One that one RuleSet let go and another asked for has changed and is not gone.
        let again: FxHashSet<&str> = specs.iter().map(|(name, _)| name.as_str()).collect();
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|name| !again.contains(name.as_str()));
        (gone, specs)
    }
}

impl Group {
    fn spec(&self, classes: &Classes, service_id: impl Fn(u32) -> String) -> PeerGroupSpec {
        let living = || self.classes.iter().filter_map(|number| classes.get(number));
        let mut ids: Vec<String> = living().map(|living| living.id.to_string()).collect();
        ids.sort_unstable();
        let mut behind = RoaringBitmap::new();
        living().filter(|living| !living.services.is_empty()).for_each(|living| behind |= &living.services);
        let mut services: Vec<String> = behind.iter().map(service_id).collect();
        services.sort_unstable();
        PeerGroupSpec { selector: self.selector.text.clone(), classes: ids, services, ..PeerGroupSpec::default() }
    }
}
