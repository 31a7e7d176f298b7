//! Namespaces, and the ids of those that map them.

use berth_api::cri::v1::{self as cri, NamespaceMode};
use berth_lifecycle::request::{IdRange, Scope, UserNamespace};

use super::Result;
use crate::status::invalid;

pub fn scope(mode: i32, target: &str) -> Result<Scope> {
    match NamespaceMode::try_from(mode) {
        Ok(NamespaceMode::Pod) => Ok(Scope::Pod),
        Ok(NamespaceMode::Container) => Ok(Scope::Container),
        Ok(NamespaceMode::Node) => Ok(Scope::Node),
        Ok(NamespaceMode::Target) if target.is_empty() => {
            Err(invalid("namespace_options.target_id is empty"))
        }
        Ok(NamespaceMode::Target) => Ok(Scope::Target(target.to_owned())),
        Err(_) => Err(invalid(format!(
            "namespace_options: mode {mode} is not known"
        ))),
    }
}

/// The mode of a message that is missing is the host's: clients that know no user namespaces leave
/// it out.
pub fn user_namespace(options: Option<cri::UserNamespace>) -> Result<Option<UserNamespace>> {
    let Some(options) = options else {
        return Ok(None);
    };
    let ids = UserNamespace {
        uids: ranges(&options.uids),
        gids: ranges(&options.gids),
    };
    match NamespaceMode::try_from(options.mode) {
        Ok(NamespaceMode::Pod) => Ok(Some(ids)),
        Ok(NamespaceMode::Node) if ids == UserNamespace::default() => Ok(None),
        Ok(NamespaceMode::Node) => Err(invalid(
            "userns_options: mode NODE has no mappings, the ids are the host's",
        )),
        Ok(mode) => Err(invalid(format!(
            "userns_options: mode {} is not supported, only POD and NODE",
            mode.as_str_name()
        ))),
        Err(_) => Err(invalid(format!(
            "userns_options: mode {} is not known",
            options.mode
        ))),
    }
}

pub fn ranges(mappings: &[cri::IdMapping]) -> Vec<IdRange> {
    let range = |mapping: &cri::IdMapping| IdRange {
        inside: mapping.container_id,
        outside: mapping.host_id,
        length: mapping.length,
    };
    mappings.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_is_the_pod_s_or_the_host_s() {
        let mapping = cri::IdMapping {
            host_id: 70_000,
            container_id: 0,
            length: 10,
        };
        let options = |mode: i32, mapped: bool| cri::UserNamespace {
            mode,
            uids: if mapped { vec![mapping] } else { vec![] },
            gids: if mapped { vec![mapping] } else { vec![] },
        };
        assert_eq!(user_namespace(None).unwrap(), None);
        let node = NamespaceMode::Node as i32;
        assert_eq!(user_namespace(Some(options(node, false))).unwrap(), None);
        let pod = user_namespace(Some(options(NamespaceMode::Pod as i32, true)));
        assert_eq!(pod.unwrap().unwrap().root(), (70_000, 70_000));
        for (mode, mapped) in [
            (node, true),
            (NamespaceMode::Container as i32, true),
            (NamespaceMode::Target as i32, false),
            (77, false),
        ] {
            assert!(user_namespace(Some(options(mode, mapped))).is_err());
        }
    }
}
