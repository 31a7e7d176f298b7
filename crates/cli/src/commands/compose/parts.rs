//! Networks and volumes of a project.

use berth_compose::Project;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::board::Board;
use super::{labels, lifecycle};
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::output::note;

/// Makes what is not there. What is there is looked at.
pub async fn ensure(client: &Client, project: &Project, board: &Board) -> Result<()> {
    let networks = project.networks.keys();
    let networks = networks.map(|key| network(client, project, board, key));
    let volumes = project.volumes.keys();
    let volumes = volumes.map(|key| volume(client, project, board, key));
    try_join_all(networks).await?;
    try_join_all(volumes).await?;
    Ok(())
}

async fn network(client: &Client, project: &Project, board: &Board, key: &str) -> Result<()> {
    let part = &project.networks[key];
    let name = part.name();
    let found = match client.get(format!("/networks/{}", segment(name))).await {
        // An id's beginning is found as well.
        Ok(found) => Some(found).filter(|found| found["Name"] == name || part.is_external()),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    if part.is_external() {
        return match found {
            Some(_) => Ok(()),
            None => Err(Error::Failed(format!(
                "the network {name} is external and not there: make it with `berth network \
                 create {name}`, or drop external: true"
            ))),
        };
    }
    if let Some(found) = found {
        let label = |key: &str| found["Labels"][key].as_str().unwrap_or_default();
        if label(labels::PROJECT) != project.name {
            note(&format!(
                "berth: the network {name} is there already, and not of this project: it is used \
                 as it is; external: true says that this is meant"
            ));
            return Ok(());
        }
        let hash = label(labels::HASH);
        if hash.is_empty() || hash == part.network_hash() {
            return Ok(());
        }
        replace(client, project, board, key).await?;
    }
    create_network(client, project, board, key).await
}

/// It is not as the files say any more. Containers on it are made anew, too: they are stopped and
/// taken off it here.
async fn replace(client: &Client, project: &Project, board: &Board, key: &str) -> Result<()> {
    let name = project.networks[key].name();
    let on_it = |service: &String| {
        project.services[service]
            .networks()
            .iter()
            .any(|on| on == key)
    };
    let services: Vec<String> = project
        .services
        .keys()
        .filter(|name| on_it(name))
        .cloned()
        .collect();
    let containers = super::found::of_project(client, &project.name).await?;
    let containers = super::found::of_services(containers, &services);
    lifecycle::stop(client, board, &containers, None).await?;
    for container in &containers {
        let call = Call::post(format!("/networks/{}/disconnect", segment(name)));
        let body = json!({"Container": container.id, "Force": true});
        match client.tell(call.json(&body)).await {
            Err(error) if error.is_not_found() => {}
            // One that is not on it.
            Err(Error::Refused { .. }) => {}
            outcome => outcome?,
        }
    }
    let remove = client.tell(Call::delete(format!("/networks/{}", segment(name))));
    board
        .during(&format!("Network {name}"), ("Removing", "Removed"), remove)
        .await
}

async fn create_network(
    client: &Client,
    project: &Project,
    board: &Board,
    key: &str,
) -> Result<()> {
    let part = &project.networks[key];
    let value = &part.value;
    let mut body = json!({
        "Name": part.name(),
        "Labels": labels::of_network(project, key),
        "Internal": value["internal"] == true,
        "Attachable": value["attachable"] == true,
    });
    for (field, from) in [
        ("Driver", "driver"),
        ("Options", "driver_opts"),
        ("EnableIPv4", "enable_ipv4"),
        ("EnableIPv6", "enable_ipv6"),
    ] {
        if !value[from].is_null() {
            body[field] = value[from].clone();
        }
    }
    let ipam = &value["ipam"];
    let pools = ipam["config"].as_array().into_iter().flatten().map(|pool| {
        let mut one = json!({});
        for (field, from) in [
            ("Subnet", "subnet"),
            ("IPRange", "ip_range"),
            ("Gateway", "gateway"),
            ("AuxiliaryAddresses", "aux_addresses"),
        ] {
            if !pool[from].is_null() {
                one[field] = pool[from].clone();
            }
        }
        one
    });
    let pools: Vec<Value> = pools.collect();
    if !pools.is_empty() || !ipam["driver"].is_null() {
        let driver = ipam["driver"].as_str().unwrap_or("default");
        body["IPAM"] = json!({"Driver": driver, "Config": pools});
    }
    let create = client.tell(Call::post("/networks/create").json(&body));
    board
        .during(
            &format!("Network {}", part.name()),
            ("Creating", "Created"),
            create,
        )
        .await
}

async fn volume(client: &Client, project: &Project, board: &Board, key: &str) -> Result<()> {
    let part = &project.volumes[key];
    let name = part.name();
    match client.get(format!("/volumes/{}", segment(name))).await {
        Ok(found) if !part.is_external() => {
            let label = |key: &str| found["Labels"][key].as_str().unwrap_or_default();
            if label(labels::PROJECT) != project.name {
                note(&format!(
                    "berth: the volume {name} is there already, and not of this project: it is \
                     used as it is; external: true says that this is meant"
                ));
            } else if !label(labels::HASH).is_empty() && label(labels::HASH) != part.volume_hash() {
                note(&format!(
                    "berth: the volume {name} is not as the files say, and stays for what is in \
                     it; `berth compose down` and `berth volume rm {name}` make room for another"
                ));
            }
            return Ok(());
        }
        Ok(_) => return Ok(()),
        Err(error) if error.is_not_found() && part.is_external() => {
            return Err(Error::Failed(format!(
                "the volume {name} is external and not there: make it with `berth volume create \
                 {name}`, or drop external: true"
            )));
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let value = &part.value;
    let mut body = json!({"Name": name, "Labels": labels::of_volume(project, key)});
    for (field, from) in [("Driver", "driver"), ("DriverOpts", "driver_opts")] {
        if !value[from].is_null() {
            body[field] = value[from].clone();
        }
    }
    let create = client.tell(Call::post("/volumes/create").json(&body));
    board
        .during(&format!("Volume {name}"), ("Creating", "Created"), create)
        .await
}
