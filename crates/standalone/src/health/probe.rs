//! One check: a command in the container, its output up to a bound, and its end within a time.

use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::record::now;
use berth_lifecycle::{CommandControl, ExecRequest, Pipes, StdStreams, chain};
use berth_names::to_go_duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Checked, Plan};
use crate::event::Event;
use crate::exec::new_id;
use crate::house::House;
use crate::record::Record;

/// Bytes of output that are kept, as Docker keeps them.
const KEPT: usize = 4096;
const CUT: &str = "...";
/// The exit code of what could not be made or did not end.
const FAILED: i32 = -1;
const KILLED: i32 = 137;
/// After its end, output is over when none came for this long: what a check left in the background
/// may hold its output open for ever.
const QUIET: Duration = Duration::from_millis(100);

/// Makes a check. Dropped, it ends the command with its process group.
pub(crate) async fn make(
    house: Arc<House>,
    record: Arc<Record>,
    run: Arc<berth_lifecycle::Container>,
    plan: Plan,
) -> Checked {
    let teller = Teller {
        house: &house,
        record: &record,
        exec: new_id(),
        line: plan.command.join(" "),
    };
    let start = now();
    teller.tell("exec_create");
    let (exit_code, output) = outcome(&run, &plan, &teller).await;
    Checked {
        start,
        end: now(),
        exit_code,
        output,
    }
}

/// Tells of a check as of any other command.
struct Teller<'a> {
    house: &'a House,
    record: &'a Record,
    exec: String,
    line: String,
}

impl Teller<'_> {
    fn tell(&self, action: &str) {
        let event = Event::of(self.record, format!("{action}: {}", self.line));
        self.house.tell(event.with("execID", &self.exec));
    }

    fn died(&self, code: i32) {
        let event = Event::of(self.record, "exec_die").with("execID", &self.exec);
        self.house.tell(event.with("exitCode", code));
    }
}

async fn outcome(
    run: &berth_lifecycle::Container,
    plan: &Plan,
    teller: &Teller<'_>,
) -> (i32, String) {
    let deadline = Instant::now() + plan.timeout;
    let request = ExecRequest {
        command: plan.command.clone(),
        ..ExecRequest::default()
    };
    let streams = StdStreams {
        stdout: true,
        stderr: true,
        ..StdStreams::default()
    };
    teller.tell("exec_start");
    let mut output = Output::default();
    let begun = match timeout_at(deadline, run.exec(request, streams)).await {
        Ok(begun) => begun,
        Err(_) => return (FAILED, output.too_long(plan.timeout)),
    };
    let (pipes, control) = match begun {
        Ok(begun) => begun,
        Err(error) => return (FAILED, chain(error.root())),
    };
    match timeout_at(deadline, follow(pipes, &control, &mut output)).await {
        Ok(code) => {
            teller.died(code);
            (code, output.text())
        }
        Err(_) => {
            control.kill().await;
            teller.died(KILLED);
            (FAILED, output.too_long(plan.timeout))
        }
    }
}

/// Reads what the command writes until it has ended, and says how.
async fn follow(pipes: Pipes, control: &CommandControl, output: &mut Output) -> i32 {
    let Pipes {
        mut stdout,
        mut stderr,
        ..
    } = pipes;
    let code = {
        let mut ended = std::pin::pin!(control.ended());
        loop {
            tokio::select! {
                biased;
                chunk = chunk(&mut stdout, &mut stderr) => output.push(&chunk),
                code = &mut ended => break code,
            }
        }
    };
    while let Ok(chunk) = timeout(QUIET, chunk(&mut stdout, &mut stderr)).await {
        output.push(&chunk);
        if stdout.is_none() && stderr.is_none() {
            break;
        }
    }
    code.map_or(KILLED, |code| i32::try_from(code).unwrap_or(255))
}

/// The next bytes of either stream; never again once both have ended. Cancel-safe.
async fn chunk(
    stdout: &mut Option<pipe::Receiver>,
    stderr: &mut Option<pipe::Receiver>,
) -> Vec<u8> {
    tokio::select! {
        bytes = read(stdout) => bytes,
        bytes = read(stderr) => bytes,
    }
}

async fn read(pipe: &mut Option<pipe::Receiver>) -> Vec<u8> {
    let Some(open) = pipe else {
        return std::future::pending().await;
    };
    let mut bytes = Vec::with_capacity(KEPT);
    let read = open.read_buf(&mut bytes).await;
    if read.is_err() || bytes.is_empty() {
        *pipe = None;
    }
    bytes
}

/// The beginning of both streams, as they came.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn push(&mut self, chunk: &[u8]) {
        let room = KEPT - self.bytes.len();
        self.is_cut |= chunk.len() > room;
        self.bytes.extend(chunk.iter().take(room));
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.is_cut { text + CUT } else { text }
    }

    fn too_long(&self, limit: Duration) -> String {
        let limit = to_go_duration(limit);
        match self.text() {
            text if text.is_empty() => format!("Health check exceeded timeout ({limit})"),
            text => format!("Health check exceeded timeout ({limit}): {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn output_is_cut_where_docker_cuts_it() {
        let mut output = Output::default();
        output.push(&[b'a'; 4000]);
        output.push(&[b'b'; 96]);
        assert_eq!(output.text().len(), KEPT);
        output.push(b"c");
        assert_eq!(output.text().len(), KEPT + CUT.len());
        assert!(output.text().ends_with("bb..."));
    }

    #[test]
    fn a_check_that_took_too_long_says_how_long_it_had() {
        let mut output = Output::default();
        let limit = Duration::from_millis(1500);
        let text = output.too_long(limit);
        assert_eq!(text, "Health check exceeded timeout (1.5s)");
        output.push(b"so far");
        assert!(output.too_long(limit).ends_with("(1.5s): so far"));
    }

    #[tokio::test]
    async fn streams_are_read_to_the_end_of_both() {
        let (mut one, out) = pipe::pipe().unwrap();
        let (mut two, err) = pipe::pipe().unwrap();
        one.write_all(b"a").await.unwrap();
        two.write_all(b"b").await.unwrap();
        drop((one, two));
        let (mut out, mut err) = (Some(out), Some(err));
        let mut seen = Vec::new();
        while out.is_some() || err.is_some() {
            seen.extend(chunk(&mut out, &mut err).await);
        }
        seen.sort_unstable();
        assert_eq!(seen, b"ab");
    }
}
