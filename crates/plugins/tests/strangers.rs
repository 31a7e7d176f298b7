//! Plugins that behave, and plugins that do not.
#![allow(clippy::unwrap_used)] // a fake plugin that cannot answer fails the test

mod fake;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_plugins::{Config, Error, Patience, Plugins, VolumeDriver};
use fake::{Script, json, plugin};

const MANIFEST: &str = r#"{"Implements": ["VolumeDriver"]}"#;

fn plugins(dir: &Path) -> Plugins {
    Plugins::new(Config {
        sockets: dir.to_owned(),
        specs: Vec::new(),
        look: Duration::from_millis(300),
        change: Duration::from_millis(600),
    })
}

fn good(method: &str) -> Option<String> {
    json(match method {
        "Plugin.Activate" => MANIFEST,
        "VolumeDriver.Mount" => r#"{"Mountpoint": "/vol/a", "Err": ""}"#,
        "VolumeDriver.Get" => {
            r#"{"Volume": {"Name": "a", "Mountpoint": null, "Status": {"size": "3"}}, "Err": ""}"#
        }
        "VolumeDriver.List" => r#"{"Volumes": [{"Name": "a"}, {"Name": "b"}]}"#,
        "VolumeDriver.Remove" => r#"{"Err": "it is precious"}"#,
        _ => "{}",
    })
}

#[tokio::test]
async fn a_plugin_is_asked_as_the_protocol_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let asked = plugin(&dir.path().join("shelf.sock"), good);
    let plugins = plugins(dir.path());
    let driver = VolumeDriver::open(&plugins, "shelf", Patience::Change);
    let driver = driver.await.unwrap();
    let options = BTreeMap::from([("size".to_owned(), "3".to_owned())]);
    driver.create("a", &options).await.unwrap();
    assert_eq!(
        driver.mount("a", "c1").await.unwrap(),
        PathBuf::from("/vol/a")
    );
    let told = driver.get("a").await.unwrap();
    assert_eq!(
        (told.name.as_str(), told.status["size"].as_str()),
        ("a", Some("3"))
    );
    assert_eq!(told.mountpoint, PathBuf::new());
    assert_eq!(driver.list().await.unwrap().len(), 2);
    assert_eq!(driver.scope().await.unwrap(), "local");
    let refused = driver.remove("a").await.unwrap_err();
    assert_eq!(refused.to_string(), "VolumeDriver.Remove: it is precious");
    let again = VolumeDriver::open(&plugins, "shelf", Patience::Look).await;
    assert_eq!(again.unwrap().name(), "shelf");

    let asked = asked.lock();
    let methods: Vec<&str> = asked.iter().map(|(method, _)| method.as_str()).collect();
    assert_eq!(methods[..2], ["Plugin.Activate", "VolumeDriver.Create"]);
    assert_eq!(
        methods.iter().filter(|m| **m == "Plugin.Activate").count(),
        1
    );
    let body: serde_json::Value = serde_json::from_str(&asked[1].1).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"Name": "a", "Opts": {"size": "3"}})
    );
    let body: serde_json::Value = serde_json::from_str(&asked[2].1).unwrap();
    assert_eq!(body, serde_json::json!({"Name": "a", "ID": "c1"}));
}

#[tokio::test]
async fn what_is_no_answer_is_told_with_the_name_of_its_plugin() {
    let cases: [(&str, Script, &str); 6] = [
        (
            "page",
            |_| json("<html>hello</html>"),
            "no JSON: <html>hello",
        ),
        ("list", |_| json("[1]"), "something else"),
        (
            "short",
            |_| Some("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_owned()),
            "broke off its answer to Plugin.Activate",
        ),
        ("noise", |_| Some("\u{1}\u{2}\u{3}".to_owned()), "broke off"),
        (
            "sorry",
            |_| {
                Some(
                    "HTTP/1.1 500 No\r\nContent-Length: 20\r\n\r\n{\"Err\": \"no disk\"}  "
                        .to_owned(),
                )
            },
            "Plugin.Activate: no disk",
        ),
        ("hangs", |_| None, "has not answered Plugin.Activate"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let plugins = plugins(dir.path());
    for (name, script, said) in cases {
        plugin(&dir.path().join(format!("{name}.sock")), script);
        let error = VolumeDriver::open(&plugins, name, Patience::Look).await;
        let error = error.unwrap_err().report();
        assert!(error.contains(said), "{name}: {error}");
    }
}

#[tokio::test]
async fn who_hangs_is_left_out_of_the_next_question_to_all() {
    let dir = tempfile::tempdir().unwrap();
    plugin(&dir.path().join("good.sock"), good);
    let hangs = plugin(&dir.path().join("hangs.sock"), |_| None);
    let other = plugin(&dir.path().join("logs.sock"), |_| {
        json(r#"{"Implements": ["LogDriver"]}"#)
    });
    // Nobody listens any more.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead.sock")).unwrap());
    let plugins = plugins(dir.path());
    for asked_before in [false, true] {
        let (found, failed) = VolumeDriver::all(&plugins).await;
        let names: Vec<&str> = found.iter().map(VolumeDriver::name).collect();
        assert_eq!(names, ["good"]);
        let failed: Vec<(&str, bool)> = failed
            .iter()
            .map(|(name, error)| (name.as_str(), matches!(error, Error::Away(_))))
            .collect();
        assert_eq!(failed, [("dead", false), ("hangs", asked_before)]);
    }
    assert_eq!(hangs.lock().len(), 1);
    assert_eq!(other.lock().len(), 1);
    let lacks = VolumeDriver::open(&plugins, "logs", Patience::Look).await;
    let said = lacks.unwrap_err().to_string();
    assert!(
        said.contains("does not implement VolumeDriver: it offers LogDriver"),
        "{said}"
    );
}

#[tokio::test]
async fn who_changes_something_waits_for_a_plugin_that_is_being_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late.sock");
    // As a killed plugin leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut config = plugins(dir.path());
    let looked = VolumeDriver::open(&config, "late", Patience::Look).await;
    assert!(matches!(looked, Err(Error::Unreachable { .. })));
    config = Plugins::new(Config {
        sockets: dir.path().to_owned(),
        ..Config::default()
    });
    let (opened, _) = tokio::join!(
        VolumeDriver::open(&config, "late", Patience::Change),
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::fs::remove_file(&path).unwrap();
            plugin(&path, good);
        }
    );
    assert!(opened.is_ok(), "{opened:?}");
}
