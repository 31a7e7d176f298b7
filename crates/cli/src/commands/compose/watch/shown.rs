//! What containers write, whatever becomes of them: others take their places, and the daemon may be
//! away for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_compose::Project;
use futures::stream::{FuturesUnordered, StreamExt};

use crate::commands::compose::found::{self, Found};
use crate::commands::compose::logs::{Follower, Lines};
use crate::daemon::Client;
use crate::error::{Error, Result};

/// How long it may take until another container is noticed.
const ROUND: Duration = Duration::from_millis(300);

/// Ends only if nobody reads any more. `seen` are containers with the moment from which on they
/// are shown; others are from their first line.
pub async fn show(
    client: &Client,
    project: &Project,
    lines: &Lines,
    mut seen: BTreeMap<String, String>,
) -> Result<()> {
    let mut open = BTreeSet::new();
    let mut showing = FuturesUnordered::new();
    loop {
        let all = found::of_project(client, &project.name).await;
        let mut all = all.unwrap_or_default();
        all.retain(|one| is_shown(project, one));
        for one in all.iter().filter(|one| one.is_running()) {
            if open.insert(one.id.clone()) {
                let follower = Follower::new(client, lines, &all);
                let since = seen.get(&one.id).cloned().unwrap_or_default();
                let one = one.clone();
                showing.push(async move { (follower.since(&one, &since).await, one.id) });
            }
        }
        tokio::select! {
            Some((shown, id)) = showing.next() => {
                if let Err(error @ Error::Output(_)) = shown {
                    return Err(error);
                }
                open.remove(&id);
                seen.insert(id, now());
                tokio::time::sleep(ROUND).await;
            }
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

fn is_shown(project: &Project, one: &Found) -> bool {
    let service = project.services.get(&one.service);
    !one.one_off && service.is_some_and(|service| service.value["attach"] != false)
}

/// As the API takes it.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}
