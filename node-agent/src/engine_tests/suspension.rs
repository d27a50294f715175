//! Off, on purpose: everything of ours goes, and comes back.

use ringfence_crds::ContainerClusterSpec;
use ringfence_crds::container_cluster::Enforcement;

use super::*;
use crate::feed::ClusterEntry;
use crate::report::Suspension;

fn cluster(enforcement: Enforcement) -> Change {
    let spec = ContainerClusterSpec { enforcement, ..ContainerClusterSpec::default() };
    Change::Put { name: "this".to_owned(), object: Object::Cluster(ClusterEntry::new(1, spec, None)) }
}

/// As after a restore from a backup that was made while enforcement was suspended.
#[test]
fn a_suspension_of_before_is_held_back_with_the_rest() {
    let marker =
        |number| WorkloadPolicySpec { revision: Revision { epoch: 0, number }, ..WorkloadPolicySpec::default() };
    let mut engine = idle();
    for kind in Kind::ALL {
        let object = (kind == Kind::WorkloadPolicy).then(|| (MARKER, Object::WorkloadPolicy(marker(7))));
        engine.hears(all(kind, object));
    }
    engine.hears(Change::Marker(Some(marker(5))));
    engine.hears(cluster(Enforcement::Suspended));
    assert_eq!(engine.suspension(), None);
    engine.hears(Change::Put { name: MARKER.to_owned(), object: Object::WorkloadPolicy(marker(8)) });
    assert_eq!(engine.suspension(), Some(Suspension::Cluster), "it has caught up");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_enforcement_is_suspended_nothing_of_ours_is_anywhere() {
    let test = "while_enforcement_is_suspended_nothing_of_ours_is_anywhere";
    let (Some(pod), turns) = (Netns::new(test), [Suspension::Cluster, Suspension::Off]) else { return };
    let mut engine = Running::start(None, BTreeMap::new());
    engine.show(&pod.path());
    for why in turns {
        engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
        assert!(pod.holds().contains("RF-IN"));
        let turn = |off: bool| match why {
            Suspension::Off => {
                let _ = engine.switch.send(off);
            }
            Suspension::Cluster if off => engine.say(cluster(Enforcement::Suspended)),
            Suspension::Cluster => engine.say(cluster(Enforcement::Enforced)),
        };
        turn(true);
        turn_is_over(&mut engine.reports.clone(), why).await;
        assert!(!pod.holds().contains("RF"), "{}", pod.holds());
        assert_eq!(*engine.chaining.borrow(), Some(Chaining::Off));
        assert_eq!(engine.reports.borrow().acknowledged, None, "nothing is in force");
        turn(false);
    }
    engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    assert!(matches!(*engine.chaining.borrow(), Some(Chaining::On(_))));
}

async fn turn_is_over(reports: &mut watch::Receiver<Report>, why: Suspension) {
    let over = reports.wait_for(|report| report.settled && report.suspended == Some(why));
    let report = tokio::time::timeout(Duration::from_secs(20), over).await.expect("in time");
    assert_eq!(report.expect("it runs").pods_enforced, 0);
}

/// Without an apiserver, and without anything on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_off_needs_to_know_nothing() {
    let Some(pod) = Netns::new("a_node_that_is_off_needs_to_know_nothing") else { return };
    let mut first = Running::start(None, BTreeMap::new());
    first.show(&pod.path());
    first.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    first.stop.cancel();

    let mut second = Running::start_blank(None, BTreeMap::new());
    second.show(&pod.path());
    let _ = second.switch.send(true);
    second.until("an empty namespace", |report| report.settled && report.suspended == Some(Suspension::Off)).await;
    assert!(!pod.holds().contains("RF"), "{}", pod.holds());
}
