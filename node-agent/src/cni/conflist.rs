//! The plugin's entry in a node's CNI configuration, as text. What others have written stays as it is, but for blanks and
//! the order of keys; the plugin comes last, after those that make the network.

use ringfence_cni::{Entry, TYPE};
use serde_json::{Value, json};

/// Why a file cannot be added to.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// It is no JSON.
    #[error("understand it as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Our plugin would refuse it, and with it every Pod.
    #[error("use its cniVersion {0}: the plugin knows 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    Version(Value),
    /// It is no configuration of a network.
    #[error("find \"plugins\" or \"type\" in it")]
    NoNetwork,
}

/// A list of plugins, from a file that holds a list or a single plugin.
fn parse(text: &str) -> Result<Value, ConfError> {
    let mut list: Value = serde_json::from_str(text)?;
    if list.get("plugins").is_some_and(Value::is_array) {
        return Ok(list);
    }
    if !list.get("type").is_some_and(Value::is_string) {
        return Err(ConfError::NoNetwork);
    }
    let mut outer = json!({});
    for key in ["cniVersion", "name"] {
        // Of one plugin in a list, the list says both.
        if let Some(value) = list.as_object_mut().and_then(|single| single.remove(key)) {
            outer[key] = value;
        }
    }
    outer["plugins"] = json!([list]);
    Ok(outer)
}

/// The versions of the specification that our plugin answers to; one that is not said counts as 0.1.0.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Which version is spoken the runtime chooses among all that the list names.
fn check_version(list: &Value) -> Result<(), ConfError> {
    let several = list.get("cniVersions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let one = list.get("cniVersion").unwrap_or(&Value::Null);
    let odd = several.iter().chain([one]).find(|said| !VERSIONS.iter().any(|known| *said == known));
    odd.map_or(Ok(()), |said| Err(ConfError::Version(said.clone())))
}

fn plugins(list: &mut Value) -> Option<&mut Vec<Value>> {
    list.get_mut("plugins")?.as_array_mut()
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(TYPE)
}

fn print(list: &Value) -> Result<String, ConfError> {
    Ok(serde_json::to_string_pretty(list)? + "\n")
}

/// The list with our plugin at its end, as the text of a `.conflist`.
///
/// # Errors
/// When the text is no configuration of a network.
pub fn with_plugin(text: &str, entry: &Entry) -> Result<String, ConfError> {
    let mut list = parse(text)?;
    check_version(&list)?;
    let others = plugins(&mut list).ok_or(ConfError::NoNetwork)?;
    others.retain(|plugin| !is_ours(plugin));
    // Alone it would make no network at all.
    if others.is_empty() {
        return Err(ConfError::NoNetwork);
    }
    others.push(serde_json::to_value(entry)?);
    print(&list)
}

/// The list without our plugin; `None` if it is not in it.
///
/// # Errors
/// When the text is no configuration of a network.
pub fn without_plugin(text: &str) -> Result<Option<String>, ConfError> {
    let mut list = parse(text)?;
    let all = plugins(&mut list).ok_or(ConfError::NoNetwork)?;
    let before = all.len();
    all.retain(|plugin| !is_ours(plugin));
    if all.len() == before { Ok(None) } else { print(&list).map(Some) }
}

/// Whether the list is as [`with_plugin`] would make it, however it is written.
pub fn has_plugin(text: &str, entry: &Entry) -> bool {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
    with_plugin(text, entry).is_ok_and(|wanted| parsed(&wanted) == parsed(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn entry() -> Entry {
        Entry::new("/run/ringfence/cni.sock".into(), "/var/lib/ringfence/f.json".into(), Duration::from_secs(10))
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).expect("JSON");
        let plugins = list["plugins"].as_array().expect("a list");
        plugins.iter().map(|plugin| plugin["type"].as_str().expect("a type").to_owned()).collect()
    }

    const LIST: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "bridge", "mtu": 1450, "ipam": {"type": "host-local"}}, {"type": "portmap"}]}"#;

    #[test]
    fn the_plugin_comes_last_and_once() {
        let once = with_plugin(LIST, &entry()).expect("a list");
        assert_eq!(types(&once), ["bridge", "portmap", "cven-cni"]);
        let list: Value = serde_json::from_str(&once).expect("JSON");
        assert_eq!(list["plugins"][0]["mtu"], 1450);
        assert_eq!(list["plugins"][2]["waitMilliseconds"], 10_000);
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("pods"), &json!("0.4.0")));
        assert_eq!(with_plugin(&once, &entry()).expect("a list"), once);
        assert!(has_plugin(&once, &entry()) && !has_plugin(LIST, &entry()));
        // Somebody put another plugin behind it, or it is of an agent with other settings.
        let behind = once.replace(r#""type": "cven-cni""#, r#""type": "cven-cni", "odd": true"#);
        assert!(!has_plugin(&behind, &entry()));
        assert_eq!(with_plugin(&behind, &entry()).expect("a list"), once);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = r#"{"cniVersion": "0.3.1", "name": "multus", "type": "multus", "kubeconfig": "/etc/k"}"#;
        let list = with_plugin(single, &entry()).expect("a plugin");
        assert_eq!(types(&list), ["multus", "cven-cni"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!(list["plugins"][0], json!({"type": "multus", "kubeconfig": "/etc/k"}));
        assert_eq!(list["name"], "multus");
    }

    #[test]
    fn without_it_the_others_are_as_before() {
        let with = with_plugin(LIST, &entry()).expect("a list");
        let without = without_plugin(&with).expect("a list").expect("it was there");
        let same = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(same(&without), same(LIST));
        assert_eq!(without_plugin(LIST).expect("a list"), None);
    }

    #[test]
    fn a_version_that_the_plugin_does_not_speak_is_left_alone() {
        let with = |said: &str| with_plugin(&LIST.replace(r#""cniVersion": "0.4.0","#, said), &entry());
        for said in [
            "",
            r#""cniVersion": "","#,
            r#""cniVersion": "0.2.0","#,
            r#""cniVersion": "1.2.0","#,
            r#""cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.2.0"],"#,
        ] {
            assert!(matches!(with(said), Err(ConfError::Version(_))), "{said}");
        }
        for said in [r#""cniVersion": "0.3.1","#, r#""cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"],"#] {
            assert!(with(said).is_ok(), "{said}");
        }
    }

    #[test]
    fn what_is_no_network_is_left_alone() {
        for odd in ["", "{", "[]", "{}", r#"{"plugins": []}"#, r#"{"plugins": {}}"#, r#"{"type": 1}"#] {
            assert!(with_plugin(odd, &entry()).is_err(), "{odd}");
        }
        let alone = r#"{"plugins": [{"type": "cven-cni"}]}"#;
        assert!(with_plugin(alone, &entry()).is_err(), "alone it would make no network at all");
    }
}
