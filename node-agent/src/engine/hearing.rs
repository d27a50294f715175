//! What Pods hear of the names that they may connect to.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Engine, HEARD_AT_ONCE};
use crate::names::{self, Heard, What};

impl Engine {
    /// Takes in what was heard or seen, and what waits behind it. Not for ever: who floods one Pod with answers must
    /// not keep all from their rules.
    pub(super) fn take_heard(&mut self, first: Heard) {
        self.learn(first);
        for _ in 0..HEARD_AT_ONCE {
            let Ok(heard) = self.heard_in.try_recv() else { break };
            self.learn(heard);
        }
    }

    /// Takes in one such matter. What a Pod learns is in force as soon as its members are written: nothing is resolved
    /// anew for it.
    fn learn(&mut self, Heard { id, what }: Heard) {
        let (now, unix) = (Instant::now(), (self.clock)());
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.departed) else { return };
        let differs = match what {
            What::Answer(answer) => slot.hearing.hear(&answer, unix),
            What::InUse(in_use) => slot.hearing.looked(in_use, unix),
            What::Deaf(problem) => {
                slot.hearing.deaf(problem, now);
                false
            }
        };
        if !differs {
            return;
        }
        // What is missing is no less so for what was heard: it comes with the next resolution.
        if let Some((resolution, may_close)) = slot.hearing.filled(&self.reserved).filter(|_| slot.is_complete()) {
            slot.resolved(resolution, may_close, now);
        }
        self.keep_soon();
    }

    /// Looks for connections where the time of addresses is over.
    pub(super) fn look_for_connections(&mut self, now: Instant) {
        let unix = (self.clock)();
        for (id, slot) in &mut self.slots {
            let Some(cookie) = slot.cookie else { continue };
            let Some(asked) = slot.hearing.begin_look(now, unix) else { continue };
            let (id, location, heard) = (id.clone(), slot.sandbox.netns.clone(), self.heard.clone());
            let looks = Arc::clone(&self.looks);
            tokio::spawn(async move {
                // Each walks the flows of the whole machine, and nothing waits for it: one after the other, and never
                // in the place of rules that are to be written.
                let _permit = looks.acquire_owned().await;
                let looked = tokio::task::spawn_blocking({
                    let id = id.clone();
                    move || names::look(id, &location, cookie, &asked)
                });
                let problem = |panic| What::InUse(Err(format!("look for connections: {panic}")));
                let looked = looked.await.unwrap_or_else(|panic| Heard { id, what: problem(panic) });
                // Nobody listens if the engine has ended.
                let _ = heard.send(looked).await;
            });
        }
    }
}
