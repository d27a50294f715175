//! Keeps the plugin in its place. Others write the node's CNI configuration too, at any time: most once in a while, and those that
//! mean to own it whenever it changes, as Cilium does unless `cni.exclusive` is false.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;

use super::install::Place;
use super::{Ask, Chaining};
use crate::clock::sleep_until;
use crate::sandboxes::FolderWatch;

/// What could not be done is tried again so much later.
const AGAIN: Duration = Duration::from_secs(5);
/// Who writes several files is given the time to do so.
const GATHER: Duration = Duration::from_millis(20);
/// So often the plugin is put back at once; who takes it out more often means it.
const TURNS: u32 = 5;
/// Who leaves it in for so long is not counted any more.
const CALM: Duration = Duration::from_secs(60);
/// As long as somebody takes it out again and again, it is put back so much later.
const TRUCE: Duration = Duration::from_secs(30);

/// Somebody else takes the plugin out whenever it is in.
#[derive(Debug, thiserror::Error)]
#[error(
    "keep the CNI plugin in {}: somebody else takes it out whenever it is in, so it is put back every {} s only, and \
     Pods that start meanwhile get their rules once they are seen (where it is Cilium, set its cni.exclusive to false)",
    .0.display(), TRUCE.as_secs()
)]
struct Contested(PathBuf);

/// How often the plugin had to be put back, of late.
#[derive(Debug, Default)]
struct Turns {
    count: u32,
    last: Option<Instant>,
}

impl Turns {
    /// The configuration was looked at, and the plugin had to be put in, or was there.
    fn looked(&mut self, put: bool, now: Instant) {
        if self.last.is_some_and(|last| now >= last + CALM) {
            *self = Self::default();
        }
        if put {
            self.count += 1;
            self.last = Some(now);
        }
    }

    /// Whether somebody takes it out again and again.
    fn are_many(&self) -> bool {
        self.count > TURNS
    }
}

/// Keeps the configuration as it is to be, until nobody says any more what that is; then it stays.
pub async fn keep(place: Place, mut wanted: watch::Receiver<Option<Chaining>>, asks: UnboundedSender<Ask>) {
    let (mut told, mut turns) = (None, Turns::default());
    loop {
        // Watched before it is looked at, and anew each time: folders may have come.
        let folders = FolderWatch::over(&[&place.conf_dir, &place.bin_dir]);
        let chaining = wanted.borrow_and_update().clone();
        let result = bring(&place, chaining.as_ref(), &mut turns);
        let now = chaining.clone().map(|wanted| (wanted, result.clone()));
        if let Some((wanted, result)) = now.clone().filter(|_| told != now) {
            if let Err(problem) = &result {
                tracing::warn!("failed to {problem}");
            }
            if asks.send(Ask::Installed { wanted, result }).is_err() {
                return;
            }
            told = now;
        }
        let contested = turns.are_many();
        let later = if contested { TRUCE } else { AGAIN };
        let again = (result.is_err() || folders.is_err()).then(|| Instant::now() + later);
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = changed_in(folders), if matches!(chaining, Some(Chaining::On(_))) && !contested => {}
            () = sleep_until(again) => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Brings about what the configuration is to be; what could not be done follows "failed to".
fn bring(place: &Place, chaining: Option<&Chaining>, turns: &mut Turns) -> Result<(), String> {
    let done = match chaining {
        None => Ok(()),
        Some(Chaining::On(fallback)) => {
            let installed = tokio::task::block_in_place(|| place.install(fallback));
            installed.map(|put| turns.looked(put, Instant::now()))
        }
        Some(Chaining::Off) => {
            *turns = Turns::default();
            tokio::task::block_in_place(|| place.remove())
        }
    };
    done.map_err(|error| error.to_string())?;
    if turns.are_many() { Err(Contested(place.conf_dir.clone()).to_string()) } else { Ok(()) }
}

async fn changed_in(folders: Result<FolderWatch, std::io::Error>) {
    match folders {
        Ok(mut watch) => watch.changed().await,
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_it_out_once_in_a_while_is_not_fought() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        (0..20).for_each(|turn| turns.looked(true, start + turn * CALM));
        assert!(!turns.are_many());
        let last = start + 19 * CALM;
        (0..TURNS).for_each(|_| turns.looked(true, last + Duration::from_secs(1)));
        assert!(turns.are_many());
        turns.looked(false, last + TRUCE);
        assert!(turns.are_many(), "half a minute is no peace");
        turns.looked(false, last + Duration::from_secs(1) + CALM);
        assert!(!turns.are_many());
    }
}
