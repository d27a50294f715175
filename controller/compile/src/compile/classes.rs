//! Label classes and their members.
//!
//! Goals, and the design that meets them:
//! 1. A class is compared once: workloads know it by a number, which it has as long as anybody is of it.
//! 2. A member that comes or goes changes one slice ([`super::slices`]).
//! 3. Selectors find their classes, and a class that is born finds its selectors, without a walk over all of either: a
//!    bitmap of classes for every label ([`Classes::selected`]), and see [`super::peers`].

use std::sync::Arc;

use ringfence_crds::AddressGroupSpec;
use ringfence_model::{Constraint, Dimension, LabelValue, Values};
use roaring::{MultiOps, RoaringBitmap};
use rustc_hash::FxHashMap;

use super::class::{Class, ClassId, ClassOrigin};
use super::networks::Networks;
use super::selector::{WorkloadKind, WorkloadSelector};
use super::slices::{SliceMember, Slices};

/// So many classes are looked at one by one rather than by bitmaps of all.
const FEW: u64 = 256;

/// A class that lives.
#[derive(Debug, Clone)]
pub struct Living {
    /// The class.
    pub class: Arc<Class>,
    /// Workloads that are of it, with an address or without.
    users: usize,
    members: Slices,
    /// Numbers of the virtual services that have it among their back ends.
    pub services: RoaringBitmap,
    /// Numbers of the PeerGroups that select it.
    pub groups: RoaringBitmap,
}

/// All classes.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    living: Vec<Option<Living>>,
    free: Vec<ClassId>,
    numbers: FxHashMap<Arc<Class>, ClassId>,
    all: RoaringBitmap,
    nodes: RoaringBitmap,
    unmanaged: RoaringBitmap,
    by_label: FxHashMap<Dimension, ByValue>,
    born: Vec<ClassId>,
    /// Classes whose last user went; some have found a new one since.
    left: Vec<ClassId>,
    changed: Vec<ClassId>,
}

#[derive(Debug, Clone, Default)]
struct ByValue {
    any: RoaringBitmap,
    each: FxHashMap<LabelValue, RoaringBitmap>,
}

impl Classes {
    /// The number of a class, for one more user of it, and the class as all its users share it.
    pub fn acquire(&mut self, class: &Arc<Class>) -> (ClassId, Arc<Class>) {
        let number = match self.numbers.get(class) {
            Some(number) => *number,
            None => self.bear(class),
        };
        let Some(living) = self.get_mut(number) else { return (number, Arc::clone(class)) };
        living.users += 1;
        (number, Arc::clone(&living.class))
    }

    /// One user less.
    pub fn release(&mut self, number: ClassId) {
        if let Some(living) = self.get_mut(number) {
            living.users = living.users.saturating_sub(1);
            if living.users == 0 {
                self.left.push(number);
            }
        }
    }

    /// The number of a class that lives.
    pub fn number(&self, class: &Class) -> Option<ClassId> {
        self.numbers.get(class).copied()
    }

    /// A class that lives.
    pub fn get(&self, number: ClassId) -> Option<&Living> {
        self.living.get(number as usize)?.as_ref()
    }

    /// A class that lives.
    pub fn get_mut(&mut self, number: ClassId) -> Option<&mut Living> {
        self.living.get_mut(number as usize)?.as_mut()
    }

    fn bear(&mut self, class: &Arc<Class>) -> ClassId {
        let living = Living {
            class: Arc::clone(class),
            users: 0,
            members: Slices::default(),
            services: RoaringBitmap::new(),
            groups: RoaringBitmap::new(),
        };
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.living.push(None);
                // Four thousand million classes do not fit into any memory.
                ClassId::try_from(self.living.len() - 1).unwrap_or(ClassId::MAX)
            }
        };
        self.living[number as usize] = Some(living);
        self.numbers.insert(Arc::clone(class), number);
        self.index(number, class, RoaringBitmap::insert);
        self.born.push(number);
        self.changed.push(number);
        number
    }

    fn index(&mut self, number: ClassId, class: &Class, note: fn(&mut RoaringBitmap, u32) -> bool) {
        note(&mut self.all, number);
        match class.origin {
            ClassOrigin::Pods => {}
            ClassOrigin::Node(_) => drop(note(&mut self.nodes, number)),
            ClassOrigin::Unmanaged(_) => drop(note(&mut self.unmanaged, number)),
        }
        for (dimension, value) in class.labels.iter() {
            if !self.by_label.contains_key(dimension) {
                self.by_label.insert(dimension.clone(), ByValue::default());
            }
            let Some(by_value) = self.by_label.get_mut(dimension) else { continue };
            note(&mut by_value.any, number);
            if !by_value.each.contains_key(value) {
                by_value.each.insert(value.clone(), RoaringBitmap::new());
            }
            let Some(classes) = by_value.each.get_mut(value) else { continue };
            note(classes, number);
            if classes.is_empty() {
                by_value.each.remove(value);
            }
        }
    }

    /// Classes that were born since the last call and still live.
    pub fn take_born(&mut self) -> Vec<ClassId> {
        std::mem::take(&mut self.born)
    }

    /// Ends the classes that nobody is of any more, and gives them.
    pub fn take_dead(&mut self) -> Vec<(ClassId, Living)> {
        let mut left = std::mem::take(&mut self.left);
        left.sort_unstable();
        left.dedup();
        let mut dead = Vec::new();
        for number in left {
            if self.get(number).is_none_or(|living| living.users > 0) {
                continue;
            }
            if let Some(living) = self.living.get_mut(number as usize).and_then(Option::take) {
                self.numbers.remove(&living.class);
                self.index(number, &living.class, RoaringBitmap::remove);
                dead.push((number, living));
            }
        }
        dead
    }

    /// A number may be given to another class again. Only once nothing speaks of it any more.
    pub fn forget(&mut self, number: ClassId) {
        self.free.push(number);
    }

    /// Classes whose members changed since the last call, also new ones without any.
    pub fn take_changed(&mut self) -> Vec<ClassId> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Adds a member.
    pub fn add(&mut self, number: ClassId, member: SliceMember) {
        if let Some(living) = self.get_mut(number)
            && living.members.add(member)
        {
            self.changed.push(number);
        }
    }

    /// Takes a member away.
    pub fn remove(&mut self, number: ClassId, member: &SliceMember) {
        if let Some(living) = self.get_mut(number)
            && living.members.remove(member)
        {
            self.changed.push(number);
        }
    }

    /// How many classes have one of these labels.
    pub fn count(&self, dimension: &Dimension, values: &Values) -> u64 {
        let by_value = self.by_label.get(dimension);
        values.iter().filter_map(|value| by_value?.each.get(value)).map(RoaringBitmap::len).sum()
    }

    /// The classes that a selector selects. It begins with the narrowest thing that it asks for.
    pub fn selected(&self, selector: &WorkloadSelector) -> RoaringBitmap {
        let asked = selector.labels.constraints().filter_map(|(dimension, constraint)| match constraint {
            Constraint::In(values) => Some((self.count(dimension, values), dimension, values)),
            Constraint::NotIn(_) => None,
        });
        let by_name = matches!(selector.kind, WorkloadKind::Named(_));
        match asked.min_by_key(|(count, ..)| *count) {
            Some((count, dimension, values)) if count <= FEW => {
                let found = values.iter().filter_map(|value| self.with(dimension, value)).flatten();
                found.filter(|number| self.is_selected(*number, selector)).collect()
            }
            _ if by_name => {
                let machines = &self.nodes | &self.unmanaged;
                machines.iter().filter(|number| self.is_selected(*number, selector)).collect()
            }
            _ => self.selected_by_bitmaps(selector),
        }
    }

    fn is_selected(&self, number: ClassId, selector: &WorkloadSelector) -> bool {
        self.get(number).is_some_and(|living| selector.matches(&living.class))
    }

    fn with(&self, dimension: &Dimension, value: &LabelValue) -> Option<&RoaringBitmap> {
        self.by_label.get(dimension)?.each.get(value)
    }

    fn either(&self, dimension: &Dimension, values: &Values) -> RoaringBitmap {
        let Some(by_value) = self.by_label.get(dimension) else { return RoaringBitmap::new() };
        values.iter().filter_map(|value| by_value.each.get(value)).union()
    }

    fn selected_by_bitmaps(&self, selector: &WorkloadSelector) -> RoaringBitmap {
        let mut found = match &selector.kind {
            WorkloadKind::ContainerHosts => self.nodes.clone(),
            WorkloadKind::Managed => &self.all - &self.unmanaged,
            WorkloadKind::Any | WorkloadKind::Named(_) => self.all.clone(),
        };
        for (dimension, constraint) in selector.labels.constraints() {
            match constraint {
                Constraint::In(values) => found &= self.either(dimension, values),
                Constraint::NotIn(values) => {
                    match self.by_label.get(dimension) {
                        Some(by_value) => found &= &by_value.any,
                        None => found.clear(),
                    }
                    found -= self.either(dimension, values);
                }
            }
        }
        found
    }
}

impl Living {
    /// How many slices there are.
    pub fn slices(&self) -> usize {
        self.members.len()
    }

    /// Numbers of slices that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<usize> {
        self.members.take_changed()
    }

    /// A slice as an object.
    pub fn slice(&self, number: usize, networks: &Networks) -> AddressGroupSpec {
        let count = i32::try_from(self.members.len()).unwrap_or(i32::MAX);
        AddressGroupSpec {
            class: self.class.id.to_string(),
            class_text: self.class.to_string(),
            slice: i32::try_from(number).unwrap_or(i32::MAX),
            slices: (number == 0).then_some(count),
            members: self.members.get(number).iter().map(|member| member.written(networks)).collect(),
            ..AddressGroupSpec::default()
        }
    }
}
