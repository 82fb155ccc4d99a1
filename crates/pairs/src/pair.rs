//! A member at work: reads and writes leases, and tells what has changed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stdx::clock::Clock;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::lease::{BoxFuture, LeaseError, Leases, Standing};
use crate::member::{Member, Now, Settings};
use crate::metrics::Metrics;
use crate::share::Share;
use crate::word::Words;

/// Longest wait for others to take over what a leaving member gives, beside what they have been told.
const LEAVE_PATIENCE: Duration = Duration::from_secs(15);

/// What a member works with.
pub struct PairConfig {
    /// Who it is.
    pub settings: Settings,
    /// Where the leases are.
    pub leases: Arc<dyn Leases>,
    /// On what other ways members hear of each other; without one nobody goes on beyond its lease.
    pub words: Vec<Arc<dyn Words>>,
    /// The clock that ticks go by.
    pub clock: Arc<dyn Clock>,
    /// Its figures.
    pub metrics: Metrics,
}

impl fmt::Debug for PairConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairConfig").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// One of several that share targets, at work until [`Pair::leave`] or until it is dropped.
#[derive(Debug)]
pub struct Pair {
    orders: Arc<Orders>,
    left: watch::Receiver<bool>,
    state: Arc<Mutex<Vec<MemberState>>>,
    /// The member, and what tells and hears words.
    tasks: Vec<JoinHandle<()>>,
    share: Share,
}

/// How a member fares, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Its name.
    pub member: String,
    /// `serving`, `waiting`, `leaving` or `gone`.
    pub standing: &'static str,
    /// When it renewed its lease, by its own clock, milliseconds since the epoch.
    pub renewed_ms: i64,
    /// Whether its configuration differs from ours.
    pub is_set_up_otherwise: bool,
}

#[derive(Debug, Default)]
struct Orders {
    given: Mutex<Given>,
    wake: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Given {
    ready: bool,
    leave: bool,
}

impl Pair {
    /// Starts a member; what is its it tells by `share`. It takes no targets before [`Pair::ready`].
    pub fn start(config: PairConfig, share: Share) -> Pair {
        let orders = Arc::<Orders>::default();
        let (leaving, left) = watch::channel(false);
        let state = Arc::default();
        let mut member = Member::new(config.settings.clone(), rand::random(), share.clone());
        member.hears_on(config.words.len());
        let member = Arc::new(Mutex::new(member));
        let talk = |(way, words): (usize, &Arc<dyn Words>)| Talk {
            way,
            member: Arc::clone(&member),
            words: Arc::clone(words),
            beat: config.settings.beat(),
            patience: patience(&config.settings),
            clock: Arc::clone(&config.clock),
            share: share.clone(),
            metrics: config.metrics.clone(),
        };
        let mut tasks: Vec<_> =
            config.words.iter().enumerate().map(|words| tokio::spawn(talk(words).run())).collect();
        let run = Run {
            member,
            config,
            share: share.clone(),
            orders: Arc::clone(&orders),
            state: Arc::clone(&state),
            told: Told::default(),
        };
        tasks.push(tokio::spawn(run.run(leaving)));
        Pair { orders, left, state, tasks, share }
    }

    /// The targets are discovered: it may take its share.
    pub fn ready(&self) {
        self.orders.given.lock().ready = true;
        self.orders.wake.notify_one();
    }

    /// Gives away what it has, and waits until that is no longer its. Scraping goes on meanwhile. Then nothing is
    /// its any more but what has begun. False when there was nobody to take it.
    pub async fn leave(&self) -> bool {
        self.orders.given.lock().leave = true;
        self.orders.wake.notify_one();
        let mut left = self.left.clone();
        // An error: the task has ended.
        let _ = timeout(LEAVE_PATIENCE, left.wait_for(|left| *left)).await;
        self.share.has_successor()
    }

    /// All members that have a lease, this one first; nobody while this one has none.
    pub fn members(&self) -> Vec<MemberState> {
        self.state.lock().clone()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.share.close();
    }
}

/// What the log has been told.
#[derive(Debug, Default)]
struct Told {
    members: Vec<String>,
    lapses: u64,
    failing: bool,
    keeps: bool,
    rival: bool,
    otherwise: Vec<String>,
}

struct Run {
    member: Arc<Mutex<Member>>,
    config: PairConfig,
    share: Share,
    orders: Arc<Orders>,
    state: Arc<Mutex<Vec<MemberState>>>,
    told: Told,
}

impl Run {
    async fn run(mut self, left: watch::Sender<bool>) {
        let beat = self.config.settings.beat();
        loop {
            self.turn().await;
            let given = *self.orders.given.lock();
            if given.leave && self.member.lock().has_left(self.now()) {
                self.end().await;
                left.send_replace(true);
                return;
            }
            tokio::select! {
                () = sleep(beat) => {}
                () = self.orders.wake.notified() => {}
            }
        }
    }

    /// Looks, writes when there is something to be written, and looks again before it acts on it.
    async fn turn(&mut self) {
        let given = *self.orders.given.lock();
        if given.ready {
            self.member.lock().ready();
        }
        if given.leave {
            self.member.lock().leave();
        }
        let read = self.read().await;
        if read.is_err() && self.member.lock().keeps_share(self.now()) {
            // A place that does not answer must not take the time for the next look.
            return self.tell(read);
        }
        let mut wrote = Ok(());
        for _ in 0..3 {
            let before = self.member.lock().lease().map(|(lease, _)| lease.views.clone());
            let Some(write) = self.member.lock().beat(self.now()) else { break };
            wrote = self.write(write).await;
            if wrote.is_err() || self.member.lock().lease().map(|(lease, _)| &lease.views) == before.as_ref()
            {
                break;
            }
            self.config.metrics.view_changes.inc();
            if self.read().await.is_err() {
                break;
            }
        }
        self.tell(read.and(wrote));
    }

    /// Leaves the lease's place as if it had never been there.
    async fn end(&mut self) {
        let own = self.member.lock().lease().map(|(lease, version)| (lease.member.clone(), version.clone()));
        if let Some((member, version)) = own {
            let removed = timeout(self.patience(), self.config.leases.remove(member, version)).await;
            if let Err(error) = removed.unwrap_or_else(|_| Err(late())) {
                tracing::warn!("remove the own lease: {error}; others wait until it runs out");
            }
        }
        self.config.metrics.members.set(0);
        self.state.lock().clear();
    }

    async fn read(&mut self) -> Result<(), LeaseError> {
        let began = self.now();
        let found = self.within(began, self.config.leases.list()).await;
        match found {
            Ok(found) => self.member.lock().read(began, self.now(), found),
            Err(error) => {
                self.config.metrics.read_failures.inc();
                self.member.lock().missed(began);
                return Err(error);
            }
        }
        let litter = self.member.lock().litter(self.now());
        for held in litter {
            // Whoever comes first.
            let _ =
                timeout(self.patience(), self.config.leases.remove(held.lease.member, held.version)).await;
        }
        Ok(())
    }

    async fn write(&mut self, write: crate::member::Write) -> Result<(), LeaseError> {
        let put = self.config.leases.put(write.lease, write.over);
        let outcome = self.within(self.now(), put).await;
        let outcome = outcome.inspect_err(|_| _ = self.config.metrics.write_failures.inc());
        self.member.lock().wrote(self.now(), outcome.as_ref().map(Clone::clone));
        if outcome.is_ok() {
            self.config.metrics.renewals.inc();
        }
        outcome.map(drop)
    }

    /// What takes long may be given up too late to hear of the others: the member knows before.
    async fn within<T>(
        &self,
        began: Now,
        job: BoxFuture<'_, Result<T, LeaseError>>,
    ) -> Result<T, LeaseError> {
        let mut job = std::pin::pin!(timeout(self.patience(), job));
        let done = match timeout(self.config.settings.duration / 8, &mut job).await {
            Ok(done) => done,
            Err(_) => {
                self.member.lock().missed(began);
                job.await
            }
        };
        done.unwrap_or_else(|_| Err(late()))
    }

    fn patience(&self) -> Duration {
        patience(&self.config.settings)
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.config.clock.now_ms(), mono: self.share.elapsed() }
    }

    /// Tells pages, metrics and the log what has changed.
    fn tell(&mut self, outcome: Result<(), LeaseError>) {
        let member = self.member.lock();
        let own = member.lease().map(|(lease, _)| lease.clone());
        let name = &self.config.settings.name;
        let (metrics, told) = (&self.config.metrics, &mut self.told);
        let members = own.as_ref().and_then(|own| own.views.last()).map(|view| view.members.clone());
        let members = members.unwrap_or_default();
        metrics.members.set(i64::try_from(members.len()).unwrap_or(i64::MAX));
        let now = Now { wall_ms: self.config.clock.now_ms(), mono: self.share.elapsed() };
        metrics.away.set(member.away(now).as_secs_f64());
        let keeps = member.keeps_share(now);
        metrics.keeps_share.set(i64::from(keeps));
        if keeps != told.keeps {
            told.keeps = keeps;
            if keeps {
                tracing::warn!(
                    member = name,
                    for_at_most = ?self.config.settings.keep,
                    "the leases cannot be read: this agent goes on with the targets it had, and takes over none; the others know it"
                );
            } else {
                tracing::warn!(member = name, "this agent does not go on without leases any more");
            }
        }
        metrics.clock_ahead.set(member.ahead_ms() as f64 / 1000.0);
        if member.lapses() > told.lapses {
            metrics.lapses.inc_by(member.lapses() - told.lapses);
            told.lapses = member.lapses();
            tracing::warn!(
                member = name,
                "the lease of this agent ran out: it scrapes nothing until it has a new one"
            );
        }
        if members != told.members {
            tracing::info!(member = name, members = members.join(" "), "agents that share the targets");
            told.members = members;
        }
        match outcome {
            Err(error) if !told.failing => {
                told.failing = true;
                tracing::warn!(member = name, "renew the lease: {error}");
            }
            Ok(()) if told.failing => {
                told.failing = false;
                tracing::info!(member = name, "the lease is renewed again");
            }
            _ => {}
        }
        if member.rival().is_some() != told.rival {
            told.rival = !told.rival;
            if told.rival {
                tracing::error!(
                    member = name,
                    "another agent has taken the lease of this name: this one scrapes nothing while that one renews it; each \
                     agent needs a name of its own"
                );
            }
        }
        let mut state: Vec<MemberState> = own.iter().map(|own| state(own, false, own)).collect();
        if let Some(own) = &own {
            state.extend(member.others().map(|(lease, gone)| self::state(lease, gone, own)));
        }
        let differs = |state: &&MemberState| state.is_set_up_otherwise && state.standing != "gone";
        let otherwise: Vec<String> = state.iter().filter(differs).map(|state| state.member.clone()).collect();
        if otherwise != told.otherwise {
            if !otherwise.is_empty() {
                tracing::warn!(
                    members = otherwise.join(" "),
                    "agents that share the targets are configured otherwise: what only one of them knows may not be scraped"
                );
            }
            told.otherwise = otherwise;
        }
        *self.state.lock() = state;
    }
}

fn state(lease: &crate::lease::Lease, gone: bool, own: &crate::lease::Lease) -> MemberState {
    MemberState {
        member: lease.member.clone(),
        standing: match lease.standing {
            _ if gone => "gone",
            Standing::Waiting => "waiting",
            Standing::Serving => "serving",
            Standing::Leaving => "leaving",
        },
        renewed_ms: lease.renewed_ms,
        is_set_up_otherwise: lease.setup != own.setup,
    }
}

/// Tells and hears words on one way.
struct Talk {
    /// Which way, counted from 0.
    way: usize,
    member: Arc<Mutex<Member>>,
    words: Arc<dyn Words>,
    beat: Duration,
    patience: Duration,
    clock: Arc<dyn Clock>,
    share: Share,
    metrics: Metrics,
}

impl Talk {
    async fn run(self) {
        loop {
            sleep(self.beat).await;
            let Some(word) = self.member.lock().word(self.now()) else { continue };
            let (mark, member) = (word.mark, word.member.clone());
            let outcome = timeout(self.patience, self.words.exchange(word)).await;
            match outcome.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(words) => {
                    let now = self.now();
                    self.member.lock().hear(now, self.way, mark, words);
                }
                Err(error) => {
                    self.metrics.word_failures.inc();
                    tracing::debug!(member, "tell the others a word: {error}");
                }
            }
        }
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.clock.now_ms(), mono: self.share.elapsed() }
    }
}

/// How long a read, a write or a word may take.
fn patience(settings: &Settings) -> Duration {
    // Two looks have to fit into the time for which it goes on after one.
    if settings.keep.is_zero() { settings.duration / 2 } else { settings.duration / 4 }
}

fn late() -> LeaseError {
    LeaseError::Unavailable("no answer in time".to_owned())
}
