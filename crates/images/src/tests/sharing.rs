use super::*;
use crate::ErrorKind;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pulls_at_once_are_one_transfer() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 3);
    node.server.push(&made, "v1");
    node.server.gate(&made.layers[0].digest);
    let reference = node.reference("app:v1");
    let pulls: Vec<_> = (0..100)
        .map(|_| {
            let (images, reference) = (Arc::clone(&node.images), reference.clone());
            tokio::spawn(async move { images.pull(&reference, Credentials::None).await })
        })
        .collect();
    let layer = made.layers[0].digest.as_str();
    eventually("the transfer began", || node.server.requests(layer) == 1).await;
    for pull in pulls.iter().step_by(3) {
        pull.abort();
    }
    node.server.open_gate();
    for (number, pull) in pulls.into_iter().enumerate() {
        match pull.await {
            Ok(result) => assert_eq!(result.unwrap(), made.config_digest),
            Err(error) => assert!(error.is_cancelled() && number % 3 == 0),
        }
    }
    for layer in &made.layers {
        assert_eq!(node.server.requests(layer.digest.as_str()), 1);
    }
    assert_eq!(node.server.requests("manifests/v1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_to_leave_stops_the_pull_and_the_next_resumes_it() {
    let Some(node) = Node::start().await else {
        return;
    };
    let noise: String = (0..40_000u64)
        .map(|n| char::from(b'!' + (n.wrapping_mul(6_364_136_223_846_793_005) >> 40) as u8 % 90))
        .collect();
    let big = layer("/big", &noise, Compression::Plain);
    let made = Recipe::new().layer(big.clone()).build().unwrap();
    node.server.push(&made, "v1");
    node.server.gate(&big.digest);
    let (images, reference) = (Arc::clone(&node.images), node.reference("app:v1"));
    let pull = tokio::spawn(async move { images.pull(&reference, Credentials::None).await });
    let content = &node.images.shared.content;
    eventually("half of the blob is there", || {
        content
            .partials()
            .unwrap()
            .iter()
            .any(|partial| partial.size >= 20_000)
    })
    .await;
    pull.abort();
    let drafts = node.root.path().join("snapshots/drafts");
    eventually("the layer's draft is gone", || {
        std::fs::read_dir(&drafts).unwrap().next().is_none()
    })
    .await;
    node.images.collect().await.unwrap();
    assert_eq!(node.counts().1, 1, "what has arrived is kept for a while");
    assert!(node.images.list().is_empty());

    let node = node.restart().await;
    node.server.open_gate();
    node.pull("app:v1").await.unwrap();
    assert_eq!(
        node.file("app:v1", 0, "big").map(|text| text.len()),
        Some(40_000)
    );
    assert_eq!(node.counts(), (3, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_with_common_layers_fetch_them_once_and_one_failure_hurts_nobody_else() {
    let Some(node) = Node::start().await else {
        return;
    };
    let base = layer("/base", "base", Compression::Gzip);
    let top = |text: &str| {
        let own = layer("/own", text, Compression::Gzip);
        Recipe::new()
            .layer(base.clone())
            .layer(own)
            .build()
            .unwrap()
    };
    let all: Vec<_> = (0..6).map(|n| top(&n.to_string())).collect();
    for (number, made) in all.iter().enumerate() {
        node.server.push(made, &format!("v{number}"));
    }
    node.server.put_blob(
        &all[0].layers[1].digest,
        vec![0; all[0].layers[1].bytes.len()],
    );
    node.server.gate(&base.digest);
    let pulls: Vec<_> = (0..6)
        .map(|number| {
            let reference = node.reference(&format!("app:v{number}"));
            let images = Arc::clone(&node.images);
            tokio::spawn(async move { images.pull(&reference, Credentials::None).await })
        })
        .collect();
    eventually("the base is being fetched", || {
        node.server.requests(base.digest.as_str()) >= 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.server.open_gate();
    for (number, pull) in pulls.into_iter().enumerate() {
        match pull.await.unwrap() {
            Ok(id) => assert_eq!(id, all[number].config_digest),
            Err(error) => {
                assert_eq!(
                    (number, error.kind()),
                    (0, ErrorKind::DigestMismatch),
                    "{}",
                    error.report()
                );
            }
        }
    }
    assert_eq!(node.images.list().len(), 5);
    // The pull that failed may have been the one that began to fetch the base.
    assert!(node.server.requests(base.digest.as_str()) <= 2);
    node.images.collect().await.unwrap();
    let (_, partials, layers) = node.counts();
    assert!(partials <= 1, "{partials}");
    assert_eq!(layers, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_removals_and_collections_at_once_leave_images_whole() {
    let Some(node) = Node::start().await else {
        return;
    };
    let all: Vec<_> = (0..3).map(|n| image(&n.to_string(), 2)).collect();
    for (number, made) in all.iter().enumerate() {
        node.server.push(made, &format!("v{number}"));
    }
    let work: Vec<_> = (0..24)
        .map(|turn: usize| {
            let images = Arc::clone(&node.images);
            let reference = node.reference(&format!("app:v{}", turn % 3));
            tokio::spawn(async move {
                match turn % 4 {
                    0 | 1 => drop(images.pull(&reference, Credentials::None).await.unwrap()),
                    2 => images.remove(&reference.to_string()).await.unwrap(),
                    _ => drop(images.collect().await.unwrap()),
                }
            })
        })
        .collect();
    for one in work {
        one.await.unwrap();
    }
    for (number, made) in all.iter().enumerate() {
        node.pull(&format!("app:v{number}")).await.unwrap();
        let found = node.images.get(made.config_digest.as_str()).unwrap();
        for layer in &found.layers {
            assert!(node.snapshotter.layer(layer).unwrap().is_some());
        }
    }
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (12, 0, 6));
}
