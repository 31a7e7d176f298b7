//! `runtime.v1.ImageService`.

use std::collections::HashMap;
use std::sync::Arc;

use berth_api::cri::v1::{self as cri, image_service_server::ImageService};
use berth_images::Images;
use berth_lifecycle::{Runtime, record};
use berth_names::ImageRef;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use crate::status::{invalid, of, of_image, unbuilt};
use crate::{Facts, ask, tell};

type Answer<T> = Result<Response<T>, Status>;

pub struct ImageDoor {
    runtime: Runtime,
    images: Arc<Images>,
    facts: Arc<Facts>,
}

impl ImageDoor {
    pub(crate) fn new(runtime: Runtime, images: Arc<Images>, facts: Arc<Facts>) -> Self {
        Self {
            runtime,
            images,
            facts,
        }
    }
}

fn named(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        _ => Err(invalid("image is missing: name one by tag, digest or id")),
    }
}

#[tonic::async_trait]
impl ImageService for ImageDoor {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        let wanted = request
            .into_inner()
            .filter
            .and_then(|filter| filter.image)
            .map(|spec| spec.image)
            .filter(|image| !image.is_empty());
        let images = match wanted {
            Some(name) => self.images.get(&name).into_iter().collect(),
            None => self.images.list(),
        };
        let images = images.iter().map(|image| tell::image(image)).collect();
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = BoxStream<'static, Result<cri::StreamImagesResponse, Status>>;
    async fn stream_images(
        &self,
        _: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        Err(unbuilt("StreamImages"))
    }

    /// An image that is not there is an answer, not an error.
    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let request = request.into_inner();
        let Some(image) = self.images.get(&named(request.image)?) else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let mut info = HashMap::new();
        if request.verbose {
            let chain: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
            let verbose = serde_json::json!({ "chainIDs": chain, "imageSpec": image.config });
            info.insert("info".to_owned(), verbose.to_string());
        }
        Ok(Response::new(cri::ImageStatusResponse {
            image: Some(tell::image(&image)),
            info,
        }))
    }

    #[tracing::instrument(name = "PullImage", skip_all)]
    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let reference = ImageRef::parse(&name).map_err(|error| invalid(error.to_string()))?;
        let credentials = ask::credentials(request.auth)?;
        let id = self
            .images
            .pull(&reference, credentials)
            .await
            .map_err(|error| of_image(&error))?;
        Ok(Response::new(cri::PullImageResponse {
            image_ref: id.to_string(),
        }))
    }

    /// Removes every tag of the image; what containers still use is collected after them.
    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let name = named(request.into_inner().image)?;
        if let Some(image) = self.images.get(&name)
            && self.runtime.image_in_use(&image.id)
        {
            tracing::info!(image = %image.id, "removed while containers use it; layers stay");
        }
        self.images
            .remove(&name)
            .await
            .map_err(|error| of_image(&error))?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let used = self
            .images
            .fs_usage()
            .await
            .map_err(|error| of_image(&error))?;
        let writable = self.runtime.writable_usage().await.map_err(of)?;
        let usage = |dir: &std::path::Path, bytes, inodes| cri::FilesystemUsage {
            timestamp: record::now(),
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: dir.display().to_string(),
            }),
            used_bytes: Some(cri::UInt64Value { value: bytes }),
            inodes_used: Some(cri::UInt64Value { value: inodes }),
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage(&self.facts.image_dir, used.bytes, used.inodes)],
            container_filesystems: vec![usage(
                &self.facts.snapshot_dir,
                writable.bytes,
                writable.inodes,
            )],
        }))
    }
}
