//! Lookups by the system's own settings (`/etc/resolv.conf`).

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::{DnsRecord, Resolve};
use crate::BoxFuture;
use crate::config::DnsRecordType;

/// Asks the name servers of `/etc/resolv.conf`, which is read for every lookup: it changes when a
/// machine moves. Answers are not cached, and `/etc/hosts` is not asked.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemResolver;

impl SystemResolver {
    async fn ask(name: &str, record: DnsRecordType) -> Result<Vec<DnsRecord>, String> {
        let mut builder =
            TokioResolver::builder_tokio().map_err(|e| format!("read /etc/resolv.conf: {e}"))?;
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = builder.build().map_err(|e| e.to_string())?;
        lookup(&resolver, name, record).await
    }
}

impl Resolve for SystemResolver {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        record: DnsRecordType,
    ) -> BoxFuture<'a, Result<Vec<DnsRecord>, String>> {
        Box::pin(SystemResolver::ask(name, record))
    }
}

/// Asks `resolver`; that there is no such name or record is an answer.
pub(super) async fn lookup(
    resolver: &TokioResolver,
    name: &str,
    record: DnsRecordType,
) -> Result<Vec<DnsRecord>, String> {
    let record_type = match record {
        DnsRecordType::Srv => RecordType::SRV,
        DnsRecordType::A => RecordType::A,
        DnsRecordType::Aaaa => RecordType::AAAA,
        DnsRecordType::Mx => RecordType::MX,
        DnsRecordType::Ns => RecordType::NS,
    };
    match resolver.lookup(name, record_type).await {
        Ok(answer) => Ok(answer.answers().iter().filter_map(|record| convert(&record.data)).collect()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}

/// Records of other types (a CNAME on the way) lead to no target.
fn convert(data: &RData) -> Option<DnsRecord> {
    Some(match data {
        RData::SRV(srv) => DnsRecord::Srv { target: srv.target.to_ascii(), port: srv.port },
        RData::A(a) => DnsRecord::A(a.0),
        RData::AAAA(aaaa) => DnsRecord::Aaaa(aaaa.0),
        RData::MX(mx) => DnsRecord::Mx(mx.exchange.to_ascii()),
        RData::NS(ns) => DnsRecord::Ns(ns.0.to_ascii()),
        _ => return None,
    })
}
