//! The user namespace of a pod: what may be asked for, and what its files then belong to.

use std::path::Path;

use berth_network::netns::{IdMapping, UserPin};

use crate::error::{Error, Result};
use crate::files::PodFiles;
use crate::handlers::Handler;
use crate::request::{IdRange, PodRequest, Scope, UserNamespace};

/// Refuses what the kernel would, or what would leave the pod less isolated than it asked to be.
pub(super) fn check(request: &PodRequest, handler: &Handler) -> Result<()> {
    let Some(user) = &request.namespaces.user else {
        return Ok(());
    };
    if !handler.features.user_namespaces {
        let problem = format!(
            "runtime handler {:?} has no user namespaces on this host",
            handler.name
        );
        return Err(Error::invalid("userns_options", problem));
    }
    let shared = [
        ("pid", &request.namespaces.pid),
        ("ipc", &request.namespaces.ipc),
    ];
    for (kind, scope) in shared {
        if *scope == Scope::Node {
            let problem =
                format!("a pod in a user namespace cannot share the {kind} namespace of the host");
            return Err(Error::invalid("namespace_options", problem));
        }
    }
    check_ids("userns_options.uids", &user.uids)?;
    check_ids("userns_options.gids", &user.gids)
}

/// One range that begins with root: what kubelets give, and what every part of a pod relies on.
fn check_ids(field: &'static str, ranges: &[IdRange]) -> Result<()> {
    let range = match ranges {
        [range] => range,
        [] => {
            return Err(Error::invalid(
                field,
                "a user namespace needs a range of ids",
            ));
        }
        more => {
            let problem = format!("{} ranges are given; only one is supported", more.len());
            return Err(Error::invalid(field, problem));
        }
    };
    let problem = if range.inside != 0 {
        "container id 0 is not mapped"
    } else if range.length == 0 {
        "the range is empty"
    } else if range.outside.checked_add(range.length).is_none() {
        "the range goes beyond the last id"
    } else {
        return Ok(());
    };
    Err(Error::invalid(field, problem))
}

/// What is to be made and pinned for the pod.
pub(super) fn pin(request: &PodRequest, files: &PodFiles) -> Option<UserPin> {
    let user = request.namespaces.user.as_ref()?;
    let ids = |ranges: &[IdRange]| {
        let id = |range: &IdRange| IdMapping {
            inside: range.inside,
            outside: range.outside,
            length: range.length,
        };
        ranges.iter().map(id).collect()
    };
    Some(UserPin {
        path: files.userns(),
        uids: ids(&user.uids),
        gids: ids(&user.gids),
    })
}

/// Gives a file of the host to the root of the pod's user namespace, if it has one.
pub(crate) fn give_to_root(path: &Path, user: Option<&UserNamespace>) -> Result<()> {
    let Some((uid, gid)) = user.map(UserNamespace::root) else {
        return Ok(());
    };
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|source| Error::State {
        action: "give away",
        path: path.to_owned(),
        source,
    })
}

/// Whether ids of what lies at `path` can be mapped, which user namespaces rest on: the kernel
/// must know how, and so must the file system.
pub fn supported_at(path: &Path) -> bool {
    use berth_kernel::{
        AttributeChange, Namespace, NamespaceHolder, NamespaceSet, clone_tree, open_namespace,
        set_attributes,
    };
    let probe = || {
        let holder = NamespaceHolder::new(NamespaceSet::EMPTY.with(Namespace::User))?;
        let range = IdMapping {
            inside: 0,
            outside: 65536,
            length: 1,
        };
        holder.map_ids(&[range], &[range])?;
        let namespace = open_namespace(&holder.namespace(Namespace::User))?;
        let copy = clone_tree(rustix::fs::CWD, path, false)?;
        set_attributes(&copy, &AttributeChange::default(), Some(&namespace), false)
    };
    match probe() {
        Ok(()) => true,
        Err(errno) => {
            tracing::info!(path = %path.display(), %errno, "no user namespaces: ids cannot be mapped");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Namespaces;

    fn range(inside: u32, outside: u32, length: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            length,
        }
    }

    fn handler(user_namespaces: bool) -> Handler {
        let mut handler = Handler::own("berth");
        handler.features.user_namespaces = user_namespaces;
        handler
    }

    fn asked(uids: Vec<IdRange>, gids: Vec<IdRange>) -> PodRequest {
        PodRequest {
            namespaces: Namespaces {
                user: Some(UserNamespace { uids, gids }),
                pid: Scope::Container,
                ..Namespaces::default()
            },
            ..PodRequest::default()
        }
    }

    #[test]
    fn ids_that_a_pod_cannot_have_are_refused_by_field() {
        let good = || vec![range(0, 1000, 65536)];
        let cases = [
            (good(), good(), None),
            (vec![], good(), Some("uids")),
            (good(), vec![], Some("gids")),
            (
                vec![range(0, 1, 5), range(5, 9, 5)],
                good(),
                Some("only one"),
            ),
            (vec![range(1, 1000, 10)], good(), Some("0 is not mapped")),
            (good(), vec![range(0, 1000, 0)], Some("empty")),
            (good(), vec![range(0, u32::MAX, 2)], Some("beyond")),
        ];
        for (uids, gids, problem) in cases {
            let answer = check(&asked(uids, gids), &handler(true));
            match problem {
                None => answer.unwrap(),
                Some(problem) => {
                    let error = answer.unwrap_err().to_string();
                    assert!(error.contains(problem), "{error}");
                }
            }
        }
    }

    #[test]
    fn namespaces_of_the_host_and_handlers_without_the_feature_are_refused() {
        let good = || asked(vec![range(0, 1, 9)], vec![range(0, 1, 9)]);
        assert!(check(&good(), &handler(false)).is_err());
        let mut request = good();
        request.namespaces.pid = Scope::Node;
        assert!(check(&request, &handler(true)).is_err());
        let mut request = good();
        request.namespaces.ipc = Scope::Node;
        assert!(check(&request, &handler(true)).is_err());
        // Only pid and ipc: the network of the host is a feature that is announced.
        let mut request = good();
        request.namespaces.network = Scope::Node;
        check(&request, &handler(true)).unwrap();
    }
}
