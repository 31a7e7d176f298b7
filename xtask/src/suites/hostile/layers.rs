//! Layers, pulled from a registry like any others.

use anyhow::{Context, Result, ensure};
use berth_testkit::archive::{Entry, Tar};
use berth_testkit::hostile;
use berth_testkit::image::Recipe;
use fastrand::Rng;

use super::stage::{SEED, Stage, is_refused, is_told, raw};

/// Mutants of honest archives.
const MUTANTS: usize = 120;

/// Taken or refused: either way nothing outside the layer is touched.
pub fn escapes(stage: &mut Stage) -> Result<()> {
    let cases = hostile::escapes::cases(&stage.canary.path());
    ensure!(cases.len() >= 200, "{} layers", cases.len());
    for (case, archive) in cases {
        pull(stage, &case, archive)?;
    }
    Ok(())
}

/// What tools disagree on has one answer, and it says why.
pub fn doubtful(stage: &mut Stage) -> Result<()> {
    for (case, archive, reason) in hostile::doubtful() {
        let name = stage.serve_layer(archive)?;
        let answer = stage.session.cri.pull(&name);
        is_refused(case, &answer, &[reason])?;
    }
    Ok(())
}

/// Bits flipped, blocks repeated and left out, in archives whose checksums are right again.
pub fn mutated(stage: &mut Stage) -> Result<()> {
    let mut rng = Rng::with_seed(SEED);
    let honest = Tar::new()
        .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")])
        .entry(&Entry::file("a", [1; 700]))
        .entry(&Entry::symlink("l".repeat(150), "a"))
        .entry(&Entry::hard_link("h", "a"))
        .entry(&Entry::dir("d"))
        .entry(&Entry::file("d/.wh.x", ""))
        .end();
    for number in 0..MUTANTS {
        let mut archive = honest.clone();
        for _ in 0..rng.usize(1..=3) {
            let block = rng.usize(..archive.len() / 512) * 512;
            match rng.u8(..4) {
                0 => archive[block + rng.usize(..512)] ^= 1 << rng.u8(..8),
                1 => drop(archive.drain(block..block + 512)),
                2 => {
                    let copy = archive[block..block + 512].to_vec();
                    archive.splice(block..block, copy);
                }
                _ => archive.truncate(archive.len() - rng.usize(..512)),
            }
            archive.resize(archive.len().next_multiple_of(512).max(512), 0);
            let at = block.min(archive.len() - 512);
            if let Some(header) = archive[at..].first_chunk_mut() {
                berth_testkit::archive::seal(header);
            }
        }
        pull(stage, &format!("mutant {number}"), archive)?;
    }
    Ok(())
}

/// Small to send, large to unpack.
pub fn bombs(stage: &mut Stage) -> Result<()> {
    let whiteouts = (0..300_000).map(|number| Entry::file(format!(".wh.{number}"), ""));
    pull(stage, "whiteouts", Tar::of(whiteouts).end())?;
    let deep = Entry::file("n/".repeat(1000) + "x", "");
    pull(stage, "a deep path", Tar::of([deep]).end())?;
    let sparse = Tar::new().pax(&[
        ("GNU.sparse.map", b"0,512"),
        ("GNU.sparse.size", b"900000000000"),
    ]);
    let sparse = sparse.entry(&Entry::file("s", [7; 512])).end();
    pull(stage, "a file of holes", sparse)?;
    let name = zeros(stage)?;
    let answer = stage.session.cri.pull(&name);
    is_refused("a thousandfold", &answer, &["400 times"])
}

/// Six GiB of zeros in six MiB: members of gzip may follow each other, and each is the same.
fn zeros(stage: &mut Stage) -> Result<String> {
    use std::io::Write;
    const MEMBER: usize = 64 << 20;
    const MEMBERS: u64 = 96;
    let header = Entry {
        size: Some(MEMBER as u64 * MEMBERS),
        ..Entry::file("zeros", "")
    };
    let pack = |bytes: &[u8]| {
        let level = flate2::Compression::new(6);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
        gzip.write_all(bytes).and_then(|()| gzip.finish())
    };
    let mut bytes = pack(&header.block()).context("compressing a bomb")?;
    let member = pack(&vec![0; MEMBER]).context("compressing a bomb")?;
    for _ in 0..MEMBERS {
        bytes.extend_from_slice(&member);
    }
    let mut layer = (*raw(Vec::new())?).clone();
    layer.digest = berth_names::Digest::sha256_of(&bytes);
    layer.bytes = bytes;
    let image = Recipe::new().layer(layer.into()).build()?;
    Ok(stage.serve(&image, "bomb"))
}

fn pull(stage: &mut Stage, case: &str, archive: Vec<u8>) -> Result<()> {
    let name = stage.serve_layer(archive)?;
    let answer = stage.session.cri.pull(&name);
    if is_told(case, &answer)? {
        stage.remove(&name)?;
    }
    stage.canary.unharmed().with_context(|| case.to_owned())
}
