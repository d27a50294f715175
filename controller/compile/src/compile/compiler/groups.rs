//! Classes that are born and die, the groups that they join and leave, and the slices that changed.

use super::{Changes, Compiler};
use crate::compile::class::ClassId;
use crate::compile::names;

impl Compiler {
    /// Classes that are born join the groups that there are, and those that die leave theirs. Groups that are made later in
    /// the update find all living classes themselves. Gives the dead, of which PeerGroups speak until they are written.
    pub(super) fn settle_classes(&mut self, changes: &mut Changes) -> Vec<ClassId> {
        let classes = &mut self.facts.classes;
        let dead = classes.take_dead();
        for (number, living) in &dead {
            self.groups.leave(*number, &living.groups);
            changes.drop_slices(&mut self.computed, &living.id, 0);
        }
        for number in classes.take_born() {
            self.groups.join(number, classes);
        }
        dead.into_iter().map(|(number, _)| number).collect()
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
        let mut written = Vec::new();
        for number in self.facts.classes.take_changed() {
            let Some(living) = self.facts.classes.get_mut(number) else { continue };
            for slice in living.take_changed() {
                let name = names::address_group(&living.id, slice);
                written.push((name, living.slice(slice, &self.facts.settings.networks)));
            }
            // Fewer slices than before: those behind the last one go.
            changes.drop_slices(&mut self.computed, &living.id, living.slices());
        }
        changes.put_address_groups(&mut self.computed, written);
    }
}
