//! The ways to and from the engine.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cni::{Ask, Chaining};
use crate::feed::{Change, Wanted};
use crate::flows::usage::Place;
use crate::ledger::Kept;
use crate::report::Report;
use crate::sandboxes::Seen;

/// What the engine works with.
#[derive(Debug)]
pub struct Inputs {
    /// News of objects and Pods.
    pub changes: UnboundedReceiver<Change>,
    /// The sandboxes that run, whenever that or what is known of it changes.
    pub sandboxes: UnboundedReceiver<Seen>,
    /// What the CNI plugin has to say.
    pub asks: UnboundedReceiver<Ask>,
    /// Whether this node is off.
    pub off: watch::Receiver<bool>,
    /// To be told that a sandbox is missed.
    pub missed: Arc<Notify>,
    /// Ends the engine; what is in force stays.
    pub stop: CancellationToken,
}

/// What the engine tells.
#[derive(Debug)]
pub struct Outputs {
    /// What is in force.
    pub report: watch::Sender<Report>,
    /// What the ledger is to hold.
    pub ledger: watch::Sender<Option<Kept>>,
    /// Which groups are to be read.
    pub wanted: watch::Sender<Wanted>,
    /// Where Pods are.
    pub places: watch::Sender<Vec<Place>>,
    /// What the node's CNI configuration is to say, nothing as long as that is not known; for whoever keeps it, if
    /// anybody.
    pub chaining: Option<watch::Sender<Option<Chaining>>>,
}

/// The other ends of [`Outputs`].
#[derive(Debug)]
pub struct Told {
    /// See [`Outputs::report`].
    pub reports: watch::Receiver<Report>,
    /// See [`Outputs::ledger`].
    pub ledger: watch::Receiver<Option<Kept>>,
    /// See [`Outputs::wanted`].
    pub wanted: watch::Receiver<Wanted>,
    /// See [`Outputs::places`].
    pub places: watch::Receiver<Vec<Place>>,
}

impl Outputs {
    /// Those of an engine whose node's CNI configuration nobody keeps, and their other ends.
    pub fn new() -> (Self, Told) {
        let (report, reports) = watch::channel(Report::default());
        let (ledger, ledger_in) = watch::channel(None);
        let (wanted, wanted_in) = watch::channel(Wanted::default());
        let (places, places_in) = watch::channel(Vec::new());
        let told = Told { reports, ledger: ledger_in, wanted: wanted_in, places: places_in };
        (Self { report, ledger, wanted, places, chaining: None }, told)
    }
}
