//! What a machine can check so that no reviewer has to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{root, run};

/// Who may know whom: a crate's own dependencies among ours. Knowledge flows downwards; peers are
/// strangers and meet only in the wiring (ARCHITECTURE.md, "Invariants").
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("stdx", &[]),
    ("re2", &[]),
    ("model", &["re2", "stdx"]),
    ("storage", &["model", "stdx"]),
    ("wire", &["model", "stdx"]),
    ("discovery", &["model", "stdx"]),
    ("machine", &["model", "stdx"]),
    ("pairs", &["stdx"]),
    ("tsdb", &["model", "stdx", "storage"]),
    ("blocks", &["model", "stdx"]),
    ("promql", &["model", "re2", "stdx", "storage"]),
    ("scrape", &["model", "stdx", "storage", "wire"]),
    ("receive", &["model", "stdx", "storage", "wire"]),
    ("queue", &["stdx"]),
    ("remote", &["model", "queue", "stdx", "storage", "wire"]),
    ("tenancy", &["model", "stdx"]),
    ("tunnel", &["stdx", "tenancy"]),
    ("ledger", &["model", "stdx", "storage"]),
    ("proxy", &["model", "stdx"]),
    ("gather", &["blocks", "model", "stdx", "storage", "wire"]),
    ("web", &["blocks", "model", "promql", "re2", "stdx", "storage", "wire"]),
    ("testkit", &["model", "wire"]),
    (
        "marigraph",
        &[
            "blocks",
            "discovery",
            "gather",
            "ledger",
            "machine",
            "model",
            "pairs",
            "promql",
            "proxy",
            "queue",
            "receive",
            "remote",
            "scrape",
            "stdx",
            "storage",
            "tenancy",
            "tsdb",
            "tunnel",
            "web",
            "wire",
        ],
    ),
    ("bench", &["model", "stdx", "testkit", "tsdb", "tunnel"]),
    (
        "fuzz",
        &[
            "blocks",
            "discovery",
            "ledger",
            "marigraph",
            "model",
            "pairs",
            "promql",
            "proxy",
            "queue",
            "re2",
            "remote",
            "stdx",
            "storage",
            "tenancy",
            "tsdb",
            "tunnel",
            "wire",
        ],
    ),
    ("sim", &["ledger", "model", "queue", "remote", "stdx", "storage", "tenancy", "tsdb", "tunnel"]),
    ("xtask", &[]),
];

/// A Rust file longer than this needs a seam, or a line in `LONG_FILES` that says why there is none.
const LINES_MAX: usize = 900;
const LONG_FILES: &[&str] = &[];

/// Formatting, lints, tidiness.
pub(crate) fn check() -> Result<()> {
    run("cargo", &["fmt", "--all", "--check"])?;
    tidy()?;
    run("cargo", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
}

fn tidy() -> Result<()> {
    let root = root()?;
    let mut problems = Vec::new();
    check_edges(&root, &mut problems)?;
    check_map(&root, &mut problems)?;
    for file in rust_files(&root)? {
        check_file(&root, &file, &mut problems)?;
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("tidy found {}:\n  {}", problems.len(), problems.join("\n  "));
}

/// Compares the manifests with [`MAY_KNOW`]. Development dependencies may also name `testkit`.
fn check_edges(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = MAY_KNOW.iter().copied().collect();
    let ours: Vec<&str> = allowed.keys().copied().collect();
    let mut manifests: Vec<PathBuf> = fs::read_dir(root.join("crates"))?
        .map(|entry| Ok(entry?.path().join("Cargo.toml")))
        .collect::<Result<_>>()?;
    manifests.push(root.join("xtask/Cargo.toml"));
    for path in manifests {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path.parent().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or_default();
        let Some(may_know) = allowed.get(name) else {
            problems.push(format!("crate {name} has no line in MAY_KNOW (xtask/src/check.rs)"));
            continue;
        };
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let normal = section == "[dependencies]";
            if normal && ours.contains(&dependency) && !may_know.contains(&dependency) {
                problems.push(format!("crate {name} must not know {dependency}"));
            }
        }
    }
    Ok(())
}

/// Holds ARCHITECTURE.md to the tree: each crate has its line, and each source file it names is there.
fn check_map(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    const MAP: &str = "ARCHITECTURE.md";
    let text = fs::read_to_string(root.join(MAP)).with_context(|| format!("read {MAP}"))?;
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().display().to_string();
        if !text.contains(&format!("\n| `{name}` |")) {
            problems.push(format!("{MAP} has no line for crate {name}"));
        }
    }
    let files = rust_files(root)?;
    for word in text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")) {
        if !files.iter().any(|file| file.ends_with(word) || file.ends_with(word.replacen('/', "/src/", 1))) {
            problems.push(format!("{MAP} names {word}, which is not there"));
        }
    }
    Ok(())
}

fn check_file(root: &Path, path: &Path, problems: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let lines = text.lines().count();
    if lines > LINES_MAX && !LONG_FILES.contains(&shown.as_str()) {
        problems.push(format!("{shown}: {lines} lines; look for the seam"));
    }
    for (number, line) in text.lines().enumerate() {
        for word in ["todo!(", "unimplemented!(", concat!("FIX", "ME"), concat!("XX", "X:")] {
            if line.contains(word) && !shown.starts_with("xtask/") {
                problems.push(format!("{shown}:{}: {word}", number + 1));
            }
        }
        if line.split("ecision ").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            problems
                .push(format!("{shown}:{}: a decision has a page in docs/design, not a number", number + 1));
        }
        if line.trim() == "#[ignore]" {
            problems.push(format!("{shown}:{}: an ignored test says why (#[ignore = \"...\"])", number + 1));
        }
    }
    Ok(())
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.join("crates"), root.join("xtask")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
