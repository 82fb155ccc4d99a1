//! Remote write, wired: one queue for all receivers, a sender for each, and what takes rows into the queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use model::TenantId;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use queue::{Queue, Start};
use remote::write_out::{Answer, Post, Posting, WriteOut, WriteOutMetrics};
use remote::{Encoder, EncoderConfig, EncoderMetrics, Prompt};
use scrape::client::{HttpClient, Slot, TcpConnector, TlsConfigs};
use stdx::clock::Clock;
use stdx::disk::RealDisk;
use storage::{Appender, Branch, FanOut};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::RemoteWrite;

/// The queue's directory, in the data directory.
const QUEUE_DIR: &str = "remote_write";
/// What the names of our readers begin with.
const READER_PREFIX: &str = "rw-";
/// Connections to a receiver that are kept open while they are not used.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How often segments are looked through and cursors written.
const UPKEEP: Duration = Duration::from_secs(1);
/// How often unused references are forgotten.
const FORGET: Duration = Duration::from_secs(900);

/// Everything that is written to other systems.
pub(crate) struct RemoteWrites {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    commit_interval: Duration,
    metrics: WriteOutMetrics,
    encoder_metrics: EncoderMetrics,
    tls: Arc<TlsConfigs>,
    branch: Arc<Branch>,
    /// What the branch has lost.
    untaken: Counter,
    /// A queue that is there anyhow, and looked after.
    given: Option<Queue>,
    state: Mutex<State>,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    opened: Option<Opened>,
    running: Vec<Running>,
    /// Senders of an earlier configuration, on their way out.
    leaving: Vec<JoinHandle<()>>,
}

struct Opened {
    queue: Queue,
    encoder: Arc<Encoder>,
    upkeep: JoinHandle<()>,
}

struct Running {
    config: RemoteWrite,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RemoteWrites {
    /// Nothing is written until [`RemoteWrites::apply`] says so.
    pub(crate) fn new(
        data: &Path,
        commit_interval: Duration,
        clock: Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> RemoteWrites {
        let encoder_metrics = EncoderMetrics::default();
        encoder_metrics.register(registry);
        RemoteWrites::with_figures(data, commit_interval, clock, encoder_metrics, registry)
    }

    /// As [`RemoteWrites::new`], with figures of the queue's encoder that somebody else shows, or nobody: one
    /// registry has them once.
    pub(crate) fn with_figures(
        data: &Path,
        commit_interval: Duration,
        clock: Arc<dyn Clock>,
        encoder_metrics: EncoderMetrics,
        registry: &mut Registry,
    ) -> RemoteWrites {
        let untaken = Counter::default();
        registry.register(
            "marigraph_remote_write_untaken_samples",
            "Samples that the store took and the queue of remote write did not",
            untaken.clone(),
        );
        RemoteWrites {
            untaken,
            dir: data.join(QUEUE_DIR),
            clock,
            commit_interval,
            metrics: WriteOutMetrics::register(registry),
            encoder_metrics,
            tls: Arc::new(TlsConfigs::default()),
            // The rows of other tenants are theirs.
            branch: Branch::new(Some(TenantId::default())),
            given: None,
            state: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// As [`RemoteWrites::new`], but what goes out comes from a queue that somebody else fills and looks after.
    pub(crate) fn over(queue: Queue, clock: Arc<dyn Clock>, registry: &mut Registry) -> RemoteWrites {
        RemoteWrites {
            untaken: Counter::default(),
            dir: queue.dir().to_owned(),
            clock,
            commit_interval: Duration::ZERO,
            metrics: WriteOutMetrics::register(registry),
            encoder_metrics: EncoderMetrics::default(),
            tls: Arc::new(TlsConfigs::default()),
            branch: Branch::new(Some(TenantId::default())),
            given: Some(queue),
            state: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// What `first` takes, and from now on what goes out as well.
    pub(crate) fn beside(&self, first: Arc<dyn Appender>) -> Arc<dyn Appender> {
        Arc::new(FanOut::new(first, vec![Arc::clone(&self.branch)]))
    }

    /// The clients of a configuration; looks at what may be wrong with it.
    ///
    /// # Errors
    /// A TLS file that cannot be used.
    pub(crate) fn clients(&self, wanted: &[RemoteWrite]) -> Result<Vec<HttpClient>> {
        let client = |remote: &RemoteWrite| {
            HttpClient::new(&remote.client, Arc::new(TcpConnector), Arc::clone(&self.tls))
                .map_err(|problem| anyhow!("remote_write {}: {problem}", remote.send.name))
        };
        wanted.iter().map(client).collect()
    }

    /// Makes `wanted` the receivers; unchanged ones go on undisturbed.
    ///
    /// # Errors
    /// The queue cannot be opened, or a client not made. Nothing has changed then.
    pub(crate) fn apply(&self, wanted: &[RemoteWrite]) -> Result<()> {
        let clients = self.clients(wanted)?;
        let state = &mut *self.state.lock();
        if !wanted.is_empty() && self.given.is_none() && state.opened.is_none() {
            state.opened = Some(self.open()?);
        }
        let opened = state.opened.as_ref();
        let Some(queue) = self.given.as_ref().or(opened.map(|opened| &opened.queue)) else { return Ok(()) };
        let mut before = std::mem::take(&mut state.running);
        for (remote, client) in wanted.iter().zip(clients) {
            let same = before.iter().position(|running| running.config.send.name == remote.send.name);
            let same = same.map(|at| before.swap_remove(at));
            let running = match same {
                Some(running) if is_same(&running.config, remote) => running,
                other => self.start(queue, remote, client, other),
            };
            state.running.push(running);
        }
        for gone in before {
            gone.stop.cancel();
            let (queue, reader) = (queue.clone(), reader_name(&gone.config.send.name));
            state.leaving.push(tokio::spawn(async move {
                // Its cursor would keep rows for ever.
                let _ = gone.task.await;
                if let Err(error) = queue.remove_reader(&reader) {
                    tracing::warn!(%error, "forget a receiver of remote write that is no longer configured");
                }
            }));
        }
        state.leaving.retain(|task| !task.is_finished());
        self.forget_strangers(queue, wanted);
        let encoder = opened.filter(|_| !wanted.is_empty()).map(|opened| {
            // A row that the store has is in the queue when the writer hears of it.
            let door: Arc<dyn Appender> = Arc::new(Prompt(Arc::clone(&opened.encoder)));
            door
        });
        self.branch.switch(encoder);
        Ok(())
    }

    /// Ends sending; nobody appends any more. What has not been sent waits on disk for the next start.
    pub(crate) async fn stop(&self) {
        self.branch.switch(None);
        let state = std::mem::take(&mut *self.state.lock());
        self.stop.cancel();
        for running in state.running {
            running.stop.cancel();
            let _ = running.task.await;
        }
        for task in state.leaving {
            let _ = task.await;
        }
        let Some(opened) = state.opened else { return };
        let _ = opened.upkeep.await;
        let closed = tokio::task::spawn_blocking(move || {
            opened.encoder.flush().map_err(|error| error.to_string())?;
            opened.queue.sync().map_err(|error| error.to_string())?;
            opened.queue.upkeep().map(drop).map_err(|error| error.to_string())
        });
        if let Ok(Err(error)) = closed.await {
            tracing::error!(error, "close the queue of remote write");
        }
    }

    fn open(&self) -> Result<Opened> {
        let options = queue::Options::default();
        let opened = queue::open(RealDisk::shared(), &self.dir, Arc::clone(&self.clock), options)
            .with_context(|| format!("open the queue of remote write in {}", self.dir.display()))?;
        let encoder = Encoder::new(
            opened.writer,
            Arc::clone(&self.clock),
            EncoderConfig::default(),
            self.encoder_metrics.clone(),
        );
        let queue = opened.queue;
        let upkeep = tokio::spawn(upkeep(
            queue.clone(),
            (Arc::clone(&self.branch), self.untaken.clone()),
            self.commit_interval,
            self.stop.clone(),
        ));
        Ok(Opened { queue, encoder, upkeep })
    }

    fn start(
        &self,
        queue: &Queue,
        remote: &RemoteWrite,
        client: HttpClient,
        before: Option<Running>,
    ) -> Running {
        let stop = CancellationToken::new();
        let post = Arc::new(Receiver {
            client,
            remote: remote.clone(),
            slots: Mutex::default(),
            clock: Arc::clone(&self.clock),
        });
        let (queue, clock, metrics) = (queue.clone(), Arc::clone(&self.clock), self.metrics.clone());
        let (config, stopped) = (remote.send.clone(), stop.clone());
        // A receiver that is new gets what comes from now on; an old one goes on where it was.
        let reader = reader_name(&config.name);
        let first_rows = if queue.readers().contains(&reader) { Start::Oldest } else { Start::Now };
        let here = queue.reader(&reader, first_rows);
        let task = tokio::spawn(async move {
            let reader = match (here, before) {
                (Ok(reader), _) => Ok(reader),
                (Err(_), Some(before)) => {
                    before.stop.cancel();
                    let _ = before.task.await;
                    queue.reader(&reader, first_rows)
                }
                (Err(error), None) => Err(error),
            };
            match reader {
                Ok(reader) => {
                    WriteOut::new(config, reader, post, clock, &metrics).run(stopped.cancelled()).await
                }
                Err(error) => {
                    tracing::error!(remote = config.name, %error, "nothing is written to this receiver")
                }
            }
        });
        Running { config: remote.clone(), stop, task }
    }

    /// Readers of receivers that a configuration before this process had.
    fn forget_strangers(&self, queue: &Queue, wanted: &[RemoteWrite]) {
        let known: Vec<String> = wanted.iter().map(|remote| reader_name(&remote.send.name)).collect();
        for reader in queue.readers() {
            if reader.starts_with(READER_PREFIX) && !known.contains(&reader) {
                // One that is on its way out is open still, and is removed when it ends.
                let _ = queue.remove_reader(&reader);
            }
        }
    }
}

/// Looks after the queue until `stop`.
async fn upkeep(
    queue: Queue,
    (branch, untaken): (Arc<Branch>, Counter),
    commit_interval: Duration,
    stop: CancellationToken,
) {
    let mut commits = tokio::time::interval(commit_interval.max(Duration::from_millis(50)));
    let mut upkeeps = tokio::time::interval(UPKEEP);
    let mut forgets = tokio::time::interval(FORGET);
    loop {
        let queue = queue.clone();
        let done = tokio::select! {
            () = stop.cancelled() => return,
            _ = commits.tick() => tokio::task::spawn_blocking(move || queue.sync().map(drop)).await,
            _ = upkeeps.tick() => {
                untaken.inc_by(branch.lost().saturating_sub(untaken.get()));
                tokio::task::spawn_blocking(move || queue.upkeep().map(drop)).await
            }
            _ = forgets.tick() => {
                branch.forget_idle();
                continue;
            }
        };
        if let Ok(Err(error)) = done {
            tracing::error!(%error, "look after the queue of remote write");
            tokio::time::sleep(UPKEEP * 5).await;
        }
    }
}

fn is_same(a: &RemoteWrite, b: &RemoteWrite) -> bool {
    a.url == b.url && a.timeout == b.timeout && a.client == b.client && a.send == b.send
}

/// The name of a receiver's cursor: like its own, and not like that of another.
fn reader_name(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let hash = model::Labels::from_pairs([("name", name)]).hash128() as u32;
    format!("{READER_PREFIX}{plain}-{hash:08x}")
}

/// A receiver behind the scraper's HTTP client.
struct Receiver {
    client: HttpClient,
    remote: RemoteWrite,
    /// Connections that are not in use.
    slots: Mutex<Vec<Slot>>,
    clock: Arc<dyn Clock>,
}

impl Post for Receiver {
    fn post(&self, headers: Vec<(&'static str, String)>, body: Bytes) -> Posting<'_> {
        Box::pin(async move {
            let mut slot = self.slots.lock().pop().unwrap_or_default();
            let headers: Vec<(&'static str, &str)> =
                headers.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let post = scrape::client::Post {
                url: &self.remote.url,
                headers: &headers,
                body,
                timeout: self.remote.timeout,
            };
            let posted = slot.post(&self.client, &post).await.map_err(|error| error.to_string())?;
            let mut slots = self.slots.lock();
            if slots.len() < IDLE_CONNECTIONS_MAX {
                slots.push(slot);
            }
            drop(slots);
            let header = |name: &'static str| posted.header(name);
            Ok(Answer::new(posted.status.as_u16(), header, &posted.body, self.clock.now_ms()))
        })
    }
}
