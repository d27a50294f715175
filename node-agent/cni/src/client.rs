//! The plugin's side: ask the agent, and decide when it does not answer.

use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fallback::Fallback;
use crate::wire::{Answer, Attachment, Entry, Request, Start};

/// An agent that is being replaced is tried again after so long.
const AGAIN: Duration = Duration::from_millis(50);
/// An agent decides by itself when the wait is over; so much later nothing is to be expected of it any more.
const GRACE: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 16;

/// Sends one request and waits for the answer.
///
/// # Errors
/// When nobody listens, or no answer comes in time.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Result<Answer, Error> {
    let mut stream = UnixStream::connect(socket)?;
    // Zero would mean for ever.
    let limit = Some(limit.max(Duration::from_millis(1)));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(std::io::Read::take(stream, LONGEST)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Whether a Pod may start: as the agent says, or, when it says nothing until the wait is over, as the fallback has it.
pub fn decide(entry: &Entry, mut attachment: Attachment) -> Answer {
    let until = Instant::now() + entry.wait();
    loop {
        let silent = match ask_once(entry, &attachment, until) {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        attachment.again = true;
        let (start, problem) = match Fallback::read(&entry.fallback) {
            // The agent was taken away on purpose.
            Ok(None) => return Answer::protected(),
            Ok(Some(fallback)) => {
                let (socket, file) = (entry.socket.display(), entry.fallback.display());
                let way_out = format!("if this node is to have no agent any more, remove {file} there");
                (
                    fallback.start(&attachment.namespace),
                    format!("reach the node agent at {socket}: {silent}; {way_out}"),
                )
            }
            Err(error) => (Start::Refuse, error.to_string()),
        };
        // Who may start anyway does not wait for an agent that is not there.
        if start == Start::Allow || Instant::now() + AGAIN >= until {
            return Answer { start, problem: Some(problem) };
        }
        std::thread::sleep(AGAIN);
    }
}

fn ask_once(entry: &Entry, attachment: &Attachment, until: Instant) -> Result<Answer, Error> {
    let limit = until.saturating_duration_since(Instant::now()) + GRACE;
    ask(&entry.socket, &Request::Add(attachment.clone()), limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    struct Host {
        folder: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().expect("a folder") }
        }
        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
        fn entry(&self) -> Entry {
            Entry::new(self.path("agent.sock"), self.path("fallback.json"), Duration::from_millis(200))
        }
        fn fallback(&self, text: &str) {
            std::fs::write(self.path("fallback.json"), text).expect("written");
        }
        fn decide(&self, namespace: &str) -> Answer {
            let attachment = Attachment { namespace: namespace.to_owned(), ..Attachment::default() };
            decide(&self.entry(), attachment)
        }
        /// Listens once, and hangs up or answers; returns what it was asked.
        fn agent(&self, answer: Option<Answer>) -> std::thread::JoinHandle<Request> {
            let listener = UnixListener::bind(self.path("agent.sock")).expect("it is free");
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("somebody comes");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("it asks");
                if let Some(answer) = answer {
                    let text = serde_json::to_string(&answer).expect("it is JSON");
                    writeln!(stream, "{text}").expect("it listens");
                }
                serde_json::from_str(&line).expect("it is a request")
            })
        }
    }

    #[test]
    fn what_the_agent_says_counts() {
        for start in [Start::Allow, Start::Refuse] {
            let host = Host::new();
            host.fallback(r#"{"refuse": ["shop"]}"#);
            let said = Answer { start, problem: Some("reason".to_owned()) };
            let agent = host.agent(Some(said.clone()));
            assert_eq!(host.decide("shop"), said);
            let Request::Add(asked) = agent.join().expect("it ends") else { panic!("it is an ADD") };
            assert_eq!((asked.namespace.as_str(), asked.again), ("shop", false));
        }
    }

    #[test]
    fn without_an_agent_the_fallback_counts() {
        let host = Host::new();
        host.fallback(r#"{"refuse": ["shop"]}"#);
        let refused = host.decide("shop");
        assert_eq!(refused.start, Start::Refuse);
        let problem = refused.problem.expect("it says why");
        assert!(problem.starts_with("reach the node agent at ") && problem.contains("remove /"), "{problem}");
        assert!(problem.ends_with("fallback.json there"), "{problem}");
        assert_eq!(host.decide("blog").start, Start::Allow);
    }

    #[test]
    fn a_plugin_left_behind_lets_pods_start() {
        assert_eq!(Host::new().decide("shop"), Answer::protected());
    }

    #[test]
    fn a_fallback_that_cannot_be_read_is_not_none() {
        for text in ["", "{", r#"{"refuse": "shop"}"#, "{}", r#"{"refuse": [], "other": 1}"#] {
            let host = Host::new();
            host.fallback(text);
            assert_eq!(host.decide("blog").start, Start::Refuse, "{text:?}");
        }
    }

    #[test]
    fn an_agent_that_hangs_up_is_asked_again_until_the_wait_is_over() {
        let host = Host::new();
        host.fallback(r#"{"refuse": ["shop"]}"#);
        let agent = host.agent(None);
        assert_eq!(host.decide("shop").start, Start::Refuse);
        agent.join().expect("it was asked");

        let host = Host::new();
        host.fallback(r#"{"refuse": ["shop"]}"#);
        let (socket, entry) = (host.path("agent.sock"), host.entry());
        let next = host.agent(None);
        let replaced = std::thread::spawn(move || {
            next.join().expect("it was asked");
            std::fs::remove_file(&socket).expect("it is there");
            let later = Host { folder: tempfile::tempdir().expect("a folder") };
            let agent = later.agent(Some(Answer::protected()));
            std::fs::rename(later.path("agent.sock"), &socket).expect("moved");
            agent.join().expect("it was asked")
        });
        let attachment = Attachment { namespace: "shop".to_owned(), ..Attachment::default() };
        let patient = Entry { wait_milliseconds: 20_000, ..entry };
        assert_eq!(decide(&patient, attachment), Answer::protected());
        let Request::Add(asked) = replaced.join().expect("it ends") else { panic!("it is an ADD") };
        assert!(asked.again, "an agent before may have written something");
    }
}
