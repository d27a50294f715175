//! Classes that are born and die, the groups that they join and leave, and the slices that changed.

use super::{Changes, Compiler};
use crate::compile::class::ClassId;
use crate::compile::{hosts, names, parallel};

impl Compiler {
    /// Classes that are born join the groups that there are, and those that die leave theirs. Groups that are made later in
    /// the update find all living classes themselves. Gives the dead, of which PeerGroups speak until they are written.
    pub(super) fn settle_classes(&mut self, changes: &mut Changes) -> Vec<ClassId> {
        let classes = &mut self.facts.classes;
        let dead = classes.take_dead();
        for (number, living) in &dead {
            self.groups.leave(*number, &living.groups);
            changes.drop_slices(&mut self.computed, &living.class.id, 0);
        }
        for number in classes.take_born() {
            self.groups.join(number, classes);
        }
        dead.into_iter().map(|(number, _)| number).collect()
    }

    /// The group of all nodes is there as long as a node's own traffic has a policy.
    pub(super) fn hold_hosts(&mut self) {
        let Self { hosts, groups, facts, .. } = self;
        let needed = facts.nodes.values().any(|node| node.enforced().is_some());
        match *hosts {
            None if needed => *hosts = Some(groups.acquire(&hosts::all_nodes(), &mut facts.classes)),
            Some(number) if !needed => {
                groups.release(number, &mut facts.classes);
                *hosts = None;
            }
            _ => {}
        }
    }

    pub(super) fn write_groups(&mut self, dead: Vec<ClassId>, changes: &mut Changes) {
        let services = &self.services;
        let (gone, changed) = self.groups.take_changed(&self.facts.classes, |number| services.id(number));
        for name in gone {
            changes.drop_peer_group(&mut self.computed, &name);
        }
        changes.put_peer_groups(&mut self.computed, changed);
        self.write_slices(changes);
        dead.into_iter().for_each(|number| self.facts.classes.forget(number));
    }

    fn write_slices(&mut self, changes: &mut Changes) {
        let classes = &mut self.facts.classes;
        let mut changed = Vec::new();
        for number in classes.take_changed() {
            let Some(living) = classes.get_mut(number) else { continue };
            changed.extend(living.take_changed().into_iter().map(|slice| (number, slice)));
            // Fewer slices than before: those behind the last one go.
            changes.drop_slices(&mut self.computed, &living.class.id, living.slices());
        }
        let facts = &self.facts;
        let written = parallel::map(&changed, |(number, slice)| {
            let living = facts.classes.get(*number)?;
            Some((names::address_group(&living.class.id, *slice), living.slice(*slice, &facts.settings.networks)))
        });
        changes.put_address_groups(&mut self.computed, written.into_iter().flatten().collect());
    }
}
