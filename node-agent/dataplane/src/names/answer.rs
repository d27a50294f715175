//! What an answer of a resolver says: for which name, and the addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_model::DomainName;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, RCODE, ResourceRecord};

use super::Malformed;

/// What resolvers send over UDP is no longer (RFC 9715 asks for 1,400 bytes). Names in a message may lead to one another in chains,
/// and what reading one costs grows with the square of its length.
const LONGEST_MESSAGE: usize = 4096;
/// Records of one section. An answer that is true has a few.
const MOST_RECORDS: u16 = 512;
/// Names by which one leads to another.
const MOST_ALIASES: usize = 16;

/// An answer with addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for.
    pub name: DomainName,
    /// Its addresses, and for how many seconds each is: the shortest time on the way to it.
    pub addresses: BTreeMap<IpAddr, u32>,
}

/// Reads an answer; nothing if it is a question, or has no address for the name that was asked for.
///
/// # Errors
/// When it is no DNS message.
pub fn read_answer(message: &[u8]) -> Result<Option<Answer>, Malformed> {
    if message.len() > LONGEST_MESSAGE {
        return Err(Malformed);
    }
    // The parser makes room for as many records as are announced.
    let announced = message.get(6..12).ok_or(Malformed)?.chunks(2);
    if announced.into_iter().any(|count| u16::from_be_bytes([count[0], count[1]]) > MOST_RECORDS) {
        return Err(Malformed);
    }
    let one_question = message[4..6] == [0, 1];
    if !one_question {
        return Err(Malformed);
    }
    let packet = Packet::parse(message).map_err(|_| Malformed)?;
    let answers = packet.has_flags(PacketFlag::RESPONSE)
        && packet.opcode() == OPCODE::StandardQuery
        && packet.rcode() == RCODE::NoError;
    let Some(question) = packet.questions.first().filter(|_| answers) else { return Ok(None) };
    let Some(name) = domain_name(&question.qname) else { return Ok(None) };
    let addresses = addresses(&question.qname, &packet.answers);
    Ok((!addresses.is_empty()).then_some(Answer { name, addresses }))
}

/// The addresses of a name, and of those that it is another name for.
fn addresses(asked: &Name<'_>, records: &[ResourceRecord<'_>]) -> BTreeMap<IpAddr, u32> {
    let records: Vec<&ResourceRecord<'_>> = records.iter().filter(|record| record.class == CLASS::IN).collect();
    let mut found: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let (mut current, mut shortest) = (asked, u32::MAX);
    for _ in 0..=MOST_ALIASES {
        let own = || records.iter().filter(|record| record.name == *current);
        for (address, ttl) in own().filter_map(|record| Some((address(record)?, record.ttl.min(shortest)))) {
            found.entry(address).and_modify(|longer| *longer = ttl.max(*longer)).or_insert(ttl);
        }
        let alias = own().find_map(|record| match &record.rdata {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = alias else { break };
        (current, shortest) = (target, shortest.min(ttl));
    }
    found
}

fn address(record: &ResourceRecord<'_>) -> Option<IpAddr> {
    match &record.rdata {
        RData::A(a) => Some(Ipv4Addr::from(a.address).into()),
        RData::AAAA(aaaa) => Some(Ipv6Addr::from(aaaa.address).into()),
        _ => None,
    }
}

/// A name as IP lists have them; nothing for any other, such as one with a dot in a label.
fn domain_name(name: &Name<'_>) -> Option<DomainName> {
    let labels = name.get_labels().iter().map(|label| std::str::from_utf8(label.as_ref()).ok());
    let labels: Vec<&str> = labels.collect::<Option<_>>()?;
    let plain = labels.iter().all(|label| !label.contains('.'));
    plain.then(|| labels.join(".").parse().ok()).flatten()
}
