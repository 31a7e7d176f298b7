//! The images that critest pulls, made from Debian's packages.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use berth_testkit::image::{Format, Image, Layer, PackedLayer, Recipe, Remote};

use crate::command::run;
use crate::suites::fixtures::{busybox, installed, marker, pack, users};
use crate::workspace;

/// Registries whose names the references carry. One real registry stands for
/// all: their repositories do not collide.
pub const REGISTRIES: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];

const E2E: &str = "e2e-test-images";
const STAGING: &str = "k8s-staging-cri-tools";

/// An image with its names at the registry.
pub struct Published {
    pub repository: String,
    pub tags: &'static [&'static str],
    pub image: Image,
}

/// Makes every image. Half a second for each web server, most of it gzip.
pub fn make() -> Result<Vec<Published>> {
    let base = pack(&busybox()?)?;
    let mut images = vec![
        published(E2E, "busybox", &["1.29-2"], recipe(&base).cmd(&["sh"]))?,
        published(E2E, "nginx", &["1.14-2"], nginx(&base, 80)?)?,
        published(E2E, "httpd", &["2.4.39-4"], httpd(&base)?)?,
        published(E2E, "nonewprivs", &["1.3"], nonewprivs(&base)?)?,
        published(STAGING, &hostnet_nginx(), &["latest"], nginx(&base, 12003)?)?,
        published(
            STAGING,
            "test-image-predefined-group",
            &["latest"],
            predefined_group(&base)?,
        )?,
    ];
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
    ] {
        let recipe = recipe(&base).layer(marker(name)?).user(user).cmd(&["sh"]);
        images.push(published(STAGING, name, &["latest"], recipe)?);
    }
    for (name, tags) in [
        ("test-image-latest", &["latest"] as &[_]),
        ("test-image-tag", &["test"]),
        ("test-image-tag", &["all"]),
        ("test-image-1", &["latest"]),
        ("test-image-2", &["latest"]),
        ("test-image-3", &["latest"]),
        ("test-image-tags", &["1", "2", "3"]),
    ] {
        let recipe = recipe(&base)
            .layer(marker(&format!("{name}:{}", tags[0]))?)
            .cmd(&["sh"]);
        images.push(published(STAGING, name, tags, recipe)?);
    }
    let pause = recipe(&base)
        .layer(marker("pause")?)
        .entrypoint(&["sleep", "infinity"]);
    let image = pause.build()?;
    images.push(Published {
        repository: "pause".to_owned(),
        tags: &["3.9"],
        image,
    });
    Ok(images)
}

/// Makes every image and stores it at the registry.
pub fn publish(remote: &Remote) -> Result<Vec<Published>> {
    let images = make()?;
    for Published {
        repository,
        tags,
        image,
    } in &images
    {
        remote
            .push(image, repository, tags)
            .with_context(|| format!("pushing {repository}"))?;
    }
    Ok(images)
}

/// Docker's media types in the one family, OCI's in the other: both are pulled.
fn published(
    project: &str,
    name: &str,
    tags: &'static [&'static str],
    recipe: Recipe,
) -> Result<Published> {
    let format = if project == E2E {
        Format::Oci
    } else {
        Format::DockerSchema2
    };
    let image = recipe.format(format).build()?;
    Ok(Published {
        repository: format!("{project}/{name}"),
        tags,
        image,
    })
}

fn recipe(base: &Arc<PackedLayer>) -> Recipe {
    Recipe::new()
        .layer(base.clone())
        .env(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
}

fn hostnet_nginx() -> String {
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    format!("hostnet-nginx-{architecture}")
}

fn nginx(base: &Arc<PackedLayer>, port: u16) -> Result<Recipe> {
    let config = data("nginx.conf")?.replace("@PORT@", &port.to_string());
    let mut layer = installed(Layer::new(), "/usr/sbin/nginx")?
        .file("/etc/nginx/nginx.conf", 0o644, config)
        .file("/usr/share/nginx/html/index.html", 0o644, "nginx\n");
    for directory in [
        "/var/lib/nginx",
        "/var/log/nginx",
        "/usr/share/nginx/modules",
    ] {
        layer = layer.directory(directory, 0o755);
    }
    Ok(recipe(base)
        .layer(pack(&layer)?)
        .exposed_ports(&[&format!("{port}/tcp")])
        .stop_signal("SIGQUIT")
        .cmd(&["nginx", "-g", "daemon off;"]))
}

/// Under the name and in the tree of the upstream distribution, which its log
/// lines show.
fn httpd(base: &Arc<PackedLayer>) -> Result<Recipe> {
    const TREE: &str = "/usr/local/apache2";
    let mut layer = Layer::new()
        .program(Path::new("/usr/sbin/apache2"), &format!("{TREE}/bin/httpd"))
        .context("copying apache2")?
        .file(
            &format!("{TREE}/conf/httpd.conf"),
            0o644,
            data("httpd.conf")?,
        )
        .file(&format!("{TREE}/htdocs/index.html"), 0o644, "httpd\n")
        .directory(&format!("{TREE}/logs"), 0o755);
    for module in ["mod_mpm_prefork.so", "mod_authz_core.so", "mod_dir.so"] {
        let host = Path::new("/usr/lib/apache2/modules").join(module);
        layer = layer
            .program(&host, &format!("{TREE}/modules/{module}"))
            .with_context(|| format!("copying {module}"))?;
    }
    Ok(recipe(base)
        .layer(pack(&layer)?)
        .exposed_ports(&["80/tcp"])
        .cmd(&[
            "/usr/local/apache2/bin/httpd",
            "-f",
            "/usr/local/apache2/conf/httpd.conf",
            "-D",
            "FOREGROUND",
        ]))
}

fn nonewprivs(base: &Arc<PackedLayer>) -> Result<Recipe> {
    let scratch = tempfile::tempdir().context("creating a build directory")?;
    let program = scratch.path().join("nonewprivs");
    run(Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "opt-level=s",
        ])
        .args(["-C", "strip=symbols", "-C", "panic=abort", "-o"])
        .arg(&program)
        .arg(workspace::root().join("integration/critest/nonewprivs.rs")))?;
    let content = fs::read(&program).context("reading nonewprivs")?;
    let layer = Layer::new().file("/nonewprivs", 0o4755, content);
    Ok(recipe(base).layer(pack(&layer)?).cmd(&["/nonewprivs"]))
}

fn predefined_group(base: &Arc<PackedLayer>) -> Result<Recipe> {
    let layer = users(
        Layer::new(),
        "default-user:x:1000:1000::/home/default-user:/bin/sh\n",
        "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
    )
    .directory("/home/default-user", 0o755)
    .owned("/home/default-user", 1000, 1000);
    Ok(recipe(base).layer(pack(&layer)?).user("1000").cmd(&["sh"]))
}

/// A file of `integration/critest`.
fn data(name: &str) -> Result<String> {
    let path = workspace::root().join("integration/critest").join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}
