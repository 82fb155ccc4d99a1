//! The document that file and HTTP discovery share: a list of target groups, as JSON or YAML.
//!
//! ```json
//! [{"targets": ["a:9100", "b:9100"], "labels": {"env": "prod"}}]
//! ```
//!
//! Source: Prometheus `discovery/targetgroup/targetgroup.go`.

use std::collections::BTreeMap;

use model::labels::write_quoted;
use model::{Labels, TargetGroup};
use serde::Deserialize;

/// The label that holds a target's host and port.
pub const ADDRESS_LABEL: &str = "__address__";

/// Most groups of one document.
const GROUPS_MAX: usize = 1_000_000;

/// The languages a document may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A document that is not a list of target groups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not UTF-8, or not the language it should be, or not of this shape. Says where.
    #[error("{0}")]
    Syntax(String),
    /// A group that is `null`.
    #[error("nil target group item found (index {0})")]
    NoGroup(usize),
    /// A label that cannot be.
    #[error("target group {index}: {name} is not a valid label name")]
    LabelName {
        /// Which group.
        index: usize,
        /// The name, quoted.
        name: String,
    },
    /// More groups than anyone means.
    #[error("more than {GROUPS_MAX} target groups")]
    TooMany,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Group {
    targets: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads a document. Groups are named `{origin}:{index}` and get the label `meta_label`, whose value
/// is `origin`.
///
/// # Errors
/// [`DocumentError`]; a document is taken whole or not at all.
pub fn parse(
    bytes: &[u8],
    format: Format,
    origin: &str,
    meta_label: &str,
) -> Result<Vec<TargetGroup>, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|e| DocumentError::Syntax(e.to_string()))?;
    let groups: Option<Vec<Option<Group>>> = match format {
        Format::Json => serde_json::from_str(text).map_err(|e| DocumentError::Syntax(e.to_string()))?,
        Format::Yaml if text.trim().is_empty() => None,
        Format::Yaml => {
            serde_saphyr::from_str(text).map_err(|e| DocumentError::Syntax(one_line(&e.to_string())))?
        }
    };
    let groups = groups.unwrap_or_default();
    if groups.len() > GROUPS_MAX {
        return Err(DocumentError::TooMany);
    }
    groups
        .into_iter()
        .enumerate()
        .map(|(index, group)| {
            let group = group.ok_or(DocumentError::NoGroup(index))?;
            let mut labels = group.labels.unwrap_or_default();
            if let Some(name) = labels.keys().find(|name| name.is_empty()) {
                let mut quoted = String::new();
                let _ = write_quoted(&mut quoted, name);
                return Err(DocumentError::LabelName { index, name: quoted });
            }
            labels.insert(meta_label.to_owned(), origin.to_owned());
            let targets = group.targets.unwrap_or_default();
            Ok(TargetGroup {
                source: format!("{origin}:{index}"),
                labels: Labels::from_pairs(&labels),
                targets: targets.iter().map(|address| target(address)).collect(),
            })
        })
        .collect()
}

/// A target that only has an address.
pub fn target(address: &str) -> Labels {
    Labels::from_pairs([(ADDRESS_LABEL, address)])
}

/// The first line of a message; what follows it is a drawing of the place.
fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: Format) -> Result<Vec<String>, String> {
        let groups = parse(text.as_bytes(), format, "here", "__meta_origin").map_err(|e| e.to_string())?;
        let show = |group: &TargetGroup| {
            let targets: Vec<&str> = group.targets.iter().filter_map(|t| t.get(ADDRESS_LABEL)).collect();
            format!("{} {} {}", group.source, group.labels, targets.join(","))
        };
        Ok(groups.iter().map(show).collect())
    }

    #[test]
    fn groups_are_read() {
        let want = vec![
            r#"here:0 {__meta_origin="here", env="prod"} a:1,b:2"#.to_owned(),
            r#"here:1 {__meta_origin="here"} [::1]:80"#.to_owned(),
            r#"here:2 {__meta_origin="here", "größe"="1"} "#.to_owned(),
        ];
        let json = r#"[{"targets": ["a:1", "b:2"], "labels": {"env": "prod"}},
                       {"targets": ["[::1]:80"]}, {"labels": {"größe": "1"}, "targets": null}]"#;
        assert_eq!(read(json, Format::Json), Ok(want.clone()));
        assert_eq!(read(json, Format::Yaml), Ok(want.clone()));
        let yaml = "- targets: [a:1, 'b:2']\n  labels:\n    env: prod\n- targets:\n  - '[::1]:80'\n  labels:\n\
                    - labels: {größe: 1}\n";
        assert_eq!(read(yaml, Format::Yaml), Ok(want));
        for (empty, format) in
            [("[]", Format::Json), ("null", Format::Json), ("", Format::Yaml), ("[]", Format::Yaml)]
        {
            assert_eq!(read(empty, format), Ok(Vec::new()), "{empty:?}");
        }
    }

    #[test]
    fn bad_documents_say_why() {
        for (text, format, want) in [
            ("", Format::Json, "EOF while parsing a value at line 1 column 0"),
            ("{}", Format::Json, "invalid type: map, expected a sequence at line 1 column 0"),
            ("[{}, null]", Format::Json, "nil target group item found (index 1)"),
            (r#"[{"labels": {"": "x"}}]"#, Format::Json, r#"target group 0: "" is not a valid label name"#),
            (
                r#"[{"targets": [1]}]"#,
                Format::Json,
                "invalid type: integer `1`, expected a string at line 1 column 15",
            ),
            (
                r#"[{"target": []}]"#,
                Format::Json,
                "unknown field `target`, expected `targets` or `labels` at line 1 column 10",
            ),
            ("[{}] x", Format::Json, "trailing characters at line 1 column 6"),
            ("- null", Format::Yaml, "nil target group item found (index 0)"),
        ] {
            assert_eq!(read(text, format), Err(want.to_owned()), "{text}");
        }
        for text in [
            "targets: [a]",
            "- target: [a]",
            "- targets: a: b",
            "- [a]",
            "- targets: {a: b}",
            "- labels: {a: {}}",
        ] {
            let error = read(text, Format::Yaml).unwrap_err();
            assert!(!error.is_empty() && !error.contains('\n'), "{text}: {error}");
        }
        assert!(parse(b"[\"\xff\"]", Format::Json, "", "m").is_err());
    }
}
