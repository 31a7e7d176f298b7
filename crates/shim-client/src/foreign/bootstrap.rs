//! What the `start` action of a shim prints: its address alone, or with the version of the Task API
//! as JSON (containerd 1.7 to 2.2) or as a message of protocol buffers (since 2.3).

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::BootstrapResult;
use containerd_shim_protos::protobuf::Message;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Bootstrap {
    version: u32,
    address: String,
    protocol: String,
}

/// Version of the Task API and path of the socket.
pub(super) fn parse(printed: &[u8]) -> Option<(u32, PathBuf)> {
    let Bootstrap {
        version,
        address,
        protocol,
    } = match printed.trim_ascii() {
        bare if bare.starts_with(b"unix://") => Bootstrap {
            version: 2,
            address: String::from_utf8(bare.to_vec()).ok()?,
            protocol: "ttrpc".to_owned(),
        },
        json if json.starts_with(b"{") => serde_json::from_slice(json).ok()?,
        _ => {
            let result = BootstrapResult::parse_from_bytes(printed).ok()?;
            Bootstrap {
                version: u32::try_from(result.version).ok()?,
                address: result.address,
                protocol: result.protocol,
            }
        }
    };
    let path = PathBuf::from(address.strip_prefix("unix://")?);
    if protocol != "ttrpc" {
        return None;
    }
    // An abstract socket has no owner and no mode.
    (path.is_absolute() && matches!(version, 2 | 3)).then_some((version, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_start_answer_is_understood() {
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
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
        let mut message = BootstrapResult::new();
        message.version = 3;
        message.address = "unix:///run/s/4".to_owned();
        message.protocol = "ttrpc".to_owned();
        let printed = message.write_to_bytes().unwrap();
        assert_eq!(parse(&printed), Some((3, "/run/s/4".into())));
    }
}
