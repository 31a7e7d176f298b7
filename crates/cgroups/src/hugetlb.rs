//! Limits on huge pages, on whichever side has the controller.

use crate::cgroup::{Cgroup, Home};
use crate::error::{Error, Result};
use crate::layout::Controller;
use oci_spec::runtime::LinuxHugepageLimit;

pub(crate) fn apply(cgroup: &Cgroup, limits: &[LinuxHugepageLimit]) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    check(limits)?;
    let home = match cgroup.require(Controller::Hugetlb) {
        // Kubelets give every page size a limit, zero for what was not asked
        // for: that must not keep containers from hosts without the controller.
        Err(Error::ControllerMissing { .. }) if limits.iter().all(|l| l.limit() == 0) => {
            return Ok(());
        }
        home => home?,
    };
    for limit in limits {
        let size = limit.page_size();
        let (directory, usage, reserved, none) = match home {
            Home::V1(directory) => (
                directory,
                format!("hugetlb.{size}.limit_in_bytes"),
                format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                "-1",
            ),
            Home::V2(directory) => (
                directory,
                format!("hugetlb.{size}.max"),
                format!("hugetlb.{size}.rsvd.max"),
                "max",
            ),
        };
        let value = match limit.limit() {
            ..0 => none.to_owned(),
            bytes => bytes.to_string(),
        };
        directory.write(&usage, &value)?;
        // A limit on reservations too turns a SIGBUS at the first touch into
        // an error from mmap. Kernels before 5.7 do not have it.
        if directory.has(&reserved) {
            directory.write(&reserved, &value)?;
        }
    }
    Ok(())
}

pub(crate) fn check(limits: &[LinuxHugepageLimit]) -> Result<()> {
    limits
        .iter()
        .try_for_each(|limit| check_page_size(limit.page_size()))
}

/// A page size becomes part of a file name, so it is only a number and a
/// unit, like `2MB`.
fn check_page_size(size: &str) -> Result<()> {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| size.strip_suffix(unit));
    match number {
        Some(digits)
            if !digits.is_empty()
                && digits.len() <= 10
                && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Ok(())
        }
        _ => Err(Error::InvalidResource {
            setting: "hugepageLimits",
            value: size.chars().take(64).collect(),
            problem: "is not a page size",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxHugepageLimitBuilder, LinuxResources, LinuxResourcesBuilder};

    fn resources(size: &str, limit: i64) -> LinuxResources {
        let limit = LinuxHugepageLimitBuilder::default()
            .page_size(size)
            .limit(limit);
        LinuxResourcesBuilder::default()
            .hugepage_limits(vec![limit.build().unwrap()])
            .build()
            .unwrap()
    }

    #[test]
    fn limits_go_to_the_side_that_has_the_controller() {
        let v1 = FakeTree::v1(&["hugetlb"]).and_unified("");
        let hybrid = FakeTree::v1(&["memory"]).and_unified("hugetlb");
        for (tree, directory, usage, reserved, none) in [
            (
                &v1,
                "hugetlb/a",
                "limit_in_bytes",
                "rsvd.limit_in_bytes",
                "-1",
            ),
            (&hybrid, "unified/a", "max", "rsvd.max", "max"),
        ] {
            let cgroup = tree.cgroup("/a");
            for (limit, value) in [(4096, "4096"), (0, "0"), (-1, none)] {
                tree.put(directory, &format!("hugetlb.2MB.{usage}"), "");
                tree.put(directory, &format!("hugetlb.2MB.{reserved}"), "");
                cgroup.apply(&resources("2MB", limit)).unwrap();
                assert_eq!(tree.get(directory, &format!("hugetlb.2MB.{usage}")), value);
                assert_eq!(
                    tree.get(directory, &format!("hugetlb.2MB.{reserved}")),
                    value
                );
            }
        }
    }

    #[test]
    fn only_a_limit_of_zero_can_do_without_the_controller() {
        let cgroup = FakeTree::v1(&["memory"]).cgroup("/a");
        cgroup.apply(&resources("2MB", 0)).unwrap();
        let error = cgroup.apply(&resources("2MB", 4096)).unwrap_err();
        assert!(matches!(error, Error::ControllerMissing { .. }));
    }

    #[test]
    fn page_sizes_cannot_name_other_files() {
        let tree = FakeTree::v1(&["hugetlb"]);
        let cgroup = tree.cgroup("/a");
        for size in [
            "",
            "MB",
            "2",
            "2mb",
            "../2MB",
            "2/MB",
            "-2MB",
            "2 MB",
            "2MB\n",
            "99999999999MB",
        ] {
            let error = cgroup.apply(&resources(size, 1)).unwrap_err();
            assert!(matches!(error, Error::InvalidResource { .. }), "{size:?}");
        }
    }
}
