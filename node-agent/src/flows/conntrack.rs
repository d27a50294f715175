//! The conntrack table of one network namespace, over netlink: read the flows, set and take back our bit of their marks.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use ringfence_dataplane::Packet;
use ringfence_dataplane::render::ENDED;
use ringfence_model::{Direction, Protocol};

use super::FlowError;

/// Attributes that the netlink crate does not name, from linux/netfilter/nfnetlink_conntrack.h.
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;
/// From linux/netfilter/nf_conntrack_tcp.h.
const TCP_TIME_WAIT: u8 = 7;
const TCP_CLOSE: u8 = 8;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: conntrack saw the flow in the middle and does not check its windows.
const BE_LIBERAL: u8 = 0x08;

/// So many flows are dealt with at a time.
const AT_A_TIME: usize = 50_000;
/// So often it is looked for more of them: enough for any table, and an end if it grows all the time.
const LOOKS: usize = 1_000;

/// So often something may be refused before it is left at that.
const REFUSALS: usize = 3;

/// One walk at a time: the table of all network namespaces is one, whose locks the kernel would have threads spin for.
static WALK: Mutex<()> = Mutex::new(());

/// A flow, as its first packet was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// That packet; which direction it has, the policy must say.
    pub packet: Packet,
    /// Whether conntrack saw it in the middle.
    pub picked_up: bool,
    /// Whether it belongs to another flow.
    pub related: bool,
    /// Whether both ends have said goodbye: conntrack only remembers it for a while.
    pub is_over: bool,
    /// What answers it: source and destination, with their ports, of a reply as it is before anything is translated back.
    reply: Option<Packet>,
    mark: u32,
    /// What the kernel finds it by.
    key: Vec<ConntrackAttribute>,
}

impl Flow {
    /// A flow that begins with this packet.
    pub fn of(packet: Packet) -> Self {
        Self { packet, picked_up: false, related: false, is_over: false, reply: None, mark: 0, key: Vec::new() }
    }

    /// The same flow with such a conntrack mark.
    pub fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    /// The same flow, led elsewhere, as DNAT does.
    #[cfg(test)]
    pub fn translated_to(mut self, address: IpAddr, port: u16) -> Self {
        let Packet { src, sport, .. } = self.packet;
        self.reply = Some(Packet { src: address, sport: port, dst: src, dport: sport, ..self.packet });
        self
    }

    /// Who answers it: address and port, behind every translation.
    pub fn provider(&self) -> (IpAddr, u16) {
        self.reply.map_or((self.packet.dst, self.packet.dport), |reply| (reply.src, reply.sport))
    }

    /// Its first packet as it is when its destination has been translated, and its source has not.
    pub fn at_provider(&self) -> Packet {
        let (dst, dport) = self.provider();
        Packet { dst, dport, ..self.packet }
    }

    /// Whether one of its ends is translated.
    pub fn is_translated(&self) -> bool {
        let Packet { src, dst, sport, dport, .. } = self.packet;
        self.reply.is_some_and(|reply| (reply.dst, reply.src, reply.dport, reply.sport) != (src, dst, sport, dport))
    }

    /// Whether our bit is set.
    pub fn is_ended(&self) -> bool {
        self.mark & ENDED != 0
    }
}

/// The conntrack table of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens the table of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no such socket.
    pub fn open() -> Result<Self, FlowError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket })
        };
        open().map_err(failed("open conntrack"))
    }

    /// Shows every flow, of both families. Nobody keeps all of them: whoever sends datagrams decides how many there are, and they may be
    /// more than fit into memory.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn each(&mut self, mut look: impl FnMut(Flow)) -> Result<(), FlowError> {
        let wrap = failed("read conntrack");
        let _turn = WALK.lock().unwrap_or_else(PoisonError::into_inner);
        // A dump of no family in particular is one of all.
        let all = NetfilterProtoFamily::Unspec;
        self.send(ConntrackMessage::Get(Vec::new()), all, NLM_F_DUMP).map_err(&wrap)?;
        loop {
            for message in self.receive().map_err(&wrap)? {
                match message.payload {
                    NetlinkPayload::InnerMessage(NetfilterMessage {
                        inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                        ..
                    }) => flow_from(attributes).into_iter().for_each(&mut look),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(wrap(error.to_io())),
                    _ => {}
                }
            }
        }
    }

    /// Does something about flows: `judge` says of each what, if anything, and `act` does it, some at a time.
    ///
    /// # Errors
    /// When the table cannot be read, or something could not be done; then there may be more to do.
    pub fn deal_with<T>(
        &mut self,
        mut judge: impl FnMut(&Flow) -> Option<T>,
        mut act: impl FnMut(&mut Self, Vec<(Flow, T)>) -> Result<(), FlowError>,
    ) -> Result<(), FlowError> {
        let (mut refused, mut refusals) = (None, 0);
        // Of what was dealt with nothing is to be done any more, so that the next look finds others.
        for _ in 0..LOOKS {
            let mut some = Vec::new();
            self.each(|flow| {
                if some.len() < AT_A_TIME
                    && let Some(what) = judge(&flow)
                {
                    some.push((flow, what));
                }
            })?;
            let all = some.len() < AT_A_TIME;
            if let Err(error) = act(self, some) {
                refused = refused.or(Some(error));
                refusals += 1;
            }
            if all || refusals > REFUSALS {
                return refused.map_or(Ok(()), Err);
            }
        }
        Err(failed("deal with every flow")(Error::other("there are always more")))
    }

    /// Sets our bit of a flow's mark, or takes it back. Says whether the flow was still there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mark(&mut self, flow: &Flow, ended: bool) -> Result<bool, FlowError> {
        let mut attributes = flow.key.clone();
        attributes.push(ConntrackAttribute::CtaMark(if ended { ENDED } else { 0 }));
        attributes.push(ConntrackAttribute::Other(DefaultNla::new(CTA_MARK_MASK, ENDED.to_be_bytes().to_vec())));
        self.ask(flow, ConntrackMessage::New(attributes)).map_err(failed("mark a flow"))
    }

    /// Takes our bit back from flows of which that holds.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forgive(&mut self, holds: impl Fn(&Flow) -> bool) -> Result<(), FlowError> {
        let judge = |flow: &Flow| (flow.is_ended() && holds(flow)).then_some(());
        let act = |table: &mut Self, flows: Vec<(Flow, ())>| {
            flows.into_iter().try_for_each(|(flow, ())| table.mark(&flow, false).map(drop))
        };
        self.deal_with(judge, act)
    }

    /// Makes conntrack forget a flow. Says whether it was still there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self, flow: &Flow) -> Result<bool, FlowError> {
        self.ask(flow, ConntrackMessage::Delete(flow.key.clone())).map_err(failed("forget a flow"))
    }

    /// Makes a flow that nobody has begun.
    #[cfg(test)]
    pub fn create(&self, message: ConntrackMessage) -> Result<(), Error> {
        self.send(message, NetfilterProtoFamily::IPv4, NLM_F_ACK | netlink_packet_core::NLM_F_CREATE)?;
        self.answer().map(drop)
    }

    /// Makes conntrack forget everything.
    #[cfg(test)]
    pub fn forget_all(&self) -> Result<(), Error> {
        self.send(ConntrackMessage::Delete(Vec::new()), NetfilterProtoFamily::Unspec, NLM_F_ACK)?;
        self.answer().map(drop)
    }

    /// Sends what concerns one flow and waits for the answer: whether the flow was there.
    fn ask(&self, flow: &Flow, message: ConntrackMessage) -> Result<bool, Error> {
        let family = match flow.packet.src {
            IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
            IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
        };
        self.send(message, family, NLM_F_ACK)?;
        self.answer()
    }

    /// Whether what was asked about was there.
    fn answer(&self) -> Result<bool, Error> {
        loop {
            for message in self.receive()? {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                if error.code.is_none() {
                    return Ok(true);
                }
                let error = error.to_io();
                return if error.kind() == ErrorKind::NotFound { Ok(false) } else { Err(error) };
            }
        }
    }

    fn send(&self, message: ConntrackMessage, family: NetfilterProtoFamily, flags: u16) -> Result<(), Error> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let body = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(body));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The messages of one datagram.
    fn receive(&self) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, Error> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .map_err(|error| Error::new(ErrorKind::InvalidData, error.to_string()))?;
            let length = usize::try_from(message.header.length).unwrap_or(rest.len()).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn failed(what: &'static str) -> impl Fn(Error) -> FlowError {
    move |source| FlowError::Netlink { what, source }
}

/// A flow from what the kernel tells of it; `None` without addresses.
fn flow_from(attributes: Vec<ConntrackAttribute>) -> Option<Flow> {
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let nothing = Packet {
        direction: Direction::Inbound,
        protocol: Protocol(0),
        src: unknown,
        dst: unknown,
        sport: 0,
        dport: 0,
        icmp: None,
    };
    let mut flow = Flow::of(nothing);
    for attribute in attributes {
        match &attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => {
                parts.iter().for_each(|part| read_tuple(&mut flow.packet, part));
                flow.key.push(attribute);
            }
            ConntrackAttribute::CtaTupleReply(parts) => {
                let mut reply = nothing;
                parts.iter().for_each(|part| read_tuple(&mut reply, part));
                flow.reply = Some(reply);
            }
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE => flow.key.push(attribute),
            ConntrackAttribute::CtaMark(mark) => flow.mark = *mark,
            ConntrackAttribute::CtaStatus(status) => flow.related = status.contains(Status::Expected),
            ConntrackAttribute::CtaProtoInfo(infos) => {
                flow.picked_up = infos.iter().any(is_liberal);
                flow.is_over = infos.iter().any(is_over);
            }
            _ => {}
        }
    }
    (flow.packet.src != unknown || flow.packet.dst != unknown).then_some(flow)
}

fn read_tuple(packet: &mut Packet, part: &Tuple) {
    match part {
        Tuple::Ip(addresses) => {
            for address in addresses {
                match address {
                    IPTuple::SourceAddress(address) => packet.src = *address,
                    IPTuple::DestinationAddress(address) => packet.dst = *address,
                    _ => {}
                }
            }
        }
        Tuple::Proto(fields) => fields.iter().for_each(|field| read_proto(packet, field)),
        _ => {}
    }
}

fn read_proto(packet: &mut Packet, field: &ProtoTuple) {
    match field {
        ProtoTuple::Protocol(protocol) => packet.protocol = Protocol(u8::from(*protocol)),
        ProtoTuple::SourcePort(port) => packet.sport = *port,
        ProtoTuple::DestinationPort(port) => packet.dport = *port,
        ProtoTuple::Other(other) => {
            let mut value = vec![0; other.value_len()];
            other.emit_value(&mut value);
            let (kind, code) = packet.icmp.unwrap_or_default();
            match (other.kind(), value.first()) {
                (CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE, Some(kind)) => packet.icmp = Some((*kind, code)),
                (CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE, Some(code)) => packet.icmp = Some((kind, *code)),
                _ => {}
            }
        }
        _ => {}
    }
}

/// Whether a TCP flow is in state TIME_WAIT or CLOSE.
fn is_over(info: &ProtoInfo) -> bool {
    let ProtoInfo::TCP(fields) = info else { return false };
    fields.iter().any(|field| matches!(field, ProtoInfoTCP::State(TCP_TIME_WAIT | TCP_CLOSE)))
}

/// Whether both directions of a TCP flow carry the flag of a flow that was seen in the middle.
fn is_liberal(info: &ProtoInfo) -> bool {
    let ProtoInfo::TCP(fields) = info else { return false };
    let (mut original, mut reply) = (false, false);
    for field in fields {
        match field {
            ProtoInfoTCP::OriginalFlags(flags) => original = flags.flags & BE_LIBERAL != 0,
            ProtoInfoTCP::ReplyFlags(flags) => reply = flags.flags & BE_LIBERAL != 0,
            _ => {}
        }
    }
    original && reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Netns;

    #[test]
    fn flows_of_both_families_are_found_marked_and_forgotten() {
        let Some(netns) = Netns::new("flows_of_both_families_are_found_marked_and_forgotten") else { return };
        for program in ["iptables-nft", "ip6tables-nft"] {
            // A rule that asks for the state of connections makes the kernel follow them.
            netns.exec(program, &["-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"], "");
        }
        netns.within(|_| {
            for address in ["127.0.0.1", "::1"] {
                let loopback: IpAddr = address.parse().expect("valid");
                let listener = std::net::TcpListener::bind((loopback, 8080)).expect("it is free");
                let client = std::net::TcpStream::connect((loopback, 8080)).expect("someone listens");
                let port = client.local_addr().expect("it is bound").port();
                let mut table = Conntrack::open().expect("the kernel has it");
                let find = |table: &mut Conntrack| {
                    let mut found = None;
                    let wanted = |flow: &Flow| flow.packet.sport == port && flow.packet.src == loopback;
                    table.each(|flow| found = found.take().or(Some(flow).filter(wanted))).expect("they can be read");
                    found
                };
                let flow = find(&mut table).expect("it is there");
                let Packet { protocol, dst, dport, .. } = flow.packet;
                assert_eq!((protocol, dst, dport), (Protocol::TCP, loopback, 8080));
                assert!(!flow.is_ended());
                assert!(table.mark(&flow, true).expect("the kernel takes it"), "{address}");
                assert!(find(&mut table).expect("it is there").is_ended(), "{address}");
                assert!(table.forget(&flow).expect("the kernel takes it"), "{address}");
                assert!(find(&mut table).is_none(), "{address}");
                drop(listener);
            }
        });
    }
}
