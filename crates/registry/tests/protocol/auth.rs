use berth_registry::{Credentials, Error, Secret};
use berth_testkit::registry::{Auth, Outage, Registry};

use crate::fixture::{client, explain, registry_with_image, sent};

fn paths(registry: &Registry) -> Vec<String> {
    registry
        .take_requests()
        .into_iter()
        .map(|seen| seen.path)
        .collect()
}

const MANIFEST_PATH: &str = "/v2/team/app/manifests/v1";

#[tokio::test]
async fn basic_credentials_are_sent_only_after_a_challenge_and_then_at_once() {
    let (registry, image) = registry_with_image().await;
    let client = client();
    let user = Credentials::basic("user", "pa:ss");
    client.resolve(&image, &user).await.unwrap();
    registry.behave(|b| b.auth = Auth::basic("user", "pa:ss"));
    client.resolve(&image, &user).await.unwrap();
    client.resolve(&image, &user).await.unwrap();
    let given = sent(&registry.take_requests(), "authorization");
    assert_eq!(
        given,
        ["-", "-", "Basic dXNlcjpwYTpzcw==", "Basic dXNlcjpwYTpzcw=="]
    );
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_told_after_one_answer() {
    let (registry, image) = registry_with_image().await;
    for auth in [Auth::basic("user", "right"), Auth::bearer("user", "right")] {
        registry.behave(|b| b.auth = auth);
        let wrong = [
            Credentials::None,
            Credentials::basic("user", "hunter2"),
            Credentials::IdentityToken(Secret::new("hunter2")),
            Credentials::RegistryToken(Secret::new("hunter2")),
        ];
        for credentials in wrong {
            let client = client();
            let error = client.resolve(&image, &credentials).await.unwrap_err();
            assert!(
                matches!(error, Error::Unauthorized { .. }),
                "{credentials:?}: {error:?}"
            );
            assert!(
                !explain(&error).contains("hunter2") && !format!("{error:?}").contains("hunter2")
            );
            assert!(
                registry.take_requests().len() <= 2,
                "{credentials:?} was tried too often"
            );
        }
    }
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once_and_kept() {
    let (registry, image) = registry_with_image().await;
    let digest = registry.add_blob("blob");
    registry.behave(|b| b.auth = Auth::anonymous_bearer());
    let client = client();
    client.resolve(&image, &Credentials::None).await.unwrap();
    client
        .blob_bytes(&image, &digest, 9, &Credentials::None)
        .await
        .unwrap();
    client.resolve(&image, &Credentials::None).await.unwrap();
    let requests = registry.take_requests();
    let token = requests.iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(
        token.query,
        "service=testkit&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(token.header("authorization"), None);
    assert_eq!(
        sent(&requests, "authorization"),
        [
            "-",
            "-",
            "Bearer token-1",
            "Bearer token-1",
            "Bearer token-1"
        ]
    );
}

#[tokio::test]
async fn the_password_goes_to_the_token_server_and_the_token_to_the_registry() {
    let (registry, image) = registry_with_image().await;
    registry.behave(|b| b.auth = Auth::bearer("user", "pass"));
    let client = client();
    let user = Credentials::basic("user", "pass");
    client.resolve(&image, &user).await.unwrap();
    assert_eq!(
        sent(&registry.take_requests(), "authorization"),
        ["-", "Basic dXNlcjpwYXNz", "Bearer token-1"]
    );
    // Somebody else does not get this user's token.
    let error = client
        .resolve(&image, &Credentials::None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert_eq!(sent(&registry.take_requests(), "authorization"), ["-", "-"]);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let (registry, image) = registry_with_image().await;
    let refresh = Some("re+fresh/&=".to_owned());
    registry.behave(|b| {
        b.auth = Auth::Bearer {
            account: None,
            refresh_token: refresh,
            realm: None,
            expires_in: Some(60),
        };
    });
    let credentials = Credentials::IdentityToken(Secret::new("re+fresh/&="));
    client().resolve(&image, &credentials).await.unwrap();
    let requests = registry.take_requests();
    assert_eq!(requests[1].method, "POST");
    assert_eq!(
        (requests[1].path.as_str(), requests[1].query.as_str()),
        ("/token", "")
    );
    assert_eq!(requests[2].header("authorization"), Some("Bearer token-1"));
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let (registry, image) = registry_with_image().await;
    registry.behave(|b| b.auth = Auth::FixedToken("given".into()));
    let credentials = Credentials::RegistryToken(Secret::new("given"));
    client().resolve(&image, &credentials).await.unwrap();
    assert_eq!(
        sent(&registry.take_requests(), "authorization"),
        ["Bearer given"]
    );
}

#[tokio::test]
async fn revoked_and_expired_tokens_are_replaced() {
    let (registry, image) = registry_with_image().await;
    let client = client();
    registry.behave(|b| b.auth = Auth::anonymous_bearer());
    client.resolve(&image, &Credentials::None).await.unwrap();
    registry.revoke_tokens();
    registry.take_requests();
    client.resolve(&image, &Credentials::None).await.unwrap();
    assert_eq!(paths(&registry), [MANIFEST_PATH, "/token", MANIFEST_PATH]);

    // A token that lives for a second is never used twice.
    registry.behave(|b| {
        let Auth::Bearer { expires_in, .. } = &mut b.auth else {
            return;
        };
        *expires_in = Some(1);
    });
    registry.revoke_tokens();
    client.resolve(&image, &Credentials::None).await.unwrap();
    registry.take_requests();
    client.resolve(&image, &Credentials::None).await.unwrap();
    assert_eq!(paths(&registry), ["/token", MANIFEST_PATH]);
}

#[tokio::test]
async fn a_token_server_that_fails_for_a_moment_is_asked_again() {
    let (registry, image) = registry_with_image().await;
    registry.behave(|b| {
        b.auth = Auth::anonymous_bearer();
        b.token_outage = Some(Outage {
            times: 2,
            status: 503,
            retry_after: None,
        });
    });
    client().resolve(&image, &Credentials::None).await.unwrap();
}

#[tokio::test]
async fn unsafe_token_servers_do_not_learn_credentials() {
    let (registry, image) = registry_with_image().await;
    let user = Credentials::basic("user", "pass");
    let cases = [
        // Plain HTTP to another machine.
        "http://auth.example.com/token",
        // HTTPS, but named by a registry that has no TLS itself.
        "https://auth.example.com/token",
    ];
    for realm in cases {
        registry.behave(|b| {
            b.auth = Auth::Bearer {
                account: Some(("user".into(), "pass".into())),
                refresh_token: None,
                realm: Some(realm.into()),
                expires_in: None,
            };
        });
        let error = client().resolve(&image, &user).await.unwrap_err();
        assert!(
            matches!(error, Error::UnsafeRealm { .. }),
            "{realm}: {error:?}"
        );
        assert!(error.to_string().contains(realm));
    }
    for realm in ["not a url", "file:///etc/passwd", "/token", ""] {
        registry.behave(|b| {
            let Auth::Bearer { realm: named, .. } = &mut b.auth else {
                return;
            };
            *named = Some(realm.into());
        });
        let error = client().resolve(&image, &user).await.unwrap_err();
        assert!(
            matches!(error, Error::Protocol { .. }),
            "{realm:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_token_server_on_another_loopback_port_is_fine_for_a_loopback_registry() {
    let (registry, image) = registry_with_image().await;
    let server = Registry::start().await.unwrap();
    server.behave(|b| b.auth = Auth::bearer("user", "pass"));
    registry.behave(|b| {
        b.auth = Auth::Bearer {
            account: None,
            refresh_token: None,
            // What stands before the @ is not to become credentials.
            realm: Some(format!("http://evil:evil@{}/token?x=y", server.host())),
            expires_in: None,
        };
    });
    let user = Credentials::basic("user", "pass");
    // The registry does not know the other server's tokens and refuses in the end.
    let error = client().resolve(&image, &user).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    let asked = server.take_requests();
    assert_eq!(sent(&asked, "authorization"), ["Basic dXNlcjpwYXNz"]);
    assert_eq!(
        asked[0].query,
        "x=y&service=testkit&scope=repository%3Ateam%2Fapp%3Apull&account=user"
    );
    assert_eq!(
        sent(&registry.take_requests(), "authorization"),
        ["-", "Bearer token-1"]
    );
}
