//! Go programs, built from the modules under `integration/tools`, each once per
//! version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{run, stdout};
use crate::workspace;

/// A program that suites run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Crictl,
    Critest,
    /// Runs the specs of critest side by side: it starts this program for `--parallel`.
    Ginkgo,
    /// A directory with the reference plugins.
    CniPlugins,
    /// The daemon that figures are compared with, and that runs containers with our shim.
    Containerd,
    /// Its command line.
    Ctr,
    /// containerd's shim for runc and crun, which runtime handlers of the suites use.
    ContainerdShim,
    Runc,
    /// A directory with the validation programs of the OCI and what they need beside them.
    RuntimeTools,
    Kubelet,
    /// The stock Compose client, second version.
    Compose,
}

const TOOLS: [Tool; 11] = [
    Tool::Crictl,
    Tool::Critest,
    Tool::Ginkgo,
    Tool::CniPlugins,
    Tool::Containerd,
    Tool::Ctr,
    Tool::ContainerdShim,
    Tool::Runc,
    Tool::RuntimeTools,
    Tool::Kubelet,
    Tool::Compose,
];

const PLUGINS: &[&str] = &[
    "ipam/host-local",
    "main/bridge",
    "main/loopback",
    "meta/bandwidth",
    "meta/firewall",
    "meta/portmap",
];

/// Snapshotters that need C libraries are left out.
const CONTAINERD: &[&str] = &["build", "-tags", "no_btrfs no_devmapper no_zfs"];

const COMPOSE: &str = "github.com/docker/compose/v2";
const RUNTIME_TOOLS: &str = "github.com/opencontainers/runtime-tools";

/// The only one for machines of 64 bits.
const VALIDATION_ROOT: &str = "rootfs-amd64.tar.gz";

fn containerd(program: &str) -> String {
    format!("github.com/containerd/containerd/v2/cmd/{program}")
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Crictl => "crictl",
            Tool::Critest => "critest",
            Tool::Ginkgo => "ginkgo",
            Tool::CniPlugins => "cni-plugins",
            Tool::Containerd => "containerd",
            Tool::Ctr => "ctr",
            Tool::ContainerdShim => "containerd-shim-runc-v2",
            Tool::Runc => "runc",
            Tool::RuntimeTools => "runtime-tools",
            Tool::Kubelet => "kubelet",
            Tool::Compose => "docker-compose",
        }
    }

    /// Our module that pins the version, and whose module it is.
    fn module(self) -> (&'static str, &'static str) {
        match self {
            Tool::Crictl | Tool::Critest => ("tools/cri-tools", "sigs.k8s.io/cri-tools"),
            Tool::Ginkgo => ("tools/cri-tools", "github.com/onsi/ginkgo/v2"),
            Tool::CniPlugins => (
                "tools/cni-plugins",
                "github.com/containernetworking/plugins",
            ),
            Tool::Containerd | Tool::Ctr | Tool::ContainerdShim => {
                ("tools/containerd", "github.com/containerd/containerd/v2")
            }
            Tool::Runc => ("tools/runc", "github.com/opencontainers/runc"),
            Tool::RuntimeTools => ("tools/runtime-tools", RUNTIME_TOOLS),
            Tool::Kubelet => ("kubelet", "k8s.io/kubernetes"),
            Tool::Compose => ("tools/compose", COMPOSE),
        }
    }

    fn directory(self) -> PathBuf {
        workspace::root().join("integration").join(self.module().0)
    }

    fn version(self) -> Result<String> {
        let path = self.directory().join("go.mod");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        required_version(&text, self.module().1)
            .with_context(|| format!("{} requires no {}", path.display(), self.module().1))
    }

    fn build(self, out: &Path) -> Result<()> {
        match self {
            Tool::Crictl => self.go(&["build"], out, "sigs.k8s.io/cri-tools/cmd/crictl"),
            Tool::Critest => self.go(&["test", "-c"], out, "sigs.k8s.io/cri-tools/cmd/critest"),
            Tool::Ginkgo => self.go(&["build"], out, "github.com/onsi/ginkgo/v2/ginkgo"),
            Tool::CniPlugins => PLUGINS.iter().try_for_each(|plugin| {
                let name = Path::new(plugin).file_name().unwrap_or_default();
                let package = format!("github.com/containernetworking/plugins/plugins/{plugin}");
                self.go(&["build"], &out.join(name), &package)
            }),
            Tool::Containerd => self.go(CONTAINERD, out, &containerd("containerd")),
            Tool::Ctr => self.go(CONTAINERD, out, &containerd("ctr")),
            Tool::ContainerdShim => {
                self.go(CONTAINERD, out, &containerd("containerd-shim-runc-v2"))
            }
            Tool::Runc => self.go(
                &["build", "-tags", "seccomp"],
                out,
                "github.com/opencontainers/runc",
            ),
            Tool::RuntimeTools => self.build_validation(out),
            // It reports this version; a build without one calls itself v0.0.0.
            Tool::Kubelet => {
                let version = format!(
                    "-X k8s.io/component-base/version.gitVersion={}",
                    self.version()?
                );
                self.go(&["build", "-ldflags", &version], out, ".")
            }
            Tool::Compose => {
                let version = format!("-s -w -X {COMPOSE}/internal.Version={}", self.version()?);
                let package = format!("{COMPOSE}/cmd");
                self.go(&["build", "-ldflags", &version], out, &package)
            }
        }
    }

    /// The programs look where they are started for what runs inside, and for a root.
    fn build_validation(self, out: &Path) -> Result<()> {
        fs::create_dir(out).with_context(|| format!("creating {}", out.display()))?;
        for packages in ["cmd/runtimetest", "validation/..."] {
            let packages = format!("{RUNTIME_TOOLS}/{packages}");
            self.go(&["build", "-ldflags", "-s -w"], out, &packages)?;
        }
        let module = stdout(Command::new("go").current_dir(self.directory()).args([
            "list",
            "-m",
            "-f",
            "{{.Dir}}",
            RUNTIME_TOOLS,
        ]))?;
        let root = Path::new(module.trim()).join(VALIDATION_ROOT);
        fs::copy(&root, out.join(VALIDATION_ROOT))
            .with_context(|| format!("copying {}", root.display()))
            .map(drop)
    }

    fn go(self, subcommand: &[&str], out: &Path, package: &str) -> Result<()> {
        // runc enters namespaces in C, before Go's own threads are there.
        let cgo = if self == Tool::Runc { "1" } else { "0" };
        run(Command::new("go")
            .current_dir(self.directory())
            .env("CGO_ENABLED", cgo)
            .args(subcommand)
            .args(["-trimpath", "-o"])
            .arg(out)
            .arg(package))
    }
}

/// Where the program (or the directory of programs) of the pinned version is.
pub fn path(tool: Tool) -> Result<PathBuf> {
    Ok(workspace::tools()?.join(format!("{}-{}", tool.name(), tool.version()?)))
}

/// Builds what the suites need and is not there yet.
pub fn install() -> Result<()> {
    TOOLS
        .into_iter()
        .try_for_each(|tool| ensure(tool).map(drop))
}

/// Builds the program unless it is there, and says where it is. A build that
/// breaks off leaves nothing behind under the final name.
pub fn ensure(tool: Tool) -> Result<PathBuf> {
    let path = path(tool)?;
    if path.exists() {
        return Ok(path);
    }
    println!("building {}", path.display());
    let parent = path.parent().context("tools directory")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let scratch = tempfile::tempdir_in(parent).context("creating a build directory")?;
    let fresh = scratch.path().join(tool.name());
    tool.build(&fresh)
        .with_context(|| format!("building {}", tool.name()))?;
    fs::rename(&fresh, &path).with_context(|| format!("placing {}", path.display()))?;
    Ok(path)
}

/// Both forms of a requirement: on a line of its own and inside a block.
fn required_version(text: &str, module: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim();
        let mut words = line
            .strip_prefix("require ")
            .unwrap_or(line)
            .split_whitespace();
        (words.next() == Some(module))
            .then(|| words.next().map(str::to_owned))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_either_form() {
        for text in [
            "require a.b/c v1.2.3",
            "require (\n\ta.b/c v1.2.3 // indirect\n)",
        ] {
            assert_eq!(required_version(text, "a.b/c").as_deref(), Some("v1.2.3"));
        }
        assert_eq!(required_version("require a.b/cd v1", "a.b/c"), None);
    }

    #[test]
    fn every_tool_has_a_pinned_version() {
        for tool in TOOLS {
            assert!(tool.version().unwrap().starts_with('v'), "{}", tool.name());
        }
    }
}
