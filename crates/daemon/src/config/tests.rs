use std::fs;

use super::files::parse;
use super::*;

fn load(dir: &Path, text: &str, drop_in: Option<&str>) -> Result<Config> {
    let file = dir.join("berthd.toml");
    fs::write(&file, text).unwrap();
    if let Some(drop_in) = drop_in {
        fs::create_dir_all(dir.join("berthd.toml.d")).unwrap();
        fs::write(dir.join("berthd.toml.d/10.toml"), drop_in).unwrap();
    }
    Config::load(Flags {
        config: Some(file),
        ..Flags::default()
    })
}

#[test]
fn drop_ins_are_read_over_the_file_and_flags_over_both() {
    let dir = tempfile::tempdir().unwrap();
    let text = "root = \"/a\"\nstate = \"/s\"\n[bridge]\nname = \"b1\"\n";
    let config = load(
        dir.path(),
        text,
        Some("root = \"/b\"\n[pull]\nretries = 9\n"),
    )
    .unwrap();
    assert_eq!(config.root, Path::new("/b"));
    assert_eq!(
        (config.bridge.name.as_str(), config.pull.retries),
        ("b1", 9)
    );
    assert_eq!(config.socket, Path::new("/s/cri.sock"));
    let flags = Flags {
        config: Some(dir.path().join("berthd.toml")),
        root: Some("/c".into()),
        ..Flags::default()
    };
    assert_eq!(Config::load(flags).unwrap().root, Path::new("/c"));
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    let cases = [
        (
            "root = \"/a\"\nrooot = \"/b\"\n",
            ":2: unknown field `rooot`",
        ),
        (
            "[bridge]\nname = \"x\"\ncolour = 1\n",
            ":3: unknown field `colour`",
        ),
        ("root = 7\n", ":1: invalid type"),
        ("root = \"/a\n", ":1: "),
        ("[log]\nformat = \"xml\"\n", ":2: unknown variant `xml`"),
    ];
    for (text, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", load(dir.path(), text, None).unwrap_err());
        assert!(
            error.contains("berthd.toml") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_bad_drop_in_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path(), "", Some("\nnope = 1\n")).unwrap_err();
    assert!(
        format!("{error:#}").contains("10.toml:2: unknown field `nope`"),
        "{error:#}"
    );
}

#[test]
fn a_named_file_must_be_there_and_paths_absolute() {
    let missing = Flags {
        config: Some("/nonexistent/x.toml".into()),
        ..Flags::default()
    };
    assert!(Config::load(missing).is_err());
    let dir = tempfile::tempdir().unwrap();
    assert!(load(dir.path(), "root = \"relative\"\n", None).is_err());
    assert!(load(dir.path(), "cgroup-parent = \"x\"\n", None).is_err());
    let error = load(dir.path(), "[metrics]\naddress = \"9464\"\n", None).unwrap_err();
    assert!(format!("{error:#}").contains("127.0.0.1:9464"), "{error:#}");
}

#[test]
fn streaming_that_could_not_work_is_refused() {
    for (text, expected) in [
        ("address = \"0.0.0.0\"", "streaming.advertise"),
        ("tls-cert = \"/c.pem\"", "set both or neither"),
        ("max-tokens = 0", "max-tokens is 0"),
        ("address = \"localhost\"", "invalid IP address"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[streaming]\n{text}\n");
        let error = format!("{:#}", load(dir.path(), &text, None).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_shipped_example_is_valid() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/berthd.toml");
    let text = fs::read_to_string(&example).unwrap();
    parse(&example, &text).unwrap();
}
