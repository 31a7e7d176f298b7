//! Which ids of the host the user may use (`subuid(5)`, `subgid(5)`), and how they are mapped.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";
const PASSWD: &str = "/etc/passwd";

/// Ranges of ids, as the arguments of `newuidmap` and `newgidmap`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    pub uids: Vec<String>,
    pub gids: Vec<String>,
}

/// Ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Maps {
    pub(crate) fn of_user() -> Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
        let name = login(&passwd, uid).unwrap_or_else(|| uid.to_string());
        let of = |file: &'static str, own: u32| {
            let text = fs::read_to_string(file).map_err(Error::file("read", Path::new(file)))?;
            let ranges = ranges(&text, &name, uid);
            if ranges.is_empty() {
                let user = name.clone();
                return Err(Error::NoIds { user, file });
            }
            Ok(arguments(own, &ranges))
        };
        Ok(Self {
            uids: of(SUBUID, uid)?,
            gids: of(SUBGID, gid)?,
        })
    }
}

fn login(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse::<u32>().ok()?;
        (id == uid).then(|| name.to_owned())
    })
}

/// Lines name the user, or its id. What cannot be read is somebody else's.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<Range> {
    let of_line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let is_own = owner == name || owner.parse() == Ok(uid);
        let first = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        (is_own && count > 0).then_some(Range { first, count })
    };
    text.lines().filter_map(of_line).collect()
}

/// Triples of inside, outside and count: the user is 0, its ranges follow.
fn arguments(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside: u32 = 1;
    for range in ranges {
        let count = range.count.min(u32::MAX - inside);
        words.extend([inside, range.first, count].map(|number| number.to_string()));
        inside = inside.saturating_add(count);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_id_and_follow_the_user() {
        let text = "ann:100000:65536\n#x\nbob:165536:10\n1001:300000:5\nann:bad:1\nann:7:0\n";
        let found = ranges(text, "ann", 1001);
        let expected = [
            Range {
                first: 100_000,
                count: 65_536,
            },
            Range {
                first: 300_000,
                count: 5,
            },
        ];
        assert_eq!(found, expected);
        let words = arguments(1001, &found).join(" ");
        assert_eq!(words, "0 1001 1 1 100000 65536 65537 300000 5");
    }

    #[test]
    fn a_login_is_found_by_its_id() {
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1001:1001::/home/ann:/bin/sh\n";
        assert_eq!(login(passwd, 1001).as_deref(), Some("ann"));
        assert_eq!(login(passwd, 7), None);
    }
}
