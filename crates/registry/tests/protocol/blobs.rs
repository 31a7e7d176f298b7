use std::time::{Duration, Instant};

use berth_names::Digest;
use berth_registry::{Credentials, Error};
use berth_testkit::registry::{Auth, Break, Outage, Registry};

use crate::fixture::{client, explain, noise, pull, registry_with_image, sent};

const SIZE: usize = 3 << 20;

#[tokio::test]
async fn a_blob_arrives_whole_from_any_offset() {
    let (registry, image) = registry_with_image().await;
    let data = noise(SIZE);
    let digest = registry.add_blob(data.clone());
    let client = client();
    for size in [Some(SIZE as u64), None] {
        for offset in [0, 1, SIZE / 2, SIZE - 1] {
            let bytes = pull(&client, &image, &digest, size, offset as u64)
                .await
                .unwrap();
            assert_eq!(bytes, &data[offset..], "{size:?} from {offset}");
        }
    }
    registry.take_requests();
    let rest = pull(&client, &image, &digest, Some(SIZE as u64), SIZE as u64)
        .await
        .unwrap();
    assert!(
        rest.is_empty() && registry.requests().is_empty(),
        "nothing was left to ask for"
    );
}

#[tokio::test]
async fn an_empty_blob_is_complete_at_once() {
    let (registry, image) = registry_with_image().await;
    let digest = registry.add_blob("");
    for size in [Some(0), None] {
        assert!(
            pull(&client(), &image, &digest, size, 0)
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    for (stall, ignore_ranges, hide_length) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, false),
        (true, false, true),
    ] {
        let (registry, image) = registry_with_image().await;
        let data = noise(SIZE);
        let digest = registry.add_blob(data.clone());
        registry.behave(|b| {
            b.break_off = Some(Break {
                times: 2,
                after: 1 << 20,
                stall,
            });
            b.ignore_ranges = ignore_ranges;
            b.hide_length = hide_length;
        });
        let bytes = pull(&client(), &image, &digest, Some(SIZE as u64), 0)
            .await
            .unwrap();
        let case = format!("stall {stall}, no ranges {ignore_ranges}, chunked {hide_length}");
        assert!(bytes == data, "{case}: {} bytes", bytes.len());
        let ranges = sent(&registry.requests(), "range");
        assert_eq!(ranges.len(), 3, "{case}: {ranges:?}");
        assert_eq!(ranges[0], "-");
        if stall && !ignore_ranges {
            let resumed = [format!("bytes={}-", 1 << 20), format!("bytes={}-", 2 << 20)];
            assert_eq!(ranges[1..], resumed, "{case}");
        }
    }
}

#[tokio::test]
async fn a_body_shorter_than_the_blob_is_resumed_not_taken_for_whole() {
    let (registry, image) = registry_with_image().await;
    let data = noise(SIZE);
    let digest = registry.add_blob(data.clone());
    registry.replace(&digest, data[..SIZE / 2].to_vec());
    registry.behave(|b| b.hide_length = true);
    let error = pull(&client(), &image, &digest, Some(SIZE as u64), 0)
        .await
        .unwrap_err();
    // The registry has nothing behind the middle and says so.
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error:?}");
    assert_eq!(
        sent(&registry.requests(), "range"),
        ["-", &format!("bytes={}-", SIZE / 2)]
    );
}

#[tokio::test]
async fn a_length_that_contradicts_the_descriptor_is_refused_before_the_transfer() {
    let (registry, image) = registry_with_image().await;
    let digest = registry.add_blob(noise(1000));
    for wrong in [999, 1001] {
        let error = pull(&client(), &image, &digest, Some(wrong), 0)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::SizeMismatch { actual: 1000, .. }),
            "{wrong}: {error:?}"
        );
    }
    registry.behave(|b| b.hide_length = true);
    let error = pull(&client(), &image, &digest, Some(999), 0)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_always_breaks_off_is_given_up() {
    let (registry, image) = registry_with_image().await;
    let digest = registry.add_blob(noise(SIZE));
    registry.behave(|b| {
        b.break_off = Some(Break {
            times: 1000,
            after: 0,
            stall: true,
        })
    });
    let begun = Instant::now();
    let error = pull(&client(), &image, &digest, Some(SIZE as u64), 0)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(
        explain(&error).contains("no byte arrived for 300ms"),
        "{}",
        explain(&error)
    );
    assert_eq!(registry.requests().len(), 4);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_slow_transfer_is_not_cut_by_total_time() {
    let (registry, image) = registry_with_image().await;
    let data = noise(1000);
    let digest = registry.add_blob(data.clone());
    let client = client();
    let mut stream = client
        .blob(&image, &digest, Some(1000), 0, &Credentials::None)
        .await
        .unwrap();
    // The reader dawdles for longer than the progress deadline; that is its own affair.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stream.chunk().await.unwrap().unwrap(), data);
    assert_eq!(stream.chunk().await.unwrap(), None);
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn small_blobs_are_verified_and_bounded() {
    let (registry, image) = registry_with_image().await;
    let client = client();
    let nobody = Credentials::None;
    let digest = registry.add_blob("{}");
    assert_eq!(
        &client
            .blob_bytes(&image, &digest, 2, &nobody)
            .await
            .unwrap()[..],
        b"{}"
    );
    let error = client
        .blob_bytes(&image, &digest, 1, &nobody)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { limit: 1, .. }),
        "{error:?}"
    );
    registry.behave(|b| b.hide_length = true);
    let error = client
        .blob_bytes(&image, &digest, 1, &nobody)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    registry.replace(&digest, "[]");
    let error = client
        .blob_bytes(&image, &digest, 2, &nobody)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    let missing = Digest::sha256_of(b"missing");
    let error = client
        .blob_bytes(&image, &missing, 2, &nobody)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_to_another_origin_learns_nothing_about_us() {
    let (registry, image) = registry_with_image().await;
    let storage = Registry::start().await.unwrap();
    let data = noise(SIZE);
    let digest = registry.add_blob(data.clone());
    storage.add_blob(data.clone());
    storage.behave(|b| {
        b.break_off = Some(Break {
            times: 1,
            after: 1 << 20,
            stall: true,
        })
    });
    let hosts = tempfile::tempdir().unwrap();
    let client = crate::fixture::client_with_hosts(
        hosts.path(),
        &registry.host(),
        &format!(
            "server = '{}'\n[header]\nx-secret = 'hunter2'",
            registry.url()
        ),
    );
    for status in [301, 302, 303, 307, 308] {
        registry.behave(|b| {
            b.auth = Auth::basic("user", "pass");
            b.redirect_blobs = Some((status, storage.url()));
        });
        let user = Credentials::basic("user", "pass");
        let mut stream = client.blob(&image, &digest, None, 0, &user).await.unwrap();
        let mut got = Vec::new();
        while let Some(chunk) = stream.chunk().await.unwrap() {
            got.extend_from_slice(&chunk);
        }
        assert!(got == data, "{status}");
    }
    for header in ["authorization", "x-secret", "referer", "cookie"] {
        assert!(
            sent(&storage.requests(), header).iter().all(|v| v == "-"),
            "{header} was sent"
        );
    }
    assert!(
        storage
            .requests()
            .iter()
            .any(|r| r.header("range").is_some()),
        "range was lost"
    );
    assert!(
        sent(&registry.requests(), "x-secret")
            .iter()
            .all(|v| v == "hunter2")
    );
    assert!(
        sent(&registry.requests(), "authorization")
            .iter()
            .any(|v| v.starts_with("Basic"))
    );
}

#[tokio::test]
async fn a_challenge_from_a_redirect_target_is_not_answered() {
    let (registry, image) = registry_with_image().await;
    let hostile = Registry::start().await.unwrap();
    let digest = registry.add_blob("data");
    hostile.add_blob("data");
    let user = Credentials::basic("user", "pass");
    registry.behave(|b| {
        b.auth = Auth::basic("user", "pass");
        b.redirect_blobs = Some((307, hostile.url()));
    });
    for auth in [Auth::basic("user", "pass"), Auth::bearer("user", "pass")] {
        hostile.behave(|b| b.auth = auth);
        let error = client()
            .blob_bytes(&image, &digest, 9, &user)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let requests = hostile.take_requests();
        assert!(!requests.is_empty());
        assert!(sent(&requests, "authorization").iter().all(|v| v == "-"));
        assert!(requests.iter().all(|seen| seen.path != "/token"));
    }
    let text = explain(
        &client()
            .blob_bytes(&image, &digest, 9, &user)
            .await
            .unwrap_err(),
    );
    assert!(!text.contains("signature"), "a signed URL was told: {text}");
}

#[tokio::test]
async fn bad_redirects_end_with_a_reason() {
    let (registry, image) = registry_with_image().await;
    let digest = registry.add_blob("data");
    let cases = [
        (registry.url(), "too many times"),
        ("ftp://127.0.0.1".to_owned(), "not HTTP"),
        ("http://[".to_owned(), "no URL"),
    ];
    for (target, reason) in cases {
        registry.behave(|b| b.redirect_blobs = Some((307, target)));
        let error = pull(&client(), &image, &digest, None, 0).await.unwrap_err();
        assert!(matches!(error, Error::BadRedirect { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn storage_that_fails_for_a_moment_is_asked_again_through_the_registry() {
    let (registry, image) = registry_with_image().await;
    let storage = Registry::start().await.unwrap();
    let digest = registry.add_blob("data");
    storage.add_blob("data");
    registry.behave(|b| b.redirect_blobs = Some((307, storage.url())));
    for status in [403, 404, 500] {
        let outage = Outage {
            times: 2,
            status,
            retry_after: None,
        };
        storage.behave(|b| b.outage = Some(outage));
        assert_eq!(
            pull(&client(), &image, &digest, None, 0).await.unwrap(),
            b"data",
            "{status}"
        );
    }
}
