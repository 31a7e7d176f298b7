//! What the `start` action of a shim prints: its address, either bare or as JSON with the version
//! of the Task API.

use std::path::PathBuf;

use serde::Deserialize;

/// What newer shims print.
#[derive(Debug, Deserialize)]
struct Bootstrap {
    version: u32,
    address: String,
    protocol: String,
}

/// Version of the Task API and path of the socket.
pub(super) fn parse(text: &str) -> Option<(u32, PathBuf)> {
    let (version, address) = match serde_json::from_str::<Bootstrap>(text) {
        Ok(bootstrap) if bootstrap.protocol == "ttrpc" => (bootstrap.version, bootstrap.address),
        Ok(_) => return None,
        Err(_) => (2, text.to_owned()),
    };
    let path = PathBuf::from(address.strip_prefix("unix://")?);
    // An abstract socket has no owner and no mode.
    (path.is_absolute() && matches!(version, 2 | 3)).then_some((version, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_start_answer_are_understood() {
        let json = |version: u32, address: &str, protocol: &str| {
            format!(r#"{{"version":{version},"address":"{address}","protocol":"{protocol}"}}"#)
        };
        for (text, expected) in [
            ("unix:///run/s/1".to_owned(), Some((2, "/run/s/1"))),
            (json(3, "unix:///run/s/2", "ttrpc"), Some((3, "/run/s/2"))),
            (json(2, "unix:///run/s/3", "ttrpc"), Some((2, "/run/s/3"))),
            (json(3, "unix:///run/s/2", "grpc"), None),
            (json(9, "unix:///run/s/2", "ttrpc"), None),
            (json(3, "unix://@abstract", "ttrpc"), None),
            (String::new(), None),
            ("/run/s/1".to_owned(), None),
            ("vsock://2:1".to_owned(), None),
        ] {
            let expected = expected.map(|(version, path)| (version, PathBuf::from(path)));
            assert_eq!(parse(&text), expected, "{text}");
        }
    }
}
