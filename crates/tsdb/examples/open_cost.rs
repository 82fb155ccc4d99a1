//! What a start costs: wall and CPU time until a data directory is open, several times.
//!
//! Each round opens a copy of it, as a start after `kill -9` does; the files are in the page cache.
//!
//! `cargo run --release -p tsdb --example open_cost -- DIR [ROUNDS]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tsdb::{Config, Db};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let rounds = match arguments.next() {
        Some(text) => text.to_string_lossy().parse()?,
        None => 7,
    };
    let copy = std::env::temp_dir().join(format!("open-cost-{}", std::process::id()));
    let mut all = Vec::new();
    for _ in 0..rounds {
        copy_tree(&dir, &copy)?;
        let (begin, cpu) = (Instant::now(), cpu_time()?);
        let db = Db::open(Config::new(&copy))?;
        all.push((begin.elapsed(), cpu_time()? - cpu));
        drop(db);
        std::fs::remove_dir_all(&copy)?;
    }
    all.sort_unstable();
    for (wall, cpu) in all {
        println!("{:7.1} ms, {:7.1} ms CPU", wall.as_secs_f64() * 1e3, cpu.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Outcome<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            _ = std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// CPU time of all threads, those that have ended too; in ticks of 10 ms.
fn cpu_time() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").ok_or("no process in /proc/self/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(10 * ticks))
}
