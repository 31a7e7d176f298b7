use berth_testkit::image::Format;
use serde_json::json;

use super::*;

#[tokio::test]
async fn layers_of_every_compression_are_unpacked_in_order() {
    let Some(node) = Node::start().await else {
        return;
    };
    let plain = layer("/plain", "p", Compression::Plain);
    let gzip = layer("/gzip", "g", Compression::Gzip);
    // What a layer is compressed with is seen from its bytes, whatever its media type says.
    let tar = layer("/zstd", "z", Compression::Plain);
    let bytes = zstd::encode_all(&tar.bytes[..], 3).unwrap();
    let zstd = Arc::new(PackedLayer {
        diff_id: tar.diff_id.clone(),
        digest: Digest::sha256_of(&bytes),
        compression: Compression::Gzip,
        bytes,
    });
    let made = Recipe::new()
        .format(Format::DockerSchema2)
        .layer(plain)
        .layer(gzip)
        .layer(zstd)
        .user("7:8")
        .entrypoint(&["/gzip"])
        .stop_signal("SIGUSR1")
        .build()
        .unwrap();
    node.server.push(&made, "v1");
    let id = node.pull("app:v1").await.unwrap();
    assert_eq!(id, made.config_digest);
    let found = node.images.get(&node.name("app:v1")).unwrap();
    assert_eq!(found.config.user(), "7:8");
    assert_eq!(found.config.stop_signal(), "SIGUSR1");
    assert_eq!(found.repo_tags, [node.name("app:v1")]);
    let by_digest = format!("{}/app@{}", node.server.address, made.manifest_digest);
    assert_eq!(found.repo_digests, std::slice::from_ref(&by_digest));
    assert_eq!(node.images.get(&by_digest).unwrap().id, id);
    let compressed: usize = made.layers.iter().map(|layer| layer.bytes.len()).sum();
    assert_eq!(
        found.size,
        (compressed + made.config.len() + made.manifest.len()) as u64
    );
    for (position, (path, text)) in [("plain", "p"), ("gzip", "g"), ("zstd", "z")]
        .iter()
        .enumerate()
    {
        assert_eq!(node.file("app:v1", position, path).as_deref(), Some(*text));
    }
    let usage = node.images.fs_usage().await.unwrap();
    let (blobs, layers) = (usage.blobs, usage.layers);
    assert!(blobs.bytes >= found.size && blobs.inodes > 2, "{usage:?}");
    assert!(layers.bytes > 0 && layers.inodes > 2, "{usage:?}");
}

#[tokio::test]
async fn an_index_leads_to_this_platform_and_names_the_digest() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 1);
    node.server.push(&made, "unused");
    let architecture = crate::Platform::host().architecture;
    let entry = |digest: &Digest, size: usize, os: &str, architecture: &str| {
        json!({ "mediaType": made.manifest_media_type, "digest": digest, "size": size,
                "platform": { "os": os, "architecture": architecture } })
    };
    let other = Digest::sha256_of(b"nobody fetches this");
    let index = json!({
        "schemaVersion": 2,
        "mediaType": berth_registry::media_type::OCI_INDEX,
        "manifests": [
            entry(&other, 5, "unknown", "unknown"),
            entry(&other, 5, "linux", "mips"),
            entry(&made.manifest_digest, made.manifest.len(), "linux", &architecture),
        ],
    });
    let top = node.server.put_manifest(
        "multi",
        berth_registry::media_type::OCI_INDEX,
        index.to_string().into_bytes(),
    );
    node.pull("app:multi").await.unwrap();
    let found = node.images.get(&node.name("app:multi")).unwrap();
    assert_eq!(
        found.repo_digests,
        [format!("{}/app@{top}", node.server.address)]
    );
    assert_eq!(found.manifest, made.manifest_digest);
    assert_eq!(node.server.requests(other.as_str()), 0);
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (4, 0, 1), "the index is kept too");
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_is_not_fetched_again() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 3);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let before = node.images.list();
    let node = node.restart().await;
    assert_eq!(node.images.list(), before);
    node.pull("app:v1").await.unwrap();
    for layer in &made.layers {
        assert_eq!(node.server.requests(layer.digest.as_str()), 1);
    }
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_and_removal_takes_it_all() {
    let Some(node) = Node::start().await else {
        return;
    };
    let (old, new) = (image("old", 2), image("new", 2));
    node.server.push(&old, "v1");
    node.pull("app:v1").await.unwrap();
    node.server.push(&new, "v1");
    node.pull("app:v1").await.unwrap();
    let left = node.images.get(old.config_digest.as_str()).unwrap();
    assert!(left.repo_tags.is_empty());
    assert_eq!(left.repo_digests.len(), 1);
    assert_eq!(
        node.images.get(&node.name("app:v1")).unwrap().id,
        new.config_digest
    );
    assert_eq!(node.images.list().len(), 2);

    node.server.push(&new, "v2");
    node.pull("app:v2").await.unwrap();
    assert_eq!(
        node.images
            .get(new.config_digest.hex())
            .unwrap()
            .repo_tags
            .len(),
        2
    );
    node.images.remove(&node.name("app:v1")).await.unwrap();
    assert_eq!(node.images.get(&node.name("app:v2")), None, "all tags go");
    eventually("the new image is collected", || node.counts() == (4, 0, 2)).await;
    node.images
        .remove(&old.config_digest.hex()[..12])
        .await
        .unwrap();
    eventually("the old image is collected", || node.counts() == (0, 0, 0)).await;
    for name in ["never", &node.name("app:v1"), old.config_digest.as_str()] {
        node.images.remove(name).await.unwrap();
    }
    let node = node.restart().await;
    assert!(node.images.list().is_empty());
}

#[tokio::test]
async fn the_collector_spares_what_snapshots_leases_and_holds_need() {
    let Some(node) = Node::start().await else {
        return;
    };
    let (a, b, c) = (image("a", 2), image("b", 2), image("c", 2));
    for (made, tag) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        node.server.push(made, tag);
        node.pull(&format!("app:{tag}")).await.unwrap();
    }
    let layers = |made: &Made| {
        node.images
            .get(made.config_digest.as_str())
            .unwrap()
            .layers
            .clone()
    };
    node.snapshotter.prepare("container", &layers(&a)).unwrap();
    let lease = berth_metadata::schema::LeaseRecord {
        blobs: vec![b.manifest_digest.clone()],
        layers: layers(&b),
        expires_at: None,
    };
    node.images.lease("mine", lease).await.unwrap();
    let (_, hold) = node.images.acquire(&node.name("app:c")).await.unwrap();
    for tag in ["a", "b", "c"] {
        node.images
            .remove(&node.name(&format!("app:{tag}")))
            .await
            .unwrap();
    }
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (1, 0, 6));
    drop(hold);
    node.images.release("mine").await.unwrap();
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (0, 0, 2), "a container stands on these");
    node.snapshotter.remove("container").unwrap();
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (0, 0, 0));
}

#[tokio::test]
async fn equal_layers_in_one_image_are_fetched_once_and_stacked_twice() {
    let Some(node) = Node::start().await else {
        return;
    };
    let same = layer("/same", "s", Compression::Gzip);
    let made = Recipe::new()
        .layer(same.clone())
        .layer(same.clone())
        .layer(same.clone());
    node.server.push(&made.build().unwrap(), "v1");
    node.pull("app:v1").await.unwrap();
    assert_eq!(node.server.requests(same.digest.as_str()), 1);
    assert_eq!(node.counts(), (3, 0, 3));
    assert_eq!(node.file("app:v1", 2, "same").as_deref(), Some("s"));
}

#[tokio::test]
async fn an_image_that_lost_a_layer_is_healed_by_a_pull() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let top = node.images.get(&node.name("app:v1")).unwrap().layers[1].clone();
    node.snapshotter.remove_layer(&top).unwrap();
    // Its blob is damaged as well.
    std::fs::write(
        node.images.shared.content.path(&made.layers[1].digest),
        b"rot",
    )
    .unwrap();
    let node = node.restart().await;
    assert!(
        node.images.list().is_empty(),
        "a broken image is not offered"
    );
    node.pull("app:v1").await.unwrap();
    assert_eq!(node.file("app:v1", 1, "1").as_deref(), Some("a-1"));
    assert_eq!(
        node.server.requests(made.layers[0].digest.as_str()),
        1,
        "the good layer is kept"
    );
    assert_eq!(node.server.requests(made.layers[1].digest.as_str()), 2);
}
