//! Reading an archive that nobody vouches for.
//!
//! Only members that a checkpoint consists of are looked at, and only regular files. Images lie in
//! one directory: each is made anew under its bare name, and no name of the archive is ever a path.
//! What the container had written goes the way of an image's layer.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use berth_unpack::{Decoder, RatioLimit};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use tar::{Builder, EntryType, Header};

use crate::error::{Error, Result};

const CONFIG: &str = "config.dump";
const IMAGES: &str = "checkpoint";
const DIFF: &str = "rootfs-diff.tar";
const DELETED: &str = "deleted.files";
/// Descriptions are a few lines, lists of deleted files a few megabytes at most.
const MOST_TEXT: u64 = 16 << 20;
/// Members of an archive.
const MOST_MEMBERS: usize = 100_000;
/// Bytes of all images together: the memory of a large container.
const MOST_BYTES: u64 = 1 << 40;
const MOST_DELETED: usize = 1_000_000;
/// Longest name of an image.
const LONGEST_NAME: usize = 128;

/// Opens an archive, which is a regular file.
pub(super) fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let file = file.map_err(|errno| refused(path, io::Error::from(errno)))?;
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(refused(path, "not a file")),
        Err(error) => Err(refused(path, error)),
    }
}

/// Names of the image that the checkpoint stands on, the surest first.
pub(super) fn base_images(path: &Path, file: &File) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        #[serde(default)]
        rootfs_image_ref: String,
        #[serde(default)]
        rootfs_image_name: String,
        #[serde(default)]
        rootfs_image: String,
    }
    let mut found: Option<Config> = None;
    members(path, file, |name, entry| {
        if name == Path::new(CONFIG) {
            let text = text(entry)?;
            found = Some(serde_json::from_slice(&text).map_err(|error| error.to_string())?);
        }
        Ok(())
    })?;
    let config = found.ok_or_else(|| refused(path, "no checkpoint: it has no config.dump"))?;
    let names = [
        config.rootfs_image_ref,
        config.rootfs_image_name,
        config.rootfs_image,
    ];
    // A path would be an archive again.
    let names = names
        .into_iter()
        .filter(|name| !name.is_empty() && !name.starts_with('/'));
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return Err(refused(path, "it does not say which image it stands on"));
    }
    Ok(names)
}

/// Writes the images to the empty directory `images`, and what the container had written and
/// deleted to the empty directory `upper`. `aside` is for what is needed on the way.
pub(super) fn unpack(
    path: &Path,
    file: &File,
    aside: &Path,
    images: &Path,
    upper: Option<&Path>,
) -> Result<()> {
    let diff = aside.join(DIFF);
    let mut left = MOST_BYTES;
    let (mut deleted, mut has_diff, mut has_images) = (Vec::new(), false, false);
    members(path, file, |name, entry| {
        if let Some(image) = image_name(name) {
            has_images = true;
            let target = images.join(image?);
            return write(entry, &target, &mut left);
        }
        if name == Path::new(DIFF) {
            has_diff = true;
            return write(entry, &diff, &mut left);
        }
        if name == Path::new(DELETED) {
            let text = text(entry)?;
            // An empty file is an empty list for some.
            if !text.is_empty() {
                deleted = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    })?;
    if !has_images {
        return Err(refused(path, "no checkpoint: it has no images of criu"));
    }
    if let Some(upper) = upper {
        let diff = has_diff.then_some(diff.as_path());
        apply(diff, &deleted, upper).map_err(|problem| refused(path, problem))?;
    }
    let _never_there = fs::remove_file(&diff);
    Ok(())
}

type Visited = std::result::Result<(), String>;

/// Calls `visit` for each regular file, by its name without a leading `./`.
fn members(
    path: &Path,
    file: &File,
    mut visit: impl FnMut(&Path, &mut dyn Read) -> Visited,
) -> Result<()> {
    // Layers of images are compressed, and archives may be.
    let plain = Decoder::new(Positioned { file, at: 0 }, RatioLimit::default());
    let mut archive = tar::Archive::new(plain.map_err(|error| refused(path, error))?);
    let entries = archive.entries().map_err(|error| refused(path, error))?;
    let mut seen = BTreeSet::new();
    for (number, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| refused(path, printable(&error)))?;
        if number >= MOST_MEMBERS {
            return Err(refused(path, format!("more than {MOST_MEMBERS} members")));
        }
        let name = entry
            .path()
            .map_err(|error| refused(path, error))?
            .into_owned();
        let plain: PathBuf = name
            .components()
            .filter(|part| *part != Component::CurDir)
            .collect();
        let refuse = |problem: &str| refused(path, format!("member {name:?} {problem}"));
        let kind = entry.header().entry_type();
        if plain
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            return Err(refuse("leads out of the archive"));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            _ => return Err(refuse("is neither a file nor a directory")),
        }
        if !seen.insert(plain.clone()) {
            return Err(refuse("is there twice"));
        }
        visit(&plain, &mut entry).map_err(|problem| refuse(&problem))?;
    }
    Ok(())
}

/// A reader with a place of its own.
struct Positioned<'f> {
    file: &'f File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The bare name of an image; `None` for other members.
fn image_name(name: &Path) -> Option<std::result::Result<&str, String>> {
    let below = name.strip_prefix(IMAGES).ok()?;
    let mut parts = below.components();
    let bare = match (parts.next(), parts.next()) {
        (Some(Component::Normal(bare)), None) => bare.to_str(),
        _ => None,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = |name: &&str| name.len() <= LONGEST_NAME && name.bytes().all(plain);
    Some(
        bare.filter(fits)
            .ok_or_else(|| "is no name of an image".to_owned()),
    )
}

fn write(entry: &mut dyn Read, target: &Path, left: &mut u64) -> Visited {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target);
    let mut file = file.map_err(|error| format!("cannot be written: {error}"))?;
    let copied = io::copy(&mut entry.take(left.saturating_add(1)), &mut file);
    let copied = copied.map_err(|error| format!("cannot be copied: {error}"))?;
    match left.checked_sub(copied) {
        Some(rest) => *left = rest,
        None => return Err("is larger than any checkpoint".to_owned()),
    }
    Ok(())
}

fn text(entry: &mut dyn Read) -> std::result::Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let read = entry.take(MOST_TEXT + 1).read_to_end(&mut text);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MOST_TEXT {
        return Err("is too large".to_owned());
    }
    Ok(text)
}

/// As a layer of an image: deletions first, as whiteouts, then the files.
fn apply(diff: Option<&Path>, deleted: &[String], upper: &Path) -> Visited {
    if deleted.len() > MOST_DELETED {
        return Err(format!("more than {MOST_DELETED} deleted files"));
    }
    let fault = |error: io::Error| format!("what was written in it: {error}");
    let directories = match diff {
        Some(diff) => directories(diff).map_err(fault)?,
        None => BTreeSet::new(),
    };
    let whiteouts = whiteouts(deleted, &directories).map_err(fault)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(upper, flags, Mode::empty());
    let target = target.map_err(|errno| fault(errno.into()))?;
    let options = berth_unpack::Options::default();
    let applied = match diff {
        Some(diff) => {
            let written = File::open(diff).map_err(fault)?;
            berth_unpack::apply(
                Cursor::new(whiteouts).chain(written),
                target.as_fd(),
                &options,
            )
        }
        None => {
            let end = Cursor::new([0u8; 1024]);
            berth_unpack::apply(Cursor::new(whiteouts).chain(end), target.as_fd(), &options)
        }
    };
    applied
        .map(drop)
        .map_err(|error| format!("what was written in it: {}", crate::error::chain(&error)))
}

/// Directories of an archive, each without a slash at its end.
fn directories(diff: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut archive = tar::Archive::new(File::open(diff)?);
    let mut found = BTreeSet::new();
    for entry in archive.entries()?.take(MOST_MEMBERS * 10) {
        let entry = entry?;
        if entry.header().entry_type() == EntryType::Directory {
            found.insert(entry.path()?.components().collect());
        }
    }
    Ok(found)
}

/// An archive without an end that hides what was deleted. A directory that is there again hides
/// all that the image has in it.
fn whiteouts(deleted: &[String], directories: &BTreeSet<PathBuf>) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for path in deleted {
        let path: PathBuf = Path::new(path.trim_start_matches('/'))
            .components()
            .collect();
        let Some(name) = path.file_name() else {
            continue;
        };
        let marker = if directories.contains(&path) {
            path.join(".wh..wh..opq")
        } else {
            let mut marker = std::ffi::OsString::from(".wh.");
            marker.push(name);
            path.with_file_name(marker)
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        archive.append_data(&mut header, marker, io::empty())?;
    }
    // The end marker is the last thing that the builder writes.
    let mut bytes = archive.into_inner()?;
    bytes.truncate(bytes.len().saturating_sub(1024));
    Ok(bytes)
}

/// What a reader says of garbage quotes the garbage.
fn printable(error: &io::Error) -> String {
    const MOST: usize = 120;
    let text = error.to_string();
    let plain = |c: char| {
        if c.is_ascii_graphic() || c == ' ' {
            c
        } else {
            '?'
        }
    };
    let text: String = text.chars().take(MOST).map(plain).collect();
    format!("no readable archive: {text}")
}

fn refused(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::invalid("image", format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Member<'a> = (&'a str, EntryType, &'a [u8]);
    const FILE: EntryType = EntryType::Regular;
    const CONFIG_TEXT: &[u8] = br#"{"rootfsImageRef":"sha256:ab","rootfsImageName":"x/y:1"}"#;

    /// Names are written as they are: a builder would refuse the bad ones.
    fn archive(dir: &Path, members: &[Member<'_>]) -> PathBuf {
        let mut bytes = Vec::new();
        for (name, kind, content) in members {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        let path = dir.join("archive.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn whole<'a>() -> Vec<Member<'a>> {
        vec![
            (CONFIG, FILE, CONFIG_TEXT),
            ("./checkpoint/pages-1.img", FILE, &b"memory"[..]),
        ]
    }

    fn attempt(dir: &Path, members: &[Member<'_>]) -> Result<()> {
        let path = archive(dir, members);
        let file = open(&path)?;
        base_images(&path, &file)?;
        let aside = tempfile::tempdir_in(dir).unwrap();
        let images = aside.path().join("images");
        let upper = aside.path().join("upper");
        fs::create_dir(&images).unwrap();
        fs::create_dir(&upper).unwrap();
        unpack(&path, &file, aside.path(), &images, Some(&upper))
    }

    #[test]
    fn a_checkpoint_names_its_image_and_gives_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut diff = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.set_entry_type(FILE);
        diff.append_data(&mut header, "etc/new", &b"text"[..])
            .unwrap();
        let diff = diff.into_inner().unwrap();
        let mut members = whole();
        members.push((DIFF, FILE, &diff));
        members.push((DELETED, FILE, br#"["etc/old","/var/../../x"]"#));
        let path = archive(dir.path(), &members);
        let file = open(&path).unwrap();
        assert_eq!(base_images(&path, &file).unwrap(), ["sha256:ab", "x/y:1"]);
        let (images, upper) = (dir.path().join("images"), dir.path().join("upper"));
        fs::create_dir(&images).unwrap();
        fs::create_dir(&upper).unwrap();
        // A deleted file that would lie outside is refused with everything else.
        let error = unpack(&path, &file, dir.path(), &images, Some(&upper)).unwrap_err();
        assert!(error.to_string().contains(".."), "{error}");

        members[3].2 = br#"["etc/old"]"#;
        let path = archive(dir.path(), &members);
        let file = open(&path).unwrap();
        for directory in [&images, &upper] {
            fs::remove_dir_all(directory).unwrap();
            fs::create_dir(directory).unwrap();
        }
        let _left_by_the_failure = fs::remove_file(dir.path().join(DIFF));
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: whiteouts");
            return;
        }
        unpack(&path, &file, dir.path(), &images, Some(&upper)).unwrap();
        assert_eq!(fs::read(images.join("pages-1.img")).unwrap(), b"memory");
        assert_eq!(fs::read(upper.join("etc/new")).unwrap(), b"text");
        let gone = rustix::fs::stat(upper.join("etc/old")).unwrap();
        assert_eq!(gone.st_rdev, 0);
    }

    #[test]
    fn whatever_is_taken_for_an_archive_writes_nowhere_else() {
        use berth_testkit::mutate::Mutants;
        const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/checkpoint");
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut members = whole();
        members.push((DELETED, FILE, br#"["etc/old"]"#));
        let seed = fs::read(archive(dir.path(), &members)).unwrap();
        let beside = dir.path().join("archive.tar");
        Mutants::of(CORPUS)
            .and([seed])
            .words(&[
                "../",
                "/",
                "checkpoint/",
                DIFF,
                DELETED,
                "spec.dump",
                "[\"/..\"]",
            ])
            .show(|input| {
                // Mutants of headers would all end at their checksum.
                let mut bytes = input.to_vec();
                for block in bytes.chunks_exact_mut(512) {
                    if block[257..262] == *b"ustar" {
                        let mut header = Header::new_gnu();
                        header.as_mut_bytes().copy_from_slice(block);
                        header.set_cksum();
                        block.copy_from_slice(header.as_bytes());
                    }
                }
                fs::write(&beside, &bytes).unwrap();
                let aside = tempfile::tempdir_in(dir.path()).unwrap();
                let (images, upper) = (aside.path().join("images"), aside.path().join("upper"));
                fs::create_dir(&images).unwrap();
                fs::create_dir(&upper).unwrap();
                let file = open(&beside).unwrap();
                let _named_or_not = base_images(&beside, &file);
                let _read_or_refused = unpack(&beside, &file, aside.path(), &images, Some(&upper));
                let names = |of: &Path| fs::read_dir(of).unwrap().count();
                assert_eq!(names(dir.path()), 2);
                assert!(names(aside.path()) <= 3);
                let mut made = fs::read_dir(&images).unwrap();
                assert!(made.all(|entry| entry.unwrap().file_type().unwrap().is_file()));
            });
    }

    #[test]
    fn hostile_archives_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("checkpoint/{}", "n".repeat(80));
        let deep = br#"["a"#.to_vec();
        let cases: [(Member<'_>, &str); 13] = [
            (("../x", FILE, b""), "leads out"),
            (("/etc/x", FILE, b""), "leads out"),
            (("checkpoint/../../x", FILE, b""), "leads out"),
            (("checkpoint/a/b", FILE, b""), "no name of an image"),
            (("checkpoint/a b", FILE, b""), "no name of an image"),
            (
                ("checkpoint/link", EntryType::Symlink, b""),
                "neither a file",
            ),
            (("checkpoint/hard", EntryType::Link, b""), "neither a file"),
            (("checkpoint/dev", EntryType::Char, b""), "neither a file"),
            (("checkpoint/disk", EntryType::Block, b""), "neither a file"),
            (("checkpoint/pipe", EntryType::Fifo, b""), "neither a file"),
            ((CONFIG, FILE, CONFIG_TEXT), "there twice"),
            ((DELETED, FILE, &deep), "EOF"),
            (
                (DIFF, FILE, b"no archive, and long enough for nothing"),
                "what was written",
            ),
        ];
        for (member, words) in cases {
            let mut members = whole();
            members.push(member);
            let error = attempt(dir.path(), &members).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}: not {words:?}");
        }
        let mut members = whole();
        members.push((&long, FILE, b""));
        attempt(dir.path(), &members).unwrap();
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let image: Member<'_> = ("checkpoint/a.img", FILE, b"");
        let cases: [(&[Member<'_>], &str); 6] = [
            (&[], "no config.dump"),
            (&[image], "no config.dump"),
            (&[(CONFIG, FILE, CONFIG_TEXT)], "no images"),
            (&[(CONFIG, FILE, &b"{}"[..]), image], "which image"),
            (&[(CONFIG, FILE, &b"nonsense"[..]), image], "expected"),
            (
                &[
                    (CONFIG, FILE, &br#"{"rootfsImageRef":"/a.tar"}"#[..]),
                    image,
                ],
                "which image",
            ),
        ];
        for (members, words) in cases {
            let error = attempt(dir.path(), members).unwrap_err();
            assert!(error.to_string().contains(words), "{error}: not {words:?}");
        }
        let path = archive(dir.path(), &whole());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1024 - 512]).unwrap();
        let cut = open(&path).and_then(|file| {
            base_images(&path, &file)?;
            unpack(&path, &file, dir.path(), dir.path(), None)
        });
        assert!(cut.is_err(), "a truncated archive was taken");
        assert!(open(dir.path()).is_err() && open(&dir.path().join("missing")).is_err());
    }
}
