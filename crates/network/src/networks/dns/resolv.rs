//! `resolv.conf(5)`: the host's, read; and what a container's is to say.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::ADDRESS;
use crate::pod::Dns;

const PORT: u16 = 53;
/// The C library asks no more either (`MAXNS`).
const MOST_SERVERS: usize = 3;
const LONGEST_FILE: u64 = 64 * 1024;

/// What a `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolvers {
    pub servers: Vec<IpAddr>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolvers {
    /// Reads a file; one that is not there says nothing.
    pub(crate) fn read(path: &Path) -> Self {
        let mut text = String::new();
        let read = File::open(path).and_then(|f| f.take(LONGEST_FILE).read_to_string(&mut text));
        match read {
            Ok(_) => Self::parse(&text),
            Err(_) => Self::default(),
        }
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            let rest = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect();
            match words.next() {
                Some("nameserver") => {
                    // A zone names an interface, which a socket elsewhere does not have.
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    found.servers.extend(address);
                }
                Some("search" | "domain") => found.searches = rest(words),
                Some("options") => found.options = rest(words),
                _ => {}
            }
        }
        found
    }

    /// Where to ask, other than here.
    pub(super) fn targets(&self) -> Vec<SocketAddr> {
        let others = self
            .servers
            .iter()
            .filter(|server| **server != IpAddr::V4(ADDRESS));
        others
            .take(MOST_SERVERS)
            .map(|server| SocketAddr::new(*server, PORT))
            .collect()
    }

    /// Those that answer others than the host's own programs.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = &IpAddr> {
        self.servers.iter().filter(|server| !server.is_loopback())
    }
}

/// A container's settings: its own first, then the host's. `resolved` is for containers that ask us;
/// others ask their own servers or the host's themselves.
pub(crate) fn settings(host: &Path, own: &Dns, resolved: bool) -> Dns {
    let theirs = Resolvers::read(host);
    let mut options = own.options.clone();
    if options.is_empty() {
        options = theirs.options.clone();
    }
    let servers = match (resolved, own.servers.is_empty()) {
        (true, _) => vec![ADDRESS.to_string()],
        (false, false) => own.servers.clone(),
        (false, true) => theirs.reachable().map(ToString::to_string).collect(),
    };
    // A name without a dot is asked as it is: it is most likely a container's.
    if resolved && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    let searches = match own.searches.as_slice() {
        [] => theirs.searches,
        // The C library's and the field's word for "none at all".
        [dot] if dot == "." => Vec::new(),
        own => own.to_vec(),
    };
    Dns {
        servers,
        searches,
        options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# a comment\nnameserver 127.0.0.53\nnameserver 10.0.0.53\n\
        nameserver fe80::1%eth0\nnameserver 127.0.0.11\nsearch example.com corp\noptions edns0 trust-ad\n";

    #[test]
    fn the_hosts_servers_are_asked_and_never_we_ourselves() {
        let found = Resolvers::parse(HOST);
        let targets: Vec<_> = found.targets().iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["127.0.0.53:53", "10.0.0.53:53"]);
        assert_eq!(found.searches, ["example.com", "corp"]);
        assert_eq!(
            Resolvers::read(Path::new("/nonexistent")),
            Resolvers::default()
        );
    }

    #[test]
    fn a_containers_own_settings_come_before_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("resolv.conf");
        std::fs::write(&host, HOST).unwrap();
        let shown = |own: &Dns, resolved| {
            let found = settings(&host, own, resolved);
            [found.servers, found.searches, found.options].map(|words| words.join(" "))
        };
        let plain = Dns::default();
        assert_eq!(
            shown(&plain, true),
            ["127.0.0.11", "example.com corp", "edns0 trust-ad ndots:0"]
        );
        assert_eq!(
            shown(&plain, false),
            ["10.0.0.53", "example.com corp", "edns0 trust-ad"]
        );
        let own = Dns {
            servers: vec!["9.9.9.9".to_owned()],
            searches: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        assert_eq!(shown(&own, false), ["9.9.9.9", "", "ndots:2"]);
        assert_eq!(shown(&own, true), ["127.0.0.11", "", "ndots:2"]);
    }
}
