//! No Pod starts before it is protected: the chained CNI plugin `cven-cni` (crate `ringfence-cni`) asks this agent before
//! a sandbox is handed to its Pod.
//!
//! * [`listener`]: where the plugin asks; questions go to the engine as [`Ask`].
//! * [`admission`]: which Pods wait for an answer, and when there is one.
//! * [`conflist`]: the plugin's entry in a node's CNI configuration, as text.
//! * [`install`]: puts it there, and takes it away.
//! * [`keeping`]: keeps it there, whoever else writes the configuration.

pub mod admission;
pub mod conflist;
pub mod install;
pub mod keeping;
pub mod listener;

use ringfence_cni::{Answer, Attachment, Fallback};
use tokio::sync::oneshot;

use crate::cri::Sandbox;
use crate::netns::Location;

/// What the plugin, or what keeps it in place, has to say to the engine.
#[derive(Debug)]
pub enum Ask {
    /// A Pod is about to start.
    Add {
        /// Its sandbox, which the runtime does not list yet.
        sandbox: Box<Sandbox>,
        /// Whether an agent may have written into its network namespace before.
        again: bool,
        /// To be told whether it may.
        answer: oneshot::Sender<Answer>,
    },
    /// A sandbox is about to go.
    Del {
        /// Its id.
        sandbox: String,
    },
    /// The plugin is as it is to be, or why not, to follow "failed to".
    Installed {
        /// What it is to be.
        wanted: Chaining,
        /// What came of it.
        result: Result<(), String>,
    },
}

/// What the node's CNI configuration is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chaining {
    /// The plugin is in it; without an agent, this holds.
    On(Fallback),
    /// It is as it was before us.
    Off,
}

/// A sandbox as the plugin describes it.
fn sandbox(attachment: Attachment) -> Sandbox {
    Sandbox {
        id: attachment.sandbox,
        uid: attachment.uid,
        namespace: attachment.namespace,
        name: attachment.name,
        labels: Default::default(),
        annotations: Default::default(),
        created_at: 0,
        host_network: false,
        netns: Location::at(&attachment.netns),
        ips: attachment.ips,
        dns_servers: Vec::new(),
    }
}
