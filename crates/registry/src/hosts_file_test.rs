use super::*;

fn parsed(text: &str) -> Result<HostsFile, HostsError> {
    parse(Path::new("/etc/berth/hosts.d/docker.io/hosts.toml"), text)
}

#[test]
fn everything_that_the_format_knows_is_read_in_order() {
    let file = parsed(
        r#"
server = "https://registry.example.com"
ca = "server-ca.pem"
skip_verify = true

[host."https://zulu.example.com:5000"]
  capabilities = ["pull"]
  ca = ["a.pem", "/abs/b.pem"]
  client = [["cert.pem", "key.pem"], ["both.pem", ""]]
  dial_timeout = "1m1.5s"
  [host."https://zulu.example.com:5000".header]
    authorization = "Basic Zm9v"
    x-many = ["1", "2"]

[host."http://alpha.example.com/v2/proxy"]
  capabilities = ["pull", "resolve", "push"]
  override_path = true
  client = "one.pem"

[host."mike.example.com"]
  client = ["one.pem", "two.pem"]
"#,
    )
    .unwrap();
    let dir = Path::new("/etc/berth/hosts.d/docker.io");
    assert_eq!(
        file.server.url.unwrap().as_str(),
        "https://registry.example.com/"
    );
    assert_eq!(file.server.ca, [dir.join("server-ca.pem")]);
    assert!(file.server.skip_verify && file.server.resolve);

    let [zulu, alpha, mike] = file.hosts.as_slice() else {
        panic!("{:?}", file.hosts)
    };
    assert_eq!(
        zulu.url.as_ref().unwrap().as_str(),
        "https://zulu.example.com:5000/"
    );
    assert!(zulu.pull && !zulu.resolve && !zulu.skip_verify);
    assert_eq!(zulu.ca, [dir.join("a.pem"), PathBuf::from("/abs/b.pem")]);
    assert_eq!(
        zulu.client,
        [
            ClientPair {
                cert: dir.join("cert.pem"),
                key: Some(dir.join("key.pem"))
            },
            ClientPair {
                cert: dir.join("both.pem"),
                key: None
            },
        ]
    );
    assert_eq!(zulu.dial_timeout, Some(Duration::from_millis(61_500)));
    assert_eq!(zulu.headers.len(), 3);
    assert!(zulu.headers.iter().all(|(_, value)| value.is_sensitive()));

    assert_eq!(
        alpha.url.as_ref().unwrap().as_str(),
        "http://alpha.example.com/v2/proxy"
    );
    assert!(alpha.pull && alpha.resolve && alpha.override_path);
    assert_eq!(
        alpha.client,
        [ClientPair {
            cert: dir.join("one.pem"),
            key: None
        }]
    );
    assert_eq!(
        mike.url.as_ref().unwrap().as_str(),
        "https://mike.example.com/"
    );
    assert_eq!(mike.client.len(), 2);
}

#[test]
fn an_empty_file_and_unknown_settings_are_fine() {
    assert!(parsed("").unwrap().hosts.is_empty());
    let file = parsed("colour = 'green'\n[host.'https://a']\nfuture = {x = 1}\n").unwrap();
    assert!(file.hosts[0].pull);
}

#[test]
fn errors_name_the_file_and_the_line() {
    let cases = [
        ("server = \n", 1, "string values must be quoted"),
        ("\n\nserver = 5", 3, "server must be a string"),
        ("server = 'ftp://x'", 1, "is not a registry URL"),
        ("server = 'https://user:pw@x'", 1, "is not a registry URL"),
        ("server = 'https://x?y=z'", 1, "is not a registry URL"),
        ("server = 'https://'", 1, "is not a registry URL"),
        ("host = 'x'", 1, "host must be a table"),
        ("[host]\n'https://a' = 3", 2, "host entry must be a table"),
        ("[host.'https://a b']", 1, "is not a registry URL"),
        (
            "[host.'https://a']\n\ncapabilities = ['pull',\n 'fly']",
            4,
            "\"fly\" is not a capability",
        ),
        (
            "[host.'https://a']\ncapabilities = 1",
            2,
            "capabilities must be a string or a list",
        ),
        ("skip_verify = 'no'", 1, "skip_verify must be true or false"),
        (
            "override_path = 1",
            1,
            "override_path must be true or false",
        ),
        ("ca = [1]", 1, "ca must be a string or a list of strings"),
        (
            "client = [['a', 'b', 'c']]",
            1,
            "client must be a file name",
        ),
        ("client = [1]", 1, "client must be a file name"),
        ("client = 1", 1, "client must be a file name"),
        ("header = 1", 1, "header must be a table"),
        ("[header]\n'a b' = 'x'", 2, "\"a b\" is not a header"),
        ("[header]\na = \"x\\ny\"", 2, "\"a\" is not a header"),
        ("dial_timeout = '10'", 1, "is not a duration"),
        ("dial_timeout = '-5s'", 1, "is not a duration"),
        ("dial_timeout = '0s'", 1, "is not a duration"),
        ("dial_timeout = 10", 1, "dial_timeout must be a string"),
        ("a = 1\na = 2", 2, "duplicate key"),
    ];
    for (text, line, message) in cases {
        let error = parsed(text).unwrap_err();
        let shown = error.to_string();
        let place = format!("/etc/berth/hosts.d/docker.io/hosts.toml:{line}: ");
        assert!(
            shown.starts_with(&place) && shown.contains(message),
            "{text:?}: {shown}"
        );
    }
}

#[test]
fn whatever_is_wrong_is_told_with_the_file_and_a_line_of_it() {
    use berth_testkit::mutate::Mutants;
    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/hosts");
    let whole = r#"
server = "https://registry.example.com"
ca = "server-ca.pem"
[host."https://zulu.example.com:5000"]
  capabilities = ["pull", "resolve"]
  client = [["cert.pem", "key.pem"], ["both.pem", ""]]
  dial_timeout = "1m1.5s"
  override_path = true
  [host."https://zulu.example.com:5000".header]
    x-many = ["1", "2"]
"#;
    Mutants::of(CORPUS)
        .and([whole, "", "skip_verify = true\n"])
        .words(&[
            "[host.\"\"]",
            "https://",
            "= [",
            "\"\"\"",
            "\u{feff}",
            "1e999",
            "-1h",
            "\\x00",
        ])
        .show(|input| {
            let text = String::from_utf8_lossy(input);
            match parsed(&text) {
                Ok(file) => {
                    let urls = file.hosts.iter().filter_map(|host| host.url.as_ref());
                    urls.for_each(|url| assert!(matches!(url.scheme(), "http" | "https"), "{url}"));
                }
                Err(error) => {
                    let line = error.line.unwrap_or(1);
                    assert!((1..=text.lines().count() + 1).contains(&line), "{error}");
                    assert!(error.to_string().contains("hosts.toml"));
                }
            }
        });
}
