//! Holds `docs/guide/configuration.md` to the code: every key that is read stands in its section of
//! the page, every key of the page is read, and all examples can be used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use marigraph::config::{
    Config, ExemplarsText, GlobalText, LimitsText, LocalText, MachineText, MetadataText, PasswordText,
    ProxyText, PushProxDoorText, PushProxText, QueueText, RemoteWriteText, RetentionText, StorageText,
    TsdbText, TunnelText, WebAuthText, WebText,
};
use scrape::config::{
    AuthorizationText, BasicAuthText, HTTP_CLIENT_FIELDS, HeaderText, HttpClientText, OAuth2Text,
    RelabelText, ScrapeConfigText, TlsText,
};
use serde::de::DeserializeOwned;

/// Where the fields of each struct are explained.
const SECTIONS: [(&str, &str); 37] = [
    ("GlobalText", "`global`"),
    ("ScrapeConfigText", "`scrape_configs`"),
    ("StaticText", "`static_configs`"),
    ("FileText", "`file_sd_configs`"),
    ("HttpText", "`http_sd_configs`"),
    ("DnsText", "`dns_sd_configs`"),
    ("HttpClientText", "HTTP client options"),
    ("BasicAuthText", "HTTP client options"),
    ("AuthorizationText", "HTTP client options"),
    ("HeaderText", "HTTP client options"),
    ("TlsText", "HTTP client options"),
    ("OAuth2Text", "HTTP client options"),
    ("RelabelText", "`relabel_configs`, `metric_relabel_configs`"),
    ("RemoteWriteText", "`remote_write`"),
    ("QueueText", "`remote_write`"),
    ("MetadataText", "`remote_write`"),
    ("StorageText", "`storage`"),
    ("TsdbText", "`storage`"),
    ("RetentionText", "`storage`"),
    ("LocalText", "`storage`"),
    ("ExemplarsText", "`storage`"),
    ("LimitsText", "`limits`"),
    ("MachineText", "`machine`"),
    ("ProxyText", "`proxy`"),
    ("TunnelText", "`tunnel`"),
    ("FleetText", "`fleet`"),
    ("ClientAuthorityText", "`fleet`"),
    ("NameText", "`fleet`"),
    ("PushProxText", "`proxy`"),
    ("PushProxDoorText", "`proxy`"),
    ("WebText", "`web`"),
    ("WebAuthText", "`web`"),
    ("PasswordText", "`web`"),
    ("AlertingText", "Sections without effect"),
    ("RuntimeText", "Sections without effect"),
    ("TracingText", "Sections without effect"),
    ("OtlpText", "Sections without effect"),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// The files in `dir` with this extension, sorted.
fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let dir = workspace().join(dir);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// The sources that say what a configuration may hold.
fn sources() -> String {
    let mut paths = vec![
        workspace().join("crates/marigraph/src/config.rs"),
        workspace().join("crates/scrape/src/config.rs"),
    ];
    paths.extend(files("crates/marigraph/src/config", "rs"));
    paths.extend(files("crates/scrape/src/config", "rs"));
    paths.iter().map(|path| read(path)).collect()
}

/// The fields of all structs that are deserialized, by the struct's name.
fn structs(source: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut derived, mut inside, mut renamed) = (false, None, None);
    for line in source.lines() {
        let code = line.trim();
        if code.starts_with("#[derive(") {
            derived = code.contains("Deserialize");
        } else if let Some(after) = code.strip_prefix("#[serde(rename = \"") {
            renamed = after.split_once('"').map(|(name, _)| name.to_owned());
        } else if let Some((_, after)) = code.split_once("struct ")
            && code.ends_with('{')
        {
            let name = after.trim_end_matches([' ', '{']).to_owned();
            inside = derived.then_some(name);
            derived = false;
        } else if line == "}" {
            inside = None;
        } else if let Some(name) = &inside
            && let Some((field, _)) = code.split_once(": ").filter(|_| !code.starts_with("//"))
        {
            let field = field.rsplit(' ').next().unwrap_or(field).to_owned();
            found.entry(name.clone()).or_default().insert(renamed.take().unwrap_or(field));
        }
    }
    found
}

/// The texts in the constant `name`.
fn constant(source: &str, name: &str) -> BTreeSet<String> {
    let (_, after) = source.split_once(&format!("const {name}: ")).expect("the constant is there");
    let (texts, _) = after.split_once("];\n").expect("the constant ends");
    texts.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The fields of `T` as its own error lists them.
fn fields_by_serde<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = serde_json::from_str::<T>(r#"{"no such field": 0}"#) else {
        panic!("an unknown field was accepted")
    };
    let error = error.to_string();
    let (_, expected) = error.split_once(", expected ").expect("the error says what is expected");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The text below each heading, up to the next one of any level.
fn sections(page: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let (mut heading, mut fenced) = (String::new(), false);
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        match line.strip_prefix('#').filter(|_| !fenced) {
            Some(rest) => heading = rest.trim_start_matches(['#', ' ']).to_owned(),
            None => {
                let text = found.entry(heading.clone()).or_default();
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    found
}

/// The words that stand in code in the first column of tables of keys, or (`all`) anywhere.
fn words_in_code(text: &str, all: bool) -> BTreeSet<String> {
    let (mut words, mut keys) = (BTreeSet::new(), false);
    for line in text.lines() {
        let cells = line.strip_prefix('|');
        keys = cells.is_some_and(|cells| keys || cells.starts_with(" key |"));
        let code = match cells {
            _ if all => line,
            Some(cells) if keys => cells.split('|').next().unwrap_or_default(),
            _ => continue,
        };
        let spans = code.split('`').skip(1).step_by(2);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        words.extend(
            spans.flat_map(|span| span.split(move |c| !word(c))).filter(|w| !w.is_empty()).map(str::to_owned),
        );
    }
    words
}

fn page() -> String {
    read(&workspace().join("docs/guide/configuration.md"))
}

#[test]
fn fields_are_found_as_serde_knows_them() {
    let structs = structs(&sources());
    for (name, fields) in [
        ("GlobalText", fields_by_serde::<GlobalText>()),
        ("ScrapeConfigText", fields_by_serde::<ScrapeConfigText>()),
        ("HttpClientText", fields_by_serde::<HttpClientText>()),
        ("BasicAuthText", fields_by_serde::<BasicAuthText>()),
        ("AuthorizationText", fields_by_serde::<AuthorizationText>()),
        ("HeaderText", fields_by_serde::<HeaderText>()),
        ("TlsText", fields_by_serde::<TlsText>()),
        ("OAuth2Text", fields_by_serde::<OAuth2Text>()),
        ("RelabelText", fields_by_serde::<RelabelText>()),
        ("RemoteWriteText", fields_by_serde::<RemoteWriteText>()),
        ("QueueText", fields_by_serde::<QueueText>()),
        ("MetadataText", fields_by_serde::<MetadataText>()),
        ("StorageText", fields_by_serde::<StorageText>()),
        ("TsdbText", fields_by_serde::<TsdbText>()),
        ("RetentionText", fields_by_serde::<RetentionText>()),
        ("LocalText", fields_by_serde::<LocalText>()),
        ("ExemplarsText", fields_by_serde::<ExemplarsText>()),
        ("LimitsText", fields_by_serde::<LimitsText>()),
        ("MachineText", fields_by_serde::<MachineText>()),
        ("ProxyText", fields_by_serde::<ProxyText>()),
        ("TunnelText", fields_by_serde::<TunnelText>()),
        ("PushProxText", fields_by_serde::<PushProxText>()),
        ("PushProxDoorText", fields_by_serde::<PushProxDoorText>()),
        ("WebText", fields_by_serde::<WebText>()),
        ("WebAuthText", fields_by_serde::<WebAuthText>()),
        ("PasswordText", fields_by_serde::<PasswordText>()),
    ] {
        assert_eq!(structs.get(name), Some(&fields), "{name}");
    }
    let http: BTreeSet<String> = HTTP_CLIENT_FIELDS.iter().map(|field| (*field).to_owned()).collect();
    assert_eq!(structs.get("HttpClientText"), Some(&http));
}

#[test]
fn every_key_is_explained_in_its_section() {
    let (source, page) = (sources(), page());
    let sections = sections(&page);
    let explained = |heading: &str| {
        let text = sections.get(heading).unwrap_or_else(|| panic!("the page has no section {heading}"));
        words_in_code(text, true)
    };
    let mut missing = Vec::new();
    for (name, fields) in structs(&source) {
        let Some((_, heading)) = SECTIONS.iter().find(|(known, _)| *known == name) else {
            panic!("{name} is read from a configuration: say in which section of the page it is explained");
        };
        let words = explained(heading);
        missing.extend(fields.difference(&words).map(|field| format!("{heading}: {field} ({name})")));
    }
    for (constant_name, heading) in [("SECTIONS", "Sections"), ("AVAILABLE", "`scrape_configs`")] {
        let words = explained(heading);
        let keys = constant(&source, constant_name);
        missing.extend(keys.difference(&words).map(|key| format!("{heading}: {key}")));
    }
    assert!(missing.is_empty(), "not in docs/guide/configuration.md:\n{}", missing.join("\n"));
}

#[test]
fn every_key_of_the_page_is_read() {
    let source = sources();
    let mut known: BTreeSet<String> = structs(&source).into_values().flatten().collect();
    known.extend(constant(&source, "AVAILABLE"));
    let named = words_in_code(&page(), false);
    assert!(named.len() > 80, "the tables of keys are not found: {named:?}");
    let unknown: Vec<&String> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "no configuration has these keys of the page: {unknown:?}");
}

/// The fenced blocks of YAML, without their margin, each with its line.
fn yaml_blocks(page: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut margin = None;
    for (i, line) in page.lines().enumerate() {
        let code = line.trim_start();
        match margin {
            None if code == "```yaml" => {
                margin = Some(line.len() - code.len());
                blocks.push((i + 2, String::new()));
            }
            Some(_) if code == "```" => margin = None,
            Some(margin) => {
                let (_, block) = blocks.last_mut().expect("a block is open");
                block.push_str(line.get(margin..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}

#[test]
fn examples_can_be_used() {
    let mut seen = 0;
    for page in files("docs/guide", "md") {
        for (line, block) in yaml_blocks(&read(&page)) {
            let name = format!("{}, block at line {line}", page.display());
            Config::parse(&block, &name).unwrap_or_else(|e| panic!("{e}"));
            seen += 1;
        }
    }
    for file in files("examples", "yml") {
        let config = Config::load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(config.warnings.is_empty(), "{}: {:?}", file.display(), config.warnings);
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} examples were found");
}
