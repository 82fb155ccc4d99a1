//! From what discovery says to what is scraped: labels, relabelling, the URL.
//!
//! Source: Prometheus `scrape/target.go` (`PopulateLabels`, `Target.URL`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, LabelsBuilder, SourceId, TenantId};
use url::Url;

use crate::config::{HistogramChoice, ScrapeConfig};

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const METRICS_PATH: &str = "__metrics_path__";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const NATIVE: &str = "__scrape_native_histograms__";
const KEEP_CLASSIC: &str = "__always_scrape_classic_histograms__";
const CONVERT_CLASSIC: &str = "__convert_classic_histograms_to_nhcb__";
const PARAM_PREFIX: &str = "__param_";
/// What a job that names a cluster puts on its targets.
const CLUSTER: &str = "cluster";
const JOB: &str = "job";
const INSTANCE: &str = "instance";

/// Something to scrape.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// The logical identity. Equal for targets with equal labels and URL.
    pub(crate) id: SourceId,
    /// The labels its series get.
    pub(crate) labels: Labels,
    /// The labels before relabelling.
    pub(crate) discovered: Labels,
    pub(crate) url: Url,
    pub(crate) interval: Duration,
    /// At most the interval.
    pub(crate) timeout: Duration,
    pub(crate) histograms: HistogramChoice,
}

/// What became of one discovered target.
#[derive(Debug)]
pub(crate) enum Populated {
    /// It is scraped.
    Scraped(Box<Target>),
    /// Relabelling dropped it. Holds the labels before.
    Dropped(Labels),
}

/// Who scrapes; part of the identity of every source.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) tenant: TenantId,
    pub(crate) cluster: String,
    /// What every target and series carries; see [`LabelsBuilder::stamp`].
    pub(crate) stamped: Labels,
}

impl Owner {
    /// Whose rows those of a job are: a job that names a cluster speaks for that one.
    pub(crate) fn of(usual: &Arc<Owner>, config: &ScrapeConfig) -> Arc<Owner> {
        let Some(cluster) = &config.cluster else { return Arc::clone(usual) };
        let stamped = Labels::from_pairs([(CLUSTER, cluster.as_str())]);
        Arc::new(Owner { tenant: usual.tenant.clone(), cluster: cluster.clone(), stamped })
    }
}

/// Makes a target of `own` labels within a group with `shared` labels.
///
/// # Errors
/// Why it cannot be scraped, in Prometheus' words.
pub(crate) fn populate(
    owner: &Owner,
    config: &ScrapeConfig,
    shared: &Labels,
    own: &Labels,
) -> Result<Populated, String> {
    let mut labels = LabelsBuilder::from_labels(shared);
    for (name, value) in own {
        labels.set(name, value);
    }
    preset(config, &mut labels);
    let discovered = labels.build();
    if !model::relabel::apply(&config.relabel, &mut labels) {
        return Ok(Populated::Dropped(discovered));
    }
    let address = labels.get(ADDRESS).unwrap_or_default().to_owned();
    if address.is_empty() {
        return Err("no address".to_owned());
    }
    if address.contains('/') {
        return Err(format!("{address:?} is not a valid hostname"));
    }
    let (interval, timeout) = times(&labels)?;
    let url = url(config, &labels, &address)?;
    let histograms = histograms(config, &labels);
    if labels.get(INSTANCE).is_none() {
        labels.set(INSTANCE, &address);
    }
    labels.retain(|name, _| !name.starts_with("__"));
    if let Some((name, _)) = labels.iter().find(|(name, _)| !config.names.is_valid_label_name(name)) {
        return Err(format!("invalid label name {name:?}"));
    }
    labels.stamp(&owner.stamped);
    let labels = labels.build();
    let id = SourceId::of(&owner.tenant, &owner.cluster, &config.job_name, &labels, url.as_str());
    Ok(Populated::Scraped(Box::new(Target { id, labels, discovered, url, interval, timeout, histograms })))
}

/// Sets what the job says where discovery has said nothing.
fn preset(config: &ScrapeConfig, labels: &mut LabelsBuilder) {
    let format = |d: Duration| model::duration::format(i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let mut fill = |name: &str, value: &str| {
        if labels.get(name).is_none_or(str::is_empty) {
            labels.set(name, value);
        }
    };
    fill(JOB, &config.job_name);
    fill(INTERVAL, &format(config.scrape_interval));
    fill(TIMEOUT, &format(config.scrape_timeout));
    fill(METRICS_PATH, &config.metrics_path);
    fill(SCHEME, config.scheme.as_str());
    for (name, values) in &config.params {
        if let Some(first) = values.first() {
            fill(&format!("{PARAM_PREFIX}{name}"), first);
        }
    }
}

/// What is made of histograms: what the target's labels say, or else the job.
fn histograms(config: &ScrapeConfig, labels: &LabelsBuilder) -> HistogramChoice {
    // The words are those of Go's `strconv.ParseBool`; others say nothing.
    let choice = |label: &str, otherwise: bool| match labels.get(label) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        _ => otherwise,
    };
    HistogramChoice {
        native: choice(NATIVE, config.histograms.native),
        keep_classic: choice(KEEP_CLASSIC, config.histograms.keep_classic),
        convert_classic: choice(CONVERT_CLASSIC, config.histograms.convert_classic),
    }
}

fn times(labels: &LabelsBuilder) -> Result<(Duration, Duration), String> {
    let read = |label: &str, what: &str| {
        let text = labels.get(label).unwrap_or_default();
        let ms = model::duration::parse(text).map_err(|e| format!("error parsing scrape {what}: {e}"))?;
        if ms == 0 {
            return Err(format!("scrape {what} cannot be 0"));
        }
        Ok(Duration::from_millis(ms.unsigned_abs()))
    };
    let interval = read(INTERVAL, "interval")?;
    let timeout = read(TIMEOUT, "timeout")?;
    if timeout > interval {
        let text = |label| labels.get(label).unwrap_or_default();
        return Err(format!(
            "scrape timeout cannot be greater than scrape interval ({:?} > {:?})",
            text(TIMEOUT),
            text(INTERVAL)
        ));
    }
    Ok((interval, timeout))
}

fn url(config: &ScrapeConfig, labels: &LabelsBuilder, address: &str) -> Result<Url, String> {
    let scheme = labels.get(SCHEME).unwrap_or_default();
    let mut url = Url::parse(&format!("{scheme}://{address}"))
        .map_err(|e| format!("{scheme}://{address} is not a URL: {e}"))?;
    url.set_path(labels.get(METRICS_PATH).unwrap_or_default());
    let mut params: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, values) in &config.params {
        params.insert(name, values.iter().map(String::as_str).collect());
    }
    for (name, value) in labels.iter() {
        let Some(name) = name.strip_prefix(PARAM_PREFIX) else { continue };
        match params.get_mut(name) {
            Some(values) if !values.is_empty() => values[0] = value,
            _ => {
                params.insert(name, vec![value]);
            }
        }
    }
    if params.values().any(|values| !values.is_empty()) {
        let mut query = url.query_pairs_mut();
        for (name, values) in params {
            for value in values {
                query.append_pair(name, value);
            }
        }
    }
    Ok(url)
}
