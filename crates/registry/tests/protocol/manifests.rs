use std::time::{Duration, Instant};

use berth_names::{Digest, ImageRef};
use berth_registry::{Credentials, Error, media_type};
use berth_testkit::registry::Outage;

use crate::fixture::{MANIFEST, client, explain, registry_with_image, sent};

const NOBODY: Credentials = Credentials::None;

#[tokio::test]
async fn a_tag_and_a_digest_lead_to_the_same_manifest() {
    let (registry, image) = registry_with_image().await;
    let client = client();
    let by_tag = client.resolve(&image, &NOBODY).await.unwrap();
    assert_eq!(by_tag.digest, Digest::sha256_of(MANIFEST.as_bytes()));
    assert_eq!(by_tag.media_type, media_type::OCI_MANIFEST);
    assert_eq!(&by_tag.bytes[..], MANIFEST.as_bytes());
    assert_eq!(by_tag.size, MANIFEST.len() as u64);

    let named = image.with_digest(by_tag.digest.clone());
    assert_eq!(
        client.resolve(&named, &NOBODY).await.unwrap().bytes,
        by_tag.bytes
    );
    let direct = client
        .manifest(&image, &by_tag.digest, &NOBODY)
        .await
        .unwrap();
    assert_eq!(direct.bytes, by_tag.bytes);

    let requests = registry.take_requests();
    assert_eq!(requests[0].path, "/v2/team/app/manifests/v1");
    assert_eq!(
        requests[1].path,
        format!("/v2/team/app/manifests/{}", by_tag.digest)
    );
    assert_eq!(
        requests[0].query, "",
        "only mirrors are told the registry's name"
    );
    let accept = requests[0].header("accept").unwrap();
    for kind in [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_LIST,
        media_type::DOCKER_MANIFEST,
    ] {
        assert!(accept.contains(kind), "{accept}");
    }
    let agent = requests[0].header("user-agent").unwrap();
    assert_eq!(agent, concat!("berth/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn head_tells_the_digest_without_a_transfer() {
    let (registry, image) = registry_with_image().await;
    let client = client();
    let digest = Digest::sha256_of(MANIFEST.as_bytes());
    assert_eq!(
        client.head(&image, &NOBODY).await.unwrap(),
        Some(digest.clone())
    );
    assert!(
        registry
            .take_requests()
            .iter()
            .all(|seen| seen.method == "HEAD")
    );
    registry.behave(|b| b.content_digest = Some("nonsense".into()));
    assert_eq!(client.head(&image, &NOBODY).await.unwrap(), None);
    registry.behave(|b| b.refuse_head = true);
    assert_eq!(client.head(&image, &NOBODY).await.unwrap(), None);
    let named = image.with_digest(digest.clone());
    assert_eq!(client.head(&named, &NOBODY).await.unwrap(), Some(digest));
    let missing = ImageRef::parse(&format!("{}/team/none:v1", registry.host())).unwrap();
    registry.behave(|b| b.refuse_head = false);
    assert!(matches!(
        client.head(&missing, &NOBODY).await,
        Err(Error::NotFound { .. })
    ));
}

#[tokio::test]
async fn other_bytes_than_the_digest_names_are_refused() {
    let (registry, image) = registry_with_image().await;
    let digest = Digest::sha256_of(MANIFEST.as_bytes());
    registry.replace(&digest, MANIFEST.replace("{}", "{\"a\":1}"));
    let error = client()
        .manifest(&image, &digest, &NOBODY)
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { expected, .. } if *expected == digest));
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn the_digest_header_is_only_a_hint() {
    let (registry, image) = registry_with_image().await;
    let wrong = Digest::sha256_of(b"something else").to_string();
    for told in [wrong.as_str(), "sha256:../../etc", ""] {
        registry.behave(|b| b.content_digest = Some(told.into()));
        let resolved = client().resolve(&image, &NOBODY).await.unwrap();
        assert_eq!(
            resolved.digest,
            Digest::sha256_of(MANIFEST.as_bytes()),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn answers_that_are_no_usable_manifest_say_why() {
    let (registry, image) = registry_with_image().await;
    let large = format!("{{\"layers\":[],\"pad\":\"{}\"}}", "x".repeat(70 << 10));
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let cases = [
        (media_type::OCI_MANIFEST, "<html>", "is no valid manifest"),
        (
            media_type::OCI_MANIFEST,
            r#"{"layers":[],"manifests":[]}"#,
            "of an index and of a manif",
        ),
        (
            media_type::OCI_INDEX,
            MANIFEST,
            "its fields are not those of",
        ),
        (schema1, r#"{"schemaVersion":1}"#, "schema 1 manifest"),
        (
            "application/json",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            "push the image again",
        ),
        (media_type::OCI_MANIFEST, &large, "larger than 65536 bytes"),
    ];
    for (media_type, body, message) in cases {
        registry.add_manifest("team/app", Some("v1"), media_type, body.to_owned());
        let error = client().resolve(&image, &NOBODY).await.unwrap_err();
        assert!(error.to_string().contains(message), "{body:.40}: {error}");
        assert!(error.to_string().contains("team/app:v1"), "{error}");
        assert!(!error.is_temporary());
    }
}

#[tokio::test]
async fn what_is_missing_is_not_found_and_not_asked_for_twice() {
    let (registry, _) = registry_with_image().await;
    let image = ImageRef::parse(&format!("{}/team/other:v1", registry.host())).unwrap();
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_short_outage_is_survived() {
    let (registry, image) = registry_with_image().await;
    for status in [500, 502, 503, 504, 408, 429] {
        registry.behave(|b| {
            b.outage = Some(Outage {
                times: 3,
                status,
                retry_after: None,
            })
        });
        client().resolve(&image, &NOBODY).await.unwrap();
        assert_eq!(registry.take_requests().len(), 4, "{status}");
    }
}

#[tokio::test]
async fn an_outage_ends_in_an_error_that_names_host_and_status() {
    let (registry, image) = registry_with_image().await;
    let outage = |status| {
        Some(Outage {
            times: 100,
            status,
            retry_after: None,
        })
    };
    registry.behave(|b| b.outage = outage(503));
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }) && error.is_temporary(),
        "{error:?}"
    );
    let text = explain(&error);
    assert!(
        text.contains(&registry.host()) && text.contains("503"),
        "{text}"
    );
    assert!(text.contains("as the test wishes"), "{text}");
    assert_eq!(
        registry.take_requests().len(),
        4,
        "attempts are not bounded"
    );

    registry.behave(|b| b.outage = outage(429));
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::RateLimited {
                retry_after: None,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn retry_after_is_waited_for_or_reported() {
    let (registry, image) = registry_with_image().await;
    let outage = |wait: &str| {
        Some(Outage {
            times: 1,
            status: 429,
            retry_after: Some(wait.to_owned()),
        })
    };
    registry.behave(|b| b.outage = outage("1"));
    let begun = Instant::now();
    client().resolve(&image, &NOBODY).await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );

    registry.behave(|b| b.outage = outage("3600"));
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    let hour = Some(Duration::from_secs(3600));
    assert!(
        matches!(&error, Error::RateLimited { retry_after, .. } if *retry_after == hour),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let (registry, image) = registry_with_image().await;
    let host = registry.host();
    drop(registry);
    // The task that listens ends soon after.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(explain(&error).contains(&host));
}

#[tokio::test]
async fn a_registry_that_accepts_and_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = ImageRef::parse(&format!("{}/a:b", silent.local_addr().unwrap())).unwrap();
    let begun = Instant::now();
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    assert!(
        explain(&error).contains("no byte arrived"),
        "{}",
        explain(&error)
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_refusal_is_explained_in_the_registrys_words() {
    let (registry, image) = registry_with_image().await;
    let refusal = Outage {
        times: 1,
        status: 403,
        retry_after: None,
    };
    registry.behave(|b| b.outage = Some(refusal));
    let error = client().resolve(&image, &NOBODY).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unauthorized { reason, .. }
        if reason.contains("403") && reason.contains("as the test wishes")),
        "{error:?}"
    );
    assert_eq!(sent(&registry.requests(), "authorization"), ["-"]);
}

#[tokio::test]
async fn tags_are_told_page_by_page() {
    let (registry, image) = registry_with_image().await;
    for tag in ["a", "b", "v2", "w"] {
        registry.add_manifest("team/app", Some(tag), media_type::OCI_MANIFEST, MANIFEST);
    }
    let tags = client().tags(&image, &NOBODY).await.unwrap();
    assert_eq!(tags, ["a", "b", "v1", "v2", "w"]);
    let none = ImageRef::parse(&format!("{}/team/none", registry.host())).unwrap();
    let tags = client().tags(&none, &NOBODY).await.unwrap();
    assert!(tags.is_empty());
}
