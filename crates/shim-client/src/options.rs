//! What shims are told about the runtime behind them, as configuration names it.

use std::collections::BTreeMap;

use containerd_shim_protos::protobuf::{CodedOutputStream, Error};

/// Keys that [`runc_options`] knows.
pub const RUNC_OPTIONS: [&str; 6] = [
    "BinaryName",
    "Root",
    "NoPivotRoot",
    "NoNewKeyring",
    "IoUid",
    "IoGid",
];

const RUNC_TYPE: &str = "containerd.runc.v1.Options";

/// Keys that [`config_options`] knows.
pub const CONFIG_OPTIONS: [&str; 3] = ["TypeUrl", "ConfigPath", "ConfigBody"];

const CONFIG_TYPE: &str = "runtimeoptions.v1.Options";

/// A value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    Text(String),
    Flag(bool),
    Number(u32),
}

/// Encodes options of `containerd-shim-runc-v2` (`containerd.runc.v1.Options`): a type URL and a
/// message. A key with a value of the wrong kind, or an unknown one, is given back.
pub fn runc_options(options: &BTreeMap<String, OptionValue>) -> Result<(String, Vec<u8>), String> {
    let mut bytes = Vec::new();
    for (key, value) in options {
        encode(key, value, &mut bytes)
            .ok()
            .flatten()
            .ok_or_else(|| key.clone())?;
    }
    Ok((RUNC_TYPE.to_owned(), bytes))
}

/// Adds to encoded options whose the pipes between the shim and a container are. Of a field that is
/// there twice the later one counts. Shims whose options are of another type are left alone.
pub(crate) fn add_stream_owner(options: &mut (String, Vec<u8>), uid: u32, gid: u32) {
    let (kind, bytes) = options;
    if kind != RUNC_TYPE {
        return;
    }
    for (key, id) in [("IoUid", uid), ("IoGid", gid)] {
        // Writing to memory does not fail.
        let _ = encode(key, &OptionValue::Number(id), bytes);
    }
}

/// Encodes options of any other shim (`runtimeoptions.v1.Options`): where its own configuration is.
pub fn config_options(
    options: &BTreeMap<String, OptionValue>,
) -> Result<(String, Vec<u8>), String> {
    let mut bytes = Vec::new();
    for (key, value) in options {
        let field = CONFIG_OPTIONS
            .iter()
            .zip(1..)
            .find(|(name, _)| *name == key);
        let (Some((_, field)), OptionValue::Text(text)) = (field, value) else {
            return Err(key.clone());
        };
        let mut out = CodedOutputStream::vec(&mut bytes);
        out.write_string(field, text)
            .and_then(|()| out.flush())
            .map_err(|_| key.clone())?;
    }
    Ok((CONFIG_TYPE.to_owned(), bytes))
}

/// How `containerd-shim-runc-v2` is to make a checkpoint: the container goes on, and neither its
/// connections nor its terminal nor its locks stand in the way.
pub(crate) fn checkpoint_options(work: &str) -> Result<(&'static str, Vec<u8>), Error> {
    let mut bytes = Vec::new();
    let mut out = CodedOutputStream::vec(&mut bytes);
    // open_tcp, external_unix_sockets, terminal, file_locks and work_path of the message.
    for field in 2..=5 {
        out.write_bool(field, true)?;
    }
    out.write_string(9, work)?;
    out.flush()?;
    drop(out);
    Ok(("containerd.runc.v1.CheckpointOptions", bytes))
}

/// Field numbers as containerd's `runc/options/oci.proto` gives them.
fn encode(key: &str, value: &OptionValue, bytes: &mut Vec<u8>) -> Result<Option<()>, Error> {
    let mut out = CodedOutputStream::vec(bytes);
    match (key, value) {
        ("NoPivotRoot", OptionValue::Flag(flag)) => out.write_bool(1, *flag)?,
        ("NoNewKeyring", OptionValue::Flag(flag)) => out.write_bool(2, *flag)?,
        ("IoUid", OptionValue::Number(id)) => out.write_uint32(4, *id)?,
        ("IoGid", OptionValue::Number(id)) => out.write_uint32(5, *id)?,
        ("BinaryName", OptionValue::Text(text)) => out.write_string(6, text)?,
        ("Root", OptionValue::Text(text)) => out.write_string(7, text)?,
        _ => return Ok(None),
    }
    out.flush().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_encoded_by_field_number_and_wrong_ones_named() {
        let options = BTreeMap::from([
            ("BinaryName".to_owned(), OptionValue::Text("crun".into())),
            ("NoPivotRoot".to_owned(), OptionValue::Flag(true)),
        ]);
        let (kind, bytes) = runc_options(&options).unwrap();
        assert_eq!(kind, RUNC_TYPE);
        assert_eq!(
            bytes,
            [&[6 << 3 | 2, 4], b"crun".as_slice(), &[1 << 3, 1]].concat()
        );
        for (key, value) in [
            ("Binary", OptionValue::Text("crun".into())),
            ("BinaryName", OptionValue::Flag(true)),
        ] {
            let wrong = BTreeMap::from([(key.to_owned(), value)]);
            assert_eq!(runc_options(&wrong).unwrap_err(), key);
            assert_eq!(config_options(&wrong).unwrap_err(), key);
        }
        let mut owned = (kind, bytes);
        let before = owned.1.len();
        add_stream_owner(&mut owned, 7, 300);
        assert_eq!(owned.1[before..], [4 << 3, 7, 5 << 3, 0xac, 2]);
        let path = BTreeMap::from([("ConfigPath".to_owned(), OptionValue::Text("/k".into()))]);
        let (kind, bytes) = config_options(&path).unwrap();
        assert_eq!(
            (kind.as_str(), bytes),
            (CONFIG_TYPE, vec![2 << 3 | 2, 2, b'/', b'k'])
        );
    }
}
