//! What the engine says of the node itself, while somebody else keeps its network namespace.

use std::collections::BTreeMap;

use ringfence_crds::Revision;
use ringfence_crds::node_policy::HostPolicy;
use ringfence_dataplane::{Enforcement, Host, Place, Resolver};

use super::*;
use crate::host::{Said, State, Wanted as OfNode};

/// A view, and the side of the engine that is about the node.
struct Node {
    view: View,
    side: NodeSide,
    wanted: watch::Receiver<OfNode>,
    said: watch::Sender<Said>,
}

impl Node {
    /// Everything was read; the node's policy is of revision 2, and what is published is revision 1.
    fn new() -> Self {
        let (wanted_out, wanted) = watch::channel(OfNode::Keep);
        let (said, said_in) = watch::channel(Said::default());
        let mut node =
            Self { view: View::new(None), side: NodeSide::new(Host::default(), wanted_out, said_in), wanted, said };
        for kind in Kind::ALL {
            let objects = match kind {
                Kind::NodePolicy => {
                    let (labels, essentials, witnesses) = (BTreeMap::new(), Vec::new(), vec!["10.244.2.1".to_owned()]);
                    let host =
                        HostPolicy { node: "n1".to_owned(), state: PolicyState::Full, labels, essentials, witnesses };
                    let revision = Revision { epoch: 0, number: 2 };
                    let spec = NodePolicySpec { revision, host: Some(host), ..NodePolicySpec::default() };
                    [("n1".to_owned(), Object::NodePolicy(NodeEntry { spec, ..NodeEntry::default() }))].into()
                }
                Kind::WorkloadPolicy => [marker(1)].into(),
                _ => BTreeMap::new(),
            };
            node.view.take(Change::All { kind, objects });
        }
        node
    }

    fn resolve(&mut self, standing: Standing) -> OfNode {
        let mut resolver = Resolver::new(self.view.store());
        self.side.resolve(&self.view, standing, &mut resolver, (&[], std::iter::empty()), Instant::now());
        self.wanted.borrow().clone()
    }
}

fn marker(number: i64) -> (String, Object) {
    let spec = WorkloadPolicySpec { revision: Revision { epoch: 0, number }, ..WorkloadPolicySpec::default() };
    (MARKER.to_owned(), Object::WorkloadPolicy(spec))
}

#[tokio::test]
async fn the_node_waits_for_the_publication_that_its_policy_is_of() {
    let mut node = Node::new();
    assert_eq!(node.resolve(Standing::Enforced), OfNode::Keep, "the rules that go with it are not all here");
    assert!(!node.side.is_due(&node.view));
    let (name, object) = marker(2);
    node.view.take(Change::Put { name, object });
    assert!(node.side.is_due(&node.view));
    let OfNode::Policy(policy, witnesses) = node.resolve(Standing::Enforced) else { panic!("it is all here") };
    assert_eq!((policy.place, policy.state), (Place::Host, Enforcement::Full));
    assert_eq!(witnesses, ["10.244.2.1".parse::<IpAddr>().expect("an address")]);
    assert!(!node.side.is_due(&node.view));

    // It is settled once that is said of what is wanted, also if it was taken back.
    assert!(!node.side.is_settled());
    let to = node.wanted.borrow().clone();
    for (state, settled) in [(State::InForce, true), (State::TakenBack, true), (State::Failed, false)] {
        node.said.send_replace(Said { to: to.clone(), state, ..Said::default() });
        assert_eq!(node.side.is_settled(), settled, "{state:?}");
    }
    assert_eq!(node.resolve(Standing::Suspended), OfNode::Nothing);
    assert!(!node.side.is_settled(), "nothing is said of that yet");
}

#[tokio::test]
async fn what_nobody_has_told_changes_nothing_on_the_node_but_off_does() {
    let (wanted_out, wanted) = watch::channel(OfNode::Keep);
    let (_said, said_in) = watch::channel(Said::default());
    let mut side = NodeSide::new(Host::default(), wanted_out, said_in);
    let view = View::new(None);
    let mut resolve = |standing| {
        side.resolve(&view, standing, &mut Resolver::new(view.store()), (&[], std::iter::empty()), Instant::now());
        wanted.borrow().clone()
    };
    assert_eq!(resolve(Standing::Enforced), OfNode::Keep);
    assert_eq!(resolve(Standing::Suspended), OfNode::Keep, "that may be over");
    assert_eq!(resolve(Standing::Off), OfNode::Nothing);
}
