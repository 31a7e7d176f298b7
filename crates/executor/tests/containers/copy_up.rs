//! A tmpfs that begins with what the image has at its place.

use crate::Case;
use crate::fixture::{Bundle, Host};
use anyhow::{Result, ensure};
use berth_kernel::rustix::fs::{XattrFlags, setxattr};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

pub const CASES: &[Case] = &[
    ("a_filled_tmpfs_looks_like_the_image_and_is_apart", filled),
    ("options_of_a_filled_tmpfs_win_over_the_image", options),
    ("no_link_of_an_image_fills_a_tmpfs_from_outside", links),
    ("a_filled_tmpfs_belongs_to_a_user_namespace", mapped),
    ("only_a_tmpfs_can_be_filled", refused),
];

fn with_tmpfs(bundle: Bundle, place: &str, more: &[&str]) -> Bundle {
    let options: Vec<&str> = ["tmpcopyup"].iter().chain(more).copied().collect();
    bundle.mount(
        json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}),
    )
}

/// `/srv` of the image, with something of every kind.
fn fill(bundle: &Bundle) -> Result<()> {
    let srv = bundle.upper("srv");
    fs::create_dir_all(srv.join("deep/er"))?;
    fs::write(srv.join("deep/er/file"), "content")?;
    fs::hard_link(srv.join("deep/er/file"), srv.join("twin"))?;
    chown(srv.join("twin"), Some(7), Some(8))?;
    fs::set_permissions(srv.join("twin"), fs::Permissions::from_mode(0o4755))?;
    symlink("../../../../../../etc/passwd", srv.join("link"))?;
    lchown(srv.join("link"), Some(9), Some(9))?;
    setxattr(srv.join("twin"), "user.kept", b"yes", XattrFlags::empty())?;
    chown(&srv, Some(11), Some(12))?;
    fs::set_permissions(&srv, fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

const LOOK: &str = "stat -c '%n %u %g %a %h' /srv /srv/twin /srv/link /srv/deep/er/file; \
                    cat /srv/twin; readlink /srv/link; ls -A /srv | wc -l";

fn filled(host: &Host) -> Result<()> {
    let script = format!(
        "{LOOK}; echo new > /srv/new; \
                          grep -c ' /srv tmpfs ' /proc/mounts"
    );
    let bundle = with_tmpfs(host.bundle(&script)?, "/srv", &["size=1m"]);
    fill(&bundle)?;
    let output = bundle.output(host)?;
    let expected = "/srv 11 12 1777 3\n/srv/twin 7 8 4755 2\n/srv/link 9 9 777 1\n\
                    /srv/deep/er/file 7 8 4755 2\ncontent../../../../../../etc/passwd\n3\n1\n";
    ensure!(output == expected, "{output}");
    let image = fs::read_to_string(bundle.upper("srv/twin"))?;
    ensure!(image == "content", "the image has {image:?}");
    ensure!(!bundle.upper("srv/new").exists(), "written to the image");
    Ok(())
}

fn options(host: &Host) -> Result<()> {
    let script = "stat -c '%u %g %a' /srv; touch /srv/new; cat /srv/twin";
    let more = ["mode=755", "uid=3", "ro"];
    let bundle = with_tmpfs(host.bundle(script)?, "/srv", &more);
    fill(&bundle)?;
    let outcome = bundle.run(host)?;
    ensure!(outcome.stdout == "3 12 755\ncontent", "{outcome:?}");
    let read_only = outcome.stderr.contains("Read-only file system");
    ensure!(read_only, "{outcome:?}");

    // What does not fit is an error that names where it stopped.
    let bundle = with_tmpfs(host.bundle("exit 0")?, "/srv", &["size=64k"]);
    fs::create_dir(bundle.upper("srv"))?;
    fs::write(bundle.upper("srv/large"), vec![1; 1 << 20])?;
    let message = bundle.refusal(host)?;
    ensure!(message.contains("copy up /srv/large"), "{message}");
    Ok(())
}

fn links(host: &Host) -> Result<()> {
    let outside = tempfile::tempdir()?;
    fs::write(outside.path().join("secret"), "of the host")?;
    let climbing = format!("../../../../../..{}", outside.path().display());
    let absolute = outside.path().display().to_string();
    for target in [climbing.as_str(), &absolute, "/proc/self/root/etc"] {
        let bundle = with_tmpfs(
            host.bundle("busybox find /srv/ /tmp /etc; true")?,
            "/srv",
            &[],
        );
        symlink(target, bundle.upper("srv"))?;
        // Refused, or made inside the root where there is nothing to copy.
        let found = match bundle.run(host) {
            Ok(outcome) => outcome.stdout,
            Err(error) => format!("{error:#}"),
        };
        ensure!(!found.contains("secret"), "{target}: {found}");
        ensure!(!host.cgroup_exists(&bundle.id), "{target}: left its cgroup");
    }
    // Behind a link inside the image is what the image has there.
    let bundle = with_tmpfs(host.bundle("cat /srv/group; ls /srv")?, "/srv", &[]);
    symlink("../../../etc", bundle.upper("srv"))?;
    let output = bundle.output(host)?;
    ensure!(output == "root:x:0:\ngroup\npasswd\n", "{output}");
    Ok(())
}

fn mapped(host: &Host) -> Result<()> {
    let ids = json!([{"containerID": 0, "hostID": 70_000, "size": 1000}]);
    let mut bundle = with_tmpfs(host.bundle(LOOK)?, "/srv", &[])
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", ids.clone())
        .set("/linux/gidMappings", ids);
    for mount in &mut bundle.rootfs {
        mount.options.push("idmap".to_owned());
    }
    fill(&bundle)?;
    let output = bundle.output(host)?;
    let expected = "/srv 11 12 1777 3\n/srv/twin 7 8 4755 2\n/srv/link 9 9 777 1\n\
                    /srv/deep/er/file 7 8 4755 2\ncontent../../../../../../etc/passwd\n3\n";
    ensure!(output == expected, "{output}");
    Ok(())
}

fn refused(host: &Host) -> Result<()> {
    let bundle = host.bundle("exit 0")?.mount(
        json!({"destination": "/srv", "type": "bind", "source": "/tmp",
               "options": ["rbind", "tmpcopyup"]}),
    );
    let message = bundle.refusal(host)?;
    ensure!(message.contains("tmpcopyup without tmpfs"), "{message}");
    Ok(())
}
