//! Lists the files of the built UI, so that `pages.rs` can embed them. Without a build of the UI the
//! list is empty, and the page says how to make one: `cargo build` needs no Node.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let ui = manifest_dir.join("../../ui");
    let dist = ui.join("dist");
    // a path that does not exist would count as changed at every build
    let watched = if dist.exists() { &dist } else { &ui };
    println!("cargo::rerun-if-changed={}", watched.display());
    let mut files = Vec::new();
    collect(&dist, &mut files)?;
    files.sort();
    let mut source = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for file in &files {
        let name = file.strip_prefix(&dist).unwrap_or(file).to_string_lossy().replace('\\', "/");
        let path = file.canonicalize()?;
        let _ = writeln!(source, "    ({name:?}, include_bytes!({:?})),", path.to_string_lossy());
    }
    source.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("files.rs"), source)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
