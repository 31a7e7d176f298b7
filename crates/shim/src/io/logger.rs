//! Programs that take the output of a process: `binary:///path?word=value`.
//!
//! What containerd's own shim does for `binary://`: the program reads the process's output from descriptor 3
//! and its errors from 4, knows whose they are by `CONTAINER_ID` and `CONTAINER_NAMESPACE`, which is all of its
//! environment, has the words and values of the query as its arguments, and closes descriptor 5 when it is
//! ready. It ends by itself when both streams have; who deletes the process does not wait for it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_kernel::spawn_with_files;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

use super::log::Stream;
use crate::status::Error;

/// How long a program may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProgram {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// Where the process writes to; the program has the other ends.
#[derive(Debug)]
pub struct Logger {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Logger {
    /// One more descriptor of the stream, which the program sees end when all are closed.
    pub fn end(&self, stream: Stream) -> Result<OwnedFd, Error> {
        let end = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        fcntl_dupfd_cloexec(end, 3).map_err(|source| Error::system("duplicate pipe", source))
    }
}

impl LogProgram {
    /// What follows `binary://`. A word that is there twice counts once, as for containerd.
    pub fn parse(text: &str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let mut arguments: Vec<String> = Vec::new();
        for (word, value) in form_urlencoded::parse(query.as_bytes()) {
            if !arguments.iter().step_by(2).any(|known| *known == word) {
                arguments.extend([word.into_owned(), value.into_owned()]);
            }
        }
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        Self {
            path: PathBuf::from(path.as_ref()),
            arguments,
        }
    }

    /// Starts it for the process `id`, and waits until it is ready.
    pub fn start(&self, namespace: &str, id: &str) -> Result<Logger, Error> {
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|source| Error::system("create pipe", source));
        let (out, stdout) = pipe()?;
        let (err, stderr) = pipe()?;
        let (ready, tells) = pipe()?;
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = spawn_with_files(command, [out, err, tells])
            .map_err(|source| self.failed(source.to_string()))?;
        let problem = match hear(&ready) {
            Ok(true) => ended(&mut child),
            Ok(false) => Some(format!("was not ready within {} s", PATIENCE.as_secs())),
            Err(errno) => Some(errno.to_string()),
        };
        let Some(problem) = problem else {
            return Ok(Logger { stdout, stderr });
        };
        let _ = child.kill();
        let _ = child.wait();
        Err(self.failed(problem))
    }

    fn failed(&self, problem: String) -> Error {
        Error::Logger {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Whether it said something, or closed its end, in time.
fn hear(ready: &OwnedFd) -> Result<bool, Errno> {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(ready, PollFlags::IN)];
    loop {
        match poll(&mut polled, Some(&patience)) {
            Err(Errno::INTR) => {}
            done => return done.map(|count| count > 0),
        }
    }
}

/// How it failed, if it has ended already.
fn ended(child: &mut Child) -> Option<String> {
    let status = child.try_wait().ok().flatten()?;
    (!status.success()).then(|| format!("ended with {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Instant;

    fn program(dir: &Path, script: &str) -> LogProgram {
        let path = dir.join("logger");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        LogProgram {
            path,
            arguments: vec!["out".into(), dir.join("out").display().to_string()],
        }
    }

    #[test]
    fn words_and_values_are_arguments() {
        for (text, path, arguments) in [
            ("/bin/l", "/bin/l", &[][..]),
            ("/bin/l?", "/bin/l", &[]),
            ("/bin/l?a=b", "/bin/l", &["a", "b"]),
            ("/bin/l?a&c=d", "/bin/l", &["a", "", "c", "d"]),
            ("/bin/l?a=b&a=c", "/bin/l", &["a", "b"]),
            ("/b%20n/l?a%3Db=c+d%2Fe", "/b n/l", &["a=b", "c d/e"]),
        ] {
            let parsed = LogProgram::parse(text);
            assert_eq!(parsed.path, Path::new(path), "{text}");
            assert_eq!(parsed.arguments, arguments, "{text}");
        }
    }

    #[test]
    fn a_program_has_both_streams_and_knows_whose_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let script =
            "exec 5>&-\n{ env | grep -v ^PWD= | sort; cat <&3; cat <&4; } > $2.new; mv $2.new $2";
        let logger = program(dir.path(), script).start("space", "one").unwrap();
        for (end, text) in [(logger.stdout, "out\n"), (logger.stderr, "err\n")] {
            fs::File::from(end).write_all(text.as_bytes()).unwrap();
        }
        let begin = Instant::now();
        while !dir.path().join("out").exists() {
            assert!(begin.elapsed() < PATIENCE, "nothing was logged");
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = fs::read_to_string(dir.path().join("out")).unwrap();
        let expected = "CONTAINER_ID=one\nCONTAINER_NAMESPACE=space\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("out\nerr\n"), "{text}");
    }

    #[test]
    fn one_that_fails_or_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let failing = program(dir.path(), "exit 3");
        // It may be ready and not have ended yet; what it does then is seen by who writes.
        let outcome = failing.start("space", "one").map(drop);
        if let Err(error) = outcome {
            assert!(error.to_string().contains("exit status: 3"), "{error}");
        }
        let missing = LogProgram::parse("/no/such/logger");
        let error = missing.start("space", "one").unwrap_err().to_string();
        assert!(error.contains("/no/such/logger"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }
}
