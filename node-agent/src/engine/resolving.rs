//! What Pods and the node itself are to have in force is resolved from what was read.

use std::net::IpAddr;

use ringfence_dataplane::{Nets, Resolution, Resolver};
use tokio::time::Instant;

use super::{Engine, tell_if_other};
use crate::feed::pods::from_sandbox;
use crate::names;
use crate::slot::Slot;
use crate::view::View;

/// What all Pods are resolved by.
struct Basis<'a> {
    view: &'a View,
    node_addresses: &'a [IpAddr],
    /// In which prefixes no name opens anything.
    reserved: &'a Nets,
    own_namespace: Option<&'a String>,
    suspended: bool,
    now: Instant,
}

impl Engine {
    pub(super) fn resolve_all(&mut self) {
        self.slots.retain(|_, slot| !(slot.departed && slot.is_released()));
        self.resolve(None);
        if let (Some(keeper), Some(chaining)) = (&self.outputs.chaining, self.chaining()) {
            tell_if_other(keeper, Some(chaining));
        }
    }

    /// Resolves the Pods of all sandboxes and says what has to be read for them, or that of one alone: what it needs is
    /// read since Kubernetes has told of it.
    pub(super) fn resolve(&mut self, only: Option<&String>) {
        let (suspended, standing) = (self.suspension().is_some(), self.standing());
        if !(self.view.counts() || suspended) {
            return;
        }
        let now = Instant::now();
        self.reserved = names::reserved(self.view.store(), &self.node_addresses);
        let mut resolver = Resolver::new(self.view.store()).looking_for_seals(self.looks_for_seals());
        let basis = Basis {
            view: &self.view,
            node_addresses: &self.node_addresses,
            reserved: &self.reserved,
            own_namespace: self.own_namespace.as_ref(),
            suspended,
            now,
        };
        for (_, slot) in self.slots.iter_mut().filter(|(id, _)| only.is_none_or(|only| only == *id)) {
            basis.resolve(slot, &mut resolver);
        }
        if only.is_none() {
            self.exposed = resolver.exposed().filter(|_| !suspended);
            if let Some(node) = &mut self.node {
                let here = self.slots.values().filter(|slot| !slot.departed);
                let pods = here.map(|slot| self.view.pod_in(&slot.sandbox));
                node.resolve(&self.view, standing, &mut resolver, (&self.node_addresses, pods), now);
            }
            if self.view.held().is_none() {
                self.want(resolver);
            }
        }
        self.ask_gate();
    }
}

impl Basis<'_> {
    fn resolve(&self, slot: &mut Slot, resolver: &mut Resolver<'_>) {
        if slot.departed {
            slot.hearing.rest();
            return slot.resolved(Resolution::Unmanaged, false, self.now);
        }
        let resolution = self.resolution(slot, resolver);
        if self.suspended {
            // It was resolved all the same: what it refers to is to be at hand when enforcement goes on.
            return slot.suspend(self.now);
        }
        // Our own Pods bring the rules of all others: they must not wait for them behind a closed door.
        let may_close = self.own_namespace != Some(&slot.sandbox.namespace);
        let resolution = slot.hearing.fill(resolution, may_close, self.reserved);
        slot.resolved(resolution, may_close, self.now);
    }

    fn resolution(&self, slot: &Slot, resolver: &mut Resolver<'_>) -> Resolution {
        match self.view.known_pod(&slot.sandbox) {
            Some(pod) => resolver.resolve(&pod, self.node_addresses),
            // The CNI plugin says less of a Pod than the runtime does, a moment later.
            None if slot.is_admitted() => resolver.resolve_unknown(&from_sandbox(&slot.sandbox), self.node_addresses),
            None => resolver.resolve(&from_sandbox(&slot.sandbox), self.node_addresses),
        }
    }
}
