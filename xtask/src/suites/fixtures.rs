//! Parts that images of more than one suite are made from.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use berth_testkit::image::{Compression, Layer, PackedLayer};

use crate::command::{stdout, which};

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
";

const GROUP: &str = "\
root:x:0:
www-data:x:33:
nogroup:x:65534:
";

/// Debian's dynamic busybox with a hard link per applet, and the programs that
/// it has not: the hard links make masking one applet leave the shell alone.
pub fn busybox() -> Result<Layer> {
    let program = which("busybox").context("busybox is not installed")?;
    let mut layer = Layer::new().program(&program, "/bin/busybox")?;
    for applet in stdout(Command::new(&program).arg("--list"))?.lines() {
        if applet != "busybox" {
            layer = layer.hard_link(&format!("/bin/{applet}"), "/bin/busybox");
        }
    }
    for extra in ["ipcs", "ipcmk", "pgrep"] {
        let program = which(extra).with_context(|| format!("{extra} is not installed"))?;
        layer = layer.program(&program, &format!("/usr/bin/{extra}"))?;
    }
    for directory in [
        "/dev", "/home", "/proc", "/root", "/sys", "/var/run", "/var/www",
    ] {
        layer = layer.directory(directory, 0o755);
    }
    Ok(users(layer, "", "").directory("/tmp", 0o1777))
}

/// Adds /etc/passwd and /etc/group with extra lines.
pub fn users(layer: Layer, passwd: &str, group: &str) -> Layer {
    layer
        .file("/etc/passwd", 0o644, format!("{PASSWD}{passwd}"))
        .file("/etc/group", 0o644, format!("{GROUP}{group}"))
}

/// A layer whose only content tells images apart.
pub fn marker(name: &str) -> Result<Arc<PackedLayer>> {
    pack(&Layer::new().file("/etc/marker", 0o644, format!("{name}\n")))
}

pub fn pack(layer: &Layer) -> Result<Arc<PackedLayer>> {
    Ok(Arc::new(layer.pack(Compression::Gzip)?))
}

/// Adds an installed program under the path that it has on this machine.
pub fn installed(layer: Layer, path: &str) -> Result<Layer> {
    let host = Path::new(path);
    layer
        .program(host, path)
        .with_context(|| format!("copying {path}"))
}
