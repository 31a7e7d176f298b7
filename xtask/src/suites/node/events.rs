//! Events as a kubelet takes them: each with the whole pod, in the order of their times.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1 as cri;
use cri::ContainerEventType as Kind;
use tonic::{Code, Streaming};

use super::session::Session;
use crate::command::retry;

const SOON: Duration = Duration::from_secs(20);

type Events = Streaming<cri::ContainerEventResponse>;

/// Two listen to a pod with two containers, from its making to its removal.
pub fn in_order(session: &mut Session) -> Result<()> {
    let mut listeners = [session.cri.events()?, session.cri.events()?];
    let config = session.pod("told");
    let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
    let mut expected = vec![(pod.clone(), Kind::ContainerCreatedEvent, 0)];
    expected.push((pod.clone(), Kind::ContainerStartedEvent, 0));

    let ends = session.container("ends", &["sh", "-c", "exit 3"]);
    let ends = session.cri.create(&pod, &config, &ends)?;
    session.cri.start(&ends)?;
    // A signal in place of the wait could end it before it does so by itself.
    retry(SOON, || {
        let state = session.cri.status(&ends)?.state();
        ensure!(state == cri::ContainerState::ContainerExited, "{state:?}");
        Ok(())
    })?;
    expected.push((ends.clone(), Kind::ContainerCreatedEvent, 1));
    expected.push((ends.clone(), Kind::ContainerStartedEvent, 1));
    expected.push((ends.clone(), Kind::ContainerStoppedEvent, 1));

    let fails = session.container("fails", &["/no/such/program"]);
    let fails = session.cri.create(&pod, &config, &fails)?;
    ensure!(session.cri.start(&fails).is_err(), "a missing program runs");
    expected.push((fails.clone(), Kind::ContainerCreatedEvent, 2));
    expected.push((fails.clone(), Kind::ContainerStoppedEvent, 2));
    session.cri.remove(&ends)?;
    expected.push((ends.clone(), Kind::ContainerDeletedEvent, 1));

    session.remove_pod(&pod)?;
    expected.push((pod.clone(), Kind::ContainerStoppedEvent, 1));
    expected.push((fails.clone(), Kind::ContainerDeletedEvent, 0));
    expected.push((pod.clone(), Kind::ContainerDeletedEvent, 0));

    for listener in &mut listeners {
        let mut last = 0;
        for (id, kind, containers) in &expected {
            let event = next(session, listener)?;
            let told = (&event.container_id, event.container_event_type());
            ensure!(told == (id, *kind), "{told:?} instead of {:?}", (id, kind));
            ensure!(event.created_at > last, "times do not increase");
            last = event.created_at;
            let status = event.pod_sandbox_status.context("no pod in an event")?;
            let metadata = status.metadata.context("a pod without metadata")?;
            ensure!(metadata.uid == "uid-told", "pod {metadata:?}");
            ensure!(
                event.containers_statuses.len() == *containers,
                "{kind:?} of {id} shows {} containers instead of {containers}",
                event.containers_statuses.len()
            );
            let own = event.containers_statuses.iter().find(|one| one.id == *id);
            if let Some(own) = own {
                let state = match kind {
                    Kind::ContainerCreatedEvent => cri::ContainerState::ContainerCreated,
                    Kind::ContainerStartedEvent => cri::ContainerState::ContainerRunning,
                    _ => cri::ContainerState::ContainerExited,
                };
                // The program is short: it may have ended before the event of its start was told.
                let later = own.state() == cri::ContainerState::ContainerExited;
                ensure!(own.state() == state || later, "{kind:?}: {:?}", own.state());
                if *kind == Kind::ContainerStoppedEvent && *id == ends {
                    ensure!(own.exit_code == 3, "exit code {}", own.exit_code);
                }
            }
        }
    }
    Ok(())
}

/// A client that never reads is ended with a status that says what to do, and the daemon keeps no
/// more of it than its queue; another client misses nothing.
pub fn let_go(session: &mut Session) -> Result<()> {
    /// More than a queue and what the connection holds on the way.
    const ROUNDS: usize = 900;
    let mut idle = session.cri.events()?;
    let mut config = session.pod("noisy");
    let bulk = ("bulk".to_owned(), "x".repeat(8 << 10));
    config.annotations.extend([bulk]);
    let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
    for round in 0..ROUNDS {
        let mut listener = (round == ROUNDS - 1)
            .then(|| session.cri.events())
            .transpose()?;
        let container = session.container("noise", &["true"]);
        let container = session.cri.create(&pod, &config, &container)?;
        session.cri.remove(&container)?;
        if let Some(listener) = &mut listener {
            let event = next(session, listener)?;
            ensure!(event.container_id == container, "{}", event.container_id);
        }
    }
    session.remove_pod(&pod)?;
    for _ in 0..2 * ROUNDS {
        match receive(session, &mut idle) {
            Ok(Some(_)) => {}
            Ok(None) => bail!("the stream ended without a status"),
            Err(status) => {
                ensure!(status.code() == Code::ResourceExhausted, "{status}");
                ensure!(status.message().contains("list the pods"), "{status}");
                return Ok(());
            }
        }
    }
    bail!("a client that does not read is kept")
}

fn next(session: &Session, events: &mut Events) -> Result<cri::ContainerEventResponse> {
    receive(session, events)?.context("the stream ended")
}

fn receive(
    session: &Session,
    events: &mut Events,
) -> Result<Option<cri::ContainerEventResponse>, tonic::Status> {
    session.cri.beside(async {
        tokio::time::timeout(SOON, events.message())
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no event came")))
    })
}
