//! Containers stopped, started, paused and removed, in the order of their dependencies.

use std::collections::BTreeMap;

use berth_compose::Project;
use berth_compose::order::{Graph, order};
use futures::future::{join_all, try_join_all};

use super::board::Board;
use super::converge::{hooks, seconds};
use super::found::Found;
use crate::daemon::{Call, Client};
use crate::error::Result;

/// Services with their containers, each after what it waits for. What the containers say of
/// themselves is enough: no file is needed.
pub fn ordered(containers: &[Found]) -> Vec<Vec<Found>> {
    let mut by_service: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for one in containers {
        by_service
            .entry(one.service.clone())
            .or_default()
            .push(one.clone());
    }
    let graph: Graph = by_service
        .iter()
        .map(|(name, all)| {
            let on = all.iter().flat_map(Found::depends_on).map(str::to_owned);
            (name.clone(), on.collect())
        })
        .collect();
    // Labels that contradict each other are no reason to leave anything behind.
    let names = order(&graph).unwrap_or_else(|_| by_service.keys().cloned().collect());
    names
        .iter()
        .filter_map(|name| by_service.remove(name))
        .collect()
}

/// All at once.
pub async fn stop(
    client: &Client,
    board: &Board,
    containers: &[Found],
    timeout: Option<i64>,
) -> Result<()> {
    let running = containers
        .iter()
        .filter(|one| one.is_running() || one.state == "paused");
    let stops = running.map(|one| {
        let call = Call::post(format!("/containers/{}/stop", one.id));
        let stop = client.tell(call.given("t", seconds(timeout)));
        let what = format!("Container {}", one.name);
        async move { board.during(&what, ("Stopping", "Stopped"), stop).await }
    });
    join_all(stops).await.into_iter().collect()
}

/// Those first that others wait for last.
pub async fn stop_in_order(
    client: &Client,
    board: &Board,
    project: Option<&Project>,
    containers: &[Found],
    timeout: Option<i64>,
) -> Result<()> {
    for all in ordered(containers).iter().rev() {
        for one in all.iter().filter(|one| one.is_running()) {
            let service = project.and_then(|project| project.services.get(&one.service));
            if let Some(service) = service {
                hooks(client, service, "pre_stop", &one.id).await?;
            }
        }
        stop(client, board, all, timeout).await?;
    }
    Ok(())
}

pub async fn remove(client: &Client, board: &Board, one: &Found, volumes: bool) -> Result<()> {
    let call = Call::delete(format!("/containers/{}", one.id));
    let remove = client.tell(call.flag("force", true).flag("v", volumes));
    let what = format!("Container {}", one.name);
    board.during(&what, ("Removing", "Removed"), remove).await
}

/// The same of each, at the same time within a service.
pub async fn change(
    client: &Client,
    board: &Board,
    containers: &[Found],
    action: &str,
    words: (&str, &str),
    query: &[(&str, String)],
) -> Result<()> {
    for all in ordered(containers) {
        let changes = all.iter().map(|one| {
            let mut call = Call::post(format!("/containers/{}/{action}", one.id));
            for (key, value) in query {
                call = call.given(key, value);
            }
            let what = format!("Container {}", one.name);
            async move { board.during(&what, words, client.tell(call)).await }
        });
        try_join_all(changes).await?;
    }
    Ok(())
}
