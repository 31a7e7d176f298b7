//! Which containers are served by our resolver, and from when to when.

use std::path::Path;
use std::sync::Arc;

use berth_names::ContainerId;

use super::dns::{self, Client, Resolvers, Server, Sockets};
use super::member::Membership;
use super::{Inner, Networks, cable};
use crate::error::Result;
use crate::pod::Dns;
use crate::threads;

impl Networks {
    /// What the `resolv.conf` of a container on these networks is to say: known before it is attached
    /// to them.
    pub fn resolver(&self, dns: &Dns, networks: &[&str]) -> Dns {
        let named = {
            let state = self.inner.state.lock();
            let mut found = networks.iter().filter_map(|name| state.find(name).ok());
            found.any(|net| net.definition.user_defined())
        };
        let host = &self.inner.config.resolv_conf;
        let resolved = named || !networks.is_empty() && only_we_reach(host, dns);
        dns::settings(host, dns, resolved)
    }

    /// Gives a container another name; the old one is not found any more. One that is on no network
    /// has no name to be found by.
    pub async fn rename(&self, container: &ContainerId, name: &str) -> Result<()> {
        let (id, name) = (container.clone(), name.to_owned());
        self.in_turn(container, "berth-rename", move |inner| {
            let Some(mut membership) = inner.state.lock().members.get(&id).cloned() else {
                return Ok(());
            };
            let old = std::mem::replace(&mut membership.member.name, name.clone());
            for endpoint in &mut membership.endpoints {
                let aliased = endpoint.request.aliases.contains(&old);
                if endpoint.names.is_empty() {
                    continue;
                }
                endpoint
                    .names
                    .retain(|known| *known != name && (*known != old || aliased));
                endpoint.names.insert(0, name.clone());
            }
            inner.store.put_membership(&membership)?;
            inner.remember(membership);
            Ok(())
        })
        .await
    }
}

/// Whether the host's resolvers answer on its loopback alone: from elsewhere they are asked by us.
fn only_we_reach(host: &Path, own: &Dns) -> bool {
    let found = Resolvers::read(host);
    own.servers.is_empty() && !found.servers.is_empty() && found.reachable().next().is_none()
}

impl Inner {
    pub(super) fn resolves(&self, membership: &Membership) -> bool {
        let mut endpoints = membership.endpoints.iter();
        let named = endpoints.any(|endpoint| !endpoint.names.is_empty());
        let wired = (membership.endpoints.iter()).any(|endpoint| !endpoint.interface.is_empty());
        named || wired && only_we_reach(&self.config.resolv_conf, &membership.member.dns)
    }

    /// Opens the resolver's sockets in the calling thread's namespace, the container's, if it needs
    /// one and has none.
    pub(super) fn serve_names_here(&self, membership: &Membership) -> Result<()> {
        let known = self.resolvers.lock().contains_key(&membership.member.id);
        if known || !self.resolves(membership) {
            return Ok(());
        }
        self.serve_names(membership, dns::open_here()?)
    }

    fn serve_names(&self, membership: &Membership, sockets: Sockets) -> Result<()> {
        let member = &membership.member;
        let client = Client {
            container: member.id.clone(),
            netns: member.netns.clone(),
            dns: member.dns.clone(),
        };
        let shared = Arc::clone(&self.resolving);
        let server = Server::start(&self.runtime, sockets, shared, client)?;
        self.resolvers.lock().insert(member.id.clone(), server);
        Ok(())
    }

    /// The same for a container of an earlier daemon, from the host's namespace.
    pub(super) fn serve_names_again(&self, membership: &Membership) {
        let netns = membership.member.netns.clone();
        let opened = threads::run("berth-resolver", move || {
            cable::enter(&netns)?;
            dns::open_here()
        });
        if let Err(error) = opened.and_then(|sockets| self.serve_names(membership, sockets)) {
            let container = &membership.member.id;
            // Most often it is one that ended meanwhile.
            tracing::warn!(%container, %error, "names are not resolved for a container");
        }
    }
}
