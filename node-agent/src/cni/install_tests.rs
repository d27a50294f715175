//! Files as other installers write them.

use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;

use super::*;
use crate::cni::keeping::keep;
use crate::cni::{Ask, Chaining};

/// The folders of a node.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().expect("a folder") };
        for name in ["net.d", "bin", "state"] {
            fs::create_dir(node.path(name)).expect("made");
        }
        node.write("program", "the plugin");
        node
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("it is there")
    }
    /// What is in the folder of configurations.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("net.d")).expect("it is there");
        let mut names: Vec<String> = entries.map(|entry| name(&entry.expect("an entry").path())).collect();
        names.sort();
        names
    }
    fn place(&self, wait: u64) -> Place {
        let entry = Entry::new("/run/a.sock".into(), "/var/f.json".into(), Duration::from_secs(wait));
        let [conf_dir, bin_dir, program, state_dir] = ["net.d", "bin", "program", "state"].map(|name| self.path(name));
        Place { conf_dir, bin_dir, program, state_dir, entry }
    }
    fn install(&self) {
        self.place(10).install(&Fallback::default()).expect("installed");
    }
    fn has_plugin(&self, file: &str) -> bool {
        has_plugin(&self.read(file), &self.place(10).entry)
    }
}

const LIST: &str = "{\"cniVersion\": \"1.0.0\", \"name\": \"pods\",\n \"plugins\": [{\"type\": \"bridge\"}]}";

#[test]
fn the_first_configuration_gets_the_plugin_and_becomes_what_it_was() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", LIST);
    node.write("net.d/20-other.conflist", LIST);
    node.write("net.d/00-notes.txt", "no configuration");
    node.install();
    assert!(node.has_plugin("net.d/10-pods.conflist"));
    assert_eq!(node.read("net.d/20-other.conflist"), LIST);
    assert_eq!(node.read("bin/cven-cni"), "the plugin");
    assert_eq!(node.read("state/cni-fallback.json"), r#"{"refuse":[]}"#);
    assert_eq!(mode(&node.path("bin/cven-cni")), 0o755);

    node.place(10).remove().expect("removed");
    assert_eq!(node.read("net.d/10-pods.conflist"), LIST, "to the byte");
    assert_eq!(node.files(), ["00-notes.txt", "10-pods.conflist", "20-other.conflist"]);
    assert_eq!(node.read("bin/cven-cni"), "the plugin", "Pods that started with it still have to end");
    assert!(fs::read_dir(node.path("state")).expect("there").next().is_none());
    node.place(10).remove().expect("nothing is left to do");
}

#[test]
fn what_is_right_is_not_written() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", LIST);
    node.install();
    let times = || {
        let files = ["net.d/10-pods.conflist", "bin/cven-cni", "state/cni-fallback.json", "state/cni-before.json"];
        files.map(|file| fs::metadata(node.path(file)).expect("there").modified().expect("a time"))
    };
    let before = times();
    node.install();
    assert_eq!(times(), before);
}

#[test]
fn what_another_installer_has_written_meanwhile_is_kept() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", LIST);
    node.install();
    let newer = LIST.replace("bridge", "ptp");
    node.write("net.d/10-pods.conflist", &newer);
    node.install();
    assert!(node.has_plugin("net.d/10-pods.conflist"));
    node.place(10).remove().expect("removed");
    assert_eq!(node.read("net.d/10-pods.conflist"), newer);

    // It adds to what it finds, ours included.
    node.install();
    let with = node.read("net.d/10-pods.conflist");
    node.write("net.d/10-pods.conflist", &with.replace(r#""type": "ptp""#, r#""type": "ptp", "mtu": 9000"#));
    node.place(10).remove().expect("removed");
    let left: serde_json::Value = serde_json::from_str(&node.read("net.d/10-pods.conflist")).expect("JSON");
    assert_eq!(
        left,
        serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "mtu": 9000}]})
    );
}

#[test]
fn a_single_plugin_comes_back_as_it_was() {
    let node = Node::new();
    let single = r#"{"cniVersion": "0.4.0", "name": "pods", "type": "bridge"}"#;
    node.write("net.d/10-pods.conf", single);
    node.write("net.d/10-pods.conflist", LIST);
    node.install();
    assert_eq!(node.files(), ["10-pods.conf.conflist", "10-pods.conflist"], "it is still the first");
    assert!(node.has_plugin("net.d/10-pods.conf.conflist"));
    node.place(10).remove().expect("removed");
    assert_eq!(node.files(), ["10-pods.conf", "10-pods.conflist"]);
    assert_eq!(node.read("net.d/10-pods.conf"), single);
}

#[test]
fn a_newer_single_plugin_is_not_written_over() {
    let node = Node::new();
    let [old, new] =
        ["bridge", "ptp"].map(|kind| format!(r#"{{"cniVersion": "0.4.0", "name": "pods", "type": "{kind}"}}"#));
    node.write("net.d/10-pods.conf", &old);
    node.install();
    node.write("net.d/10-pods.conf", &new);
    node.place(10).remove().expect("removed");
    assert_eq!((node.files(), node.read("net.d/10-pods.conf")), (vec!["10-pods.conf".to_owned()], new));
}

#[test]
fn an_entry_of_other_settings_is_brought_up_to_date_and_the_original_stays_known() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", LIST);
    node.place(3).install(&Fallback::default()).expect("installed");
    node.install();
    assert!(node.has_plugin("net.d/10-pods.conflist"));
    node.place(10).remove().expect("removed");
    assert_eq!(node.read("net.d/10-pods.conflist"), LIST);
}

#[test]
fn what_is_no_configuration_is_reported_and_left_alone() {
    let node = Node::new();
    let error = node.place(10).install(&Fallback::default()).expect_err("there is none");
    assert!(error.to_string().starts_with("find a CNI configuration in "), "{error}");
    node.write("net.d/10-pods.conflist", "{");
    let error = node.place(10).install(&Fallback::default()).expect_err("it is none");
    assert!(error.to_string().contains("10-pods.conflist: understand it as JSON: "), "{error}");
    assert_eq!(node.read("net.d/10-pods.conflist"), "{");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_put_back_whoever_rewrites_the_configuration() {
    let node = Node::new();
    let (chaining, wanted) = watch::channel(None);
    let (asks, mut said) = unbounded_channel();
    let keeping = tokio::spawn(keep(node.place(10), wanted, asks));
    let mut next = async || match tokio::time::timeout(Duration::from_secs(20), said.recv()).await {
        Ok(Some(Ask::Installed { result, .. })) => result,
        other => panic!("nothing was said: {other:?}"),
    };
    chaining.send_replace(Some(Chaining::On(Fallback::default())));
    assert!(next().await.expect_err("there is no network yet").starts_with("find a CNI configuration"));
    node.write("net.d/10-pods.conflist", LIST);
    assert_eq!(next().await, Ok(()));
    for file in ["10-pods.conflist", "05-first.conflist"] {
        node.write(&format!("net.d/{file}"), LIST);
        let there = async {
            while !node.has_plugin(&format!("net.d/{file}")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), there).await.expect("it is put back");
    }
    chaining.send_replace(Some(Chaining::Off));
    let gone = async {
        while node.path("state/cni-fallback.json").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is taken out");
    for file in ["10-pods.conflist", "05-first.conflist"] {
        assert!(!node.read(&format!("net.d/{file}")).contains("cven"), "{file}");
    }
    drop(chaining);
    keeping.await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_it_out_whenever_it_is_in_is_reported_and_not_fought() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", LIST);
    let (chaining, wanted) = watch::channel(Some(Chaining::On(Fallback::default())));
    let (asks, mut said) = unbounded_channel();
    let keeping = tokio::spawn(keep(node.place(10), wanted, asks));
    let problem = async {
        loop {
            if node.has_plugin("net.d/10-pods.conflist") {
                // As a whole, as installers do.
                node.write("new", LIST);
                fs::rename(node.path("new"), node.path("net.d/10-pods.conflist")).expect("renamed");
            }
            match tokio::time::timeout(Duration::from_millis(5), said.recv()).await {
                Ok(Some(Ask::Installed { result: Err(problem), .. })) => return problem,
                Ok(None) => panic!("it has ended"),
                _ => {}
            }
        }
    };
    let problem = tokio::time::timeout(Duration::from_secs(20), problem).await.expect("it is reported");
    assert!(problem.contains("somebody else takes it out whenever it is in"), "{problem}");
    // It goes all the same when it is to.
    chaining.send_replace(Some(Chaining::Off));
    match tokio::time::timeout(Duration::from_secs(20), said.recv()).await {
        Ok(Some(Ask::Installed { wanted: Chaining::Off, result })) => assert_eq!(result, Ok(())),
        other => panic!("it is taken out: {other:?}"),
    }
    assert_eq!(node.read("net.d/10-pods.conflist"), LIST);
    drop(chaining);
    keeping.await.expect("it ends");
}
