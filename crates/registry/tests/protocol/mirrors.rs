use berth_names::{Digest, ImageRef};
use berth_registry::{Client, Credentials, Error};
use berth_testkit::registry::{Auth, Break, Outage, Registry};

use crate::fixture::{MANIFEST, add_image, client_with_hosts, noise, pull, sent};

const NOBODY: Credentials = Credentials::None;

/// A registry with a mirror in front, both with the image.
struct Pair {
    mirror: Registry,
    upstream: Registry,
    image: ImageRef,
    client: Client,
    _hosts: tempfile::TempDir,
}

async fn pair_with(settings: &str) -> Pair {
    let (mirror, upstream) = (
        Registry::start().await.unwrap(),
        Registry::start().await.unwrap(),
    );
    add_image(&mirror);
    add_image(&upstream);
    let hosts = tempfile::tempdir().unwrap();
    let text = format!(
        "server = '{}'\n[host.'{}']\n{settings}",
        upstream.url(),
        mirror.url()
    );
    let client = client_with_hosts(hosts.path(), "registry.test", &text);
    let image = ImageRef::parse("registry.test/team/app:v1").unwrap();
    Pair {
        mirror,
        upstream,
        image,
        client,
        _hosts: hosts,
    }
}

async fn pair() -> Pair {
    pair_with("").await
}

#[tokio::test]
async fn a_mirror_serves_instead_of_the_registry() {
    let pair = pair().await;
    let digest = pair.mirror.add_blob("blob");
    pair.client.resolve(&pair.image, &NOBODY).await.unwrap();
    assert_eq!(
        pull(&pair.client, &pair.image, &digest, None, 0)
            .await
            .unwrap(),
        b"blob"
    );
    assert!(pair.upstream.requests().is_empty());
    assert!(
        pair.mirror
            .requests()
            .iter()
            .all(|seen| seen.query == "ns=registry.test")
    );
}

#[tokio::test]
async fn whatever_is_wrong_with_a_mirror_the_registry_is_asked() {
    for status in [400, 401, 403, 404, 429, 500, 503] {
        let pair = pair().await;
        pair.mirror.behave(|b| {
            b.outage = Some(Outage {
                times: 100,
                status,
                retry_after: Some("3600".into()),
            });
        });
        pair.client.resolve(&pair.image, &NOBODY).await.unwrap();
        let digest = pair.upstream.add_blob("blob");
        assert_eq!(
            pull(&pair.client, &pair.image, &digest, None, 0)
                .await
                .unwrap(),
            b"blob"
        );
        assert_eq!(
            pair.mirror.requests().len(),
            2,
            "{status}: a mirror gets one attempt"
        );
        assert!(
            pair.upstream
                .requests()
                .iter()
                .all(|seen| seen.query.is_empty())
        );
    }
    let pair = pair().await;
    let digest = Digest::sha256_of(MANIFEST.as_bytes());
    pair.mirror.replace(&digest, "{}");
    pair.client
        .manifest(&pair.image, &digest, &NOBODY)
        .await
        .unwrap();
    drop(pair.mirror);
    pair.client.resolve(&pair.image, &NOBODY).await.unwrap();
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_replaced_in_the_middle() {
    let pair = pair().await;
    let data = noise(2 << 20);
    let digest = pair.mirror.add_blob(data.clone());
    pair.upstream.add_blob(data.clone());
    let broken = |after| {
        Some(Break {
            times: 100,
            after,
            stall: true,
        })
    };
    pair.mirror.behave(|b| b.break_off = broken(0));
    assert!(
        pull(&pair.client, &pair.image, &digest, None, 0)
            .await
            .unwrap()
            == data
    );
    assert_eq!(sent(&pair.upstream.take_requests(), "range"), ["-"]);
}

#[tokio::test]
async fn a_mirror_without_resolve_is_asked_by_digest_only() {
    let pair = pair_with("capabilities = ['pull']").await;
    let resolved = pair.client.resolve(&pair.image, &NOBODY).await.unwrap();
    assert!(pair.mirror.take_requests().is_empty());
    pair.client
        .manifest(&pair.image, &resolved.digest, &NOBODY)
        .await
        .unwrap();
    assert_eq!(pair.mirror.take_requests().len(), 1);
}

#[tokio::test]
async fn a_mirror_never_learns_the_registrys_credentials() {
    let pair = pair().await;
    let user = Credentials::basic("user", "pass");
    for auth in [Auth::basic("user", "pass"), Auth::bearer("user", "pass")] {
        pair.mirror.behave(|b| b.auth = auth.clone());
        pair.upstream.behave(|b| b.auth = auth);
        pair.client.resolve(&pair.image, &user).await.unwrap();
        let asked = pair.mirror.take_requests();
        assert!(!asked.is_empty());
        assert!(
            sent(&asked, "authorization").iter().all(|v| v == "-"),
            "{asked:?}"
        );
        let given = sent(&pair.upstream.take_requests(), "authorization");
        assert!(given.iter().any(|v| v == "Basic dXNlcjpwYXNz"), "{given:?}");
    }
}

#[tokio::test]
async fn a_mirror_authenticates_by_its_configured_header() {
    let pair = pair_with("header = {authorization = 'Basic bWlycm9yOm1lIQ=='}").await;
    pair.mirror
        .behave(|b| b.auth = Auth::basic("mirror", "me!"));
    pair.client
        .resolve(&pair.image, &Credentials::basic("user", "pass"))
        .await
        .unwrap();
    assert_eq!(
        sent(&pair.mirror.requests(), "authorization"),
        ["Basic bWlycm9yOm1lIQ=="]
    );
    assert!(pair.upstream.requests().is_empty());
}

#[tokio::test]
async fn the_registrys_word_goes_before_a_mirrors_and_before_silence() {
    let hosts = tempfile::tempdir().unwrap();
    let registry = Registry::start().await.unwrap();
    // The registry itself is first in the file, its default address last and dead.
    let text = format!("server = 'http://127.0.0.1:1'\n[host.'{}']", registry.url());
    let client = client_with_hosts(hosts.path(), &registry.host(), &text);
    let image = ImageRef::parse(&format!("{}/team/app:v1", registry.host())).unwrap();
    let error = client.resolve(&image, &NOBODY).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");

    let pair = pair().await;
    let missing = ImageRef::parse("registry.test/team/none:v1").unwrap();
    drop(pair.upstream);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let error = pair.client.resolve(&missing, &NOBODY).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }),
        "a mirror's word was final: {error:?}"
    );
}

#[tokio::test]
async fn broken_configuration_fails_the_pull_and_names_the_line() {
    let hosts = tempfile::tempdir().unwrap();
    let client = client_with_hosts(hosts.path(), "registry.test", "\nserver = 5\n");
    let image = ImageRef::parse("registry.test/team/app:v1").unwrap();
    let error = client.resolve(&image, &NOBODY).await.unwrap_err();
    let text = crate::fixture::explain(&error);
    assert!(
        text.contains("registry.test/hosts.toml:2: server must be a string"),
        "{text}"
    );
}

#[tokio::test]
async fn a_host_that_may_do_nothing_is_an_error_not_a_hang() {
    let hosts = tempfile::tempdir().unwrap();
    let client = client_with_hosts(hosts.path(), "registry.test", "capabilities = ['push']");
    let image = ImageRef::parse("registry.test/team/app:v1").unwrap();
    let error = client.resolve(&image, &NOBODY).await.unwrap_err();
    assert!(matches!(error, Error::NoHost { .. }), "{error:?}");
}
