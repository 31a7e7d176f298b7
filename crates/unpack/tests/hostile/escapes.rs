//! Layers that want to reach what is outside their target.

use std::fs;
use std::path::Path;

use super::archive::*;
use super::canary::*;
use super::open_descriptors;
use berth_unpack::{Error, Options};

/// Ways to name something in the canary: what has to be in the layer first, and the directory.
fn routes(canary: &Path) -> Vec<(String, Vec<Entry>, String)> {
    let absolute = canary.to_str().unwrap().to_owned();
    let mut routes: Vec<(String, Vec<Entry>, String)> = [
        "../canary".to_owned(),
        "/../canary".to_owned(),
        "./../canary".to_owned(),
        "a/../../canary".to_owned(),
        "a/b/../../../canary".to_owned(),
        absolute.clone(),
        format!("//{absolute}/"),
    ]
    .into_iter()
    .map(|path| (format!("path {path}"), Vec::new(), path))
    .collect();
    for target in [
        absolute.clone(),
        "../canary".to_owned(),
        "../../../../../../../../../../..".to_owned() + &absolute,
        format!("/proc/self/root{absolute}"),
        "/proc/self/cwd/../canary".to_owned(),
        format!("./.././../{}", "x/../".repeat(30) + "canary"),
        "/..".to_owned() + &absolute,
    ] {
        let link = Entry::symlink("link", &target);
        routes.push((format!("link to {target}"), vec![link], "link".to_owned()));
    }
    let root = || Entry::symlink("up", "/");
    let chain = vec![root(), Entry::symlink("link", format!("up{absolute}"))];
    routes.push(("two links".to_owned(), chain, "link".to_owned()));
    let nested = vec![
        Entry::dir("d"),
        Entry::symlink("d/up", ".."),
        Entry::symlink("link", "d/up/../.."),
    ];
    routes.push((
        "a link with ..".to_owned(),
        nested,
        "link/canary".to_owned(),
    ));
    let hard = vec![
        Entry::symlink("soft", &absolute),
        Entry::hard_link("link", "soft"),
    ];
    routes.push(("a hard link to a link".to_owned(), hard, "link".to_owned()));
    let swapped = vec![
        Entry::dir("link"),
        Entry::symlink("link", "/tmp"),
        Entry::symlink("link", &absolute),
    ];
    routes.push((
        "a directory that became a link".to_owned(),
        swapped,
        "link".to_owned(),
    ));
    routes
}

/// Things to do at `route`, a directory of the canary if the layer gets its way.
fn deeds(route: &str) -> Vec<(String, Tar)> {
    let at = |name: &str| format!("{route}/{name}");
    let one = |name: &str, entry: Entry| (name.to_owned(), Tar::new().add(&entry));
    let mut deeds = vec![
        one("overwrite", Entry::file(at("f"), "harmed")),
        one("create", Entry::file(at("new"), "harmed")),
        one("setuid", Entry::file(at("d/g"), "harmed").mode(0o4755)),
        one("directory", Entry::dir(at("d")).mode(0o777).owner(7, 7)),
        one("route itself", Entry::dir(route).mode(0o777).owner(7, 7)),
        one("deep directory", Entry::dir(at("new/x/y"))),
        one("symlink", Entry::symlink(at("f"), "/etc/passwd")),
        one("device", Entry::device(at("f"), 1, 3)),
        one(
            "block device",
            Entry {
                kind: b'4',
                ..Entry::device(at("new"), 8, 0)
            },
        ),
        one("fifo", Entry::new(b'6', at("f"))),
        one("whiteout", Entry::file(at(".wh.f"), "")),
        one("directory whiteout", Entry::file(at(".wh.d"), "")),
        one("opaque", Entry::file(at(".wh..wh..opq"), "")),
        one("hard link out", Entry::hard_link("taken", at("f"))),
        one(
            "hard link to a directory",
            Entry::hard_link("taken", at("d")),
        ),
        one("hard link in", Entry::hard_link(at("f"), "present")),
    ];
    let through = [
        Entry::hard_link("taken", at("f")),
        Entry::file("taken", "harmed").mode(0o777),
    ];
    deeds.push(("write through a hard link".to_owned(), Tar::of(through)));
    let through = [
        Entry::symlink("soft", at("f")),
        Entry::file("soft", "harmed").mode(0o777).owner(7, 7),
    ];
    deeds.push(("write through a link".to_owned(), Tar::of(through)));
    let pax = Tar::new()
        .pax(&[("path", at("f").as_bytes())])
        .add(&Entry::file("ok", "harmed"));
    deeds.push(("PAX path".to_owned(), pax));
    let long = Tar::new()
        .long(b'L', at("f").as_bytes())
        .add(&Entry::file("ok", "harmed"));
    deeds.push(("GNU long name".to_owned(), long));
    let link = Tar::new()
        .pax(&[("linkpath", at("f").as_bytes())])
        .add(&Entry::hard_link("taken", "present"));
    deeds.push(("PAX link path".to_owned(), link));
    deeds
}

#[test]
fn no_layer_reaches_outside_its_target() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    let mut layers = 0;
    let before_all = open_descriptors();
    for (route_name, before, route) in routes(&canary.path) {
        for (deed, tar) in deeds(&route) {
            let case = format!("{deed} by {route_name}");
            let archive = Tar::of(before.clone())
                .add(&Entry::file("present", "1"))
                .raw(&tar.0)
                .end();
            let (target, outcome) = place.unpack(&archive, &Options::default());
            canary.check(&case);
            if let Err(error) = outcome {
                let told = matches!(error, Error::Refused { .. } | Error::Header { .. });
                assert!(told, "{case}: {error:?}");
            }
            fs::remove_dir_all(target).unwrap();
            layers += 1;
        }
    }
    assert!(layers >= 200, "{layers} layers");
    // Other tests of this process hold a few of their own.
    assert!(open_descriptors() < before_all + 100, "descriptors leak");
}
