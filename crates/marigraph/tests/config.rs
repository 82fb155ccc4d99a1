//! Configuration files, good and bad. Every refusal has its file in `testdata/config/bad`; what is
//! said of each stands in `expected.txt` beside them. `UPDATE_EXPECT=1` rewrites it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use expect_test::{expect, expect_file};
use marigraph::config::Config;

/// The files of `testdata/config/<kind>`, by name.
fn fixtures(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(kind);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    files
}

/// `text` without the place of this checkout.
fn relative(text: &str) -> String {
    let dir = format!("{}/testdata/config/", env!("CARGO_MANIFEST_DIR"));
    text.replace(&dir, "")
}

#[test]
fn bad_files_are_refused_with_place_and_hint() {
    let mut report = String::new();
    for file in fixtures("bad") {
        match Config::load(&file) {
            Ok(_) => panic!("{} was accepted", file.display()),
            Err(e) => {
                let text = relative(&e.to_string());
                assert!(!text.contains("hunter2"), "a secret is shown: {text}");
                writeln!(report, "{text}\n").expect("writing to a string");
            }
        }
    }
    expect_file!["../testdata/config/bad/expected.txt"].assert_eq(&report);
}

#[test]
fn good_files_mean_what_prometheus_means() {
    let mut report = String::new();
    for file in fixtures("good") {
        let config = Config::load(&file).unwrap_or_else(|e| panic!("{e}"));
        writeln!(report, "=== {}", relative(&file.display().to_string())).expect("writing to a string");
        for warning in &config.warnings {
            writeln!(report, "warning: {warning}").expect("writing to a string");
        }
        let global = &config.global;
        writeln!(
            report,
            "global: {} / {}, {}, {:?}, rules {:?}, storage {:?}, machine {:?}, web {:?}",
            global.scrape.scrape_interval,
            global.scrape.scrape_timeout,
            global.external_labels,
            global.scrape.limits,
            config.rule_files,
            config.storage,
            config.machine,
            config.web_auth,
        )
        .expect("writing to a string");
        for job in &config.jobs {
            let s = &job.scrape;
            writeln!(
                report,
                "job {}: {:?} / {:?}, {}://…{} {:?}, labels {} timestamps {} {}, {:?} or {:?}, gzip {}, extra {}\n  \
                 limits {:?}\n  http {:?}\n  rules {} and {}\n  discovery {:?}",
                s.job_name,
                s.scrape_interval,
                s.scrape_timeout,
                s.scheme.as_str(),
                s.metrics_path,
                s.params,
                s.honor_labels,
                s.honor_timestamps,
                s.track_timestamps_staleness,
                s.protocols,
                s.fallback_protocol,
                s.enable_compression,
                s.extra_metrics,
                s.limits,
                s.http,
                s.relabel.len(),
                s.metric_relabel.len(),
                job.discovery,
            )
            .expect("writing to a string");
        }
        report.push('\n');
    }
    let report = relative(&report);
    assert!(!report.contains("s3cr3t@") && !report.contains("s3cr3t-"), "a secret is shown");
    expect_file!["../testdata/config/good/expected.txt"].assert_eq(&report);
}

#[test]
fn what_is_printed_reads_back_the_same_and_hides_secrets() {
    for file in fixtures("good") {
        let config = Config::load(&file).unwrap_or_else(|e| panic!("{e}"));
        let printed = config.to_yaml();
        assert!(!printed.contains("s3cr3t"), "a secret is shown: {printed}");
        // Hidden passwords make other passwords, which is all that may differ.
        if printed.contains("<secret>") {
            continue;
        }
        let again = Config::parse(&printed, &config.name).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_yaml(), printed, "{}", file.display());
        let names =
            |config: &Config| config.jobs.iter().map(|j| j.scrape.job_name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&again), names(&config));
    }
}

#[test]
fn without_a_file_it_watches_itself_and_its_machine() {
    let config = Config::embedded("0.0.0.0:9190");
    assert_eq!(config.machine.as_ref().map(|machine| machine.path.as_str()), Some("/metrics/machine"));
    expect![[r#"
        global:
          scrape_interval: 5s
          scrape_timeout: 5s
          evaluation_interval: 1m
        machine:
          path: /metrics/machine
        scrape_configs:
        - job_name: marigraph
          static_configs:
          - targets:
            - "127.0.0.1:9190"
          honor_timestamps: true
          scrape_interval: 5s
          scrape_timeout: 5s
          metrics_path: /metrics
          scheme: http
          enable_compression: true
          follow_redirects: true
          enable_http2: true
        - job_name: node
          metrics_path: /metrics/machine
          static_configs:
          - targets:
            - "127.0.0.1:9190"
          honor_timestamps: true
          scrape_interval: 5s
          scrape_timeout: 5s
          scheme: http
          enable_compression: true
          follow_redirects: true
          enable_http2: true
    "#]]
    .assert_eq(&config.to_yaml());
}

#[test]
fn a_job_is_equal_to_itself_until_something_changes() {
    let read = |interval: &str, global: &str| {
        let text = format!(
            "global: {{sample_limit: {global}}}\nscrape_configs:\n  - job_name: a\n    scrape_interval: {interval}\n"
        );
        Config::parse(&text, "test.yml").unwrap_or_else(|e| panic!("{e}")).jobs.remove(0).scrape
    };
    assert!(read("5s", "1") == read("5s", "1"));
    assert!(read("5s", "1") != read("6s", "1"));
    assert!(read("5s", "1") != read("5s", "2"));
}

#[test]
fn damaged_files_are_read_or_refused_at_a_place_within() {
    for file in fixtures("good") {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}"));
        for end in (0..text.len()).step_by(7).filter(|end| text.is_char_boundary(*end)) {
            let damages = [text[..end].to_owned(), format!("{}[{}", &text[..end], &text[end..])];
            for damaged in damages {
                if let Err(e) = Config::parse(&damaged, &file.display().to_string())
                    && let Some((line, _)) = e.place
                {
                    assert!(line <= damaged.lines().count() + 1, "line {line} of {damaged}");
                }
            }
        }
    }
}

#[test]
fn examples_are_good() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).expect("the folder of examples") {
        let path = entry.expect("a directory entry").path();
        if path.extension().is_some_and(|extension| extension == "yml") {
            Config::load(&path).unwrap_or_else(|e| panic!("{e}"));
            seen += 1;
        }
    }
    assert!(seen > 0, "there are no examples");
}
