//! What two runtimes may see differently, with the reason, and what not.

use super::runtime::Seen;

/// Lines of ours and theirs that differ, after those that may.
pub fn between(ours: &Seen, theirs: &Seen, own_ways: fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let outcome = |seen: &Seen| match (seen.lines.is_empty(), seen.status) {
        // Runtimes choose statuses of their own for what they refuse.
        (true, Some(0)) => "succeeded without a word".to_owned(),
        (true, _) => "refused".to_owned(),
        (false, status) => format!("status {status:?}"),
    };
    if outcome(ours) != outcome(theirs) {
        found.push(format!("- {} ({})", outcome(ours), ours.complaint));
        found.push(format!("+ {} ({})", outcome(theirs), theirs.complaint));
        return found;
    }
    let (ours, theirs) = (settled(ours, own_ways), settled(theirs, own_ways));
    for line in ours.iter().filter(|line| !theirs.contains(line)) {
        found.push(format!("- {line}"));
    }
    for line in theirs.iter().filter(|line| !ours.contains(line)) {
        found.push(format!("+ {line}"));
    }
    found
}

fn settled(seen: &Seen, own_ways: fn(&str) -> bool) -> Vec<String> {
    let lines = seen.lines.iter().filter(|line| !own_ways(line));
    lines.filter_map(|line| settle(line)).collect()
}

/// A line in the form in which it is compared; `None` if it is not.
fn settle(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        // A number of the kernel's for each namespace: only whether it is the
        // host's matters.
        ["namespace", kind, id] => {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}"));
            let same = host.is_ok_and(|host| host.as_os_str() == *id);
            Some(format!(
                "namespace {kind} {}",
                if same { "host" } else { "own" }
            ))
        }
        // One is the directory that is being read, whose number the runtimes
        // and the C library choose.
        ["descriptors", list @ ..] => Some(format!("descriptors {}", list.len())),
        // Go runtimes leave signals blocked or ignored as they were started;
        // ours gives every program a clean slate.
        ["status", "SigIgn" | "SigBlk", ..] => None,
        // Rules have no order.
        ["file", path, ..] if path.ends_with("devices.list") => {
            let mut rules: Vec<&str> = line.splitn(3, ' ').nth(2)?.split(" | ").collect();
            rules.sort_unstable();
            Some(format!("file {path} {}", rules.join(" | ")))
        }
        // A tmpfs of hierarchies asked for read-only is that here, as with
        // crun; runc leaves the tmpfs itself to whoever has its permissions.
        ["write", "/sys/fs/cgroup", ..] => None,
        ["mount", point, kind, ..] => settle_mount(line, point, kind),
        _ => Some(line.to_owned()),
    }
}

fn settle_mount(line: &str, point: &str, kind: &str) -> Option<String> {
    // Masks and the views of cgroups are made in different ways, and the
    // kernel tells sizes of a tmpfs in words of its own.
    let masks = ["/proc/kcore", "/proc/acpi", "/sys/firmware"];
    if masks.contains(&point) || point.starts_with("/sys/fs/cgroup") {
        return None;
    }
    let (before, data) = line.rsplit_once(" [")?;
    // inode64 and the like are the kernel's defaults, and overlay layers are
    // the host's paths.
    let data: Vec<&str> = data
        .trim_end_matches(']')
        .split(',')
        .filter(|word| {
            ["size=", "mode=", "gid=", "ptmxmode=", "ro", "rw"]
                .iter()
                .any(|known| word.starts_with(known))
        })
        .collect();
    let data = if kind == "tmpfs" || kind == "devpts" {
        data.join(",")
    } else {
        String::new()
    };
    Some(format!("{before} [{data}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(ours: &Seen, theirs: &Seen) -> Vec<String> {
        between(ours, theirs, |_| false)
    }

    fn seen(status: i32, lines: &[&str]) -> Seen {
        Seen {
            status: Some(status),
            lines: lines.iter().map(ToString::to_string).collect(),
            complaint: String::new(),
        }
    }

    #[test]
    fn a_fact_that_differs_is_told_from_both_sides() {
        let found = compare(
            &seen(0, &["cwd /", "pid 1"]),
            &seen(0, &["cwd /tmp", "pid 1"]),
        );
        assert_eq!(found, ["- cwd /", "+ cwd /tmp"]);
        assert_eq!(compare(&seen(0, &["a"]), &seen(7, &["a"])).len(), 2);
        assert!(compare(&seen(1, &[]), &seen(127, &[])).is_empty());
        assert_eq!(compare(&seen(1, &[]), &seen(0, &["a"])).len(), 2);
    }

    #[test]
    fn only_whether_a_namespace_is_the_hosts_counts() {
        let a = seen(0, &["namespace net net:[1]"]);
        let b = seen(0, &["namespace net net:[2]"]);
        assert!(compare(&a, &b).is_empty());
        let host = std::fs::read_link("/proc/self/ns/net").unwrap();
        let line = format!("namespace net {}", host.display());
        assert_eq!(compare(&a, &seen(0, &[&line])).len(), 2);
    }
}
