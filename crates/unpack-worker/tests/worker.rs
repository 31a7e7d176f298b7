//! What a worker does, what it can reach, and what becomes of it.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::process::{Command, Stdio};

use berth_testkit::archive::{Entry, Tar};
use berth_testkit::hostile;
use berth_unpack::Error;
use berth_unpack_worker::Unpacker;
use flate2::Compression;
use flate2::read::GzEncoder;
use place::{PROBE, Place, inner, outer, picture, unpack};

/// Every kind of entry, what hides other layers, and attributes.
fn rich() -> Vec<u8> {
    Tar::new()
        .entry(&Entry::dir("d").mode(0o2750).owner(5, 6))
        .entry(&Entry::file("d/setuid", "x").mode(0o4755).owner(7, 8))
        .pax(&[("SCHILY.xattr.user.note", b"kept")])
        .entry(&Entry::file("d/large", vec![7; 3 << 20]))
        .entry(&Entry::symlink("d/link", "/no/where").owner(9, 10))
        .entry(&Entry::hard_link("d/twin", "d/large"))
        .entry(&Entry::device("d/null", 1, 3).mode(0o666))
        .entry(&Entry::file("d/.wh.gone", ""))
        .entry(&Entry::file("made/of/.wh..wh..opq", ""))
        .entry(&Entry::file("d/.wh..wh..opq", ""))
        .entry(&Entry::file(".wh..wh..opq", ""))
        .end()
}

fn compressed(archive: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GzEncoder::new(archive, Compression::fast());
    encoder.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_worker_makes_the_layer_that_the_daemon_would_make() {
    let Some(place) = Place::new() else { return };
    let archive = compressed(&rich());
    let (here, apart) = (place.target("here"), place.target("apart"));
    let expected = unpack(&Unpacker::Here, &archive[..], &here).unwrap();
    let applied = unpack(&place.workers(), &archive[..], &apart).unwrap();
    assert_eq!(applied, expected);
    assert_eq!(picture(&apart), picture(&here));
    assert!(picture(&apart).contains("trusted.overlay.opaque"));
}

#[test]
fn a_worker_refuses_what_the_daemon_would_refuse_in_the_same_words() {
    let Some(place) = Place::new() else { return };
    for (number, (case, archive, _)) in hostile::doubtful().into_iter().enumerate() {
        let expected = unpack(
            &Unpacker::Here,
            &archive[..],
            &place.target(&format!("h{number}")),
        );
        let told = unpack(
            &place.workers(),
            &archive[..],
            &place.target(&format!("w{number}")),
        );
        let (expected, told) = (expected.unwrap_err(), told.unwrap_err());
        assert!(
            told.to_string().starts_with(&expected.to_string()),
            "{case}: {told} instead of {expected}"
        );
        assert_eq!(told.fault(), expected.fault(), "{case}");
    }
}

/// Gives the first half of an archive, has something happen, then gives the rest.
struct Halves<'a, F> {
    archive: &'a [u8],
    given: usize,
    happens: Option<F>,
}

impl<F: FnOnce()> Read for Halves<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let half = self.archive.len() / 2;
        if self.given == half
            && let Some(happens) = self.happens.take()
        {
            happens();
        }
        let end = if self.given < half {
            half
        } else {
            self.archive.len()
        };
        let count = buffer.len().min(end - self.given);
        buffer[..count].copy_from_slice(&self.archive[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

fn halves<F: FnOnce()>(archive: &[u8], happens: F) -> Halves<'_, F> {
    Halves {
        archive,
        given: 0,
        happens: Some(happens),
    }
}

#[test]
fn a_worker_reaches_nothing_but_its_layer() {
    let Some(place) = Place::new() else { return };
    let archive = rich();
    let target = place.target("layer");
    let reader = halves(&archive, || {
        let worker = inner();
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let says = |line: &str| assert!(status.contains(line), "{line}: {status}");
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD and SETFCAP.
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            says(&format!("{set}:\t000000008800001b"));
        }
        says("CapInh:\t0000000000000000");
        says("CapAmb:\t0000000000000000");
        says("NoNewPrivs:\t1");
        says("Seccomp:\t2");
        for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(of(&worker.to_string()), of("self"), "{kind}");
        }
        let links = fs::read_to_string(format!("/proc/{worker}/net/dev")).unwrap();
        assert_eq!(links.lines().count(), 3, "more than loopback: {links}");
        let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" / / ro,"), "{mounts}");
        let root = fs::read_dir(format!("/proc/{worker}/root")).unwrap();
        assert_eq!(root.count(), 0);
        let open: BTreeSet<_> = fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .map(|fd| fs::read_link(fd.unwrap().path()).unwrap())
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        for link in open {
            let known = ["pipe:", "socket:", "/dev/null"];
            let of_layer = link == "/" || link.starts_with("/d");
            assert!(
                of_layer || known.iter().any(|known| link.starts_with(known)),
                "{link} is open"
            );
        }
        let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
        assert!(limits.contains("Max open files            512"), "{limits}");
    });
    unpack(&place.workers(), reader, &target).unwrap();
}

#[test]
fn a_worker_that_was_taken_over_is_stopped() {
    let Some(place) = Place::new() else { return };
    let target = place.target("layer");
    let tried = |what: &str| {
        let probe = Command::new(PROBE)
            .args(["try", what])
            .arg(&target)
            .output();
        let output = probe.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said)
    };
    // 128 and SIGSYS.
    for call in ["socket", "program", "mount", "signal"] {
        assert_eq!(tried(call), (Some(159), String::new()), "{call}");
    }
    let (status, said) = tried("files");
    assert_eq!(status, Some(0));
    for line in said.lines() {
        let (path, error) = line.split_once(": ").unwrap();
        let expected = if path == "/new" {
            "Read-only"
        } else {
            "No such file"
        };
        assert!(error.contains(expected), "{line}");
    }
    assert_eq!(said.lines().count(), 5);
    assert_eq!(tried("above"), (Some(0), "nothing above\n".to_owned()));
    let (_, said) = tried("device");
    assert!(said.contains("Permission denied"), "{said}");
    let (_, said) = tried("mark");
    assert!(said.contains("not permitted"), "{said}");
}

#[test]
fn a_worker_that_is_killed_is_told_of_and_leaves_nothing_that_runs() {
    let Some(place) = Place::new() else { return };
    let archive = rich();
    for kill_outer in [true, false] {
        let target = place.target(&format!("killed-{kill_outer}"));
        let victims = std::sync::Mutex::new(Vec::new());
        let reader = halves(&archive, || {
            let (waits, works) = (outer(), inner());
            *victims.lock().unwrap() = vec![waits, works];
            place::kill(if kill_outer { waits } else { works });
        });
        let error = unpack(&place.workers(), reader, &target).unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error:?}");
        let told = error.to_string();
        assert!(told.contains("signal 9"), "{told}");
        for pid in victims.lock().unwrap().iter() {
            place::ends(*pid);
        }
        let again = place.target(&format!("again-{kill_outer}"));
        unpack(&place.workers(), &archive[..], &again).unwrap();
    }
}

#[test]
fn workers_end_with_the_daemon() {
    let Some(place) = Place::new() else { return };
    let target = place.target("layer");
    let mut daemon = Command::new(PROBE)
        .arg("feed-for-ever")
        .arg(&target)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let daemon_pid = i32::try_from(daemon.id()).unwrap();
    let waits = place::child_of(daemon_pid);
    let works = place::child_of(waits);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    place::ends(works);
    place::ends(waits);
}

#[test]
fn a_full_disk_is_told_as_one() {
    let Some(place) = Place::new() else { return };
    let Some(small) = place.small_disk("1m") else {
        return;
    };
    let archive = rich();
    let error = unpack(&place.workers(), &archive[..], &small.path).unwrap_err();
    assert!(error.is_out_of_space(), "{error:?}");
    assert!(error.to_string().contains("No space left"), "{error}");
}

#[test]
fn a_source_that_breaks_off_is_not_taken_for_the_end() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => {
                    // Zero blocks: the end of an archive, as far as they go.
                    buffer[..1024].fill(0);
                    Ok(1024)
                }
                _ => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
    let Some(place) = Place::new() else { return };
    let error = unpack(&place.workers(), Broken(0), &place.target("layer")).unwrap_err();
    let Error::Read { offset, source } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (*offset, source.kind()),
        (1024, io::ErrorKind::ConnectionAborted)
    );
}

#[test]
fn a_program_that_cannot_be_started_is_an_error() {
    let Some(place) = Place::new() else { return };
    let nobody = Unpacker::Apart(berth_unpack_worker::Program::at("/no/such/program"));
    let error = unpack(&nobody, &rich()[..], &place.target("layer")).unwrap_err();
    assert!(matches!(error, Error::Process { .. }), "{error:?}");
    let says_nothing = Unpacker::Apart(berth_unpack_worker::Program::at("/bin/true"));
    let error = unpack(&says_nothing, &rich()[..], &place.target("other")).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}
