//! `--storage-opt size=10G`: how much a container may write to its layer.

use std::collections::BTreeMap;

use berth_lifecycle::{Runtime, chain};

use crate::error::{Error, Result};

/// In bytes; without the option what the daemon is configured to, and with a size of 0 no limit.
/// Refused before anything is done where the file system cannot do it.
pub(crate) fn limit(options: &BTreeMap<String, String>, runtime: &Runtime) -> Result<Option<u64>> {
    let Some(bytes) = asked(options)? else {
        return Ok(runtime.layer_limit());
    };
    if bytes == 0 {
        return Ok(None);
    }
    runtime.can_limit_layers().map_err(|error| {
        Error::invalid(format!(
            "--storage-opt size is supported only over xfs and ext4 with the 'pquota' mount option: {}",
            chain(&error)
        ))
    })?;
    Ok(Some(bytes))
}

fn asked(options: &BTreeMap<String, String>) -> Result<Option<u64>> {
    let mut size = None;
    for (key, value) in options {
        if !key.eq_ignore_ascii_case("size") {
            return Err(Error::invalid(format!(
                "unknown --storage-opt {key:?}: there is size"
            )));
        }
        let bytes = berth_names::bytes(value).ok_or_else(|| {
            Error::invalid(format!(
                "invalid --storage-opt size {value:?}: write it like 10G"
            ))
        })?;
        size = Some(bytes);
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[(&str, &str)]) -> Result<Option<u64>, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        asked(&options.iter().map(owned).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_size_is_read_and_anything_else_is_refused_by_its_name() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("size", "10G")]), Ok(Some(10 << 30)));
        assert_eq!(of(&[("Size", "0")]), Ok(Some(0)));
        for (option, said) in [
            (("inodes", "7"), "\"inodes\""),
            (("size", "much"), "\"much\""),
            (("size", "-1"), "\"-1\""),
        ] {
            let refused = of(&[option]).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
