//! Work in one network namespace, on a thread: it is entered, made sure of, and only then touched. A change of members
//! needs no entering: it goes over a socket that was opened in that namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::apply::{Followed, Outcome, apply, clean_up, follow_members};
use crate::names::{Ear, EarError};
use crate::netns::{self, Cookie, Location};
use crate::readings::Readings;
use crate::slot::{Finished, Job};
use crate::tools::Backend;

/// See the module.
#[derive(Debug)]
pub struct Work {
    /// The sandbox.
    pub id: String,
    /// Where its network namespace is.
    pub location: Location,
    /// The back end.
    pub backend: Backend,
    /// The namespace as known from before.
    pub cookie: Option<Cookie>,
    /// The namespace that is never to be touched.
    pub forbidden: Option<Cookie>,
    /// Whether to open an ear for what resolvers answer.
    pub listens: bool,
    /// What an agent before this one has read back, for a namespace that is entered for the first time.
    pub remembered: Arc<BTreeMap<Cookie, Readings>>,
}

/// Why nothing was done in a network namespace.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error("enforce a policy in {0}: that is the namespace of the node")]
    OfTheNode(Location),
    #[error("enforce a policy in {0}: that is another namespace than before")]
    Another(Location),
}

impl Work {
    /// Does a job that members are all of, on the calling thread: it waits for nothing. Hands back any other.
    ///
    /// # Errors
    /// With the job, as it was.
    pub fn follow(&self, job: Job) -> Result<Finished, Box<Job>> {
        let begun = Instant::now();
        let Job::Apply { wanted, known, terms } = job else { return Err(Box::new(job)) };
        match follow_members(&wanted, known) {
            Followed::Members(done) => {
                let result = done.map_err(|error| error.to_string());
                Ok(Finished { id: self.id.clone(), cookie: None, ear: None, result, took: begun.elapsed() })
            }
            Followed::NotAlone(known) => Err(Box::new(Job::Apply { wanted, known, terms })),
        }
    }

    /// Does a job.
    pub fn run(self, job: Job) -> Finished {
        let begun = Instant::now();
        let entered = netns::run_in(&self.location, |cookie| (cookie, self.work(cookie, job)));
        let (cookie, (result, ear)) = match entered {
            Ok((cookie, done)) => (Some(cookie), done),
            Err(error) => (None, (Err(error.to_string()), None)),
        };
        Finished { id: self.id, cookie: cookie.filter(|_| result.is_ok()), ear, result, took: begun.elapsed() }
    }

    fn work(&self, cookie: Cookie, job: Job) -> (Result<Outcome, String>, Option<Result<Ear, EarError>>) {
        if let Err(error) = self.make_sure(cookie) {
            return (Err(error.to_string()), None);
        }
        // Before the rules: who hears them has not missed anything.
        let ear = self.listens.then(Ear::open);
        (self.bring(cookie, job), ear)
    }

    fn bring(&self, cookie: Cookie, job: Job) -> Result<Outcome, String> {
        match job {
            Job::Apply { wanted, known, mut terms } => {
                if terms.readings.is_empty() {
                    terms.readings = self.remembered.get(&cookie).cloned().unwrap_or_default();
                }
                apply(self.backend, &wanted, known, &terms)
            }
            Job::CleanUp(known) => clean_up(self.backend, known),
        }
        .map_err(|error| error.to_string())
    }

    /// A sandbox keeps its namespace for life. A path or process id that leads elsewhere has a new owner.
    fn make_sure(&self, cookie: Cookie) -> Result<(), WorkError> {
        if self.forbidden == Some(cookie) {
            return Err(WorkError::OfTheNode(self.location.clone()));
        }
        if self.cookie.is_some_and(|before| before != cookie) {
            return Err(WorkError::Another(self.location.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Done, Known, Terms, Wanted};
    use crate::lab::Netns;
    use ringfence_dataplane::{Enforcement, NetnsPolicy};

    /// Full, which drops what it does not know.
    fn job() -> Job {
        let wanted = Wanted::Policy(Arc::new(NetnsPolicy::new(Enforcement::Full)));
        Job::Apply { wanted, known: Known::Unread, terms: Terms { may_close: true, ..Terms::default() } }
    }

    fn work(location: Location) -> Work {
        let remembered = Arc::default();
        let (backend, listens) = (Backend::Nft, false);
        Work { id: "s".to_owned(), location, backend, cookie: None, forbidden: None, listens, remembered }
    }

    /// What has to be left as it is.
    fn assert_untouched(netns: &Netns, finished: &Finished, why: &str) {
        let error = finished.result.as_ref().expect_err("it is refused");
        assert!(error.contains(why), "{error}");
        assert_eq!(finished.cookie, None, "it is not taken for the sandbox's");
        assert!(!netns.holds().contains("RF"), "{}", netns.holds());
    }

    #[test]
    fn a_path_that_leads_to_another_namespace_is_not_followed() {
        let test = "a_path_that_leads_to_another_namespace_is_not_followed";
        let (Some(own), Some(foreign)) = (Netns::new(test), Netns::new(test)) else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cni-1");
        std::os::unix::fs::symlink(own.path(), &path).expect("made");
        let first = work(Location::at(&path)).run(job());
        assert!(matches!(first.result, Ok(Outcome { done: Done::Rules, .. })), "{:?}", first.result);
        assert_eq!(first.cookie, Some(own.cookie()));
        assert!(own.holds().contains("RF-IN"));

        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(foreign.path(), &path).expect("made");
        let cookie = first.cookie;
        let known = first.result.expect("it was done").known;
        for job in [job(), Job::CleanUp(known)] {
            let second = Work { cookie, ..work(Location::at(&path)) }.run(job);
            assert_untouched(&foreign, &second, "that is another namespace than before");
        }
    }

    #[test]
    fn the_namespace_of_the_node_is_never_touched() {
        let Some(node) = Netns::new("the_namespace_of_the_node_is_never_touched") else { return };
        for cookie in [None, Some(node.cookie())] {
            let forbidden = Some(node.cookie());
            let finished = Work { cookie, forbidden, ..work(node.location()) }.run(job());
            assert_untouched(&node, &finished, "that is the namespace of the node");
        }
    }
}
