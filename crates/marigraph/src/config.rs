//! The configuration file: Prometheus' own, plus a few sections of ours.
//!
//! The file is read into a tree that remembers places ([`yaml`]), the tree into structs *as
//! written*, and those are checked and become what is *meant* ([`Config`]). It is judged as a whole:
//! one error, and nothing is used. Sections of Prometheus that have no effect yet are accepted,
//! looked at, and named in [`Config::warnings`].

mod client_options;
mod discovery;
mod error;
mod fleet;
mod glob;
mod global;
mod proxy;
mod remote_write;
mod sections;
mod tunnel;
mod yaml;

pub(crate) use yaml::nearest;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scrape::config::{
    ConfigDuration, ConfigError as FieldError, HTTP_CLIENT_FIELDS, HttpClientText, ScrapeConfig,
    ScrapeConfigText, join_dir,
};

pub use client_options::read_client_options;
pub use discovery::{Discovery, DnsRecord};
pub use error::{ConfigError, ConfigWarning};
pub use fleet::{ClientAuthorityConfig, ClientAuthorityText, FleetConfig, FleetText, NameText};
pub use global::{Global, GlobalText};
pub use proxy::{DoorConfig, ProxyConfig, ProxyText, PushProxDoorText, PushProxText};
pub use remote_write::{MetadataText, QueueText, RemoteWrite, RemoteWriteText};
pub use sections::{
    ExemplarsText, LimitsText, LocalConfig, LocalText, MachineConfig, MachineText, PasswordText,
    RetentionText, StorageConfig, StorageText, TsdbText, WebAuth, WebAuthText, WebText,
};

pub use tunnel::TunnelText;

use ::tunnel::policy::PolicyConfig;
use tsdb::SeriesLimits;
use yaml::{Node, Value};

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The top-level keys, for hints.
const SECTIONS: [&str; 17] = [
    "global",
    "runtime",
    "alerting",
    "rule_files",
    "scrape_config_files",
    "scrape_configs",
    "storage",
    "tracing",
    "remote_write",
    "remote_read",
    "otlp",
    "limits",
    "machine",
    "proxy",
    "tunnel",
    "fleet",
    "web",
];

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from, or another name for its text.
    pub name: String,
    /// Defaults and labels.
    pub global: Global,
    /// The scrape jobs, in the order of the file, those of `scrape_config_files` last. No name twice.
    pub jobs: Vec<Job>,
    /// Other systems that are sent what comes in. No name twice.
    pub remote_writes: Vec<RemoteWrite>,
    /// Globs of files with rules; paths are relative to the working directory.
    pub rule_files: Vec<PathBuf>,
    /// Settings of the store.
    pub storage: StorageConfig,
    /// How many series sources and jobs may have.
    pub limits: SeriesLimits,
    /// The collector for this machine; off where missing.
    pub machine: Option<MachineConfig>,
    /// Other people's tools through tunnels and PushProx.
    pub proxy: ProxyConfig,
    /// What hubs may ask an agent for.
    pub tunnel: PolicyConfig,
    /// Authorities of the user's whose certificates agents may bring.
    pub fleet: FleetConfig,
    /// Who may come in.
    pub web_auth: WebAuth,
    /// What was accepted without the effect one might expect.
    pub warnings: Vec<ConfigWarning>,
    tree: Node,
}

/// One entry of `scrape_configs`.
#[derive(Debug, Clone)]
pub struct Job {
    /// How to scrape.
    pub scrape: Arc<ScrapeConfig>,
    /// Where the targets come from.
    pub discovery: Vec<Discovery>,
}

impl Config {
    /// Reads and checks a file and what it refers to by `scrape_config_files`.
    ///
    /// # Errors
    /// The first thing wrong, with file, line and column.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let text = read_file(path)?;
        Config::parse(&text, &name)
    }

    /// Checks a configuration given as text; `name` stands for its file in messages, and relative
    /// paths are relative to that file's directory.
    ///
    /// # Errors
    /// The first thing wrong, with line and column.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        let mut reader = Reader::new(name, text);
        reader.config().map_err(|failure| match failure {
            Failure::Here(error) => ConfigError::in_text(name, text, error),
            Failure::Elsewhere(error) => error,
        })
    }

    /// What the program does without a file: it scrapes itself at `listen` (`host:port`) and, by its
    /// built-in collector, the machine it runs on, every five seconds.
    pub fn embedded(listen: &str) -> Config {
        let target = reachable(listen);
        let text = format!(
            "global:\n  scrape_interval: 5s\nmachine:\n  path: /metrics/machine\nscrape_configs:\n  \
             - job_name: marigraph\n    static_configs:\n      - targets: ['{target}']\n  \
             - job_name: node\n    metrics_path: /metrics/machine\n    static_configs:\n      - targets: ['{target}']\n"
        );
        match Config::parse(&text, "embedded configuration") {
            Ok(config) => config,
            // Only an odd `listen` can do that; scraping nothing is better than not starting.
            Err(_) => Config::empty(),
        }
    }

    /// The configuration of an empty file.
    fn empty() -> Config {
        Config {
            name: "empty configuration".to_owned(),
            global: Global::default(),
            jobs: Vec::new(),
            remote_writes: Vec::new(),
            rule_files: Vec::new(),
            storage: StorageConfig::default(),
            limits: SeriesLimits::default(),
            machine: None,
            proxy: ProxyConfig::default(),
            tunnel: PolicyConfig::default(),
            fleet: FleetConfig::default(),
            web_auth: WebAuth::default(),
            warnings: Vec::new(),
            tree: Node::empty_map(),
        }
    }

    /// The configuration as YAML for people: as written, main defaults filled in, secrets hidden.
    pub fn to_yaml(&self) -> String {
        self.tree_with_defaults().print()
    }

    /// The jobs as YAML, in the order of [`Config::jobs`], with defaults, secrets as `<secret>`.
    pub fn jobs_yaml(&self) -> Vec<String> {
        let mut tree = self.tree_with_defaults();
        let written = match tree.get_mut("scrape_configs").map(|node| &node.value) {
            Some(Value::List(entries)) => entries.iter().map(Node::print).collect(),
            _ => Vec::new(),
        };
        // those of `scrape_config_files` stand in files of their own
        let elsewhere = self.jobs.iter().skip(written.len());
        let named = elsewhere.map(|job| format!("job_name: {}\n", job.scrape.job_name));
        written.into_iter().chain(named).collect()
    }

    fn tree_with_defaults(&self) -> Node {
        let mut tree = self.tree.clone();
        let scrape = &self.global.scrape;
        let evaluation = ConfigDuration(self.global.evaluation_interval);
        if let Some(global) = tree.get_or_insert("global", Node::empty_map()) {
            for (key, value) in [
                ("scrape_interval", scrape.scrape_interval),
                ("scrape_timeout", scrape.scrape_timeout),
                ("evaluation_interval", evaluation),
            ] {
                global.get_or_insert(key, Node::scalar(value.to_string()));
            }
        }
        if let Some(Value::List(entries)) = tree.get_mut("scrape_configs").map(|node| &mut node.value) {
            for (entry, job) in entries.iter_mut().zip(&self.jobs) {
                for (key, value) in [
                    ("honor_timestamps", job.scrape.honor_timestamps.to_string()),
                    ("scrape_interval", ConfigDuration(job.scrape.scrape_interval).to_string()),
                    ("scrape_timeout", ConfigDuration(job.scrape.scrape_timeout).to_string()),
                    ("metrics_path", job.scrape.metrics_path.clone()),
                    ("scheme", job.scrape.scheme.as_str().to_owned()),
                    ("enable_compression", job.scrape.enable_compression.to_string()),
                    ("follow_redirects", job.scrape.http.follow_redirects.to_string()),
                    ("enable_http2", job.scrape.http.enable_http2.to_string()),
                ] {
                    entry.get_or_insert(key, Node::scalar(value));
                }
            }
        }
        tree
    }
}

/// The address under which a server listening on `listen` is reached from this machine.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0" | "", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let name = path.display().to_string();
    let size = std::fs::metadata(path)
        .map_err(|e| ConfigError::of_file(&name, format!("cannot be read: {e}")))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(ConfigError::of_file(&name, format!("{size} bytes is too large for a configuration")));
    }
    let bytes =
        std::fs::read(path).map_err(|e| ConfigError::of_file(&name, format!("cannot be read: {e}")))?;
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        ConfigError::of_file(&name, format!("line {line} is not UTF-8"))
    })
}

/// What stopped the reading: something in this text, or in a file it refers to.
enum Failure {
    Here(yaml::Error),
    Elsewhere(ConfigError),
}

impl From<yaml::Error> for Failure {
    fn from(error: yaml::Error) -> Failure {
        Failure::Here(error)
    }
}

/// Reads one text.
struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    dir: PathBuf,
    warnings: Vec<ConfigWarning>,
}

impl<'a> Reader<'a> {
    fn new(name: &'a str, text: &'a str) -> Reader<'a> {
        let dir = Path::new(name).parent().map(Path::to_path_buf).unwrap_or_default();
        Reader { name, text, dir, warnings: Vec::new() }
    }

    fn warn(&mut self, node: &Node, message: impl Into<String>) {
        self.warnings.push(ConfigWarning {
            file: self.name.to_owned(),
            line: node.at.line,
            message: message.into(),
        });
    }

    /// Notes what a section accepted without effect.
    fn notice(&mut self, node: &Node, notices: Vec<FieldError>) {
        for notice in notices {
            let line = node.locate(&notice.path).line;
            self.warnings.push(ConfigWarning {
                file: self.name.to_owned(),
                line,
                message: notice.to_string(),
            });
        }
    }

    fn config(&mut self) -> Result<Config, Failure> {
        let tree = yaml::parse(self.text)?;
        let mut config = Config { name: self.name.to_owned(), tree: tree.clone(), ..Config::empty() };
        config.global = self.global(&tree)?;
        for (key, node) in tree.entries()? {
            match key.text.as_str() {
                "global" => {}
                "scrape_configs" => config.jobs = self.jobs(node, &config.global)?,
                "scrape_config_files" => {}
                "storage" => config.storage = self.storage(node)?,
                "limits" => config.limits = node.read::<LimitsText>()?.validate(),
                "machine" => config.machine = Some(self.machine(node)?),
                "proxy" => config.proxy = self.proxy(node)?,
                "tunnel" => {
                    let written: TunnelText = node.read()?;
                    config.tunnel = written.validate().map_err(|e| place(node, &e))?;
                }
                "fleet" => {
                    let written: FleetText = node.read()?;
                    config.fleet = written.validate(&self.dir).map_err(|e| place(node, &e))?;
                }
                "web" => config.web_auth = self.web(node)?,
                "remote_write" => config.remote_writes = self.remote_writes(node, &config.global)?,
                "rule_files" => config.rule_files = self.rule_files(node)?,
                other if SECTIONS.contains(&other) => self.without_effect(other, node)?,
                other => {
                    let mut error = yaml::Error::at(key.at, format!("unknown section `{other}`"));
                    error.hint = match other {
                        "scrape_interval" | "scrape_timeout" | "evaluation_interval" | "external_labels" => {
                            Some(format!("`{other}` stands below `global`"))
                        }
                        "job_name" | "static_configs" => {
                            Some(format!("`{other}` stands in an entry of `scrape_configs`"))
                        }
                        _ => yaml::nearest(other, SECTIONS).map(|near| format!("did you mean `{near}`?")),
                    };
                    return Err(error.into());
                }
            }
        }
        let mut first_seen = self.distinct_names(&tree, &config.jobs)?;
        if let Some(node) = tree.get("scrape_config_files") {
            self.job_files(node, &mut config, &mut first_seen)?;
        }
        config.warnings = std::mem::take(&mut self.warnings);
        // In the order of the files.
        config.warnings.sort_by_cached_key(|w| (w.file != self.name, w.file.clone(), w.line));
        Ok(config)
    }

    fn global(&self, tree: &Node) -> Result<Global, yaml::Error> {
        let empty = Node::empty_map();
        let node = tree.get("global").unwrap_or(&empty);
        let written: GlobalText =
            if matches!(node.value, Value::Null) { GlobalText::default() } else { node.read()? };
        written.validate(&self.dir).map_err(|e| place(node, &e))
    }

    fn jobs(&mut self, list: &Node, global: &Global) -> Result<Vec<Job>, yaml::Error> {
        list.items()?.iter().map(|entry| self.job(entry, global)).collect()
    }

    fn job(&mut self, entry: &Node, global: &Global) -> Result<Job, yaml::Error> {
        if matches!(entry.value, Value::Null) {
            return Err(yaml::Error::at(entry.at, "empty scrape config"));
        }
        let (sections, rest) = entry.split(discovery::is_discovery_key)?;
        let (http, rest) = rest.split(|key| HTTP_CLIENT_FIELDS.contains(&key))?;
        let offers = [HTTP_CLIENT_FIELDS, &discovery::AVAILABLE].concat();
        let written: ScrapeConfigText = rest
            .read()
            .map_err(|e| discovery::hint_from(below(e, &["targets", "labels"], "static_configs"), &offers))?;
        let http: HttpClientText = http.read()?;
        let scrape = written.validate(&http, &global.scrape, &self.dir).map_err(|e| place(entry, &e))?;
        let relabelled = !scrape.relabel.is_empty();
        let mut discovery = discovery::read(&sections, scrape.names, relabelled, &self.dir)?;
        if let Some(cluster) = scrape.cluster.clone().filter(|_| discovery.is_empty()) {
            discovery.push(Discovery::Agent { cluster });
        }
        if discovery.is_empty() {
            self.warn(entry, format!("job `{}` has no discovery and so no targets", scrape.job_name));
        }
        Ok(Job { scrape: Arc::new(scrape), discovery })
    }

    /// Refuses a job name given twice; gives the places of all names.
    fn distinct_names(&self, tree: &Node, jobs: &[Job]) -> Result<HashMap<String, String>, yaml::Error> {
        let mut seen: HashMap<String, String> = HashMap::new();
        for (i, job) in jobs.iter().enumerate() {
            let at = tree.locate(&format!("scrape_configs[{i}].job_name"));
            let place = format!("line {}", at.line);
            if let Some(first) = seen.insert(job.scrape.job_name.clone(), place) {
                let message = format!("job name `{}` is used twice, first on {first}", job.scrape.job_name);
                return Err(yaml::Error::at(at, message));
            }
        }
        Ok(seen)
    }

    fn job_files(
        &mut self,
        list: &Node,
        config: &mut Config,
        seen: &mut HashMap<String, String>,
    ) -> Result<(), Failure> {
        for place in seen.values_mut() {
            *place = format!("{place} of {}", self.name);
        }
        let patterns: Vec<String> = list.read()?;
        for (node, pattern) in list.items()?.iter().zip(&patterns) {
            if pattern.find('*').is_some_and(|star| pattern[star + 1..].contains(['*', '/'])) {
                let message = format!("`{pattern}` may have one `*`, in its last part");
                return Err(yaml::Error::at(node.at, message).into());
            }
            let files = glob::files(&join_dir(&self.dir, pattern))
                .map_err(|e| yaml::Error::at(node.at, format!("list `{pattern}`: {e}")))?;
            if files.is_empty() {
                self.warn(node, format!("scrape_config_files: nothing matches `{pattern}`"));
            }
            for file in files {
                self.job_file(&file, config, seen).map_err(Failure::Elsewhere)?;
            }
        }
        Ok(())
    }

    fn job_file(
        &mut self,
        path: &Path,
        config: &mut Config,
        seen: &mut HashMap<String, String>,
    ) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let text = read_file(path)?;
        let mut reader = Reader::new(&name, &text);
        let jobs =
            reader.file_of_jobs(&config.global, seen).map_err(|e| ConfigError::in_text(&name, &text, e))?;
        config.jobs.extend(jobs);
        self.warnings.append(&mut reader.warnings);
        Ok(())
    }

    fn file_of_jobs(
        &mut self,
        global: &Global,
        seen: &mut HashMap<String, String>,
    ) -> Result<Vec<Job>, yaml::Error> {
        let tree = yaml::parse(self.text)?;
        if let Some((key, _)) = tree.entries()?.iter().find(|(key, _)| key.text != "scrape_configs") {
            let message =
                format!("`{}` does not belong here: the file may hold `scrape_configs` only", key.text);
            return Err(yaml::Error::at(key.at, message));
        }
        let jobs = tree.get("scrape_configs").map_or(Ok(Vec::new()), |list| self.jobs(list, global))?;
        for (i, job) in jobs.iter().enumerate() {
            let at = tree.locate(&format!("scrape_configs[{i}].job_name"));
            let place = format!("line {} of {}", at.line, self.name);
            if let Some(first) = seen.insert(job.scrape.job_name.clone(), place) {
                let message = format!("job name `{}` is used twice, first on {first}", job.scrape.job_name);
                return Err(yaml::Error::at(at, message));
            }
        }
        Ok(jobs)
    }

    fn storage(&mut self, node: &Node) -> Result<StorageConfig, yaml::Error> {
        let mut written: StorageText = node
            .read()
            .map_err(|e| below(below(e, &["retention"], "local` or `tsdb"), &["ship"], "local"))?;
        if node.get("local").is_some() {
            // Present without a value is on, too.
            written.local.get_or_insert_default();
        }
        let mut notices = Vec::new();
        if written.local.as_ref().is_some_and(|local| local.retention.percentage.is_some()) {
            notices.push(FieldError::new("local.retention.percentage", "no effect: give `time` or `size`"));
        }
        if written.tsdb.stale_series_compaction_threshold.is_some() {
            notices
                .push(FieldError::new("tsdb.stale_series_compaction_threshold", "no effect on this store"));
        }
        if written.tsdb.retention.percentage.is_some() {
            notices.push(FieldError::new("tsdb.retention.percentage", "no effect: give `time` or `size`"));
        }
        self.notice(node, notices);
        written.validate().map_err(|e| place(node, &e))
    }

    fn machine(&self, node: &Node) -> Result<MachineConfig, yaml::Error> {
        let written: MachineText = node.read().map_err(|mut e| {
            if matches!(node.value, Value::Scalar { .. }) {
                e.hint = Some("`machine: {}` switches it on; without the section it is off".to_owned());
            }
            e
        })?;
        written.validate().map_err(|e| place(node, &e))
    }

    fn proxy(&self, node: &Node) -> Result<ProxyConfig, yaml::Error> {
        let written: ProxyText = node.read().map_err(|e| {
            let e = below(e, &["url_prefix", "registration_timeout", "clients_max", "doors"], "pushprox");
            below(e, &["secret", "secret_file", "cluster", "tenant"], "pushprox: doors")
        })?;
        written.validate(&self.dir).map_err(|e| place(node, &e))
    }

    fn web(&self, node: &Node) -> Result<WebAuth, yaml::Error> {
        let credentials = ["bearer_tokens", "bearer_token_file", "basic_auth_users"];
        let written: WebText = node.read().map_err(|e| below(e, &credentials, "auth"))?;
        written.validate(&self.dir).map_err(|e| place(node, &e))
    }

    fn remote_writes(&mut self, node: &Node, global: &Global) -> Result<Vec<RemoteWrite>, yaml::Error> {
        if matches!(node.value, Value::Null) {
            return Ok(Vec::new());
        }
        let names = global.scrape.names.scheme();
        let found = remote_write::read(node, names, &global.external_labels, &self.dir)?;
        for (entry, remote) in node.items()?.iter().zip(&found) {
            self.notice(entry, remote.notices.clone());
        }
        Ok(found)
    }

    fn rule_files(&mut self, node: &Node) -> Result<Vec<PathBuf>, yaml::Error> {
        let patterns: Vec<String> = node.read()?;
        if !patterns.is_empty() {
            self.warn(node, "rule_files: rules are not evaluated yet");
        }
        Ok(patterns.iter().map(|pattern| join_dir(&self.dir, pattern)).collect())
    }

    /// Looks at a section of Prometheus that is not acted on, and says so.
    fn without_effect(&mut self, section: &str, node: &Node) -> Result<(), yaml::Error> {
        let why = match section {
            "alerting" => {
                let written: sections::AlertingText = node.read()?;
                if written.alert_relabel_configs.is_none() && written.alertmanagers.is_none() {
                    return Ok(());
                }
                "alerts are not sent yet"
            }
            "runtime" => {
                let written: sections::RuntimeText = node.read()?;
                if written.gogc.is_none() {
                    return Ok(());
                }
                "`gogc` tunes Go and means nothing here"
            }
            "tracing" => {
                let written: sections::TracingText = node.read()?;
                if written.endpoint.is_none() {
                    return Err(yaml::Error::at(node.at, "`endpoint` is missing"));
                }
                "traces are not exported yet"
            }
            "otlp" => {
                node.read::<sections::OtlpText>()?;
                "the OTLP receiver is not available yet"
            }
            _ => {
                Self::entries_with_url(node)?;
                "nothing is read from other systems yet"
            }
        };
        if !matches!(node.value, Value::Null) {
            self.warn(node, format!("{section}: {why}"));
        }
        Ok(())
    }

    fn entries_with_url(list: &Node) -> Result<(), yaml::Error> {
        for entry in list.items()? {
            entry.entries()?;
            if entry.get("url").is_none() {
                return Err(yaml::Error::at(entry.at, "`url` is missing"));
            }
        }
        Ok(())
    }
}

/// Hints at where an unknown field belongs, when it is one of `fields`.
fn below(mut error: yaml::Error, fields: &[&str], section: &str) -> yaml::Error {
    if let Some(field) = fields.iter().find(|field| error.message == format!("unknown field `{field}`")) {
        error.hint = Some(format!("`{field}` stands below `{section}`"));
    }
    error
}

fn place(node: &Node, error: &FieldError) -> yaml::Error {
    yaml::Error::at(node.locate(&error.path), error.message.clone())
}
