//! Whatever happens to the files: a whole save is found, and it is said if that is not the newest.

mod disk;

use std::fs::OpenOptions;

use super::*;
use ringfence_crds::{ContainerClusterSpec, NodePolicySpec, PeerGroupSpec};
use ringfence_model::PolicyState;

const MACHINE: Option<&str> = Some("0123456789abcdef");

fn store() -> ObjectStore {
    let mut store = ObjectStore {
        node_policy: Some(NodePolicySpec { cluster_uid: "u".to_owned(), ..NodePolicySpec::default() }),
        cluster: Some(ContainerClusterSpec { policy_epoch: Some(3), ..ContainerClusterSpec::default() }),
        networks: ["10.244.0.0/16".parse().expect("a prefix"), "fd00::/64".parse().expect("a prefix")].into(),
        ..ObjectStore::default()
    };
    store.peer_groups.insert("p-1".to_owned(), group("c-1"));
    let profile = Profile { enforced_state: Some(PolicyState::Full), ..Profile::default() };
    store.profiles.insert("shop".to_owned(), profile);
    store
}

fn group(class: &str) -> PeerGroupSpec {
    PeerGroupSpec { classes: vec![class.to_owned()], ..PeerGroupSpec::default() }
}

fn pod(name: &str) -> (String, LocalPod) {
    let pod = LocalPod { uid: "u-1".to_owned(), name: name.to_owned(), ..LocalPod::default() };
    (crate::feed::pods::key(&pod), pod)
}

fn readings() -> BTreeMap<Cookie, Readings> {
    let read = serde_json::from_str(r#"{"v4": {"written": "RF-FP-1", "digest": "d"}}"#).expect("a literal of the test");
    [(Cookie(0x4711), read)].into()
}

fn learned() -> BTreeMap<String, Learned> {
    let learned = serde_json::from_str(r#"{"a.example.com": {"192.0.2.1": 60, "2001:db8::1": 90}}"#);
    [("sandbox".to_owned(), learned.expect("a literal of the test"))].into()
}

/// What is saved first, second and third: each has something new, something different and something that is gone.
fn first() -> Kept {
    Kept { store: store(), pods: [pod("web")].into(), readings: readings(), learned: learned() }
}

fn second() -> Kept {
    let mut store = store();
    store.peer_groups.insert("p-1".to_owned(), group("c-2"));
    store.peer_groups.insert("p-2".to_owned(), group("c-3"));
    store.cluster = None;
    store.networks.clear();
    Kept { store, pods: [pod("api")].into(), readings: BTreeMap::new(), learned: BTreeMap::new() }
}

fn third() -> Kept {
    let mut kept = second();
    kept.store.peer_groups.remove("p-1");
    kept.store.profiles.clear();
    kept
}

fn open(folder: &Path) -> (Ledger, Option<Kept>, Option<String>) {
    Ledger::open(folder, "n1", MACHINE, Some("boot 1".to_owned()))
}

/// What is found, and whether anything is said to be wrong.
fn found(folder: &Path) -> (Option<Kept>, Option<String>) {
    let (_, kept, problem) = open(folder);
    (kept, problem)
}

/// A ledger that was saved so often, a file for each of the first two: the third save is behind the second.
fn saved(times: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = open(folder.path()).0;
    for kept in [first(), second(), third()].into_iter().take(times) {
        if kept == second() {
            ledger.file = None;
        }
        ledger.save(kept).expect("saved");
    }
    folder
}

fn copy(from: &tempfile::TempDir) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(from.path()).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, to.path().join(path.file_name().expect("a file"))).expect("copied");
    }
    to
}

fn flip(file: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(file).expect("readable");
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).expect("written");
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).expect("it is there").len()
}

fn cut(file: &Path, length: u64) {
    OpenOptions::new().write(true).open(file).expect("it is there").set_len(length).expect("cut");
}

#[test]
fn what_is_saved_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(found(folder.path()), (None, None));
    let mut ledger = open(folder.path()).0;
    for kept in [first(), second(), third(), first()] {
        ledger.save(kept.clone()).expect("saved");
        assert_eq!(found(folder.path()), (Some(kept), None));
    }
    // An agent after it goes on.
    let mut ledger = open(folder.path()).0;
    ledger.save(second()).expect("saved");
    assert_eq!(found(folder.path()), (Some(second()), None));
}

#[test]
fn a_save_costs_what_has_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = open(folder.path()).0;
    let mut kept = first();
    let classes: Vec<String> = (0..100).map(|number| format!("c-{number}")).collect();
    for number in 0..100 {
        let group = PeerGroupSpec { classes: classes.clone(), ..PeerGroupSpec::default() };
        kept.store.peer_groups.insert(format!("p-{number}"), group);
    }
    ledger.save(kept.clone()).expect("saved");
    let file = folder.path().join(CURRENT);
    let whole = length(&file);
    ledger.save(kept.clone()).expect("saved");
    assert_eq!(length(&file), whole, "nothing has changed");
    kept.store.peer_groups.insert("p-1".to_owned(), group("c-2"));
    ledger.save(kept.clone()).expect("saved");
    assert!(length(&file) < whole + 400, "one small group of a hundred");

    // It does not grow for ever, and the one before stays.
    let (mut longest, mut shorter) = (0, 0);
    for number in 0..300 {
        let large = (0..1000).map(|class| format!("c-{number}-{class}")).collect();
        let group = PeerGroupSpec { classes: large, ..PeerGroupSpec::default() };
        kept.store.peer_groups.insert("p-1".to_owned(), group);
        ledger.save(kept.clone()).expect("saved");
        let now = length(&file);
        shorter += u32::from(now < longest);
        longest = now.max(longest);
    }
    assert!(shorter > 0 && longest < whole + 2 * ROOM, "{longest}");
    assert!(folder.path().join(PREVIOUS).is_file());
    assert_eq!(found(folder.path()), (Some(kept), None));
}

#[test]
fn any_bit_that_flips_invalidates_what_was_saved_with_it_and_after() {
    let whole = saved(3);
    let file = whole.path().join(CURRENT);
    let behind = usize::try_from(records::read(&file).expect("readable").whole).expect("it is short");
    let size = fs::read(&file).expect("readable").len();
    assert!(behind < size);
    for at in 0..size {
        let folder = copy(&whole);
        flip(&folder.path().join(CURRENT), at, u8::try_from(at % 8).expect("a bit"));
        let (kept, problem) = found(folder.path());
        let expected = if at < behind { first() } else { second() };
        assert_eq!(kept, Some(expected), "byte {at} of {size}");
        let problem = problem.unwrap_or_else(|| panic!("byte {at} of {size}: nothing is said"));
        assert!(problem.starts_with("read ") && problem.ends_with(" is used"), "{problem}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_used_as_far_as_it_goes() {
    let whole = saved(3);
    let read = records::read(&whole.path().join(CURRENT)).expect("readable");
    for length in 0..read.end.length {
        let folder = copy(&whole);
        cut(&folder.path().join(CURRENT), length);
        let (kept, problem) = found(folder.path());
        let expected = if length < read.whole { first() } else { second() };
        assert_eq!(kept, Some(expected), "{length} bytes");
        // Between two saves it is as it was before the second.
        assert_eq!(problem.is_none(), length == read.whole, "{length} bytes: {problem:?}");
    }
}

#[test]
fn a_file_that_is_gone_empty_or_of_zeros_is_replaced_by_the_one_before() {
    let damages: [fn(&Path); 4] = [
        |file| fs::remove_file(file).expect("removed"),
        |file| fs::write(file, "").expect("written"),
        |file| fs::write(file, [0; 512]).expect("written"),
        |file| {
            fs::remove_file(file).expect("removed");
            fs::create_dir(file).expect("made");
        },
    ];
    for damage in damages {
        let folder = saved(3);
        damage(&folder.path().join(CURRENT));
        let (kept, problem) = found(folder.path());
        assert_eq!(kept, Some(first()));
        assert!(problem.is_some_and(|problem| problem.contains("read the ledger: it")
            || problem.contains("read the ledger: line 1 ")
            || problem.contains("read the ledger: Is a directory")));
        // The one before alone.
        let folder = saved(3);
        damage(&folder.path().join(PREVIOUS));
        assert_eq!(found(folder.path()), (Some(third()), None));
        // Both: but for one that there never was, that is said.
        let folder = saved(3);
        damage(&folder.path().join(CURRENT));
        damage(&folder.path().join(PREVIOUS));
        let (kept, problem) = found(folder.path());
        assert_eq!(kept, None);
        let both_gone = !folder.path().join(CURRENT).exists() && !folder.path().join(PREVIOUS).exists();
        assert_eq!(problem.is_none(), both_gone, "{problem:?}");
    }
}

#[test]
fn a_damaged_file_never_takes_the_place_of_a_good_one() {
    let folder = saved(2);
    flip(&folder.path().join(CURRENT), 10, 1);
    let (mut ledger, kept, _) = open(folder.path());
    assert_eq!(kept, Some(first()));
    ledger.save(third()).expect("saved");
    assert_eq!(found(folder.path()), (Some(third()), None), "it is over when it was written again");
    flip(&folder.path().join(CURRENT), 10, 1);
    assert_eq!(found(folder.path()).0, Some(first()), "the good one is still there");
}

#[test]
fn one_that_somebody_cut_off_meanwhile_is_written_anew() {
    for left in [0, 40] {
        let folder = saved(1);
        let mut ledger = open(folder.path()).0;
        cut(&folder.path().join(CURRENT), left);
        ledger.save(second()).expect("saved");
        assert_eq!(found(folder.path()), (Some(second()), None));
        fs::remove_file(folder.path().join(CURRENT)).expect("removed");
        ledger.save(third()).expect("saved");
        assert_eq!(found(folder.path()), (Some(third()), None));
    }
}

/// The instructions of a save that writes a new file, one by one.
#[test]
fn a_crash_between_two_instructions_leaves_the_old_or_the_new() {
    let (before, after) = (saved(1), saved(2));
    let new = fs::read(after.path().join(CURRENT)).expect("readable");
    let step = |what: &str, folder: &tempfile::TempDir, expected: Kept| {
        assert_eq!(found(folder.path()), (Some(expected), None), "{what}");
        // Nor does it keep the next save from being one.
        let folder = copy(folder);
        let mut ledger = open(folder.path()).0;
        ledger.save(third()).expect("saved");
        assert_eq!(found(folder.path()), (Some(third()), None), "{what}");
    };
    for length in [0, 1, new.len() / 2, new.len()] {
        let folder = copy(&before);
        fs::write(folder.path().join(ASIDE), &new[..length]).expect("written");
        step("while it is written", &folder, first());
    }
    let folder = copy(&before);
    fs::write(folder.path().join(ASIDE), &new).expect("written");
    fs::write(folder.path().join(PREVIOUS), "an older one").expect("written");
    step("written", &folder, first());
    fs::remove_file(folder.path().join(PREVIOUS)).expect("removed");
    step("the one before is gone", &folder, first());
    fs::hard_link(folder.path().join(CURRENT), folder.path().join(PREVIOUS)).expect("linked");
    step("the one in use is the one before", &folder, first());
    fs::rename(folder.path().join(ASIDE), folder.path().join(CURRENT)).expect("renamed");
    step("in place", &folder, second());
}

#[test]
fn what_was_read_back_counts_in_its_era_only() {
    let folder = saved(1);
    let found = |era: Option<&str>| {
        let (_, kept, problem) = Ledger::open(folder.path(), "n1", MACHINE, era.map(str::to_owned));
        assert_eq!(problem, None);
        kept.expect("the rest counts all the same").readings
    };
    assert_eq!(found(Some("boot 1")), readings());
    assert!(found(Some("boot 2")).is_empty());
    assert!(found(None).is_empty());
    // What is read back in the new era does not come behind what was in the old one.
    let (mut ledger, kept, _) = Ledger::open(folder.path(), "n1", MACHINE, Some("boot 2".to_owned()));
    ledger.save(kept.expect("the rest counts")).expect("saved");
    assert!(found(Some("boot 1")).is_empty());
}

#[test]
fn the_ledger_of_another_node_or_machine_counts_as_none() {
    let folder = saved(2);
    let found = |node: &str, machine_id: Option<&str>| {
        let (_, kept, problem) = Ledger::open(folder.path(), node, machine_id, Some("boot 1".to_owned()));
        assert_eq!(problem, None);
        kept
    };
    assert_eq!(found("n2", MACHINE), None);
    assert_eq!(found("n1", Some("fedcba9876543210")), None, "a clone of the disk under the old name");
    assert_eq!(found("n1", None), Some(second()), "that nobody knows the machine does not make it another");
    // Nor does the one before count when the one in use is another machine's own.
    let mut other = Ledger::open(folder.path(), "n1", Some("fedcba9876543210"), None).0;
    other.save(third()).expect("saved");
    assert_eq!(found("n1", MACHINE), None);
    flip(&folder.path().join(CURRENT), 10, 1);
    let (_, kept, _) = Ledger::open(folder.path(), "n1", Some("fedcba9876543210"), None);
    assert_eq!(kept, None, "what was before it is of the first machine");
}

#[test]
fn another_form_and_what_agents_before_kept_count_as_none() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in FORMER {
        fs::write(folder.path().join(file), "n1").expect("written");
    }
    let objects = folder.path().join(FORMER_OBJECTS).join("peergroups");
    fs::create_dir_all(&objects).expect("made");
    fs::write(objects.join("p-1.json"), "{}").expect("written");
    let (mut ledger, kept, problem) = open(folder.path());
    assert_eq!((kept, problem), (None, None));
    ledger.save(first()).expect("saved");
    let left: Vec<String> = fs::read_dir(folder.path())
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(left, [CURRENT]);

    fs::write(folder.path().join(CURRENT), "{\"owner\":{\"format\":2,\"node\":\"n1\",\"more\":1}}\n{\"new\":1}\n")
        .expect("written");
    let (kept, problem) = found(folder.path());
    assert_eq!(kept, None);
    assert!(problem.is_some_and(|problem| problem.contains("it is in form 2 and not 1")));
}
