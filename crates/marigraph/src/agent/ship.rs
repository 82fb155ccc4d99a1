//! What of an agent's own store goes home: the series that selectors name, decided once for each column.
//!
//! Two branches lead from the store to the queue for hubs: what is pushed has to be in the queue when the sender
//! hears of it, what is scraped need not. A file remembers what shipped before: hubs expect rows of sources that
//! an earlier configuration sent, until they are told that none come any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use model::{Labels, Matcher};
use parking_lot::Mutex;
use remote::{Encoder, Prompt};
use serde::{Deserialize, Serialize};
use stdx::clock::Clock;
use storage::{Appender, Branch, FanOut, Selection};
use tokio::task::JoinHandle;

/// What shipped last, within the data directory.
const SHIPPED: &str = "shipped.json";
/// How long after a change hubs are told of sources that no longer ship, also after a restart. Longer than an
/// interval of any source.
const SETTLING_MS: i64 = 3_600_000;
/// How often unused references are forgotten.
const FORGET: Duration = Duration::from_secs(900);

/// The way from a store to the queue for hubs.
pub(super) struct Ship {
    encoder: Arc<Encoder>,
    scraped: Arc<Branch>,
    pushed: Arc<Branch>,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    /// In force.
    selectors: Mutex<Option<Vec<String>>>,
    forgetting: JoinHandle<()>,
}

impl Ship {
    /// A way that nothing takes until [`Ship::select`] says what.
    pub(super) fn new(data: &Path, encoder: Arc<Encoder>, clock: Arc<dyn Clock>) -> Ship {
        let (scraped, pushed) = (Branch::new(None), Branch::new(None));
        let forgetting = tokio::spawn(forget([Arc::clone(&scraped), Arc::clone(&pushed)]));
        let selectors = Mutex::default();
        Ship { encoder, scraped, pushed, clock, path: data.join(SHIPPED), selectors, forgetting }
    }

    /// What takes scraped rows to `store` and, as far as they are selected, to the queue.
    pub(super) fn scraped(&self, store: Arc<dyn Appender>) -> Arc<dyn Appender> {
        Arc::new(FanOut::new(store, vec![Arc::clone(&self.scraped)]))
    }

    /// As [`Ship::scraped`], for pushed rows.
    pub(super) fn pushed(&self, store: Arc<dyn Appender>) -> Arc<dyn Appender> {
        Arc::new(FanOut::new(store, vec![Arc::clone(&self.pushed)]))
    }

    /// From now on the series that one of `matchers` matches go home; `selectors` are these as written.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn select(&self, selectors: &[String], matchers: &[Vec<Matcher>]) -> Result<()> {
        let mut in_force = self.selectors.lock();
        if in_force.as_deref() == Some(selectors) {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let ends_others_until_ms = remember(&self.path, Some(selectors), now_ms)?;
        *in_force = Some(selectors.to_vec());
        if selectors.is_empty() && ends_others_until_ms <= now_ms {
            // Nothing ships and nobody expects any: then nothing has to be known of any series.
            self.scraped.switch(None);
            self.pushed.switch(None);
            return Ok(());
        }
        let matchers = matchers.to_vec();
        let wants = Arc::new(move |labels: &Labels| matchers.iter().any(|all| is_match(all, labels)));
        let selection = Selection { wants, ends_others_until_ms };
        self.scraped.switch_to(Arc::clone(&self.encoder) as _, selection.clone());
        self.pushed.switch_to(Arc::new(Prompt(Arc::clone(&self.encoder))), selection);
        Ok(())
    }

    /// Samples that the store took and the queue did not.
    pub(super) fn lost(&self) -> u64 {
        self.scraped.lost() + self.pushed.lost()
    }
}

impl Drop for Ship {
    fn drop(&mut self) {
        self.forgetting.abort();
    }
}

async fn forget(branches: [Arc<Branch>; 2]) {
    let mut rounds = tokio::time::interval(FORGET);
    loop {
        rounds.tick().await;
        branches.iter().for_each(|branch| branch.forget_idle());
    }
}

fn is_match(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
}

/// The file's content.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Shipped {
    /// Since when this holds, milliseconds since the epoch; 0 where nothing shipped before.
    since_ms: i64,
    /// The selectors; missing where everything ships.
    selectors: Option<Vec<String>>,
}

/// Writes down that everything ships, for an agent without a store of its own.
///
/// # Errors
/// The file cannot be written.
pub(super) fn everything_ships(data: &Path, now_ms: i64) -> Result<()> {
    remember(&data.join(SHIPPED), None, now_ms).map(drop)
}

/// Writes down what ships; gives until when hubs may expect what does not, milliseconds since the epoch.
fn remember(path: &Path, selectors: Option<&[String]>, now_ms: i64) -> Result<i64> {
    let before: Option<Shipped> = match std::fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(before) => Some(before),
            // As good as anything else that is not known: hubs may expect everything.
            Err(_) => Some(Shipped { since_ms: now_ms, selectors: None }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if let Some(before) = before.as_ref().filter(|before| before.selectors.as_deref() == selectors) {
        return Ok(settled_ms(before.since_ms));
    }
    let since_ms = if before.is_some() { now_ms } else { 0 };
    let shipped = Shipped { since_ms, selectors: selectors.map(<[String]>::to_vec) };
    let new = path.with_extension("json.new");
    let text = serde_json::to_vec(&shipped)?;
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.with_context(|| format!("write {}", path.display()))?;
    Ok(settled_ms(since_ms))
}

fn settled_ms(since_ms: i64) -> i64 {
    if since_ms > 0 { since_ms.saturating_add(SETTLING_MS) } else { i64::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_are_told_for_an_hour_after_a_change() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join(SHIPPED);
        let up = ["up".to_owned()];
        let check = |selectors: Option<&[String]>, now_ms, want| -> Result<()> {
            let is_told = remember(&path, selectors, now_ms)? > now_ms;
            assert_eq!(is_told, want, "{selectors:?} at {now_ms}");
            Ok(())
        };
        let t = 1_000_000_000;
        check(Some(&up), t, false)?; // nothing ever shipped
        check(Some(&up), t + 1, false)?;
        check(None, t + 2, true)?;
        check(Some(&up), t + 3, true)?;
        check(Some(&up), t + SETTLING_MS, true)?; // a restart in between
        check(Some(&up), t + 3 + SETTLING_MS, false)?;
        std::fs::write(&path, "{")?;
        check(Some(&[]), t, true)?;
        Ok(())
    }

    #[test]
    fn a_series_is_selected_by_any_of_the_selectors() {
        let matchers: Vec<Vec<Matcher>> = ["up", "{job=~\"a.*\",instance!=\"\"}"]
            .iter()
            .map(|text| promql::parser::parse_matchers(text).expect(text))
            .collect();
        for (pairs, want) in [
            (vec![("__name__", "up")], true),
            (vec![("__name__", "down")], false),
            (vec![("__name__", "x"), ("job", "api")], false),
            (vec![("__name__", "x"), ("job", "api"), ("instance", "i")], true),
        ] {
            let labels = Labels::from_pairs(pairs);
            assert_eq!(matchers.iter().any(|all| is_match(all, &labels)), want, "{labels}");
        }
    }
}
