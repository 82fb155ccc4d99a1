//! DNS discovery: targets from SRV, A, AAAA, MX and NS records.
//!
//! Each name is one target group. A name that does not exist has no targets; a name that could not be
//! asked for keeps those it had.
//!
//! Source: Prometheus `discovery/dns/dns.go`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::{Labels, TargetGroup};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::BoxFuture;
use crate::config::{DnsConfig, DnsRecordType};
use crate::document::ADDRESS_LABEL;
use crate::provider::{Discoverer, Updates, ticks};

mod system;
#[cfg(test)]
mod tests;

pub use system::SystemResolver;

/// The label that holds the name asked for.
pub const NAME_LABEL: &str = "__meta_dns_name";
/// The label that holds an SRV record's host, with its final dot.
pub const SRV_TARGET_LABEL: &str = "__meta_dns_srv_record_target";
/// The label that holds an SRV record's port.
pub const SRV_PORT_LABEL: &str = "__meta_dns_srv_record_port";
/// The label that holds an MX record's host, with its final dot.
pub const MX_TARGET_LABEL: &str = "__meta_dns_mx_record_target";
/// The label that holds an NS record's host, with its final dot.
pub const NS_TARGET_LABEL: &str = "__meta_dns_ns_record_target";

/// A record that leads to a target. Host names end in a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsRecord {
    /// A host and port of a service.
    Srv {
        /// The host's name.
        target: String,
        /// The port.
        port: u16,
    },
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A mail exchanger's name.
    Mx(String),
    /// A name server's name.
    Ns(String),
}

/// Looks names up.
pub trait Resolve: Send + Sync {
    /// The records of `record` type that `name` has; none where the name does not exist.
    ///
    /// # Errors
    /// Why nobody knows, in one sentence.
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        record: DnsRecordType,
    ) -> BoxFuture<'a, Result<Vec<DnsRecord>, String>>;
}

/// Asks for the names of one configuration again and again.
pub struct DnsDiscoverer {
    config: DnsConfig,
    resolver: Arc<dyn Resolve>,
    /// The last answer for each name.
    groups: BTreeMap<String, TargetGroup>,
}

impl DnsDiscoverer {
    /// A discoverer for `config`; asks nothing yet.
    pub fn new(config: DnsConfig, resolver: Arc<dyn Resolve>) -> DnsDiscoverer {
        DnsDiscoverer { config, resolver, groups: BTreeMap::new() }
    }

    /// Asks for all names at once. Gives why some could not be asked for.
    async fn refresh(&mut self) -> Result<(), String> {
        let mut lookups = JoinSet::new();
        for name in &self.config.names {
            let (name, resolver, record) = (name.clone(), Arc::clone(&self.resolver), self.config.record);
            lookups.spawn(async move {
                let records = resolver.lookup(&name, record).await;
                (name, records)
            });
        }
        let mut errors = Vec::new();
        while let Some(lookup) = lookups.join_next().await {
            match lookup {
                Ok((name, Ok(records))) => {
                    let targets = records.iter().map(|record| self.target(&name, record)).collect();
                    let group = TargetGroup { source: name.clone(), labels: Labels::empty(), targets };
                    self.groups.insert(name, group);
                }
                Ok((name, Err(reason))) => {
                    errors.push(format!("look up {name} {}: {reason}", self.config.record.as_str()));
                }
                Err(error) => errors.push(error.to_string()),
            }
        }
        errors.sort();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    fn target(&self, name: &str, record: &DnsRecord) -> Labels {
        let port = self.config.port;
        let host = |host: &str, port: u16| format!("{}:{port}", host.trim_end_matches('.'));
        let (address, more) = match record {
            DnsRecord::Srv { target, port } => {
                let more = vec![(SRV_TARGET_LABEL, target.clone()), (SRV_PORT_LABEL, port.to_string())];
                (host(target, *port), more)
            }
            DnsRecord::A(ip) => (format!("{ip}:{port}"), Vec::new()),
            DnsRecord::Aaaa(ip) => (format!("[{ip}]:{port}"), Vec::new()),
            DnsRecord::Mx(target) => (host(target, port), vec![(MX_TARGET_LABEL, target.clone())]),
            DnsRecord::Ns(target) => (host(target, port), vec![(NS_TARGET_LABEL, target.clone())]),
        };
        let always = [(ADDRESS_LABEL, address), (NAME_LABEL, name.to_owned())];
        Labels::from_pairs(always.into_iter().chain(more))
    }
}

impl Discoverer for DnsDiscoverer {
    fn run(mut self: Box<Self>, updates: Updates, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let rounds = async {
                let mut ticks = ticks(self.config.refresh_interval);
                loop {
                    ticks.tick().await;
                    let result = self.refresh().await;
                    let groups = self.groups.values().cloned().collect();
                    match result {
                        Ok(()) => updates.set(groups),
                        Err(error) => updates.set_partly(groups, error),
                    }
                }
            };
            stop.run_until_cancelled(rounds).await;
        })
    }
}
