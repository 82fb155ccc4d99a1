//! Who polls, who waits for whom.
//!
//! A client is known by door and name. Its poll and a scrape meet here: whichever comes second finds the
//! other one. A scrape that finds no poll held waits in line, since a client polls again as soon as it
//! has taken a request; a poll that finds nobody is held until a scrape comes, a newer poll takes its
//! place, it has been held for long, or the client has gone. Each scrape has an id that cannot be
//! guessed, and only its own door can push the answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response, Uri};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::DoorId;
use crate::Body;

/// Scrapes that wait for one client's next poll; more are refused.
const WAITING_MAX: usize = 64;
/// How often clients that have gone are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// A client: its door, and its name in lower case.
pub(crate) type ClientKey = (Arc<DoorId>, String);

/// A scrape on its way to a client.
#[derive(Debug)]
pub(crate) struct Job {
    /// Names it in the push.
    pub(crate) id: String,
    /// When nobody waits for it any longer.
    pub(crate) deadline: Instant,
    /// What is asked for.
    pub(crate) uri: Uri,
    /// The headers to send along, id included.
    pub(crate) headers: HeaderMap,
}

#[derive(Debug)]
struct Client {
    /// As it spells itself.
    name: Arc<str>,
    poll: Option<HeldPoll>,
    waiting: VecDeque<Job>,
    /// When the last poll began or ended.
    seen: Instant,
}

#[derive(Debug)]
struct HeldPoll {
    number: u64,
    hand: oneshot::Sender<Job>,
}

/// A scrape that waits for its answer.
struct Pending {
    door: Arc<DoorId>,
    answer: oneshot::Sender<Response<Body>>,
}

#[derive(Default)]
struct State {
    clients: HashMap<ClientKey, Client>,
    pending: HashMap<String, Pending>,
    polls: u64,
    swept: Option<Instant>,
}

/// All clients of all doors.
pub(crate) struct Registry {
    state: Mutex<State>,
    registration_timeout: Duration,
    clients_max: usize,
}

/// Why a scrape cannot be handed over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotHanded {
    /// Nobody polls under this name.
    Unknown,
    /// Too many scrapes wait for it.
    Full,
}

impl Registry {
    pub(crate) fn new(registration_timeout: Duration, clients_max: usize) -> Registry {
        Registry { state: Mutex::default(), registration_timeout, clients_max }
    }

    /// A poll begins. Gives the scrape that waits, or what to wait for one with; `None` when there are
    /// too many clients.
    pub(crate) fn poll(self: &Arc<Self>, key: ClientKey, name: &str) -> Option<Poll> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let state = &mut *state;
        self.sweep(state, now);
        if !state.clients.contains_key(&key) && state.clients.len() >= self.clients_max {
            return None;
        }
        let client = state.clients.entry(key.clone()).or_insert_with(|| Client {
            name: name.into(),
            poll: None,
            waiting: VecDeque::new(),
            seen: now,
        });
        client.seen = now;
        if *client.name != *name {
            client.name = name.into();
        }
        while let Some(job) = client.waiting.pop_front() {
            if job.deadline > now {
                return Some(Poll::Job(job));
            }
        }
        state.polls += 1;
        let (hand, job) = oneshot::channel();
        // The poll before this one, if any, finds its sender gone.
        client.poll = Some(HeldPoll { number: state.polls, hand });
        Some(Poll::Wait(Waiting { registry: Arc::clone(self), key, number: state.polls, job }))
    }

    /// Hands a scrape to its client, or puts it in line. The answer comes through [`Answer`].
    pub(crate) fn hand(self: &Arc<Self>, key: &ClientKey, job: Job) -> Result<Answer, NotHanded> {
        let mut state = self.state.lock();
        let state = &mut *state;
        self.sweep(state, Instant::now());
        let client = state.clients.get_mut(key).ok_or(NotHanded::Unknown)?;
        let id = job.id.clone();
        let job = match client.poll.take() {
            // A poll whose client is just going gives it back.
            Some(poll) => poll.hand.send(job).err(),
            None => Some(job),
        };
        if let Some(job) = job {
            let now = Instant::now();
            client.waiting.retain(|waiting| waiting.deadline > now);
            if client.waiting.len() >= WAITING_MAX {
                return Err(NotHanded::Full);
            }
            client.waiting.push_back(job);
        }
        let (answer, answered) = oneshot::channel();
        state.pending.insert(id.clone(), Pending { door: Arc::clone(&key.0), answer });
        Ok(Answer { registry: Arc::clone(self), key: key.clone(), id, answered })
    }

    /// Who waits for the answer to scrape `id`, pushed through `door`.
    pub(crate) fn take_pending(&self, door: &DoorId, id: &str) -> Option<oneshot::Sender<Response<Body>>> {
        let mut state = self.state.lock();
        if *state.pending.get(id)?.door != *door {
            return None;
        }
        state.pending.remove(id).map(|pending| pending.answer)
    }

    /// The clients that poll or have just done so: door and name as the client spells it, in order.
    pub(crate) fn clients(&self, of: impl Fn(&DoorId) -> bool) -> Vec<(Arc<DoorId>, Arc<str>)> {
        let mut state = self.state.lock();
        self.sweep_now(&mut state, Instant::now());
        let clients = state.clients.iter().filter(|((door, _), _)| of(door));
        let mut found: Vec<_> =
            clients.map(|((door, _), client)| (Arc::clone(door), Arc::clone(&client.name))).collect();
        found.sort();
        found
    }

    /// The doors at which a client of this name (in lower case) is known.
    pub(crate) fn doors_of(&self, doors: &[Arc<DoorId>], name: &str) -> Vec<Arc<DoorId>> {
        let mut state = self.state.lock();
        self.sweep(&mut state, Instant::now());
        let known = |door: &&Arc<DoorId>| state.clients.contains_key(&(Arc::clone(door), name.to_owned()));
        doors.iter().filter(known).map(Arc::clone).collect()
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().clients.len()
    }

    /// Forgets the clients of doors that are no more; their polls end.
    pub(crate) fn keep_doors(&self, keep: impl Fn(&DoorId) -> bool) {
        self.state.lock().clients.retain(|(door, _), _| keep(door));
    }

    /// Lets all polls end.
    pub(crate) fn clear(&self) {
        self.state.lock().clients.clear();
    }

    fn sweep(&self, state: &mut State, now: Instant) {
        if state.swept.is_none_or(|at| now.duration_since(at) >= SWEEP) {
            self.sweep_now(state, now);
        }
    }

    fn sweep_now(&self, state: &mut State, now: Instant) {
        state.swept = Some(now);
        state.clients.retain(|_, client| {
            client.poll.is_some() || now.duration_since(client.seen) < self.registration_timeout
        });
    }
}

/// What a poll finds.
pub(crate) enum Poll {
    /// A scrape that waited.
    Job(Job),
    /// Nothing yet.
    Wait(Waiting),
}

/// A held poll. Dropped, it is taken off the client; a scrape that it had just been handed goes back to
/// the head of the line.
pub(crate) struct Waiting {
    registry: Arc<Registry>,
    key: ClientKey,
    number: u64,
    job: oneshot::Receiver<Job>,
}

impl Waiting {
    /// The scrape; `None` when another poll has taken this one's place or the client was let go.
    pub(crate) async fn job(&mut self) -> Option<Job> {
        (&mut self.job).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.job.close();
        let unread = self.job.try_recv().ok();
        let mut state = self.registry.state.lock();
        let Some(client) = state.clients.get_mut(&self.key) else { return };
        if client.poll.as_ref().is_some_and(|poll| poll.number == self.number) {
            client.poll = None;
        }
        client.seen = Instant::now();
        let Some(job) = unread else { return };
        // Somebody newer may hold a poll already.
        let back = match client.poll.take() {
            Some(poll) => poll.hand.send(job).err(),
            None => Some(job),
        };
        if let Some(job) = back {
            client.waiting.push_front(job);
        }
    }
}

/// The answer to a scrape. Dropped, nobody waits for it any longer.
pub(crate) struct Answer {
    registry: Arc<Registry>,
    key: ClientKey,
    id: String,
    answered: oneshot::Receiver<Response<Body>>,
}

impl Answer {
    /// The answer; `None` when the one who pushed it broke off before its head was read.
    pub(crate) async fn wait(&mut self) -> Option<Response<Body>> {
        (&mut self.answered).await.ok()
    }

    /// Whether the scrape still waits for a poll.
    pub(crate) fn is_in_line(&self) -> bool {
        let state = self.registry.state.lock();
        let client = state.clients.get(&self.key);
        client.is_some_and(|client| client.waiting.iter().any(|job| job.id == self.id))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        state.pending.remove(&self.id);
        if let Some(client) = state.clients.get_mut(&self.key) {
            client.waiting.retain(|job| job.id != self.id);
        }
    }
}
