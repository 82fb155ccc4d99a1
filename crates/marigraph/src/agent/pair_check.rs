//! `marigraph agent check --pair.leases`: whether agents can share targets by this directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pairs::{FileLeases, Held, Leases};
use stdx::clock::Clock;
use tokio::time::Instant;
use tunnel::identity::{Finding, Outcome};

/// How often the leases are looked at while they are watched.
const LOOK: Duration = Duration::from_millis(100);
/// Difference of clocks from which on it is told, milliseconds: less is lost in the time between write and look.
const SKEW_MS: i64 = 1_000;

fn finding(outcome: Outcome, found: String, advice: &str) -> Finding {
    Finding { outcome, step: "leases", found, advice: advice.to_owned() }
}

/// What a lease was when it was first seen, and what was seen since.
struct Watched {
    first: Held,
    /// Its clock ahead of ours when it wrote, milliseconds, once it has written again.
    ahead_ms: Option<i64>,
}

/// Looks at the directory, writes a file there and removes it, and watches the leases until each has been renewed or had the
/// time for it, at most `patience`.
pub(crate) async fn run(directory: &Path, patience: Duration, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let shown = directory.display();
    if let Err(error) = fs::read_dir(directory) {
        let found = format!("{shown} cannot be read: {error}");
        let advice = "it has to be there, on a disk that all of them have, and is not made: is it mounted, and may this user \
                      read it?";
        return vec![finding(Outcome::Bad, found, advice)];
    }
    if let Err((what, error)) = probe(directory) {
        let found = format!("a file in {shown} cannot be {what}: {error}");
        let advice = match what {
            "locked" => "the file system has to know flock (NFS: version 4, or a lock daemon)",
            _ => "is the disk full, or mounted read-only, and may this user write there?",
        };
        return vec![finding(Outcome::Bad, found, advice)];
    }
    let mut findings =
        vec![finding(Outcome::Good, format!("{shown} can be read and written, and files be locked"), "")];
    findings.extend(unreadable(directory));
    match watch(directory, patience, clock).await {
        Ok(watched) => judge(&watched, clock.now_ms(), &mut findings),
        Err(error) => findings.push(finding(Outcome::Bad, error, "look at that file; who has written it?")),
    }
    findings
}

/// What cannot be done with a file there.
fn probe(directory: &Path) -> Result<(), (&'static str, std::io::Error)> {
    // No member's name, so no lease.
    let path = directory.join(format!("_check-{}", std::process::id()));
    let tried = (|| {
        let mut file = File::create(&path).map_err(|error| ("made", error))?;
        file.write_all(b"marigraph agent check\n").map_err(|error| ("written", error))?;
        file.try_lock().map_err(|error| ("locked", error.into()))
    })();
    let removed = fs::remove_file(&path).map_err(|error| ("removed", error));
    tried.and(removed)
}

/// Files that should be leases and are not.
fn unreadable(directory: &Path) -> Vec<Finding> {
    let files =
        fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let leases = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "lease")).take(64);
    let damaged = leases.filter_map(|path| {
        let why = pairs::decode(&fs::read(&path).ok()?).err()?;
        let found = format!("{} is not a lease: {why}", path.display());
        Some(finding(
            Outcome::Doubtful,
            found,
            "members pass it over; the agent with that name writes it anew",
        ))
    });
    damaged.collect()
}

async fn watch(
    directory: &Path,
    patience: Duration,
    clock: &Arc<dyn Clock>,
) -> Result<BTreeMap<String, Watched>, String> {
    let leases = FileLeases::new(directory);
    let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
    let begin = Instant::now();
    loop {
        let found = tokio::time::timeout(patience, leases.list()).await;
        let found = found.map_err(|_| format!("the leases could not be read in {patience:?}"))?;
        for held in found.map_err(|error| error.to_string())? {
            let name = held.lease.member.clone();
            let now_ms = clock.now_ms();
            let seen = watched.entry(name).or_insert_with(|| Watched { first: held.clone(), ahead_ms: None });
            if seen.ahead_ms.is_none() && seen.first.version != held.version {
                seen.ahead_ms = Some(held.lease.renewed_ms.saturating_sub(now_ms));
            }
        }
        let waits = watched.values().filter(|seen| seen.ahead_ms.is_none());
        let longest = waits.map(|seen| seen.first.lease.duration).max().unwrap_or_default();
        if begin.elapsed() >= longest.min(patience) {
            return Ok(watched);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn judge(watched: &BTreeMap<String, Watched>, now_ms: i64, findings: &mut Vec<Finding>) {
    let live: Vec<(&String, &Watched)> = watched.iter().filter(|(_, seen)| seen.ahead_ms.is_some()).collect();
    let mut setups: Vec<&str> = live.iter().map(|(_, seen)| seen.first.lease.setup.as_str()).collect();
    setups.sort_unstable();
    setups.dedup();
    for (name, seen) in watched {
        let lease = &seen.first.lease;
        let Some(ahead_ms) = seen.ahead_ms else {
            let age = now_ms.saturating_sub(lease.renewed_ms).max(0) / 1000;
            let found = format!(
                "{name} has not renewed its lease while it was watched; by its clock it last did {age} s ago"
            );
            let advice = "its agent is gone, or frozen, or cannot write here; others take its targets over, and remove the file \
                          after a while";
            findings.push(finding(Outcome::Doubtful, found, advice));
            continue;
        };
        if ahead_ms.abs() > SKEW_MS {
            let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
            let found = format!(
                "the clock of {name} is {:.1} s {way} this machine's",
                ahead_ms.unsigned_abs() as f64 / 1000.0
            );
            let advice = "synchronise both (NTP): after a death the difference adds to the gap";
            findings.push(finding(Outcome::Doubtful, found, advice));
            continue;
        }
        let with = lease.views.last().map(|view| view.members.join(", ")).unwrap_or_default();
        let found = if with.is_empty() {
            format!("{name} is there and waits")
        } else {
            format!("{name} is there; shares with: {with}")
        };
        findings.push(finding(Outcome::Good, found, ""));
    }
    if setups.len() > 1 {
        let found = "the agents are configured otherwise, each of them".to_owned();
        findings.push(finding(Outcome::Doubtful, found, "give all of them the same configuration"));
    }
    if watched.is_empty() {
        findings.push(finding(Outcome::Good, "nobody has a lease yet".to_owned(), ""));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use pairs::{Lease, Standing, View};
    use stdx::clock::SystemClock;

    use super::*;

    fn lease(name: &str, ahead_ms: i64, setup: &str) -> Lease {
        let renewed_ms = SystemClock::shared().now_ms() + ahead_ms;
        Lease {
            member: name.to_owned(),
            incarnation: 1,
            duration: Duration::from_millis(800),
            acquired_ms: renewed_ms,
            renewed_ms,
            transitions: 1,
            standing: Standing::Serving,
            views: vec![View { from_ms: renewed_ms, members: vec![name.to_owned()] }],
            setup: setup.to_owned(),
        }
    }

    async fn said(directory: &Path) -> String {
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let findings = run(directory, Duration::from_secs(5), &clock).await;
        findings.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_wrong_with_leases_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert!(said(&path.join("nowhere")).await.starts_with("FAIL  leases: "));
        assert!(said(path).await.contains("nobody has a lease yet"));
        let leases = FileLeases::new(path);
        leases.put(lease("dead", -7_200_000, "a"), None).await.expect("written");
        fs::write(path.join("broken.lease"), "{").expect("written");
        let stop = Arc::new(AtomicBool::new(false));
        let living = [("good", 0, "a"), ("late", -5_000, "b")].map(|(name, ahead_ms, setup)| {
            let (leases, stop) = (leases.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut over = None;
                while !stop.load(Ordering::Relaxed) {
                    over = leases.put(lease(name, ahead_ms, setup), over).await.ok();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let text = said(path).await;
        stop.store(true, Ordering::Relaxed);
        for task in living {
            task.await.expect("ended");
        }
        for wanted in [
            "ok    leases: good is there; shares with: good",
            "look  leases: dead has not renewed its lease while it was watched; by its clock it last did 720",
            "look  leases: the clock of late is",
            "s behind this machine's",
            "broken.lease is not a lease",
            "configured otherwise",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in {text}");
        }
        assert!(
            !path
                .read_dir()
                .expect("there")
                .any(|entry| { entry.expect("a file").file_name().to_string_lossy().starts_with("_check") })
        );
    }
}
