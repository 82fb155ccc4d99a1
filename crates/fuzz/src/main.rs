//! libFuzzer around the target that `FUZZ_TARGET` names; with `FUZZ_SEEDS=DIR` it first writes the
//! target's seeds there.
#![no_main]
#![allow(unsafe_code)] // libFuzzer's entry points are C functions

use std::sync::OnceLock;

use fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("FUZZ_TARGET is {name:?}; there are {}", names.join(", "));
            std::process::exit(2);
        };
        if let Some(dir) = std::env::var_os("FUZZ_SEEDS") {
            for (at, seed) in (target.seeds)().iter().enumerate() {
                let path = std::path::Path::new(&dir).join(format!("seed-{at:03}"));
                if let Err(error) = std::fs::write(&path, seed) {
                    eprintln!("write {}: {error}", path.display());
                    std::process::exit(2);
                }
            }
        }
        let _ = TARGET.set(*target);
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);
