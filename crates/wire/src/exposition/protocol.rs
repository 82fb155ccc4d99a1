//! Which format a target is asked for, and which one it answered in.

use std::fmt;

/// A format of exposition, as `scrape_protocols` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Delimited protobuf, the only format with native histograms.
    PrometheusProto,
    /// OpenMetrics text 1.0.0.
    OpenMetricsText1_0_0,
    /// OpenMetrics text 0.0.1.
    OpenMetricsText0_0_1,
    /// Prometheus text 1.0.0: 0.0.4 with quoted UTF-8 names.
    PrometheusText1_0_0,
    /// Prometheus text 0.0.4.
    PrometheusText0_0_4,
}

/// A name in `scrape_protocols` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown scrape protocol {0:?}, supported: [OpenMetricsText0.0.1 OpenMetricsText1.0.0 PrometheusProto \
     PrometheusText0.0.4 PrometheusText1.0.0]"
)]
pub struct UnknownProtocol(pub String);

impl Protocol {
    /// What a target is asked for unless its configuration says otherwise, the best first.
    ///
    /// Source: Prometheus `config.DefaultScrapeProtocols`.
    pub const DEFAULTS: [Protocol; 4] = [
        Protocol::OpenMetricsText1_0_0,
        Protocol::OpenMetricsText0_0_1,
        Protocol::PrometheusText1_0_0,
        Protocol::PrometheusText0_0_4,
    ];

    /// What a target is asked for when native histograms are wanted, the best first.
    ///
    /// Source: Prometheus `config.DefaultProtoFirstScrapeProtocols`.
    pub const PROTO_FIRST: [Protocol; 5] = [
        Protocol::PrometheusProto,
        Protocol::OpenMetricsText1_0_0,
        Protocol::OpenMetricsText0_0_1,
        Protocol::PrometheusText1_0_0,
        Protocol::PrometheusText0_0_4,
    ];

    /// The name used in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::PrometheusProto => "PrometheusProto",
            Protocol::OpenMetricsText1_0_0 => "OpenMetricsText1.0.0",
            Protocol::OpenMetricsText0_0_1 => "OpenMetricsText0.0.1",
            Protocol::PrometheusText1_0_0 => "PrometheusText1.0.0",
            Protocol::PrometheusText0_0_4 => "PrometheusText0.0.4",
        }
    }

    /// The inverse of [`Protocol::as_str`].
    ///
    /// # Errors
    /// [`UnknownProtocol`] for any other name; it lists the known ones.
    pub fn parse(name: &str) -> Result<Protocol, UnknownProtocol> {
        Protocol::PROTO_FIRST
            .into_iter()
            .find(|protocol| protocol.as_str() == name)
            .ok_or_else(|| UnknownProtocol(name.to_owned()))
    }

    /// The media type with its version, as it stands in `Accept` and `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Protocol::PrometheusProto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            Protocol::OpenMetricsText1_0_0 => "application/openmetrics-text;version=1.0.0",
            Protocol::OpenMetricsText0_0_1 => "application/openmetrics-text;version=0.0.1",
            Protocol::PrometheusText1_0_0 => "text/plain;version=1.0.0",
            Protocol::PrometheusText0_0_4 => "text/plain;version=0.0.4",
        }
    }

    /// Whether this is OpenMetrics: one space between words, `# EOF` at the end, seconds.
    pub fn is_open_metrics(self) -> bool {
        matches!(self, Protocol::OpenMetricsText1_0_0 | Protocol::OpenMetricsText0_0_1)
    }

    /// The format of an answer with this `Content-Type` (`None` or empty: the answer had none).
    ///
    /// `fallback` is `fallback_scrape_protocol`; it stands in where the type is missing, malformed
    /// or unknown, and the answer then carries a warning.
    ///
    /// # Errors
    /// [`ContentTypeError`] when the type says nothing we can use and there is no fallback: the
    /// scrape fails.
    ///
    /// Source: Prometheus `model/textparse/interface.go`.
    pub fn of_content_type(
        content_type: Option<&str>,
        fallback: Option<Protocol>,
    ) -> Result<Negotiated, ContentTypeError> {
        let trouble = match content_type.map(str::trim).filter(|text| !text.is_empty()) {
            None => ContentTypeError::Missing,
            Some(text) => match MediaType::parse(text) {
                None => ContentTypeError::Malformed(text.to_owned()),
                Some(media) => match media.protocol() {
                    Some(protocol) => return Ok(Negotiated { protocol, warning: None }),
                    None => ContentTypeError::Unsupported(text.to_owned()),
                },
            },
        };
        match fallback {
            Some(protocol) => Ok(Negotiated { protocol, warning: Some(trouble) }),
            None => Err(trouble),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The format of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// How to read the body.
    pub protocol: Protocol,
    /// Why the fallback had to stand in, if it had to.
    pub warning: Option<ContentTypeError>,
}

/// A `Content-Type` that does not say how to read the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentTypeError {
    /// There was none.
    #[error("the answer has no Content-Type and no fallback_scrape_protocol is set for the target")]
    Missing,
    /// It is not a media type.
    #[error("cannot parse Content-Type {0:?} and no fallback_scrape_protocol is set for the target")]
    Malformed(String),
    /// It is not a format we read.
    #[error("unsupported Content-Type {0:?} and no fallback_scrape_protocol is set for the target")]
    Unsupported(String),
}

/// How a target shall spell names that are not legacy names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EscapingScheme {
    /// As they are, quoted.
    #[default]
    AllowUtf8,
    /// Every odd character becomes an underscore.
    Underscores,
    /// Dots become `_dot_`, other odd characters two underscores.
    Dots,
    /// `U__`, and odd characters by code point.
    Values,
}

impl EscapingScheme {
    /// The name in headers and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            EscapingScheme::AllowUtf8 => "allow-utf-8",
            EscapingScheme::Underscores => "underscores",
            EscapingScheme::Dots => "dots",
            EscapingScheme::Values => "values",
        }
    }
}

/// The `Accept` header that asks for `protocols`, the best first.
///
/// Weights fall from 0.6 in steps of 0.1 and end with `*/*`, as Prometheus' do, so that targets
/// which compare the header as text behave the same.
///
/// Source: Prometheus `scrape.acceptHeader`.
pub fn accept_header(protocols: &[Protocol], escaping: EscapingScheme) -> String {
    let mut header = String::with_capacity(256);
    let mut weight = 6;
    for &protocol in protocols {
        header.push_str(protocol.media_type());
        if matches!(protocol, Protocol::PrometheusText1_0_0 | Protocol::OpenMetricsText1_0_0) {
            header.push_str(";escaping=");
            header.push_str(escaping.as_str());
        }
        header.push_str(&format!(";q=0.{weight},"));
        weight = (weight - 1).max(1);
    }
    header.push_str(&format!("*/*;q=0.{weight}"));
    header
}

/// A media type and its parameters, as RFC 9110 section 8.3.1 writes them.
struct MediaType<'a> {
    essence: String,
    version: Option<&'a str>,
}

impl<'a> MediaType<'a> {
    fn parse(text: &'a str) -> Option<MediaType<'a>> {
        let mut parts = text.split(';');
        let essence = parts.next()?.trim().to_ascii_lowercase();
        let (main, sub) = essence.split_once('/')?;
        if !is_token(main) || !is_token(sub) {
            return None;
        }
        let mut version = None;
        for part in parts {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let (name, value) = part.split_once('=')?;
            if !is_token(name.trim()) {
                return None;
            }
            if name.trim().eq_ignore_ascii_case("version") {
                version = Some(value.trim().trim_matches('"'));
            }
        }
        Some(MediaType { essence, version })
    }

    fn protocol(&self) -> Option<Protocol> {
        match (self.essence.as_str(), self.version) {
            ("application/openmetrics-text", Some("0.0.1")) => Some(Protocol::OpenMetricsText0_0_1),
            ("application/vnd.google.protobuf", _) => Some(Protocol::PrometheusProto),
            ("application/openmetrics-text", _) => Some(Protocol::OpenMetricsText1_0_0),
            ("text/plain", Some("1.0.0")) => Some(Protocol::PrometheusText1_0_0),
            ("text/plain", _) => Some(Protocol::PrometheusText0_0_4),
            _ => None,
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
