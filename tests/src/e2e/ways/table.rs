//! The table of docs/matching.md. Its words are the test's: one that the test does not know is an error, and so is one that
//! no row uses.

use anyhow::{Context, Result, bail, ensure};

const PAGE: &str = include_str!("../../../../docs/matching.md");
const HEAD: &str =
    "| key | family | from | to | packets | consumer's end | provider's end: source | port | judged at | tested |";

/// Words of one column, with what they mean.
pub trait Word: Copy + PartialEq + 'static {
    /// All of them.
    const WORDS: &'static [(&'static str, Self)];

    /// What a word means.
    fn of(text: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
    }
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($word:literal => $meaning:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $word] $meaning,)* }

        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$meaning),)*];
        }
    };
}

words! {
    /// Who opens the connection. Nodes are as seen from the provider's Pod.
    Client {
        "Pod, same node" => Near,
        "Pod, other node" => Far,
        "the same Pod" => Itself,
        "host-network Pod, same node" => NearNode,
        "host-network Pod, other node" => FarNode,
        "outside" => Outside,
        "apiserver on a node" => Apiserver,
        "apiserver on no node" => ApiserverApart,
        "kubelet" => Kubelet,
        "Pod with a redirect" => Redirecting,
    }
}

words! {
    /// What the client dials.
    Target {
        "Pod" => Pod,
        "Pod, by a tunnel" => Tunnelled,
        "ClusterIP" => ClusterIp,
        "headless name" => Headless,
        "ClusterIP without selector" => Manual,
        "externalName" => Alias,
        "NodePort, Local" => NodePortLocal,
        "NodePort, Cluster, of the Pod's node" => NodePortHere,
        "NodePort, Cluster, of another node" => NodePortElsewhere,
        "load balancer, Local" => LoadBalancerLocal,
        "load balancer, Cluster" => LoadBalancerCluster,
        "load balancer, Cluster, by another node" => LoadBalancerElsewhere,
        "externalIP, Local" => ExternalIpLocal,
        "externalIP, Cluster" => ExternalIpCluster,
        "externalIP, Cluster, by another node" => ExternalIpElsewhere,
        "hostPort" => HostPort,
        "host-network Pod" => HostPod,
        "ClusterIP of the host-network Pod" => ClusterIpOfHostPod,
        "outside" => Outside,
        "outside, by name" => Named,
        "node" => Node,
        "ClusterIP of the node" => ClusterIpOfNode,
        "cluster DNS" => Dns,
        "webhook" => Webhook,
        "ClusterIP of a webhook" => ClusterIpOfWebhook,
        "probe port" => Probe,
        "probe port by NodePort" => ProbeByNodePort,
        "probe port by NodePort of another node" => ProbeByNodePortElsewhere,
        "Pod with a redirect" => Redirect,
        "Pod, rejecting" => Rejecting,
        "NodePort of the rejecting Pod, of its node" => RejectingByNodePort,
        "Pod, smaller MTU on the way" => SmallMtu,
    }
}

words! {
    /// What is sent.
    Packets {
        "TCP, UDP" => Both,
        "TCP" => Tcp,
        "TCP, UDP, neighbours forgotten" => Forgotten,
        "TCP of 30,000 bytes" => Transfer,
        "ICMP echo" => Echo,
        "UDP to a closed port" => Closed,
        "UDP of 4,000 bytes" => Large,
        "UDP, hop-by-hop options" => HopByHop,
        "UDP, destination options" => Destination,
        "DNS" => Name,
        "SCTP" => Sctp,
    }
}

words! {
    /// Whom the provider's Pod sees.
    Origin {
        "client" => Client,
        "bridge of the Pod's node" => Bridge,
        "client's node" => ClientNode,
        "tunnel of the client's node" => Tunnel,
        "node that translates" => Translating,
        "–" => Nobody,
    }
}

words! {
    /// The port that the provider's end sees.
    Port {
        "what is dialled" => Dialled,
        "target port" => Target,
        "container port" => Container,
        "probe port" => Probe,
        "port before the redirect" => BeforeRedirect,
        "type and code" => TypeAndCode,
        "–" => Nobody,
    }
}

words! {
    /// The ends that judge.
    Judges {
        "both" => Both,
        "consumer" => Consumer,
        "provider" => Provider,
        "neither" => Neither,
    }
}

/// What the table says of a row's test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tested {
    /// It is tested.
    Yes,
    /// It is tested but for a family, which cannot be tried here, and why.
    InPart(String),
    /// The product does not do it yet, and what happens instead.
    NotYet(String),
    /// It cannot be tried here, and why.
    NotRun(String),
}

/// A way that a packet takes.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name, which stays.
    pub key: String,
    /// Over IPv4, over IPv6.
    pub families: [bool; 2],
    /// Who opens the connection.
    pub from: Client,
    /// What is dialled.
    pub to: Target,
    /// What is sent.
    pub packets: Packets,
    /// Whom the provider's Pod sees.
    pub origin: Origin,
    /// The port that the provider's end sees.
    pub port: Port,
    /// The ends that judge.
    pub judges: Judges,
    /// Whether it is tested.
    pub tested: Tested,
}

impl Row {
    /// Whether the client also dials a port that no rule opens: not where a single one has a meaning, nor on loopback.
    pub fn has_closed_port(&self) -> bool {
        let itself = self.from == Client::Itself && self.to == Target::Pod;
        !itself && ![Packets::Transfer, Packets::Echo, Packets::Closed].contains(&self.packets)
    }

    /// Whether somebody dials whom no rule names: every node is a container host, a redirect is one Pod's own, and
    /// whoever likes may ask the cluster's DNS.
    pub fn has_strangers(&self) -> bool {
        ![Client::NearNode, Client::FarNode, Client::Redirecting].contains(&self.from) && self.to != Target::Dns
    }
}

/// Every row of the table.
///
/// # Errors
/// When a row cannot be read, or two have one key.
pub fn rows() -> Result<Vec<Row>> {
    let (_, table) = PAGE.split_once(HEAD).with_context(|| format!("docs/matching.md has no table '{HEAD}'"))?;
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<Row> =
        lines.map(|line| row(line).with_context(|| format!("failed to read {line}"))).collect::<Result<_>>()?;
    for (index, row) in rows.iter().enumerate() {
        ensure!(rows[..index].iter().all(|other| other.key != row.key), "two rows have the key {}", row.key);
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Row> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [key, family, from, to, packets, consumer, origin, port, judges, tested] = cells.as_slice() else {
        bail!("it has {} cells", cells.len());
    };
    let row = Row {
        key: (*key).to_owned(),
        families: families(family)?,
        from: word(from)?,
        to: word(to)?,
        packets: word(packets)?,
        origin: word(origin)?,
        port: word(port)?,
        judges: word(judges)?,
        tested: how_tested(tested)?,
    };
    let judged = |end| [end, Judges::Both].contains(&row.judges);
    ensure!((*consumer == "what is dialled") == judged(Judges::Consumer), "the consumer's end is '{consumer}'");
    ensure!((row.port == Port::Nobody) != judged(Judges::Provider), "the port of the provider's end is '{port}'");
    Ok(row)
}

fn word<T: Word>(text: &str) -> Result<T> {
    T::of(text).with_context(|| format!("the test knows nothing of '{text}'"))
}

fn families(text: &str) -> Result<[bool; 2]> {
    match text {
        "4, 6" => Ok([true, true]),
        "4" => Ok([true, false]),
        "6" => Ok([false, true]),
        other => bail!("'{other}' are no families"),
    }
}

fn how_tested(text: &str) -> Result<Tested> {
    let reason = |text: &str| text.trim().to_owned();
    match text.split_once(':') {
        None if text == "yes" => Ok(Tested::Yes),
        Some(("in part", why)) => Ok(Tested::InPart(reason(why))),
        Some(("not yet", what)) => Ok(Tested::NotYet(reason(what))),
        Some(("not run", why)) => Ok(Tested::NotRun(reason(why))),
        _ => bail!("'{text}' is none of yes, in part, not yet and not run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused<T: Word>(rows: &[Row], used: fn(&Row) -> T) -> Vec<&'static str> {
        T::WORDS.iter().filter(|(_, word)| !rows.iter().any(|row| used(row) == *word)).map(|(text, _)| *text).collect()
    }

    #[test]
    fn every_row_is_read_and_every_word_is_used() {
        let rows = rows().expect("the table can be read");
        let unused = [
            unused(&rows, |row| row.from),
            unused(&rows, |row| row.to),
            unused(&rows, |row| row.packets),
            unused(&rows, |row| row.origin),
            unused(&rows, |row| row.port),
            unused(&rows, |row| row.judges),
        ];
        assert_eq!(unused.concat(), Vec::<&str>::new(), "the test knows ways that the table does not have");
    }

    /// The rows of a list of the page, which stands between a text and the next full stop. A key may end in `…` for
    /// whatever follows.
    fn listed<'r>(rows: &'r [Row], before: &str) -> Vec<&'r str> {
        let (_, list) = PAGE.split_once(before).expect("the page has the list");
        let (list, _) = list.split_once('.').expect("the list ends");
        let keys: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        let means =
            |key: &str, row: &Row| key.strip_suffix('…').map_or(row.key == key, |start| row.key.starts_with(start));
        for key in &keys {
            assert!(rows.iter().any(|row| means(key, row)), "no row is {key}");
        }
        let of_list = rows.iter().filter(|row| keys.iter().any(|key| means(key, row)));
        of_list.map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn the_page_says_which_rows_lack_a_closed_port_or_a_stranger() {
        let rows = rows().expect("the table can be read");
        let without = |has: fn(&Row) -> bool| -> Vec<&str> {
            rows.iter().filter(|row| !has(row)).map(|row| row.key.as_str()).collect()
        };
        assert_eq!(listed(&rows, "Without a closed port:"), without(Row::has_closed_port));
        assert_eq!(listed(&rows, "Without a stranger:"), without(Row::has_strangers));
    }

    #[test]
    fn a_row_that_contradicts_itself_is_refused() {
        let good = "| a | 4, 6 | outside | Pod | TCP | – | client | target port | provider | yes |";
        assert!(row(good).is_ok());
        for (from, to) in [
            ("| outside |", "| inside |"),
            ("| provider |", "| both |"),
            ("| target port |", "| – |"),
            ("| yes |", "| perhaps |"),
            ("| 4, 6 |", "| 5 |"),
        ] {
            assert!(row(&good.replacen(from, to, 1)).is_err(), "{from} is {to}");
        }
    }
}
