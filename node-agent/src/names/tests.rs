//! In real network namespaces. Needs root.

use std::net::{TcpListener, TcpStream};

use ringfence_dataplane::names::Names;
use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{Enforcement, Entry, HostSet, Learned, Match, NetnsPolicy, Resolution};
use ringfence_model::Services;
use tokio::time::{Duration, Instant};

use super::*;
use crate::lab::Netns;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the test")
}

/// What may connect to `a.example.com`.
fn resolution() -> Resolution {
    let names = Names { patterns: ["a.example.com".parse().expect("a name")].into(), except: Nets::default() };
    let peers = HostSet { origins: [Origin::Names(names.into())].into(), ..HostSet::default() };
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    let matching = Match::Hosts { peers, services: Services::All };
    policy.outbound.allow.push(Entry { matching, reject: false, rule: "lab/rule".to_owned() });
    Resolution::Enforce(policy)
}

fn answer(addresses: &[&str]) -> Answer {
    let addresses = addresses.iter().map(|address| (ip(address), 60)).collect();
    Answer { name: "a.example.com".parse().expect("a name"), addresses }
}

fn opened(hearing: &Hearing) -> Vec<IpAddr> {
    let Some((Resolution::Enforce(policy), _)) = hearing.filled(&Nets::default()) else { panic!("it has names") };
    match &policy.outbound.allow[0].matching {
        Match::Hosts { peers, .. } => peers.nets.iter().map(|net| net.addr()).collect(),
        other => panic!("{other:?}"),
    }
}

/// A network namespace in which connections are followed, with addresses of its own to connect to.
fn netns(test: &str) -> Option<Netns> {
    let netns = Netns::new(test)?;
    netns.exec("iptables-nft", &["-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"], "");
    for address in ["192.0.2.1/32", "192.0.2.2/32"] {
        netns.exec("ip", &["addr", "add", address, "dev", "lo"], "");
    }
    Some(netns)
}

#[test]
fn an_address_is_held_while_a_connection_uses_it() {
    let Some(netns) = netns("an_address_is_held_while_a_connection_uses_it") else { return };
    let (mut hearing, begin) = (Hearing::default(), Instant::now());
    let later = |seconds| begin + Duration::from_secs(seconds);
    hearing.fill(resolution(), true, &Nets::default());
    assert!(hearing.hear(&answer(&["192.0.2.1", "192.0.2.2"]), 1000), "both are new");
    assert!(!hearing.hear(&answer(&["192.0.2.1"]), 1000), "it is known");
    assert_eq!(hearing.begin_look(later(59), 1059), None, "their time is not over");

    let (listener, client) = netns.within(|_| {
        let listener = TcpListener::bind("192.0.2.1:443").expect("the port is free");
        let client = TcpStream::connect("192.0.2.1:443").expect("somebody listens");
        (listener, client)
    });
    let asked = hearing.begin_look(later(61), 1061).expect("their time is over");
    assert_eq!(asked, [ip("192.0.2.1"), ip("192.0.2.2")].into());
    assert_eq!(hearing.begin_look(later(61), 1061), None, "it is being looked for");
    let look_for = |asked: &BTreeSet<IpAddr>| match look("s".to_owned(), &netns.location(), netns.cookie(), asked) {
        Heard { what: What::InUse(in_use), .. } => in_use,
        other => panic!("{other:?}"),
    };
    assert!(hearing.looked(look_for(&asked), 1061), "nobody uses the other one");
    assert_eq!(opened(&hearing), [ip("192.0.2.1")]);

    drop((listener, client));
    // A connection that was said goodbye to is not used, however long conntrack remembers it.
    let asked = hearing.begin_look(later(120), 1120).expect("it is looked at again");
    assert!(hearing.looked(look_for(&asked), 1120));
    assert_eq!(opened(&hearing), [] as [IpAddr; 0]);
    assert!(hearing.learned().is_empty() && hearing.deadline().is_none());
}

#[test]
fn where_nobody_can_look_everything_stays() {
    let mut hearing = Hearing::default();
    hearing.fill(resolution(), true, &Nets::default());
    hearing.hear(&answer(&["192.0.2.1"]), 1000);
    assert!(!hearing.looked(Err("look".to_owned()), 2000));
    assert_eq!(opened(&hearing), [ip("192.0.2.1")]);
}

#[test]
fn another_namespace_is_not_looked_into() {
    let test = "another_namespace_is_not_looked_into";
    let (Some(own), Some(other)) = (Netns::new(test), Netns::new(test)) else { return };
    let Heard { what, .. } = look("s".to_owned(), &other.location(), own.cookie(), &BTreeSet::new());
    assert!(matches!(what, What::InUse(Err(_))), "{what:?}");
}

#[test]
fn one_ear_is_in_a_network_namespace() {
    let Some(netns) = Netns::new("one_ear_is_in_a_network_namespace") else { return };
    let first = netns.within(|_| Ear::open()).expect("nobody listens");
    let second = netns.within(|_| Ear::open()).map(drop).expect_err("there is one");
    assert!(second.to_string().starts_with("listen to what resolvers answer: "), "{second}");
    drop(first);
    drop(netns.within(|_| Ear::open()).expect("nobody listens any more"));
}

#[tokio::test]
async fn an_ear_that_cannot_be_had_is_tried_again() {
    let (mut hearing, now) = (Hearing::default(), Instant::now());
    assert!(!hearing.wants_ear(now), "there are no names");
    hearing.fill(resolution(), true, &Nets::default());
    assert!(hearing.wants_ear(now));
    let (tell, _told) = tokio::sync::mpsc::channel(1);
    hearing.opened("s", Err(EarError::from(std::io::Error::from_raw_os_error(libc::EBUSY))), &tell, now);
    assert!(
        hearing.problem().is_some_and(|problem| problem.starts_with("failed to listen to what resolvers answer: "))
    );
    assert!(!hearing.wants_ear(now));
    let again = hearing.deadline().expect("it is tried again");
    assert!(hearing.wants_ear(again));
    let unknown = Resolution::Incomplete { missing: Vec::new(), closed: None };
    hearing.fill(unknown, true, &Nets::default());
    assert!(hearing.wants_ear(again), "there may be names");
    hearing.fill(Resolution::Idle, true, &Nets::default());
    assert!(hearing.problem().is_none() && !hearing.wants_ear(again), "names are of no interest any more");
}

#[test]
fn a_pod_that_asks_for_too_much_is_told_of() {
    let mut hearing = Hearing::default();
    hearing.fill(resolution(), true, &Nets::default());
    let addresses = (0..1001_u32).map(|number| (IpAddr::from((0xc633_6400 + number).to_be_bytes()), 60)).collect();
    hearing.hear(&Answer { name: "a.example.com".parse().expect("a name"), addresses }, 1000);
    assert!(hearing.problem().is_some_and(|problem| problem.contains("1000 are the most")));
    hearing.looked(Ok(BTreeSet::new()), 1060);
    assert_eq!((hearing.problem(), hearing.learned()), (None, &Learned::default()), "there is room again");
}
