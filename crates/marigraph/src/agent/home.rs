//! Rows home: one sender for each hub, over outbound connections of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use queue::{Queue, Start};
use remote::Encoder;
use remote::ship::{Outgoing, Request, Sender, SenderOptions};
use stdx::clock::Clock;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel::identity::AgentIdentity;
use tunnel::{Connector, HubUrl, Line, LineError};

/// How often cursors are written down and old segments go.
const UPKEEP_EVERY: Duration = Duration::from_secs(2);
/// How long a stopping agent tries to get its last rows home.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Which hub.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfHub {
    hub: String,
}

/// Figures of the way home.
#[derive(Debug, Clone, Default)]
pub(super) struct HomeMetrics {
    online: Family<OfHub, Gauge>,
    pending_blocks: Family<OfHub, Gauge>,
    acknowledged_rows: Family<OfHub, Counter>,
    sent: Family<OfHub, Counter>,
    failures: Family<OfHub, Counter>,
    queue_bytes: Gauge,
}

/// Figures in `registry`, named `marigraph_agent_*`.
pub(super) fn metrics(registry: &mut Registry) -> HomeMetrics {
    let metrics = HomeMetrics::default();
    let registry = registry.sub_registry_with_prefix("marigraph_agent");
    let m = &metrics;
    registry.register("hub_online", "Whether the hub takes rows", m.online.clone());
    registry.register(
        "hub_pending_blocks",
        "Blocks of rows that the hub has not acknowledged yet",
        m.pending_blocks.clone(),
    );
    registry.register("hub_acknowledged_rows", "Rows the hub has made durable", m.acknowledged_rows.clone());
    registry.register_with_unit("hub_sent", "Bodies sent to the hub", Unit::Bytes, m.sent.clone());
    registry.register("hub_failures", "Requests that failed", m.failures.clone());
    registry.register_with_unit("queue_size", "The queue on disk", Unit::Bytes, m.queue_bytes.clone());
    metrics
}

/// The senders at work.
pub(super) struct Home {
    stop: CancellationToken,
    lines: Arc<[Arc<Line>]>,
    senders: Vec<JoinHandle<()>>,
    upkeep: JoinHandle<()>,
}

impl Home {
    /// Starts a sender for each hub, and the queue's upkeep. Without an identity there are no senders.
    ///
    /// # Errors
    /// A hub's cursor cannot be opened.
    pub(super) fn start(
        metrics: HomeMetrics,
        encoder: &Arc<Encoder>,
        hubs: &[HubUrl],
        connector: &Connector,
        identity: Option<&Arc<AgentIdentity>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Home> {
        let stop = CancellationToken::new();
        let queue = encoder.queue().clone();
        forget_other_hubs(&queue, hubs);
        let (written, news) = watch::channel(());
        queue.on_write(move || _ = written.send(()));
        let mut senders = Vec::with_capacity(hubs.len());
        let mut lines = Vec::with_capacity(hubs.len());
        for (number, (hub, identity)) in hubs.iter().zip(identity.into_iter().cycle()).enumerate() {
            let name = reader_name(hub);
            let reader = queue
                .reader(&name, Start::Oldest)
                .with_context(|| format!("open the cursor of hub {hub} in the queue"))?;
            let options = SenderOptions { seed: rand::random(), ..SenderOptions::default() };
            let line = Arc::new(Line::new(hub.clone(), connector.clone(), identity.clone()));
            lines.push(Arc::clone(&line));
            let shipping = Shipping {
                sender: Sender::new(reader, options, 0),
                line,
                epoch: Instant::now(),
                was_online: None,
                told: remote::ship::SenderStats::default(),
                metrics: metrics.clone(),
                label: OfHub { hub: hub.to_string() },
            };
            // Hubs that restart together should not be asked together.
            let head_start = Duration::from_millis(10 * number as u64);
            senders.push(tokio::spawn(shipping.run(news.clone(), stop.clone(), head_start)));
        }
        let upkeep = tokio::spawn(keep_up(queue, metrics, Arc::clone(clock), stop.clone()));
        Ok(Home { stop, lines: lines.into(), senders, upkeep })
    }

    /// To be told which hub's tunnel is lost: what knows of dead lines.
    pub(super) fn on_tunnel_lost(&self) -> impl Fn(&HubUrl) + Send + Sync + 'static {
        let lines = Arc::clone(&self.lines);
        move |hub| lines.iter().filter(|line| line.hub() == hub).for_each(|line| line.tunnel_lost())
    }

    /// Lets the senders get the last rows home, for a moment, and writes the cursors down.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        for sender in self.senders {
            if let Err(error) = sender.await {
                tracing::error!(%error, "a sender ended badly");
            }
        }
        // Its last act is to write the cursors down.
        if let Err(error) = self.upkeep.await {
            tracing::error!(%error, "the queue's upkeep ended badly");
        }
    }
}

/// What the names of hubs' cursors begin with; the queue has other readers, too.
pub(crate) const CURSOR_PREFIX: &str = "hub-";
/// The longest name that is kept as it is; the queue takes 64 bytes.
const CURSOR_NAME_MAX: usize = 60;

/// The name of a hub's cursor: what may stand in a file's name. A long one ends in its checksum.
fn reader_name(hub: &HubUrl) -> String {
    cursor_name(&hub.authority())
}

fn cursor_name(authority: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = CURSOR_PREFIX.chars().chain(authority.chars().map(fits)).collect();
    if name.len() <= CURSOR_NAME_MAX {
        return name;
    }
    format!("{}-{:08x}", &name[..CURSOR_NAME_MAX - 9], crc32c::crc32c(authority.as_bytes()))
}

/// Forgets the cursors of hubs that are no longer configured: no block waits for them.
fn forget_other_hubs(queue: &Queue, hubs: &[HubUrl]) {
    let names: Vec<String> = hubs.iter().map(reader_name).collect();
    for name in queue.readers() {
        if !name.starts_with(CURSOR_PREFIX) || names.contains(&name) {
            continue;
        }
        match queue.remove_reader(&name) {
            Ok(_) => tracing::info!(cursor = name, "forgot the cursor of a hub that is no longer configured"),
            Err(error) => tracing::warn!(cursor = name, %error, "forget a hub's cursor"),
        }
    }
}

/// Makes blocks durable, writes cursors down, and lets go of what every hub has.
async fn keep_up(queue: Queue, metrics: HomeMetrics, _clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(UPKEEP_EVERY) => {}
            () = stop.cancelled() => {}
        }
        let stopping = stop.is_cancelled();
        let tidying = queue.clone();
        // Rows wait here until every hub has them: not longer than this in memory only.
        match tokio::task::spawn_blocking(move || tidying.sync().and(tidying.upkeep())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the queue could not be tidied"),
            Err(error) => tracing::error!(%error, "the queue's upkeep panicked"),
        }
        metrics.queue_bytes.set(i64::try_from(queue.stats().bytes).unwrap_or(i64::MAX));
        if stopping {
            return;
        }
    }
}

/// Makes a request. When it fails, nothing is known of what was sent.
async fn send(line: &Line, outgoing: Outgoing) -> Result<Vec<u8>, LineError> {
    let path = match outgoing.request {
        Request::Hello => "/fleet/v1/rows/hello",
        Request::Blocks => "/fleet/v1/rows/blocks",
    };
    line.post(path, outgoing.body).await
}

/// One hub's sender and what it needs.
struct Shipping {
    sender: Sender,
    line: Arc<Line>,
    epoch: Instant,
    was_online: Option<bool>,
    told: remote::ship::SenderStats,
    metrics: HomeMetrics,
    label: OfHub,
}

impl Shipping {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    async fn run(mut self, mut news: watch::Receiver<()>, stop: CancellationToken, head_start: Duration) {
        tokio::time::sleep(head_start).await;
        let mut under_way: JoinSet<(u64, Result<Vec<u8>, LineError>)> = JoinSet::new();
        let mut deadline: Option<Instant> = None;
        loop {
            let now_ms = self.now_ms();
            news.mark_unchanged();
            loop {
                match tokio::task::block_in_place(|| self.sender.poll(now_ms)) {
                    Ok(Some(outgoing)) => {
                        let line = Arc::clone(&self.line);
                        under_way.spawn(async move { (outgoing.id, send(&line, outgoing).await) });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(hub = %self.line.hub(), %error, "the queue cannot be read");
                        break;
                    }
                }
            }
            self.tell();
            if stop.is_cancelled() {
                let until = *deadline.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                if under_way.is_empty() || Instant::now() >= until {
                    return;
                }
            }
            let wake = self
                .sender
                .wakes_at_ms()
                .map(|at_ms| self.epoch + Duration::from_millis(at_ms.max(0).unsigned_abs()));
            let wake = [wake, deadline].into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = under_way.join_next() => self.answered(done),
                _ = news.changed() => {}
                () = sleep => {}
                () = stop.cancelled(), if deadline.is_none() => {}
            }
        }
    }

    fn answered(&mut self, done: Result<(u64, Result<Vec<u8>, LineError>), tokio::task::JoinError>) {
        let now_ms = self.now_ms();
        match done {
            Ok((id, Ok(body))) => {
                if let Err(error) = self.sender.answered(id, &body, now_ms) {
                    tracing::warn!(hub = %self.line.hub(), %error, "the hub's answer cannot be read");
                }
            }
            Ok((id, Err(error))) => {
                let error = anyhow::Error::from(error);
                if self.was_online != Some(false) {
                    tracing::warn!(hub = %self.line.hub(), "rows wait in the queue: {error:#}");
                } else {
                    tracing::debug!(hub = %self.line.hub(), "rows wait in the queue: {error:#}");
                }
                self.sender.failed(id, now_ms);
            }
            Err(error) => tracing::error!(hub = %self.line.hub(), %error, "a request panicked"),
        }
    }

    /// Tells changes in the log, and figures.
    fn tell(&mut self) {
        let stats = self.sender.stats().clone();
        if self.was_online != Some(stats.online) {
            if stats.online {
                tracing::info!(hub = %self.line.hub(), "the hub takes rows");
            }
            self.was_online = Some(stats.online);
        }
        let (m, label) = (&self.metrics, &self.label);
        m.online.get_or_create(label).set(i64::from(stats.online));
        let pending =
            [queue::Lane::Live, queue::Lane::Backlog].map(|lane| self.sender.reader().pending(lane).blocks);
        m.pending_blocks
            .get_or_create(label)
            .set(i64::try_from(pending.iter().sum::<u64>()).unwrap_or(i64::MAX));
        let old = std::mem::replace(&mut self.told, stats.clone());
        m.acknowledged_rows.get_or_create(label).inc_by(stats.acknowledged_rows - old.acknowledged_rows);
        m.sent.get_or_create(label).inc_by(stats.sent_bytes - old.sent_bytes);
        m.failures.get_or_create(label).inc_by(stats.failures - old.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_authority_has_a_name_of_its_own_that_the_queue_takes() {
        let long = format!("{}.example.org:9090", "a".repeat(80));
        let longer = format!("{}.example.org:9091", "a".repeat(80));
        let all = ["hub.example.org:9090", "[::1]:9090", "127.0.0.1:9090", &long, &longer];
        let names: std::collections::BTreeSet<String> = all.iter().map(|name| cursor_name(name)).collect();
        assert_eq!(names.len(), all.len());
        for name in names {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
            assert!(name.len() <= 64 && name.starts_with("hub-") && name.bytes().all(fits), "{name}");
        }
    }
}
