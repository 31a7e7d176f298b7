//! Debian's kernel for virtual machines, its modules, and the first root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use crate::command::{run, stdout};
use crate::workspace;

/// Depends on the newest of its kind.
const NEWEST: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";

/// What the first root needs to go on to the shared one.
const EARLY: [&str; 6] = [
    "virtio_pci",
    "virtiofs",
    "virtio_blk",
    "overlay",
    "ext4",
    "quota_v2",
];

/// Unpacked packages, kept below the cache of the tools.
#[derive(Debug)]
pub struct Kernel {
    directory: PathBuf,
    version: String,
}

/// Downloads and unpacks what is not there yet.
pub fn ensure() -> Result<Kernel> {
    let cache = workspace::cache()?.join("vm");
    let directory = cache.join("kernel");
    if !directory.exists() {
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        let fresh = tempfile::tempdir_in(&cache).context("making a place for the kernel")?;
        unpack(fresh.path())?;
        // Kept from here on, also if another run was faster.
        let fresh = fresh.keep();
        if fs::rename(&fresh, &directory).is_err() {
            fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
        }
    }
    let version = only_entry(&directory.join("layer/usr/lib/modules"))?;
    Ok(Kernel { directory, version })
}

/// A shell that needs no libraries; there once [`ensure`] was.
pub fn busybox() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("vm/kernel/busybox"))
}

/// `kernel`, `busybox`, and `layer`: modules as a root has them.
fn unpack(into: &Path) -> Result<()> {
    download(into).or_else(|_| {
        // The lists are not there, or older than the packages that Debian still has.
        run(Command::new("apt-get").args(["update", "-qq"])).context("refreshing package lists")?;
        download(into)
    })?;
    let unpacked = into.join("unpacked");
    for package in fs::read_dir(into).context("listing packages")? {
        let package = package.context("listing packages")?.path();
        if package.extension().is_some_and(|end| end == "deb") {
            run(Command::new("dpkg-deb")
                .arg("-x")
                .arg(&package)
                .arg(&unpacked))?;
            fs::remove_file(&package).context("removing a package")?;
        }
    }
    let image = fs::read_dir(unpacked.join("boot"))
        .context("listing the kernel's package")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
        .context("the kernel's package has no kernel")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| unpacked.join(path))
        .into_iter()
        .find(|path| path.exists())
        .context("busybox-static has no busybox")?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|path| unpacked.join(path))
        .into_iter()
        .find(|path| path.exists())
        .context("the kernel's package has no modules")?;
    let version = only_entry(&modules)?;
    fs::create_dir_all(into.join("layer/usr/lib"))
        .and_then(|()| fs::rename(image, into.join("kernel")))
        .and_then(|()| fs::rename(busybox, into.join("busybox")))
        .and_then(|()| fs::rename(modules, into.join("layer/usr/lib/modules")))
        .and_then(|()| fs::remove_dir_all(&unpacked))
        .context("arranging the kernel")?;
    run(Command::new(into.join("busybox"))
        .args(["depmod", "-b"])
        .arg(into.join("layer/usr"))
        .arg(&version))
}

fn download(into: &Path) -> Result<()> {
    let name = newest()?;
    println!("  downloading {name} and {BUSYBOX}");
    run(Command::new("apt-get")
        // Whom it would become otherwise may not write here.
        .args(["-o", "APT::Sandbox::User=root"])
        .args(["download", "-qq", &name, BUSYBOX])
        .current_dir(into)
        .stdout(Stdio::null()))
}

/// `linux-image-6.1.0-56-cloud-amd64`
fn newest() -> Result<String> {
    let shown = stdout(Command::new("apt-cache").args(["show", "--no-all-versions", NEWEST]))?;
    shown
        .lines()
        .filter_map(|line| line.strip_prefix("Depends: "))
        .flat_map(|list| list.split(','))
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("{NEWEST} depends on no kernel"))
}

fn only_entry(directory: &Path) -> Result<String> {
    let entry = fs::read_dir(directory)
        .with_context(|| format!("listing {}", directory.display()))?
        .flatten()
        .next()
        .with_context(|| format!("{} is empty", directory.display()))?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

impl Kernel {
    pub fn image(&self) -> PathBuf {
        self.directory.join("kernel")
    }

    /// Writes the first root: a shell, the modules that lead out of it, the settings.
    pub fn pack(&self, settings: &str, to: &Path) -> Result<()> {
        let modules = self.modules();
        let list = modules.join("modules.dep");
        let list =
            fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        let early = load_order(&list, &self.outside(&list)?)?;
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let mut files = vec![
            (
                "init".to_owned(),
                read(&workspace::root().join("integration/vm/init"))?,
            ),
            (
                "bin/busybox".to_owned(),
                read(&self.directory.join("busybox"))?,
            ),
        ];
        let mut names = Vec::new();
        for file in early {
            let name = format!("modules/{}", file.rsplit('/').next().unwrap_or(file));
            files.push((name.clone(), read(&modules.join(file))?));
            names.push(name);
        }
        let settings = format!(
            "{settings}KERNEL_TREE='{}'\nMODULES='{}'\n",
            self.tree().display(),
            names.join(" ")
        );
        files.push(("settings".to_owned(), settings.into_bytes()));
        write_archive(&files, to).context("writing the first root")
    }

    /// The directory that belongs at `/usr/lib/modules`.
    fn tree(&self) -> PathBuf {
        self.directory.join("layer/usr/lib/modules")
    }

    fn modules(&self) -> PathBuf {
        self.tree().join(&self.version)
    }

    /// What is needed early and not part of the kernel itself.
    fn outside(&self, list: &str) -> Result<Vec<&'static str>> {
        let builtin = fs::read_to_string(self.modules().join("modules.builtin"));
        let builtin = builtin.unwrap_or_default();
        let is_in = |lines: &str, name: &str| {
            lines
                .lines()
                .any(|line| is_module(line.split(':').next().unwrap_or_default(), name))
        };
        let mut outside = Vec::new();
        for name in EARLY {
            if is_in(list, name) {
                outside.push(name);
            } else {
                ensure!(is_in(&builtin, name), "the kernel has no {name}");
            }
        }
        Ok(outside)
    }
}

fn write_archive(files: &[(String, Vec<u8>)], to: &Path) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(to)?));
    for directory in ["bin", "dev", "modules"] {
        archive.directory(directory)?;
    }
    for (name, content) in files {
        archive.file(name, 0o755, content)?;
    }
    archive.finish()
}

/// `-` and `_` are the same in names of modules.
fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_suffix(".ko")
        .is_some_and(|stem| stem.replace('-', "_") == name)
}

/// Files of `wanted` with all that they need, each after what it needs, from
/// the lines `file: file…` of modules.dep.
fn load_order<'a>(modules_dep: &'a str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let needs: BTreeMap<&str, Vec<&str>> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        let file = needs.keys().find(|file| is_module(file, name)).copied();
        visit(
            file.with_context(|| format!("the kernel has no {name}"))?,
            &needs,
            &mut order,
            0,
        )?;
    }
    Ok(order)
}

fn visit<'a>(
    file: &'a str,
    needs: &BTreeMap<&'a str, Vec<&'a str>>,
    order: &mut Vec<&'a str>,
    depth: usize,
) -> Result<()> {
    ensure!(depth < 32, "modules need each other in a circle");
    if order.contains(&file) {
        return Ok(());
    }
    for needed in needs.get(file).into_iter().flatten() {
        visit(needed, needs, order, depth + 1)?;
    }
    order.push(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_after_what_it_needs() {
        let text = "k/9p.ko: k/9pnet.ko k/netfs.ko\nk/9pnet.ko:\nk/netfs.ko:\n\
                    k/9pnet-virtio.ko: k/9pnet.ko k/virtio.ko\nk/virtio.ko:\n";
        let order = load_order(text, &["9pnet_virtio", "9p"]).unwrap();
        assert_eq!(
            order,
            [
                "k/9pnet.ko",
                "k/virtio.ko",
                "k/9pnet-virtio.ko",
                "k/netfs.ko",
                "k/9p.ko"
            ]
        );
        assert!(load_order(text, &["overlay"]).is_err());
        assert!(load_order("a.ko: b.ko\nb.ko: a.ko\n", &["a"]).is_err());
    }
}
