//! Which building of its cluster an agent belongs to: what tells a cluster that was built anew from the one before, which
//! had its name. Agents that share targets name the same one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::AgentArgs;

/// The file, in the directory of the pair's leases, or in the data directory of an agent that stands alone.
const FILE: &str = "incarnation";
/// Longest name.
const NAME_BYTES_MAX: usize = 64;

/// What the flag says; else what the file says, which is made with a random name where there is none. Empty, and a line in
/// the log, where the file cannot be had: nothing else depends on it.
///
/// # Errors
/// The flag's name cannot be one.
pub(super) fn of(args: &AgentArgs) -> Result<String> {
    if let Some(name) = &args.incarnation {
        if !is_name(name) {
            bail!(
                "--incarnation {name:?}: a name is 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_' and '-'"
            );
        }
        return Ok(name.clone());
    }
    let path = args.pair_leases.as_ref().unwrap_or(&args.data).join(FILE);
    Ok(in_file(&path).unwrap_or_else(|error| {
        tracing::warn!("hubs are not told which incarnation of its cluster this is: {error:#}");
        String::new()
    }))
}

fn in_file(path: &Path) -> Result<String> {
    if !path.exists() {
        make(path).with_context(|| format!("write {}", path.display()))?;
    }
    let name = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let name = name.trim();
    if !is_name(name) {
        bail!(
            "{}: {name:?} is no name of an incarnation; without the file, a new one is made",
            path.display()
        );
    }
    Ok(name.to_owned())
}

/// Puts a random name there, whole, unless somebody else was faster.
fn make(path: &Path) -> std::io::Result<()> {
    let name = format!("{:032x}", rand::random::<u128>());
    let new = path.with_extension(&name);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    file.write_all(format!("{name}\n").as_bytes())?;
    file.sync_all()?;
    drop(file);
    let linked = std::fs::hard_link(&new, path);
    std::fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        // The name of the file has to outlive a power cut, too.
        _ => File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all(),
    }
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(data: &Path, leases: Option<&Path>, flag: Option<&str>) -> Result<String> {
        let mut words = vec![format!("--data={}", data.display()), "--cluster=a".to_owned()];
        words.extend(leases.map(|leases| format!("--pair.leases={}", leases.display())));
        words.extend(flag.map(|flag| format!("--incarnation={flag}")));
        of(&AgentArgs::parse(words)?)
    }

    #[test]
    fn agents_that_belong_together_name_the_same_one() -> Result<()> {
        let root = tempfile::tempdir()?;
        let [one, other, leases] = ["one", "other", "leases"].map(|name| root.path().join(name));
        [&one, &other, &leases].into_iter().try_for_each(std::fs::create_dir)?;
        let alone = named(&one, None, None)?;
        assert_eq!(named(&one, None, None)?, alone, "the same after a restart");
        assert_ne!(named(&other, None, None)?, alone, "another building");
        let pair = named(&one, Some(&leases), None)?;
        assert_eq!(named(&other, Some(&leases), None)?, pair);
        assert_ne!(pair, alone);
        assert_eq!(named(&one, None, Some("blue-2"))?, "blue-2");
        assert!(named(&one, None, Some("a b")).is_err());
        assert_eq!(std::fs::read_dir(&leases)?.count(), 1, "nothing is left lying about");
        std::fs::write(leases.join(FILE), "")?;
        assert_eq!(named(&one, Some(&leases), None)?, "", "it says nothing rather than something wrong");
        Ok(())
    }

    #[test]
    fn of_many_that_start_together_one_gives_the_name() -> Result<()> {
        let leases = tempfile::tempdir()?;
        let path = leases.path().join(FILE);
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| make(&path))).collect();
            makers.into_iter().try_for_each(|maker| maker.join().expect("no panic"))
        })?;
        assert!(is_name(std::fs::read_to_string(&path)?.trim()));
        Ok(())
    }
}
