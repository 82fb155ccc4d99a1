//! Whether a request goes through a proxy, and through which.
//!
//! Source: Go `golang.org/x/net/http/httpproxy`; Prometheus `ProxyConfig`.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::config::{ProxyConfig, Secret};

/// The proxies of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct ProxyChoice {
    http: Option<ProxyServer>,
    https: Option<ProxyServer>,
    except: Vec<String>,
    /// Whether loopback targets are reached directly.
    spare_loopback: bool,
}

/// A proxy.
#[derive(Debug, Clone)]
pub(super) struct ProxyServer {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// `user:password`, percent-decoded as little as Go does for plain ones.
    user_info: Option<Secret>,
}

impl ProxyChoice {
    /// What `config` says; reads the environment when it says so.
    pub(super) fn new(config: &ProxyConfig) -> ProxyChoice {
        if !config.from_environment {
            let server = config.url.as_ref().and_then(ProxyServer::new);
            return ProxyChoice {
                http: server.clone(),
                https: server,
                except: config.no_proxy.clone(),
                // A plain `proxy_url` means every target; with `no_proxy` Go's rules begin to hold.
                spare_loopback: !config.no_proxy.is_empty(),
            };
        }
        let variable = |name: &str| {
            let value = std::env::var(name.to_ascii_uppercase()).or_else(|_| std::env::var(name));
            value.ok().filter(|value| !value.is_empty())
        };
        let server = |name: &str| {
            let text = variable(name)?;
            let text = if text.contains("://") { text } else { format!("http://{text}") };
            Url::parse(&text).ok().as_ref().and_then(ProxyServer::new)
        };
        let except = variable("no_proxy").unwrap_or_default();
        ProxyChoice {
            http: server("http_proxy"),
            https: server("https_proxy"),
            except: except
                .split(',')
                .map(|e| e.trim().to_ascii_lowercase())
                .filter(|e| !e.is_empty())
                .collect(),
            spare_loopback: true,
        }
    }

    /// The proxy for a target, if it has one.
    pub(super) fn of(&self, tls: bool, host: &str, port: u16) -> Option<&ProxyServer> {
        let server = if tls { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host.to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if self.spare_loopback && loopback {
            return None;
        }
        let excepted = self.except.iter().any(|entry| matches(entry, &host, address, port));
        (!excepted).then_some(server)
    }
}

impl ProxyServer {
    fn new(url: &Url) -> Option<ProxyServer> {
        let user_info = (!url.username().is_empty())
            .then(|| Secret::new(format!("{}:{}", url.username(), url.password().unwrap_or_default())));
        Some(ProxyServer {
            tls: url.scheme() == "https",
            host: url.host_str()?.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default()?,
            user_info,
        })
    }

    /// The `Proxy-Authorization` header, when the proxy's URL has a user.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let text = format!("Basic {}", BASE64.encode(self.user_info.as_ref()?.reveal()));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The headers of CONNECT requests: `configured`, and the authorization.
    pub(super) fn connect_headers(&self, configured: &[(HeaderName, Vec<Secret>)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(authorization) = self.authorization() {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        for (name, values) in configured {
            for value in values.iter().filter_map(|value| HeaderValue::from_str(value.reveal()).ok()) {
                headers.append(name, value);
            }
        }
        headers
    }
}

/// Whether an entry of `no_proxy` means this host: `*`, an address, a network, a domain (and what is
/// below it), each with or without a port.
fn matches(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/') {
        return match (network.parse(), bits.parse(), address) {
            (Ok(network), Ok(bits), Some(address)) => contains(network, bits, address),
            _ => false,
        };
    }
    let (name, wanted_port) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') => match digits.parse::<u16>() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    };
    if wanted_port.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let (Ok(entry), Some(address)) = (name.trim_matches(['[', ']']).parse::<IpAddr>(), address) {
        return entry == address;
    }
    let domain = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
    match domain {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    }
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let shift = |ip: std::net::Ipv4Addr| u32::from(ip).checked_shr(32 - bits).unwrap_or(0);
            shift(network) == shift(address)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let shift = |ip: std::net::Ipv6Addr| u128::from(ip).checked_shr(128 - bits).unwrap_or(0);
            shift(network) == shift(address)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        for (entry, host, want) in [
            ("*", "anything", true),
            ("example.org", "example.org", true),
            ("example.org", "a.example.org", true),
            ("example.org", "badexample.org", false),
            (".example.org", "a.example.org", true),
            (".example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", true),
            ("example.org:9100", "example.org", true),
            ("example.org:80", "example.org", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("fd00::/8", "fd12::1", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:9100", "10.1.2.3", true),
            ("10.1.2.3:81", "10.1.2.3", false),
        ] {
            assert_eq!(matches(entry, host, host.parse().ok(), 9100), want, "{entry} {host}");
        }
    }

    #[test]
    fn a_plain_proxy_is_for_every_target_and_exceptions_spare_loopback() {
        let url = Url::parse("http://user:pass@proxy:3128").ok();
        let all = ProxyChoice::new(&ProxyConfig { url: url.clone(), ..ProxyConfig::default() });
        assert_eq!(all.of(false, "localhost", 80).map(|proxy| proxy.port), Some(3128));
        let some =
            ProxyChoice::new(&ProxyConfig { url, no_proxy: vec!["x".into()], ..ProxyConfig::default() });
        assert!(some.of(false, "localhost", 80).is_none() && some.of(true, "127.0.0.1", 80).is_none());
        let authorization = some.of(true, "elsewhere", 443).and_then(ProxyServer::authorization);
        assert_eq!(authorization.as_ref().map(|value| value.as_bytes()), Some(&b"Basic dXNlcjpwYXNz"[..]));
    }
}
