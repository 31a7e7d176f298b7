//! Who a container runs as: names and groups looked up in the image's own files.
//!
//! The files are the image's, and hostile: they are opened beneath the image's root without
//! following links out of it, must be regular, and are read up to a bound (CVE-2025-4437 and its
//! kin). Numbers outside the kernel's range are errors, never wrapped to 0 (CVE-2024-40635).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Error, Result};
use crate::record::Identity;
use crate::request::RunAs;

/// More than any real user database that an image carries.
const MAX_FILE: u64 = 4 << 20;
/// A line longer than this is not a user.
const MAX_LINE: usize = 64 << 10;
/// The kernel reserves `(uid_t)-1` as "no change".
const MAX_ID: u64 = (u32::MAX - 1) as u64;

/// A process identity with what depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    pub identity: Identity,
    pub home: String,
}

/// The user database of an image: the contents of its passwd and group files.
#[derive(Debug, Clone, Default)]
pub struct Database {
    passwd: String,
    group: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Database {
    /// Reads the database beneath an image's root directory. Missing files count as empty.
    pub fn read(root: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self {
            passwd: bounded(root, "etc/passwd")?,
            group: bounded(root, "etc/group")?,
        })
    }

    /// Resolves what the request says, or else what the image says (`user`, `user:group`, names or
    /// numbers), or else root.
    pub fn resolve(&self, run_as: &RunAs, image_user: &str) -> Result<ResolvedUser> {
        let (user, group) = self.chosen(run_as, image_user)?;
        let entry = self.passwd_by(&user);
        let uid = match (&entry, id_number(&user)?) {
            (_, Some(uid)) => uid,
            (Some(entry), None) => entry.uid,
            (None, None) => return Err(Error::UnknownUser { user }),
        };
        let gid = match group {
            Some(group) => self.group_id(&group)?,
            None => entry.as_ref().map_or(0, |entry| entry.gid),
        };
        let mut additional_gids = vec![gid];
        if let (Some(entry), false) = (&entry, run_as.strict_groups) {
            additional_gids.extend(self.memberships(entry.name));
        }
        additional_gids.extend(&run_as.supplemental_groups);
        for name in &run_as.supplemental_names {
            additional_gids.push(self.group_id(name)?);
        }
        let mut seen = std::collections::HashSet::new();
        additional_gids.retain(|gid| seen.insert(*gid));
        let home = entry.map_or_else(
            || if uid == 0 { "/root" } else { "/" }.to_owned(),
            |entry| clean_home(entry.home),
        );
        Ok(ResolvedUser {
            identity: Identity {
                uid,
                gid,
                additional_gids,
            },
            home,
        })
    }

    fn chosen(&self, run_as: &RunAs, image_user: &str) -> Result<(String, Option<String>)> {
        let named = Some(run_as.groupname.clone()).filter(|name| !name.is_empty());
        let given_group = run_as.gid.map(|gid| gid.to_string()).or(named);
        if let Some(uid) = run_as.uid {
            return Ok((uid.to_string(), given_group));
        }
        if !run_as.username.is_empty() {
            return Ok((run_as.username.clone(), given_group));
        }
        if run_as.gid.is_some() {
            let problem = "a group needs a user: set run_as_user or run_as_username too";
            return Err(Error::invalid("run_as_group", problem));
        }
        Ok(match image_user.split_once(':') {
            _ if image_user.is_empty() => ("0".to_owned(), None),
            None => (image_user.to_owned(), None),
            Some((user, group)) => {
                let user = if user.is_empty() { "0" } else { user };
                (
                    user.to_owned(),
                    (!group.is_empty()).then(|| group.to_owned()),
                )
            }
        })
    }

    fn passwd_by(&self, user: &str) -> Option<PasswdEntry<'_>> {
        let number = id_number(user).ok().flatten();
        lines(&self.passwd)
            .filter_map(passwd_entry)
            .find(|entry| match number {
                Some(uid) => entry.uid == uid,
                None => entry.name == user,
            })
    }

    fn group_id(&self, group: &str) -> Result<u32> {
        if let Some(gid) = id_number(group)? {
            return Ok(gid);
        }
        lines(&self.group)
            .filter_map(group_entry)
            .find(|(name, ..)| *name == group)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| Error::UnknownGroup {
                group: group.to_owned(),
            })
    }

    fn memberships<'a>(&'a self, user: &'a str) -> impl Iterator<Item = u32> + 'a {
        lines(&self.group)
            .filter_map(group_entry)
            .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
            .map(|(_, gid, _)| gid)
    }
}

/// `Some` for a string of digits; a number that no uid can have is an error, not a name.
fn id_number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(number) if number <= MAX_ID => Ok(u32::try_from(number).ok()),
        _ => Err(Error::invalid(
            "user",
            format!("{text} is not an id: at most {MAX_ID}"),
        )),
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.len() <= MAX_LINE)
}

fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(PasswdEntry {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or("/"),
    })
}

fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or("")))
}

/// HOME becomes an environment entry: control characters must not smuggle others (CVE-2022-4318).
fn clean_home(home: &str) -> String {
    if home.is_empty() || home.chars().any(char::is_control) {
        "/".to_owned()
    } else {
        home.to_owned()
    }
}

fn bounded(root: BorrowedFd<'_>, path: &'static str) -> Result<String> {
    let failed = |source: io::Error| Error::ImageFile { path, source };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Looked at before it is opened: to open some devices is to do something (a watchdog begins to
    // run, a tape rewinds), and an image can have any of them.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let named: OwnedFd = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = rustix::fs::fstat(named.as_fd()).map_err(|errno| failed(errno.into()))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let again = format!("/proc/self/fd/{}", named.as_raw_fd());
    let opened = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|errno| failed(errno.into()))?;
    let mut bytes = Vec::new();
    File::from(opened)
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(io::Error::other("it is larger than 4 MiB")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:\nu:x:1000:1000::/home/u:\n\
                     bad\n:x:7:7::/:\nevil:x:44:44::/a\u{1}b:\n1002:x:0:0::/:\n"
                .into(),
            group: "root:x:0:\nwww-data:x:33:\nextra:x:50000:u,www-data\nbad:x:nope:u\n".into(),
        }
    }

    fn run_as(uid: Option<u32>, username: &str, gid: Option<u32>) -> RunAs {
        RunAs {
            uid,
            username: username.into(),
            gid,
            ..RunAs::default()
        }
    }

    #[test]
    fn users_are_found_by_name_and_number_in_the_order_that_wins() {
        let cases = [
            (run_as(None, "", None), "", (0, 0, "/root"), vec![0]),
            (
                run_as(None, "", None),
                "www-data",
                (33, 33, "/var/www"),
                vec![33, 50000],
            ),
            (
                run_as(None, "", None),
                "1003:1004",
                (1003, 1004, "/"),
                vec![1004],
            ),
            (
                run_as(None, "", None),
                "www-data:1004",
                (33, 1004, "/var/www"),
                vec![1004, 50000],
            ),
            (
                run_as(Some(1000), "", None),
                "www-data",
                (1000, 1000, "/home/u"),
                vec![1000, 50000],
            ),
            (
                run_as(Some(1000), "", Some(5)),
                "",
                (1000, 5, "/home/u"),
                vec![5, 50000],
            ),
            (
                run_as(None, "u", None),
                "",
                (1000, 1000, "/home/u"),
                vec![1000, 50000],
            ),
            (run_as(None, "", None), "1002", (1002, 0, "/"), vec![0]),
            (run_as(None, "evil", None), "", (44, 44, "/"), vec![44]),
        ];
        for (run_as, image, (uid, gid, home), groups) in cases {
            let user = database().resolve(&run_as, image).unwrap();
            assert_eq!(
                (user.identity.uid, user.identity.gid),
                (uid, gid),
                "{run_as:?} {image}"
            );
            assert_eq!(
                (user.home.as_str(), user.identity.additional_gids),
                (home, groups)
            );
        }
    }

    #[test]
    fn strict_groups_leave_out_what_the_image_lists() {
        let strict = RunAs {
            uid: Some(1000),
            strict_groups: true,
            supplemental_groups: vec![1234],
            ..RunAs::default()
        };
        let user = database().resolve(&strict, "").unwrap();
        assert_eq!(user.identity.additional_gids, [1000, 1234]);
    }

    #[test]
    fn groups_are_found_by_name_too() {
        let named = RunAs {
            uid: Some(7),
            groupname: "extra".into(),
            supplemental_names: vec!["www-data".into(), "77".into()],
            ..RunAs::default()
        };
        let user = database().resolve(&named, "").unwrap();
        assert_eq!(user.identity.gid, 50000);
        assert_eq!(user.identity.additional_gids, [50000, 33, 77]);
        let unknown = RunAs {
            supplemental_names: vec!["none".into()],
            ..RunAs::default()
        };
        assert!(database().resolve(&unknown, "").is_err());
    }

    #[test]
    fn nothing_odd_becomes_root() {
        for image in [
            "nobody",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "-1",
            "u:none",
            " 0",
        ] {
            assert!(
                database().resolve(&RunAs::default(), image).is_err(),
                "{image:?} was taken"
            );
        }
        assert!(database().resolve(&run_as(None, "", Some(1)), "u").is_err());
    }

    #[test]
    fn hostile_files_are_refused_without_reading_them_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        assert!(Database::read(root.as_fd()).unwrap().passwd.is_empty());
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = dir.path().join("etc/passwd");
        File::create(&passwd).unwrap().set_len(8 << 30).unwrap();
        assert!(Database::read(root.as_fd()).is_err(), "a sparse giant");
        std::fs::remove_file(&passwd).unwrap();
        symlink("/dev/zero", &passwd).unwrap();
        assert!(
            Database::read(root.as_fd()).unwrap().passwd.is_empty(),
            "a link out of the root"
        );
        std::fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &passwd,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(Database::read(root.as_fd()).is_err(), "a fifo");
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: makes a device");
            return;
        }
        std::fs::remove_file(&passwd).unwrap();
        // No driver has it: to open it would be another error.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &passwd,
            rustix::fs::FileType::CharacterDevice,
            Mode::RUSR,
            rustix::fs::makedev(510, 77),
        )
        .unwrap();
        let error = Database::read(root.as_fd()).unwrap_err();
        assert!(
            crate::error::chain(&error).contains("not a regular file"),
            "{error:?}"
        );
    }

    #[test]
    fn whatever_a_database_says_numbers_stay_numbers_and_homes_are_plain() {
        use berth_testkit::mutate::Mutants;
        const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/passwd");
        let known = database();
        Mutants::of(CORPUS)
            .and([known.passwd, known.group])
            .words(&["::", ":x:0:0:", "\n1000:x:0:0::/:\n", "\u{85}", "\r", "u:"])
            .show(|input| {
                let text = String::from_utf8_lossy(input).into_owned();
                let database = Database {
                    passwd: text.clone(),
                    group: text,
                };
                for (user, uid) in [("1000", 1000), ("4242", 4242)] {
                    let resolved = database.resolve(&RunAs::default(), user).unwrap();
                    assert_eq!(resolved.identity.uid, uid);
                    assert!(!resolved.home.chars().any(char::is_control));
                }
                for user in ["u", "u:extra", "www-data"] {
                    let _found_or_not = database.resolve(&RunAs::default(), user);
                }
            });
    }
}
