//! Files and settings.

use discovery::document::{self, Format};
use marigraph::config::Config;
use marigraph::verbs::backup::catalog::Catalog;
use marigraph::verbs::query::Format as Form;
use marigraph::verbs::query::answer::Value;
use marigraph::verbs::query::print::Printed;
use model::LabelsBuilder;
use model::relabel::{self, NameScheme, Rule, RuleSpec};

/// Numbers and durations: what parses prints as something that means the same.
pub(crate) fn numbers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(value) = model::number::parse_float(text) {
        let printed = model::number::format_float(value);
        let again = model::number::parse_float(&printed).expect("what we print parses");
        assert!(again == value || again.is_nan() && value.is_nan(), "{text:?} prints as {printed:?}");
    }
    if let Ok(ms) = model::duration::parse(text) {
        assert!(ms >= 0);
        assert_eq!(model::duration::parse(&model::duration::format(ms)), Ok(ms), "{text:?}");
    }
    let _ = model::duration::parse_signed(text);
}

pub(crate) fn number_seeds() -> Vec<Vec<u8>> {
    let seeds =
        ["1_000.5e-3", "-0x1p-2", "+Inf", "nan", "1h30m5s4ms", "9223372036854775807ms", "1e400", "-5m"];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// A configuration is taken or refused with a place in it; one that is taken can be shown.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // No files: what the text refers to would be read from this machine.
    if text.contains("file") {
        return;
    }
    match Config::parse(text, "fuzz.yml") {
        Ok(config) => drop(config.to_yaml()),
        Err(error) => assert!(error.to_string().contains("fuzz.yml"), "{error}"),
    }
}

pub(crate) fn config_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "global:\n  scrape_interval: 15s\n  external_labels: {a: b}\nscrape_configs:\n- job_name: x\n  static_configs:\n  - targets: ['a:1', \"b:2\"]\n    labels: {l: v}\n  relabel_configs:\n  - source_labels: [__address__]\n    regex: (.*):.*\n    target_label: h\n    replacement: $1\n    action: replace\n",
        "scrape_configs:\n- job_name: y\n  scheme: https\n  basic_auth: {username: u, password: p}\n  tls_config: {insecure_skip_verify: true}\n  http_sd_configs:\n  - url: http://a/b\n    refresh_interval: 1m\n  dns_sd_configs:\n  - names: [a.b]\n    type: A\n    port: 80\n  sample_limit: 5\n  params: {match[]: [\"{a='b'}\"]}\n",
        "a: &x [1, *x]\nb: !!str 1\nc: |\n  text\nd: >-\n  folded\n...\n---\n{\n",
        "web:\n  auth:\n    bearer_tokens: [abc]\nmachine: {path: /m}\nstorage:\n  tsdb: {out_of_order_time_window: 1h}\n",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// A lease of an agent in a pair, or a word: what is taken is within its bounds, and a word says the same again.
pub(crate) fn lease(bytes: &[u8]) {
    if let Ok(word) = pairs::Word::decode(bytes) {
        assert_eq!(pairs::Word::decode(&word.encode()), Ok(word));
    }
    if let Ok(lease) = pairs::decode(bytes) {
        assert!(pairs::is_member_name(&lease.member));
        assert!(lease.views.len() <= 8 && lease.views.is_sorted_by_key(|view| view.from_ms));
        assert!(lease.views.iter().flat_map(|view| &view.members).all(|name| pairs::is_member_name(name)));
    }
}

pub(crate) fn lease_seeds() -> Vec<Vec<u8>> {
    let word = br#"{"format":"marigraph-word-1","member":"a","incarnation":"1f","transitions":1,"mark":2,"renewed_ms":3,"duration_ms":8000,"away":true,"heard":[{"member":"b","incarnation":"2","mark":1}]}"#;
    vec![include_bytes!("../../pairs/testdata/berlin-0.lease").to_vec(), word.to_vec()]
}

/// The catalog of a backup: what it says of itself it says again.
pub(crate) fn catalog(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // A checksum that fits, or nothing would get far.
    let body = text.split_once("\nend ").map_or(text, |(body, _)| body);
    let body = format!("{}\n", body.trim_end_matches('\n'));
    let signed = format!("{body}end {:08x}\n", crc32c::crc32c(body.as_bytes()));
    for text in [text, &signed] {
        if let Ok(catalog) = Catalog::parse(text) {
            assert_eq!(Catalog::parse(&catalog.text()).ok().as_ref(), Some(&catalog));
            assert!(catalog.files.iter().all(|file| file.path.is_relative()));
        }
    }
}

pub(crate) fn catalog_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "marigraph-backup 1.0\nmade-by 0.1.0\nstore 1.0\nmade-ms 1700000000000\nfile 886b4db4 4 FORMAT\nfile 00000007 29282 wal/00000001.wal\n",
        "marigraph-backup 1.7\nmade-by 9\nstore 1.9\nmade-ms -5\ncolour blue\nfile 0 0 ../x\n",
        "marigraph-backup 2.0\nmade-by 9.0.0\n",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// What a server answers to `marigraph query`, and how it is printed.
pub(crate) fn answer(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        assert!(value.printed(Form::Promql).ends_with('\n'));
        let json = value.printed(Form::Json);
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
    }
}

pub(crate) fn answer_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        r#"{"resultType":"scalar","result":[1700000000.25,"1e+25"]}"#,
        r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","b":"x"},"value":[0.001,"NaN"]},{"metric":{},"histogram":[7,{"count":"3","sum":"4.5","buckets":[[3,"-0.001","0.001","1"],[0,"1","1e-7","2"]]}]}]}"#,
        r#"{"resultType":"matrix","result":[{"metric":{"b":"1"},"values":[[1,"1"],[2,"0.1"]]},{"metric":{"a":"9"},"values":[[-1,"-Inf"]]}]}"#,
        r#"{"resultType":"string","result":[1,"<a>"]}"#,
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Documents of file and HTTP discovery.
pub(crate) fn discovery(bytes: &[u8]) {
    for format in [Format::Json, Format::Yaml] {
        if let Ok(groups) = document::parse(bytes, format, "fuzz", "__meta_url") {
            for group in groups {
                assert_eq!(group.labels.get("__meta_url"), Some("fuzz"));
            }
        }
    }
}

pub(crate) fn discovery_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "[{\"targets\": [\"a:1\", \"b:2\"], \"labels\": {\"l\": \"v\"}}, {\"targets\": null}]",
        "- targets: ['a:1']\n  labels:\n    l: v\n- targets: []\n",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Lines: action, source labels, separator, regex, target label, replacement, modulus; then labels.
pub(crate) fn relabel(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let Ok(action) = relabel::Action::parse(&next()) else { return };
    let source_labels: Vec<String> = next().split(',').map(str::to_owned).collect();
    let spec = RuleSpec {
        action,
        source_labels,
        separator: next(),
        regex: Some(next()).filter(|regex| !regex.is_empty()),
        target_label: next(),
        replacement: next(),
        modulus: next().parse().unwrap_or(0),
    };
    let Ok(rule) = Rule::new(spec, NameScheme::Utf8) else { return };
    let mut labels = LabelsBuilder::default();
    while let Some((name, value)) = lines.next().and_then(|line| line.split_once('=')) {
        labels.set(name, value);
    }
    if relabel::apply(&[rule], &mut labels) {
        assert!(labels.build().iter().all(|(_, value)| !value.is_empty()), "an empty label is no label");
    }
}

pub(crate) fn relabel_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "replace\na,b\n;\n(.+);(.+)\nc_${1}\n$2-x\n\na=1\nb=2",
        "hashmod\na\n;\n(.*)\nh\n$1\n8\na=1",
        "labelmap\n\n;\nmeta_(.+)\n\n$1\n\nmeta_x=1",
        "keep\na\n;\n1|2\n\n\n\na=1",
        "lowercase\na\n;\n(.*)\na\n\n\na=ÀB",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}
