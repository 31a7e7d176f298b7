//! Mounts, of the host's paths and of images.

use berth_api::cri::v1 as cri;
use berth_lifecycle::request::{ImageMount, MountRequest, Propagation, UserNamespace};

use super::namespaces::ranges;
use super::{Result, sorted};
use crate::status::invalid;

pub fn mount(mount: cri::Mount) -> Result<MountRequest> {
    let image = image_mount(&mount)?;
    let id_map = UserNamespace {
        uids: ranges(&mount.uid_mappings),
        gids: ranges(&mount.gid_mappings),
    };
    let propagation = match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    Ok(MountRequest {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        selinux_relabel: mount.selinux_relabel,
        sub_path: String::new(),
        image,
        tmpfs: None,
        id_map: (id_map != UserNamespace::default()).then_some(id_map),
    })
}

fn image_mount(mount: &cri::Mount) -> Result<Option<ImageMount>> {
    let image = mount.image.as_ref().filter(|image| !image.image.is_empty());
    let Some(image) = image else {
        return match mount.image_sub_path.as_str() {
            "" => Ok(None),
            path => Err(invalid(format!(
                "mounts.image_sub_path is {path:?} without an image"
            ))),
        };
    };
    if !mount.host_path.is_empty() {
        return Err(invalid(format!(
            "mounts: host_path {:?} and image {:?} exclude each other",
            mount.host_path, image.image
        )));
    }
    Ok(Some(ImageMount {
        image: image.image.clone(),
        user_specified_image: image.user_specified_image.clone(),
        annotations: sorted(image.annotations.clone()),
        sub_path: mount.image_sub_path.clone(),
        image_id: String::new(),
    }))
}
