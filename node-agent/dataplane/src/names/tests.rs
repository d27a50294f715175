//! Answers written out by hand and by an encoder, and made up by chance; what is learned from them, and what that opens.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use rstest::rstest;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, Question, ResourceRecord};

use super::*;
use crate::policy::Enforcement;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the test")
}

fn record(name: &'static str, ttl: u32, data: RData<'static>) -> ResourceRecord<'static> {
    ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data)
}

fn a(text: &str) -> RData<'static> {
    match ip(text) {
        IpAddr::V4(address) => RData::A(A { address: address.into() }),
        IpAddr::V6(address) => RData::AAAA(AAAA { address: address.into() }),
    }
}

fn alias(target: &'static str) -> RData<'static> {
    RData::CNAME(CNAME(Name::new_unchecked(target)))
}

/// An answer of a resolver to a question for A records.
fn answer(asked: &'static str, records: Vec<ResourceRecord<'static>>) -> Vec<u8> {
    let mut packet = Packet::new_reply(7);
    packet.questions.push(Question::new(
        Name::new_unchecked(asked),
        simple_dns::TYPE::A.into(),
        CLASS::IN.into(),
        false,
    ));
    packet.answers = records;
    packet.build_bytes_vec_compressed().expect("an answer")
}

fn told(message: &[u8]) -> (String, Vec<(IpAddr, u32)>) {
    let answer = read_answer(message).expect("it is an answer").expect("it has addresses");
    (answer.name.to_string(), answer.addresses.into_iter().collect())
}

#[test]
fn an_answer_names_what_was_asked_for_and_its_addresses() {
    // Written out: id, flags of an answer, one question, two records; DB.example.com; A records that point back to it.
    #[rustfmt::skip]
    let bytes = [
        0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0,
        2, b'D', b'B', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 3, b'c', b'o', b'm', 0, 0, 1, 0, 1,
        0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1,
        0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 2,
    ];
    assert_eq!(told(&bytes), ("db.example.com".to_owned(), vec![(ip("192.0.2.1"), 30), (ip("192.0.2.2"), 300)]));
    for cut in 0..bytes.len() {
        assert_eq!(read_answer(&bytes[..cut]), Err(Malformed), "{cut} bytes of it");
    }
}

#[test]
fn aliases_lead_to_addresses_of_the_name_that_was_asked_for() {
    let message = answer(
        "www.example.com",
        vec![
            record("c.example.net", 600, a("2001:db8::1")),
            record("www.example.com", 300, alias("B.example.net")),
            record("b.example.net", 20, alias("c.example.net")),
            record("C.Example.net", 600, a("192.0.2.1")),
            record("other.example.com", 600, a("192.0.2.9")),
        ],
    );
    let expected = vec![(ip("192.0.2.1"), 20), (ip("2001:db8::1"), 20)];
    assert_eq!(told(&message), ("www.example.com".to_owned(), expected), "an address of another name is none of it");
}

#[test]
fn aliases_in_a_circle_lead_nowhere() {
    let circle =
        vec![record("a.example.com", 60, alias("b.example.com")), record("b.example.com", 60, alias("a.example.com"))];
    assert_eq!(read_answer(&answer("a.example.com", circle)), Ok(None));
}

#[test]
fn what_is_no_answer_with_addresses_teaches_nothing() {
    let good = answer("db.example.com", vec![record("db.example.com", 60, a("192.0.2.1"))]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        read_answer(&bytes)
    };
    assert_eq!(with(2, 0x01), Ok(None), "a question");
    assert_eq!(with(2, 0xa0), Ok(None), "a notification");
    assert_eq!(with(3, 0x83), Ok(None), "there is no such name");
    assert_eq!(with(5, 2), Err(Malformed), "two questions");
    assert_eq!(with(5, 0), Err(Malformed), "no question");
    assert_eq!(with(6, 0xff), Err(Malformed), "more records than any answer has");
    assert_eq!(read_answer(&answer("db.example.com", Vec::new())), Ok(None), "no address");
    let local = answer("localhost", vec![record("localhost", 60, a("192.0.2.1"))]);
    assert_eq!(read_answer(&local), Ok(None), "no name that an IP list can hold");
}

#[test]
fn a_name_with_a_dot_in_a_label_is_not_the_name_that_it_looks_like() {
    #[rustfmt::skip]
    let bytes = [
        0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0,
        4, b'a', b'.', b'e', b'x', 3, b'c', b'o', b'm', 0, 0, 1, 0, 1,
        0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1,
    ];
    assert_eq!(read_answer(&bytes), Ok(None));
}

/// A packet of IPv4 or IPv6 around a message.
fn packet(v6: bool, message: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("it is short").to_be_bytes();
    let mut segment = vec![0, 53, 0x9c, 0x40];
    segment.extend(length(8 + message.len()));
    segment.extend([0, 0]);
    segment.extend(message);
    let protocol = 17;
    let mut bytes = if v6 { vec![0x60, 0, 0, 0] } else { vec![0x45, 0] };
    if v6 {
        bytes.extend(length(segment.len()));
        bytes.extend([protocol, 64]);
        bytes.extend([0; 32]);
    } else {
        bytes.extend(length(20 + segment.len()));
        bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        bytes.extend([0; 8]);
    }
    bytes.extend(segment);
    bytes
}

#[rstest]
fn a_message_is_found_in_packets_of_both_families(#[values(false, true)] v6: bool) {
    let whole = packet(v6, b"message");
    assert_eq!(message(&whole), Ok(b"message".as_slice()));
    let mut padded = whole.clone();
    padded.extend([0; 6]);
    assert_eq!(message(&padded), Ok(b"message".as_slice()), "Ethernet fills short frames up");
    for cut in 0..whole.len() {
        assert_eq!(message(&whole[..cut]), Err(Malformed), "{cut} bytes of it");
    }
    // Where a message begins in a stream no segment tells.
    let mut tcp = whole;
    tcp[if v6 { 6 } else { 9 }] = 6;
    assert_eq!(message(&tcp), Err(Malformed));
}

#[test]
fn a_message_that_no_resolver_sends_is_not_read() {
    let mut long = vec![0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    long.resize(4097, 0);
    assert_eq!(read_answer(&long), Err(Malformed));
}

#[test]
fn a_fragment_is_no_packet_to_read() {
    let mut bytes = packet(false, b"message");
    bytes[6] = 0x20;
    assert_eq!(message(&bytes), Err(Malformed), "more follows");
    (bytes[6], bytes[7]) = (0, 9);
    assert_eq!(message(&bytes), Err(Malformed), "something came before");
}

fn said(name: &str, addresses: &[(&str, u32)]) -> Answer {
    let addresses = addresses.iter().map(|(address, ttl)| (ip(address), *ttl)).collect();
    Answer { name: name.parse().expect("a name"), addresses }
}

fn names(patterns: &[&str], except: &[&str]) -> Names {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Names::from(&PeerNames { fqdns: texts(patterns), except: texts(except) })
}

fn known(learned: &Learned, patterns: &[&str]) -> Vec<IpAddr> {
    learned.addresses(&names(patterns, &[])).collect()
}

#[test]
fn an_address_counts_for_the_name_that_was_asked_for() {
    let mut learned = Learned::default();
    learned.learn(&said("a.example.com", &[("192.0.2.1", 100)]), 1000);
    learned.learn(&said("example.org", &[("192.0.2.2", 100)]), 1000);
    assert_eq!(known(&learned, &["a.example.com"]), [ip("192.0.2.1")]);
    assert_eq!(known(&learned, &["*.example.com", "example.org"]), [ip("192.0.2.1"), ip("192.0.2.2")]);
    assert_eq!(known(&learned, &["b.example.com", "not a name"]), [] as [IpAddr; 0]);
}

#[test]
fn an_address_stays_as_long_as_it_was_told_or_is_used() {
    let mut learned = Learned::default();
    let answer = |ttl| said("a.example.com", &[("192.0.2.1", ttl)]);
    learned.learn(&answer(1), 1000);
    assert_eq!(learned.next_expiry(), Some(1060), "a minute at least");
    learned.learn(&answer(u32::MAX), 1000);
    assert_eq!(learned.next_expiry(), Some(1000 + 86_400), "a day at most");
    learned.learn(&answer(5), 1010);
    assert_eq!(learned.next_expiry(), Some(1000 + 86_400), "never shorter than it was told before");

    let (now, address) = (1000 + 86_400, BTreeSet::from([ip("192.0.2.1")]));
    assert!(learned.expired(now - 1).is_empty());
    assert_eq!(learned.expired(now), address);
    assert!(!learned.expire(&address, now, now + 30), "a connection uses it");
    assert_eq!((learned.len(), learned.next_expiry()), (1, Some(now + 30)));
    assert!(!learned.expire(&BTreeSet::new(), now + 29, now + 60), "nobody has looked");
    assert!(learned.expire(&BTreeSet::new(), now + 30, now + 60));
    assert!(learned.is_empty());
}

#[test]
fn a_clock_that_is_put_back_prolongs_nothing_beyond_a_day() {
    let mut learned = Learned::default();
    let in_the_future = 10 * 86_400;
    learned.learn(&said("a.example.com", &[("192.0.2.1", 3600)]), in_the_future);
    let mut next = learned.clone();
    for learned in [&mut learned, &mut next] {
        learned.bound(1000);
        assert_eq!(learned.next_expiry(), Some(1000 + 86_400));
    }
    next.learn(&said("a.example.com", &[("192.0.2.1", 3600)]), in_the_future);
    next.awake(1000);
    assert_eq!(next.next_expiry(), Some(1000 + 86_400));
}

#[test]
fn a_pod_that_slept_has_a_minute() {
    let mut learned = Learned::default();
    learned.learn(&said("a.example.com", &[("192.0.2.1", 60), ("192.0.2.2", 6000)]), 1000);
    learned.awake(5000);
    assert_eq!((learned.expired(5059).len(), learned.expired(5060).len(), learned.expired(7000).len()), (0, 1, 2));
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut learned = Learned::default();
    let addresses = (0..u32::try_from(MOST).expect("it is small") + 5)
        .map(|number| (std::net::Ipv4Addr::from(0xc633_6400 + number).into(), 60))
        .collect();
    let answer = Answer { name: "a.example.com".parse().expect("a name"), addresses };
    assert_eq!(learned.learn(&answer, 0), Taken { new: MOST, refused: 5 });
    assert_eq!(learned.len(), MOST);
    assert_eq!(learned.learn(&answer, 0), Taken { new: 0, refused: 5 }, "those that are known stay");
}

/// A policy with an outbound Allow towards names and a prefix, and the same inbound and as a Deny.
fn policy(names: Names) -> NetnsPolicy {
    let origins = BTreeSet::from([Origin::Names(Arc::new(names)), Origin::PeerGroup("p-1".to_owned())]);
    let nets = Arc::new([ip("198.51.100.1")].into_iter().collect());
    let peers = HostSet { origins, nets };
    let entry = Entry {
        matching: Match::Hosts { peers, services: ringfence_model::Services::All },
        reject: false,
        rule: String::new(),
    };
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.outbound.allow.push(entry.clone());
    policy.outbound.deny.push(entry.clone());
    policy.inbound.allow.push(entry);
    policy
}

#[test]
fn what_was_learned_opens_what_may_be_opened() {
    let mut learned = Learned::default();
    let told = ["192.0.2.1", "192.0.2.130", "127.0.0.1", "169.254.169.254", "10.96.0.1", "10.1.0.1", "2001:db8::1"];
    learned.learn(&said("a.example.com", &told.map(|address| (address, 60))), 0);
    learned.learn(&said("b.example.org", &[("192.0.2.77", 60)]), 0);
    let reserved = prefixes(&["10.96.0.0/12".to_owned()]);
    let before = policy(names(&["*.example.com"], &["192.0.2.128/25"]));
    let Resolution::Enforce(after) = Resolution::Enforce(before.clone()).knowing(&learned, &reserved) else {
        panic!("it stays what it is");
    };
    let members = |entries: &[Entry]| match &entries[0].matching {
        Match::Hosts { peers, .. } => peers.nets.iter().map(|net| net.addr()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let opened = ["10.1.0.1", "192.0.2.1", "198.51.100.1", "2001:db8::1"].map(ip);
    assert_eq!(members(&after.outbound.allow), opened);
    assert_eq!((&after.inbound, &after.outbound.deny), (&before.inbound, &before.outbound.deny), "no name is there");
    let closed = Some(before.clone());
    let Resolution::Incomplete { closed: Some(closed), .. } =
        (Resolution::Incomplete { missing: Vec::new(), closed }).knowing(&learned, &reserved)
    else {
        panic!("it stays what it is");
    };
    assert_eq!(closed, after);
    assert_eq!(Resolution::Idle.knowing(&learned, &reserved), Resolution::Idle);
}

proptest! {
    /// Whatever comes over the network is an answer or is not, and takes little time.
    #[test]
    fn no_bytes_are_more_than_not_understood(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        drop(message(&bytes).and_then(read_answer));
        drop(read_answer(&bytes));
    }

    /// The same with bytes that begin like an answer, so that more of the reader is reached.
    #[test]
    fn no_damage_to_an_answer_is_more_than_not_understood(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = answer("www.example.com", vec![
            record("www.example.com", 300, alias("b.example.net")),
            record("b.example.net", 20, alias("c.example.net")),
            record("c.example.net", 600, a("192.0.2.1")),
            record("c.example.net", 600, a("2001:db8::1")),
        ]);
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        drop(read_answer(&bytes));
        let _ = message(&packet(false, &bytes));
    }

    /// An answer with any records names only addresses that it holds, for a name that was asked for.
    #[test]
    fn an_answer_says_no_more_than_it_holds(numbers in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..20)) {
        let records = numbers.iter().map(|(address, ttl)| {
            record("a.example.com", *ttl, RData::A(A { address: *address }))
        });
        let read = read_answer(&answer("a.example.com", records.collect())).expect("it is an answer");
        let expected: BTreeSet<IpAddr> =
            numbers.iter().map(|(address, _)| std::net::Ipv4Addr::from(*address).into()).collect();
        let found: BTreeSet<IpAddr> = read.map(|read| read.addresses.into_keys().collect()).unwrap_or_default();
        prop_assert_eq!(found, expected);
    }
}
