//! Every way that a packet takes: the table of docs/matching.md, row by row, on real connections.

mod bed;
mod doors;
mod objects;
mod paths;
mod scene;
mod table;
mod tunnel;

use anyhow::{Result, bail, ensure};

use self::paths::Phase;
use self::scene::Scene;
use self::table::{Origin, Packets, Row, Target, Tested};
use super::Outcome;
use crate::lab::{Lab, SLOW};
use crate::wait;

const OPEN: Phase = Phase { consumers: false, providers: false };
/// Each end judges on its own, and then both do.
const ENFORCED: [Phase; 3] = [
    Phase { consumers: true, providers: false },
    Phase { consumers: false, providers: true },
    Phase { consumers: true, providers: true },
];

/// Each row of the table: what must pass passes, and what must not is blocked by the ends that the row says, between
/// two times at which everything is open.
pub async fn every_way_of_the_table(lab: Lab) -> Result<Outcome> {
    let rows = table::rows()?;
    let ran = run(&lab, &rows).await;
    scene::restore(&lab).await?;
    ran?.remove(&lab).await?;
    let not_run = not_run(&rows);
    Ok(if not_run.is_empty() { Outcome::Passed } else { Outcome::Partly(not_run) })
}

async fn run(lab: &Lab, rows: &[Row]) -> Result<Scene> {
    let mut scene = Scene::create(lab).await?;
    scene.forget()?;
    // What is in front of Pods takes kube-proxy and the routers a while.
    wait::until("everything to be open", SLOW, || std::future::ready(hold(rows, &scene, OPEN).map(Some))).await?;
    scene.found_again()?;
    origins(rows, &scene)?;
    for phase in ENFORCED {
        scene::enforce(lab, phase).await?;
        if phase.providers && !phase.consumers {
            scene.another_probed(lab).await?;
        }
        scene.forget()?;
        hold(rows, &scene, phase)?;
        scene.found_again()?;
    }
    scene.probes_succeed(lab).await?;
    scene::enforce(lab, OPEN).await?;
    hold(rows, &scene, OPEN)?;
    Ok(scene)
}

/// Tries everything that rows mean, once.
fn hold(rows: &[Row], scene: &Scene, phase: Phase) -> Result<()> {
    let mut checks = Vec::new();
    for row in rows.iter().filter(|row| matches!(row.tested, Tested::Yes | Tested::InPart(_))) {
        let of_row = paths::checks(row, scene)?;
        ensure!(!of_row.is_empty(), "nothing is tried for {}", row.key);
        checks.extend(of_row);
    }
    let wrong = paths::wrong(&checks, phase);
    if !wrong.is_empty() {
        bail!("{} of {} in {phase:?}: {}", wrong.len(), checks.len(), wrong.join("; "));
    }
    Ok(())
}

/// Servers see whom the table says, also where nothing goes by that yet.
fn origins(rows: &[Row], scene: &Scene) -> Result<()> {
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| tells_its_client(row)) {
        for (family, _) in row.families.iter().enumerate().filter(|(_, wanted)| **wanted) {
            wrong.extend(scene.wrong_origin(row, family)?);
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Whether the server of a row is one that says whom it sees.
fn tells_its_client(row: &Row) -> bool {
    let connections = [Packets::Both, Packets::Tcp, Packets::Forgotten, Packets::Transfer, Packets::Sctp];
    let silent = [Target::Probe, Target::ProbeByNodePort, Target::ProbeByNodePortElsewhere];
    connections.contains(&row.packets) && row.origin != Origin::Nobody && !silent.contains(&row.to)
}

/// What of the table is not tested, and why.
fn not_run(rows: &[Row]) -> Vec<String> {
    let of = |row: &Row| match &row.tested {
        Tested::Yes => None,
        Tested::InPart(why) => Some(format!("{} in part: {why}", row.key)),
        Tested::NotYet(what) => Some(format!("{}: not yet; {what}", row.key)),
        Tested::NotRun(why) => Some(format!("{}: {why}", row.key)),
    };
    rows.iter().filter_map(of).collect()
}
