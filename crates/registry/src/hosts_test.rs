use super::*;
use crate::Error;

struct Fixture {
    dir: tempfile::TempDir,
    config: RegistryConfig,
    transports: Arc<Transports>,
}

impl Fixture {
    fn new() -> Self {
        crate::transport::choose_crypto();
        let dir = tempfile::tempdir().unwrap();
        let config = RegistryConfig {
            hosts_dir: Some(dir.path().into()),
            ..RegistryConfig::default()
        };
        Self {
            dir,
            config,
            transports: Arc::default(),
        }
    }

    fn with(self, name: &str, text: &str) -> Self {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
        self
    }

    fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>> {
        endpoints(&self.config, &self.transports, domain)
    }

    /// URLs of a path at each host; `!` marks those that get credentials.
    fn urls(&self, domain: &str) -> Vec<String> {
        let show = |e: Endpoint| format!("{}{}", if e.trusted { "!" } else { "" }, e.url("x"));
        self.endpoints(domain)
            .unwrap()
            .into_iter()
            .map(show)
            .collect()
    }
}

#[test]
fn without_configuration_a_registry_is_its_own_host() {
    let cases = [
        ("docker.io", "!https://registry-1.docker.io/v2/x"),
        ("quay.io", "!https://quay.io/v2/x"),
        ("example.com:5000", "!https://example.com:5000/v2/x"),
        ("10.0.0.1:80", "!https://10.0.0.1:80/v2/x"),
        ("localhost", "!http://localhost/v2/x"),
        ("localhost:5000", "!http://localhost:5000/v2/x"),
        ("127.1.2.3:5000", "!http://127.1.2.3:5000/v2/x"),
        ("[::1]:5000", "!http://[::1]:5000/v2/x"),
        ("localhost:443", "!https://localhost/v2/x"),
        (
            "127.0.0.1.example.com",
            "!https://127.0.0.1.example.com/v2/x",
        ),
    ];
    let fixture = Fixture::new();
    for (domain, expected) in cases {
        assert_eq!(fixture.urls(domain), [expected], "{domain}");
    }
}

#[test]
fn mirrors_come_first_in_order_and_learn_the_registrys_name_but_no_credentials() {
    let fixture = Fixture::new().with(
        "docker.io",
        r#"
        [host."http://zulu.test:5000"]
        [host."https://alpha.test/v2/hub"]
          override_path = true
        [host."https://nothing.test"]
          capabilities = ["push"]
        [host."https://prefix.test/cache/"]
        "#,
    );
    assert_eq!(
        fixture.urls("docker.io"),
        [
            "http://zulu.test:5000/v2/x?ns=docker.io",
            "https://alpha.test/v2/hub/x?ns=docker.io",
            "https://prefix.test/cache/v2/x?ns=docker.io",
            "!https://registry-1.docker.io/v2/x",
        ]
    );
}

#[test]
fn the_registry_itself_may_be_described_or_replaced() {
    let described = Fixture::new()
        .with("reg.test:5000", "[host.'http://reg.test:5000']")
        .with(
            "docker.io",
            "server = 'https://docker.io'\n[host.'https://index.docker.io']",
        )
        .with(
            "other.test",
            "server = 'https://real.test'\n[host.'https://other.test:8443']",
        );
    assert_eq!(
        described.urls("reg.test:5000"),
        ["!http://reg.test:5000/v2/x"]
    );
    assert_eq!(
        described.urls("docker.io"),
        [
            "!https://index.docker.io/v2/x",
            "!https://registry-1.docker.io/v2/x"
        ]
    );
    assert_eq!(
        described.urls("other.test"),
        [
            "https://other.test:8443/v2/x?ns=other.test",
            "!https://real.test/v2/x"
        ]
    );
}

#[test]
fn the_most_specific_directory_is_used() {
    let fixture = Fixture::new()
        .with("_default", "[host.'https://fallback.test']")
        .with("reg.test_5000_", "[host.'https://escaped.test']")
        .with("reg.test:6000", "[host.'https://literal.test']");
    assert!(fixture.urls("reg.test:5000")[0].contains("escaped"));
    assert!(fixture.urls("reg.test:6000")[0].contains("literal"));
    assert!(fixture.urls("reg.test")[0].contains("fallback"));
}

#[test]
fn a_changed_file_takes_effect_at_once() {
    let fixture = Fixture::new().with("a.test", "[host.'https://one.test']");
    assert!(fixture.urls("a.test")[0].contains("one.test"));
    let fixture = fixture.with("a.test", "[host.'https://two.test']");
    assert!(fixture.urls("a.test")[0].contains("two.test"));
}

#[test]
fn a_directory_with_certificates_only_is_dockers_convention() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path().join("a.test");
    fs::create_dir_all(&dir).unwrap();
    for name in ["ca.crt", "client.cert", "client.key", "notes.txt"] {
        fs::write(dir.join(name), "not a certificate").unwrap();
    }
    let file = load(fixture.dir.path(), "a.test").unwrap();
    assert_eq!(file.server.ca, [dir.join("ca.crt")]);
    let key = Some(dir.join("client.key"));
    assert_eq!(
        file.server.client,
        [ClientPair {
            cert: dir.join("client.cert"),
            key
        }]
    );
}

#[test]
fn bad_configuration_is_an_error_that_names_the_file() {
    let cases = [
        ("server = 1", "hosts.toml:1: server must be a string"),
        ("ca = 'missing.pem'", "missing.pem: cannot be read"),
        ("ca = 'hosts.toml'", "hosts.toml: holds no certificate"),
        ("client = 'hosts.toml'", "hosts.toml: holds no certificate"),
    ];
    for (text, message) in cases {
        let fixture = Fixture::new().with("a.test", text);
        match fixture.endpoints("a.test").err() {
            Some(Error::Hosts(error)) => {
                assert!(error.to_string().contains(message), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}
