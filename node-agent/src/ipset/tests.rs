//! In real network namespaces, looked at with the `ipset` program. Expectations from ipset(8). Needs root.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ringfence_dataplane::sets::{Member, Members, SetKind};
use ringfence_dataplane::{End, Family, Nets, Place};
use ringfence_model::Protocol;

use super::*;
use crate::lab::Netns;

/// A namespace and the way to its sets, which is used from outside.
struct Lab {
    netns: Netns,
    sets: Sets,
}

impl Lab {
    fn new(test: &str) -> Option<Self> {
        let netns = Netns::new(test)?;
        let sets = netns.within(|_| Sets::open()).expect("the kernel has sets");
        Some(Self { netns, sets })
    }

    /// The members of a set, sorted.
    fn members(&self, set: &str) -> Vec<String> {
        let text = self.netns.exec("ipset", &["save", set], "");
        let start = format!("add {set} ");
        let mut members: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect();
        members.sort_unstable();
        members
    }

    /// What the agent reads.
    fn read(&self) -> Found {
        self.netns.within(|_| Found::read(Place::Pod)).expect("the kernel lists them")
    }

    fn change(&mut self, set: &str, add: &[&str], del: &[&str]) -> Result<(), SetError> {
        self.sets.change(&[change(set, add, del)])
    }
}

fn net(text: &str) -> Member {
    Member::Net(text.parse().expect("a prefix"))
}

fn change(set: &str, add: &[&str], del: &[&str]) -> SetChange {
    let members = |texts: &[&str]| texts.iter().map(|text| net(text)).collect();
    SetChange { set: set.to_owned(), kind: SetKind::HashNet, add: members(add), del: members(del) }
}

fn nets(name: &str, family: Family, members: &[&str]) -> SetDef {
    let nets: Nets = members.iter().map(|text| text.parse::<ipnet::IpNet>().expect("a prefix")).collect();
    SetDef { name: name.to_owned(), family, members: Members::Nets(Arc::new(nets)) }
}

fn ends(name: &str, family: Family, ends: &[(&str, Protocol, u16)]) -> SetDef {
    let end = |(address, protocol, port): &(&str, Protocol, u16)| End {
        address: address.parse().expect("an address"),
        protocol: *protocol,
        port: *port,
    };
    let ends: BTreeSet<End> = ends.iter().map(end).collect();
    SetDef { name: name.to_owned(), family, members: Members::Ends(Arc::new(ends)) }
}

#[test]
fn sets_of_both_families_and_types_are_made_and_filled() {
    let Some(mut lab) = Lab::new("sets_of_both_families_and_types_are_made_and_filled") else { return };
    let sets = [
        nets("RF4-0-0", Family::V4, &["10.0.0.1/32", "10.0.0.0/8", "0.0.0.0/1"]),
        nets("RF6-0-0", Family::V6, &["fd00::1/128", "fd00::/8", "8000::/1"]),
        nets("RF6-0-1", Family::V6, &[]),
        ends("RF4-0-1", Family::V4, &[("10.0.0.1", Protocol::TCP, 80), ("10.0.0.1", Protocol::SCTP, 80)]),
        ends("RF6-0-2", Family::V6, &[("fd00::1", Protocol::UDP, 53)]),
    ];
    lab.sets.create(&sets).expect("the kernel takes them");
    assert_eq!(lab.members("RF4-0-0"), ["0.0.0.0/1", "10.0.0.0/8", "10.0.0.1"]);
    assert_eq!(lab.members("RF6-0-0"), ["8000::/1", "fd00::/8", "fd00::1"]);
    assert_eq!(lab.members("RF6-0-1"), [""; 0]);
    assert_eq!(lab.members("RF4-0-1"), ["10.0.0.1,sctp:80", "10.0.0.1,tcp:80"]);
    assert_eq!(lab.members("RF6-0-2"), ["fd00::1,udp:53"]);
    // What the agent reads after a restart is what it wrote.
    let mut written = sets.to_vec();
    written.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(lab.read(), Found { sets: written, odd: BTreeSet::new() });

    // One that was left behind is emptied.
    lab.sets.create(&[nets("RF4-0-0", Family::V4, &["10.0.0.2/32"])]).expect("the kernel takes it");
    assert_eq!(lab.members("RF4-0-0"), ["10.0.0.2"]);
    // One that an agent of before has made with the program is as good.
    lab.netns.exec("ipset", &["create", "RF4-0-2", "hash:net", "hashsize", "64", "maxelem", "1048576"], "");
    lab.sets.create(&[nets("RF4-0-2", Family::V4, &["10.0.0.3/32"])]).expect("it is the same");
    assert_eq!(lab.members("RF4-0-2"), ["10.0.0.3"]);
}

/// It is then made anew instead of being taken for what it is not.
#[test]
fn a_set_that_we_would_not_make_is_read_as_odd() {
    let Some(lab) = Lab::new("a_set_that_we_would_not_make_is_read_as_odd") else { return };
    assert_eq!(lab.read(), Found::default());
    let commands = "create RF4-1-0 hash:ip\ncreate RF4-1-1 hash:net\nadd RF4-1-1 10.0.0.0/8\nadd RF4-1-1 10.1.0.0/16 nomatch\n\
        create RF4-1-2 hash:net timeout 600\nadd RF4-1-2 10.0.0.1\ncreate RF4-1-3 hash:ip,port\nadd RF4-1-3 10.0.0.1,udplite:80\n\
        create RF4-1-4 hash:net\nadd RF4-1-4 10.0.0.1\ncreate KUBE-1 hash:net\n";
    lab.netns.exec("ipset", &["restore"], commands);
    let odd = ["RF4-1-0", "RF4-1-1", "RF4-1-2", "RF4-1-3"].map(str::to_owned).into();
    assert_eq!(lab.read(), Found { sets: vec![nets("RF4-1-4", Family::V4, &["10.0.0.1/32"])], odd });
}

#[test]
fn members_come_and_go_whether_or_not_they_are_there() {
    let Some(mut lab) = Lab::new("members_come_and_go_whether_or_not_they_are_there") else { return };
    lab.sets
        .create(&[
            nets("RF4-0-0", Family::V4, &["10.0.0.1/32", "10.1.0.0/16"]),
            nets("RF6-0-0", Family::V6, &["fd00::/64"]),
            ends("RF4-0-1", Family::V4, &[("10.0.0.1", Protocol::TCP, 80)]),
        ])
        .expect("the kernel takes them");
    lab.change("RF4-0-0", &["10.0.0.1/32", "10.0.0.2/32"], &["10.1.0.0/16", "10.9.9.9/32"]).expect("no error");
    assert_eq!(lab.members("RF4-0-0"), ["10.0.0.1", "10.0.0.2"]);
    lab.change("RF6-0-0", &["fd00::/64", "fd00:1::/64"], &["fd00:2::/64"]).expect("no error");
    assert_eq!(lab.members("RF6-0-0"), ["fd00:1::/64", "fd00::/64"]);
    let end = |port| Member::End(End { address: "10.0.0.1".parse().expect("valid"), protocol: Protocol::TCP, port });
    let add = vec![end(80), end(81)];
    let of_ends = SetChange { set: "RF4-0-1".to_owned(), kind: SetKind::HashIpPort, add, del: vec![end(80), end(82)] };
    lab.sets.change(&[of_ends]).expect("no error");
    assert_eq!(lab.members("RF4-0-1"), ["10.0.0.1,tcp:81"]);
}

#[test]
fn many_members_go_in_one_message_and_more_in_several() {
    let Some(mut lab) = Lab::new("many_members_go_in_one_message_and_more_in_several") else { return };
    let of =
        |number: u32| Member::Net(ipnet::IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number))));
    for (set, count, messages) in [("RF4-0-0", 1_000, 1), ("RF4-0-1", 10_000, 4)] {
        lab.sets.create(&[nets(set, Family::V4, &[])]).expect("the kernel takes it");
        let members: Vec<Member> = (0..count).map(of).collect();
        assert_eq!(message::additions(set, &members).count(), messages);
        let all = SetChange { set: set.to_owned(), kind: SetKind::HashNet, add: members.clone(), del: Vec::new() };
        lab.sets.change(&[all]).expect("the kernel takes them");
        assert_eq!(lab.members(set).len(), members.len());
        let read = lab.read().sets.into_iter().find(|read| read.name == set).expect("it is there");
        assert_eq!(read.members(), members, "what is listed in several messages is one set");
        let none = SetChange { set: set.to_owned(), kind: SetKind::HashNet, add: Vec::new(), del: members };
        lab.sets.change(&[none]).expect("the kernel takes them");
        assert_eq!(lab.members(set), [""; 0]);
    }
}

#[test]
fn what_the_kernel_refuses_is_named() {
    let Some(mut lab) = Lab::new("what_the_kernel_refuses_is_named") else { return };
    lab.sets.create(&[nets("RF4-0-0", Family::V4, &[])]).expect("the kernel takes it");
    let error = lab.sets.change(&[change("RF4-0-0", &["10.0.0.1/32"], &[]), change("RF4-9-9", &["10.0.0.1/32"], &[])]);
    assert_eq!(error.expect_err("none").to_string(), "add to set RF4-9-9: there is no set of this name");
    assert_eq!(lab.members("RF4-0-0"), ["10.0.0.1"], "what came before is in force");
    let error = lab.change("RF4-9-9", &[], &["10.0.0.1/32"]).expect_err("there is none");
    assert_eq!(error.to_string(), "delete from set RF4-9-9: there is no set of this name");
    // The kernel has no prefix that is every address.
    let error = lab.change("RF4-0-0", &["0.0.0.0/0"], &[]).expect_err("it refuses");
    assert_eq!(error.to_string(), "add to set RF4-0-0: ipset error 4104");

    lab.netns.exec("ipset", &["create", "RF4-0-1", "hash:ip"], "");
    let error = lab.sets.create(&[nets("RF4-0-1", Family::V4, &[])]).expect_err("it is another");
    assert_eq!(error.to_string(), "create set RF4-0-1: there is another set of this name");
}

#[test]
fn a_set_that_a_rule_names_stays() {
    let Some(mut lab) = Lab::new("a_set_that_a_rule_names_stays") else { return };
    lab.sets.create(&[nets("RF4-0-0", Family::V4, &[]), nets("RF4-0-1", Family::V4, &[])]).expect("made");
    let rule = ["-A", "OUTPUT", "-m", "set", "--match-set", "RF4-0-0", "dst", "-j", "RETURN"];
    lab.netns.exec("iptables-nft", &rule, "");
    assert!(!lab.sets.destroy("RF4-0-0").expect("it answers"));
    assert!(lab.sets.destroy("RF4-0-1").expect("it answers"));
    assert!(lab.sets.destroy("RF4-9-9").expect("it answers"), "it is not there: that is what was asked for");
    assert_eq!(lab.netns.exec("ipset", &["list", "-name"], ""), "RF4-0-0\n");
}

#[test]
fn the_answer_to_another_message_is_none() {
    let mut answer = vec![36, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff];
    if cfg!(target_endian = "little") {
        assert_eq!((code_of(&answer, 7), code_of(&answer, 8)), (Some(-libc::ENOENT), None));
        answer.truncate(18);
        assert_eq!(code_of(&answer, 7), None);
    }
}
