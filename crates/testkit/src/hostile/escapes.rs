//! Layers that want to reach what is outside their directory.

use crate::archive::*;

/// Every deed by every route: what it is called, and the archive.
///
/// `canary` is an absolute path to a directory with a file `f` and a directory `d` with a file `g`;
/// it lies beside the directory that the layer is unpacked to, where that is to be tried too.
pub fn cases(canary: &str) -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    for (route_name, before, route) in routes(canary) {
        for (deed, tar) in deeds(&route) {
            let archive = Tar::of(before.clone())
                .entry(&Entry::file("present", "1"))
                .raw(&tar.0)
                .end();
            cases.push((format!("{deed} by {route_name}"), archive));
        }
    }
    cases
}

/// Ways to name something in the canary: what has to be in the layer first, and the directory.
fn routes(canary: &str) -> Vec<(String, Vec<Entry>, String)> {
    let absolute = canary.to_owned();
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
    let one = |name: &str, entry: Entry| (name.to_owned(), Tar::new().entry(&entry));
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
        .entry(&Entry::file("ok", "harmed"));
    deeds.push(("PAX path".to_owned(), pax));
    let long = Tar::new()
        .long(b'L', at("f").as_bytes())
        .entry(&Entry::file("ok", "harmed"));
    deeds.push(("GNU long name".to_owned(), long));
    let link = Tar::new()
        .pax(&[("linkpath", at("f").as_bytes())])
        .entry(&Entry::hard_link("taken", "present"));
    deeds.push(("PAX link path".to_owned(), link));
    deeds
}
