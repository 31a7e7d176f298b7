//! Images of criu on the command line: where they are, and what is done about what hangs on the
//! processes. Options are runc's.

use crate::arguments::{Arguments, Flag, list, switch, value};
use crate::error::{Error, Result};
use berth_criu::dump;
use berth_executor::{Container, Create, Restore, RestoreOptions};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub const IMAGE_PATH: Flag = value("image-path", "", "path for criu image files");
pub const WORK_PATH: Flag = value("work-path", "", "path for work files and logs");
pub const TCP_ESTABLISHED: Flag = switch("tcp-established", "", "allow open tcp connections");
pub const EXT_UNIX_SK: Flag = switch("ext-unix-sk", "", "allow external unix sockets");
pub const SHELL_JOB: Flag = switch("shell-job", "", "allow shell jobs");
pub const FILE_LOCKS: Flag = switch("file-locks", "", "handle file locks");
pub const AUTO_DEDUP: Flag = switch("auto-dedup", "", "deduplicate memory images");
pub const MANAGE_CGROUPS: Flag = value(
    "manage-cgroups-mode",
    "",
    "cgroups mode: soft or ignore; berth-oci looks after the cgroup itself",
);
pub const EMPTY_NS: Flag = list(
    "empty-ns",
    "",
    "create a namespace, but don't restore its properties: network",
);
pub const LAZY_PAGES: Flag = switch("lazy-pages", "", "restore memory lazily (not supported)");

/// Directory of the images if none is named, in the working directory.
const IMAGES: &str = "checkpoint";

/// Images to be restored.
#[derive(Debug)]
pub struct Images {
    criu: PathBuf,
    images: PathBuf,
    work: PathBuf,
    options: RestoreOptions,
}

impl Images {
    pub fn new(given: &Arguments) -> Result<Self> {
        refuse(given)?;
        let images = image_path(given)?;
        let images = images
            .canonicalize()
            .map_err(Error::io("find images", &images))?;
        let text = |name| given.value(name).map(str::to_owned);
        Ok(Self {
            criu: criu()?,
            work: work_path(given, &images)?,
            images,
            options: RestoreOptions {
                tcp_established: given.is_on("tcp-established"),
                tcp_close: false,
                ext_unix_sk: given.is_on("ext-unix-sk"),
                shell_job: given.is_on("shell-job"),
                file_locks: given.is_on("file-locks"),
                auto_dedup: given.is_on("auto-dedup"),
                lsm_profile: text("lsm-profile"),
                lsm_mount_context: text("lsm-mount-context"),
            },
        })
    }

    pub fn restore(&self, create: Create<'_>) -> Result<Container> {
        Ok(Container::restore(Restore {
            create,
            criu: &self.criu,
            images: &self.images,
            work: &self.work,
            options: self.options.clone(),
        })?)
    }
}

pub fn criu() -> Result<PathBuf> {
    berth_criu::find(None).ok_or(Error::NoCriu)
}

pub fn image_path(given: &Arguments) -> Result<PathBuf> {
    let path = Path::new(given.value("image-path").unwrap_or(IMAGES));
    std::path::absolute(path).map_err(Error::io("resolve", path))
}

/// Made when it is missing; beside the images if none is named.
pub fn work_path(given: &Arguments, images: &Path) -> Result<PathBuf> {
    let Some(named) = given.value("work-path") else {
        return Ok(images.to_owned());
    };
    let path = std::path::absolute(named).map_err(Error::io("resolve", Path::new(named)))?;
    make_directory(&path)?;
    Ok(path)
}

/// What is in there is the container's memory: for nobody else.
pub fn make_directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(Error::io("make", path))
}

/// What is not done, for dumps and restores alike.
pub fn refuse(given: &Arguments) -> Result<()> {
    if given.is_on("lazy-pages") || given.is_given("status-fd") {
        return Err(Error::Unsupported {
            feature: "lazy migration (--lazy-pages, --status-fd)",
            instead: "copy the whole images, or dump memory ahead with --pre-dump",
        });
    }
    match given.value("manage-cgroups-mode") {
        None | Some("soft" | "ignore") => {}
        Some("full" | "strict") => {
            return Err(Error::Unsupported {
                feature: "a cgroup that is restored from the images",
                instead: "the specification says what the cgroup is: use soft or ignore",
            });
        }
        Some(other) => {
            return Err(Error::InvalidOption {
                name: "manage-cgroups-mode",
                value: other.to_owned(),
            });
        }
    }
    match given
        .list("empty-ns")
        .iter()
        .find(|kind| **kind != "network")
    {
        Some(kind) => Err(Error::InvalidOption {
            name: "empty-ns",
            value: (*kind).to_owned(),
        }),
        None => Ok(()),
    }
}

/// How a dump is made.
pub fn dump_options(given: &Arguments, images: &Path) -> Result<dump::Options> {
    Ok(dump::Options {
        pre_dump: given.is_on("pre-dump"),
        leave_running: given.is_on("leave-running"),
        tcp_established: given.is_on("tcp-established"),
        tcp_skip_in_flight: given.is_on("tcp-skip-in-flight"),
        link_remap: given.is_on("link-remap"),
        ext_unix_sk: given.is_on("ext-unix-sk"),
        shell_job: given.is_on("shell-job"),
        file_locks: given.is_on("file-locks"),
        auto_dedup: given.is_on("auto-dedup"),
        parent: parent(given, images)?,
        page_server: given.value("page-server").map(page_server).transpose()?,
        empty_network: false,
        timeout: None,
        frozen: None,
    })
}

/// criu looks for it from the images.
fn parent(given: &Arguments, images: &Path) -> Result<Option<String>> {
    let Some(parent) = given.value("parent-path") else {
        return Ok(None);
    };
    if Path::new(parent).is_absolute() || !images.join(parent).is_dir() {
        return Err(Error::ParentPath {
            path: parent.to_owned(),
        });
    }
    Ok(Some(parent.to_owned()))
}

fn page_server(given: &str) -> Result<(String, u16)> {
    let split = given.rsplit_once(':').and_then(|(address, port)| {
        let address = address.trim_matches(['[', ']']);
        let port = port.parse().ok()?;
        (!address.is_empty()).then(|| (address.to_owned(), port))
    });
    split.ok_or_else(|| Error::InvalidOption {
        name: "page-server",
        value: given.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        assert_eq!(page_server("[::1]:27").unwrap(), ("::1".to_owned(), 27));
        for wrong in ["host", ":27", "host:", "host:x", "host:70000"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
