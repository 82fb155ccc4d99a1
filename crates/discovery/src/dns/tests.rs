use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use super::*;

/// Answers from a table; names that are not in it fail.
#[derive(Default)]
struct FakeResolver(Mutex<HashMap<String, Vec<DnsRecord>>>);

impl Resolve for FakeResolver {
    fn lookup<'a>(
        &'a self,
        name: &'a str,
        _record: DnsRecordType,
    ) -> BoxFuture<'a, Result<Vec<DnsRecord>, String>> {
        let answer = self.0.lock().get(name).cloned().ok_or_else(|| "server failure".to_owned());
        Box::pin(async { answer })
    }
}

fn discoverer(names: &[&str], record: DnsRecordType, port: u16) -> (DnsDiscoverer, Arc<FakeResolver>) {
    let resolver = Arc::new(FakeResolver::default());
    let config = DnsConfig {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        record,
        port,
        refresh_interval: Duration::from_secs(30),
    };
    (DnsDiscoverer::new(config, Arc::clone(&resolver) as Arc<dyn Resolve>), resolver)
}

#[tokio::test]
async fn records_become_targets() {
    for (record, kind, want) in [
        (
            DnsRecord::Srv { target: "db1.example.com.".to_owned(), port: 3306 },
            DnsRecordType::Srv,
            concat!(
                r#"{__address__="db1.example.com:3306", __meta_dns_name="web.example.com.", "#,
                r#"__meta_dns_srv_record_port="3306", __meta_dns_srv_record_target="db1.example.com."}"#
            ),
        ),
        (
            DnsRecord::A(Ipv4Addr::new(192, 0, 2, 2)),
            DnsRecordType::A,
            r#"{__address__="192.0.2.2:80", __meta_dns_name="web.example.com."}"#,
        ),
        (
            DnsRecord::Aaaa("::1".parse().unwrap()),
            DnsRecordType::Aaaa,
            r#"{__address__="[::1]:80", __meta_dns_name="web.example.com."}"#,
        ),
        (
            DnsRecord::Mx("smtp1.example.com.".to_owned()),
            DnsRecordType::Mx,
            concat!(
                r#"{__address__="smtp1.example.com:80", __meta_dns_mx_record_target="smtp1.example.com.", "#,
                r#"__meta_dns_name="web.example.com."}"#
            ),
        ),
        (
            DnsRecord::Ns("ns1.example.com.".to_owned()),
            DnsRecordType::Ns,
            concat!(
                r#"{__address__="ns1.example.com:80", __meta_dns_name="web.example.com.", "#,
                r#"__meta_dns_ns_record_target="ns1.example.com."}"#
            ),
        ),
    ] {
        let (mut discoverer, resolver) = discoverer(&["web.example.com."], kind, 80);
        resolver.0.lock().insert("web.example.com.".to_owned(), vec![record]);
        discoverer.refresh().await.unwrap();
        let group = &discoverer.groups["web.example.com."];
        assert_eq!(group.source, "web.example.com.");
        assert_eq!(group.targets[0].to_string(), want);
    }
}

#[tokio::test]
async fn a_name_that_fails_keeps_its_targets() {
    let (mut discoverer, resolver) = discoverer(&["a", "b"], DnsRecordType::A, 80);
    let targets = |discoverer: &DnsDiscoverer| -> Vec<(String, usize)> {
        discoverer.groups.values().map(|group| (group.source.clone(), group.targets.len())).collect()
    };
    let address = DnsRecord::A(Ipv4Addr::LOCALHOST);
    resolver.0.lock().insert("a".to_owned(), vec![address.clone(), address.clone()]);
    assert_eq!(discoverer.refresh().await, Err("look up b A: server failure".to_owned()));
    assert_eq!(targets(&discoverer), [("a".to_owned(), 2)]);

    *resolver.0.lock() = HashMap::from([("b".to_owned(), vec![address])]);
    assert_eq!(discoverer.refresh().await, Err("look up a A: server failure".to_owned()));
    assert_eq!(targets(&discoverer), [("a".to_owned(), 2), ("b".to_owned(), 1)]);

    *resolver.0.lock() = HashMap::from([("a".to_owned(), vec![]), ("b".to_owned(), vec![])]);
    assert_eq!(discoverer.refresh().await, Ok(()));
    assert_eq!(targets(&discoverer), [("a".to_owned(), 0), ("b".to_owned(), 0)]);
}

/// Answers one query after another over UDP: records of the name `known.`, failure for `broken.`,
/// and that there is no such name for the rest.
async fn serve(socket: UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
        let Ok(query) = Message::from_vec(&buffer[..len]) else { continue };
        let asked = query.queries[0].clone();
        let host = || Name::from_ascii("host.example.").unwrap();
        let mut answer = query.into_response();
        match asked.name().to_ascii().as_str() {
            "known." => {
                let data = match asked.query_type() {
                    RecordType::SRV => RData::SRV(rdata::SRV::new(1, 2, 9100, host())),
                    RecordType::A => RData::A(rdata::A(Ipv4Addr::LOCALHOST)),
                    RecordType::AAAA => RData::AAAA(rdata::AAAA("2001:db8::1".parse().unwrap())),
                    RecordType::MX => RData::MX(rdata::MX::new(5, host())),
                    _ => RData::NS(rdata::NS(host())),
                };
                answer.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
            }
            "broken." => answer.metadata.response_code = ResponseCode::ServFail,
            _ => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        let bytes = answer.to_vec().unwrap();
        socket.send_to(&bytes, peer).await.unwrap();
    }
}

#[tokio::test]
async fn a_real_server_is_asked() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut connection = ConnectionConfig::udp();
    connection.port = socket.local_addr().unwrap().port();
    tokio::spawn(serve(socket));
    let mut server = NameServerConfig::udp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    server.connections = vec![connection];
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let resolver: TokioResolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
    let host = || "host.example.".to_owned();
    for (record, want) in [
        (DnsRecordType::Srv, DnsRecord::Srv { target: host(), port: 9100 }),
        (DnsRecordType::A, DnsRecord::A(Ipv4Addr::LOCALHOST)),
        (DnsRecordType::Aaaa, DnsRecord::Aaaa("2001:db8::1".parse().unwrap())),
        (DnsRecordType::Mx, DnsRecord::Mx(host())),
        (DnsRecordType::Ns, DnsRecord::Ns(host())),
    ] {
        assert_eq!(system::lookup(&resolver, "known.", record).await, Ok(vec![want]));
    }
    assert_eq!(system::lookup(&resolver, "unknown.", DnsRecordType::A).await, Ok(Vec::new()));
    assert!(system::lookup(&resolver, "broken.", DnsRecordType::A).await.is_err());
    assert!(system::lookup(&resolver, "not a name..", DnsRecordType::A).await.is_err());
}
