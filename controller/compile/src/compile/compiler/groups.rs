//! Classes that are born and die, the groups that they join and leave, and the slices that changed.

use super::{Changes, Compiler};
use crate::compile::classes::ClassId;
use crate::compile::{Computed, names};

impl Compiler {
    pub(super) fn write_groups(&mut self, changes: &mut Changes) {
        let classes = &mut self.facts.classes;
        let dead = classes.take_dead();
        for (number, living) in &dead {
            self.groups.leave(*number, &living.groups);
            drop_slices(&living.id, 0, &mut self.computed, changes);
        }
        for number in classes.take_born() {
            self.groups.join(number, classes);
        }
        let services = &self.services;
        let (gone, changed) = self.groups.take_changed(classes, |number| services.id(number));
        for name in gone {
            changes.drop_peer_group(&mut self.computed, &name);
        }
        for (name, spec) in changed {
            changes.put_peer_group(&mut self.computed, name, spec);
        }
        for number in self.facts.classes.take_changed() {
            self.write_slices(number, changes);
        }
        dead.iter().for_each(|(number, _)| self.facts.classes.forget(*number));
    }

    fn write_slices(&mut self, number: ClassId, changes: &mut Changes) {
        let Some(living) = self.facts.classes.get_mut(number) else { return };
        for slice in living.take_changed() {
            let name = names::address_group(&living.id, slice);
            changes.put_address_group(&mut self.computed, name, living.slice(slice, &self.facts.settings.networks));
        }
        // Fewer slices than before: those behind the last one go.
        drop_slices(&living.id, living.slices(), &mut self.computed, changes);
    }
}

/// Ends the slices of a class from a number on: as many as were written, which may be more than there are now.
fn drop_slices(class: &str, from: usize, computed: &mut Computed, changes: &mut Changes) {
    let names = (from..).map(|slice| names::address_group(class, slice));
    let gone: Vec<String> = names.take_while(|name| computed.address_groups.contains_key(name)).collect();
    gone.iter().for_each(|name| changes.drop_address_group(computed, name));
}
