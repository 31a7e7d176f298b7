//! `runtime.v1.ImageService`.

use std::collections::HashMap;
use std::sync::Arc;

use berth_api::cri::v1::{self as cri, image_service_server::ImageService};
use berth_images::{Image, Images};
use berth_lifecycle::{Runtime, record};
use berth_names::ImageRef;
use tonic::{Request, Response, Status};

use crate::samples::filesystem_of;
use crate::status::{invalid, of, of_image};
use crate::streams::{self, Stream};
use crate::{Facts, ask, tell, usage};

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

    fn chosen(&self, filter: Option<cri::ImageFilter>) -> Vec<Arc<Image>> {
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|spec| spec.image)
            .filter(|image| !image.is_empty());
        match wanted {
            Some(name) => self.images.get(&name).into_iter().collect(),
            None => self.images.list(),
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
        let images = self.chosen(request.into_inner().filter);
        let images = images.iter().map(|image| tell::image(image)).collect();
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Stream<cri::StreamImagesResponse>;
    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let images = self.chosen(request.into_inner().filter);
        Ok(Response::new(streams::of_records(
            images,
            |image| Some(tell::image(&image)),
            |images| cri::StreamImagesResponse { images },
        )))
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
            let verbose = serde_json::json!({
                "chainIDs": chain,
                "imageSpec": image.config,
                "artifactType": image.artifact,
            });
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
        let at = record::now();
        let blobs_on = filesystem_of(&self.facts.image_dir).await?.mount_point;
        let layers_on = filesystem_of(&self.facts.snapshot_dir).await?.mount_point;
        let (blobs, layers) = (used.blobs, used.layers);
        let image_filesystems = if blobs_on == layers_on {
            let (bytes, inodes) = (blobs.bytes + layers.bytes, blobs.inodes + layers.inodes);
            vec![usage::filesystem(at, &layers_on, bytes, inodes)]
        } else {
            // Clients that know one only shall see where images are run from.
            vec![
                usage::filesystem(at, &layers_on, layers.bytes, layers.inodes),
                usage::filesystem(at, &blobs_on, blobs.bytes, blobs.inodes),
            ]
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems,
            container_filesystems: vec![usage::filesystem(
                at,
                &layers_on,
                writable.bytes,
                writable.inodes,
            )],
        }))
    }
}
