//! `tunnel`: what hubs may ask an agent for.

use ::tunnel::policy::{PolicyConfig, UrlPattern};
use scrape::config::ConfigError;
use serde::Deserialize;

/// `tunnel`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelText {
    /// Whether hubs, and whoever asks through them, may ask for what this agent has discovered. Default: true.
    pub scrape: Option<bool>,
    /// Further URLs that hubs may get: `http://10.0.0.7:9100/metrics`, with `*` for any run of characters in host,
    /// path and query.
    pub allow_urls: Vec<String>,
}

impl TunnelText {
    /// Checks what was written.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn validate(&self) -> Result<PolicyConfig, ConfigError> {
        let pattern = |(i, written): (usize, &String)| {
            let parsed = written.parse::<UrlPattern>();
            parsed.map_err(|error| ConfigError::new(format!("allow_urls[{i}]"), error.to_string()))
        };
        let allow_urls = self.allow_urls.iter().enumerate().map(pattern).collect::<Result<_, _>>()?;
        Ok(PolicyConfig { scrape: self.scrape.unwrap_or(true), allow_urls, ..PolicyConfig::default() })
    }
}
