//! Under which name a queue was filled: who tells of rows that never come must not tell of anybody else's.
//!
//! A name that rows carry proves nothing: whoever holds a queue can write it. What proves it is a certificate.
//! So the hub remembers, of each *life* of a queue (one opening of it), the name that the certificate of the agent said which
//! said hello as the one writing it. Only who has been an agent of that name, or holds its volume, knows the two random
//! ids, and the first name stays.
//!
//! Two that use one queue under two names are a volume and its copy. While the first is heard of, what the second tells of it
//! is not true: the rows may come yet.
//!
//! Bytes: `docs/formats/ship.md`, "Names of queues".

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::TenantId;
use parking_lot::Mutex;
use stdx::bytes::{Cursor, Malformed, put_text, put_varint};
use stdx::disk::{Disk, replace_private};

use crate::ship::Peer;

const MAGIC: [u8; 8] = *b"MGRQNAME";
const VERSION: [u8; 2] = [1, 0];
const SUFFIX: &str = ".names";
/// Lives that are remembered of a name; the oldest are forgotten first.
const LIVES_MAX: usize = 1024;
/// Two names use the queue.
const SHARED: u8 = 1;

/// Whose a life of a queue is, as far as the hub can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// No certificate has ever been shown for it here.
    Unknown,
    /// That cluster's, and nobody is left to bring its rows.
    Of(String),
    /// That of a cluster whose agent was heard of after another had begun to use the queue: this is a copy.
    Living(String),
}

/// What is known of all queues.
#[derive(Debug)]
pub(super) struct Names {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    known: Mutex<Known>,
    /// Held while a file is written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    queues: HashMap<(TenantId, u128), Vec<Life>>,
    /// The lives of each name, the oldest first: queue and incarnation.
    of: HashMap<Peer, VecDeque<(u128, u128)>>,
    /// Names whose file does not say what is known.
    unsaved: BTreeSet<Peer>,
    next_order: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    incarnation: u128,
    cluster: String,
    /// Grows from life to life.
    order: u64,
    /// Its agent was heard of after another name had begun to use the queue.
    shared: bool,
}

impl Names {
    /// What the files below `dir` say. One that is damaged is told of, and counts as if it were not there.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Names {
        let mut known = Known::default();
        for path in disk.read_dir(&dir).unwrap_or_default() {
            if !path.to_string_lossy().ends_with(SUFFIX) {
                continue;
            }
            let read = disk.read(&path).map_err(|error| error.to_string());
            match read.and_then(|bytes| decode(&bytes).map_err(|problem| problem.to_string())) {
                Ok((peer, lives)) => lives.into_iter().for_each(|(queue_id, life)| {
                    known.add(&peer, queue_id, life);
                }),
                Err(problem) => tracing::warn!(
                    file = %path.display(), problem, "names of queues cannot be read: lost rows of before stay unknown"
                ),
            }
        }
        Names { disk, dir, known: Mutex::new(known), writing: Mutex::default() }
    }

    /// The peer, by its certificate, writes this life of a queue; durable when this returns.
    ///
    /// # Errors
    /// It could not be written down.
    pub(super) fn certify(&self, peer: &Peer, queue_id: u128, incarnation: u128) -> io::Result<()> {
        let mut known = self.known.lock();
        if known.cluster_of(&peer.tenant, queue_id, incarnation).is_none() {
            let order = known.next_order;
            let life = Life { incarnation, cluster: peer.cluster.clone(), order, shared: false };
            known.add(peer, queue_id, life);
            known.unsaved.insert(peer.clone());
        }
        known.hear(peer, queue_id);
        let is_saved = !known.unsaved.contains(peer);
        drop(known);
        if is_saved { Ok(()) } else { self.save(peer) }
    }

    /// The peer has sent something of a queue that it uses.
    pub(super) fn hear(&self, peer: &Peer, queue_id: u128) {
        if self.known.lock().hear(peer, queue_id)
            && let Err(error) = self.save(peer)
        {
            // It is known all the same, and written with the next hello.
            tracing::warn!(cluster = peer.cluster, %error, "write down that a queue is used twice");
        }
    }

    /// Whose rows a life of a queue holds.
    pub(super) fn whose(&self, tenant: &TenantId, queue_id: u128, incarnation: u128) -> Whose {
        let known = self.known.lock();
        let lives = known.queues.get(&(tenant.clone(), queue_id)).map(Vec::as_slice).unwrap_or_default();
        match lives.iter().find(|life| life.incarnation == incarnation) {
            None => Whose::Unknown,
            Some(life) if life.shared => Whose::Living(life.cluster.clone()),
            Some(life) => Whose::Of(life.cluster.clone()),
        }
    }

    fn save(&self, peer: &Peer) -> io::Result<()> {
        let _writing = self.writing.lock();
        let bytes = {
            let mut known = self.known.lock();
            known.unsaved.remove(peer);
            known.encode(peer)
        };
        let saved = self
            .disk
            .create_dir_all(&self.dir)
            .and_then(|()| replace_private(&*self.disk, &self.path(peer), &bytes))
            .and_then(|()| self.disk.sync_dir(self.dir.parent().unwrap_or(Path::new("."))));
        if saved.is_err() {
            self.known.lock().unsaved.insert(peer.clone());
        }
        saved
    }

    fn path(&self, peer: &Peer) -> PathBuf {
        let name = [peer.tenant.as_str(), &peer.cluster].join("\0");
        self.dir.join(format!("{:032x}{SUFFIX}", xxhash_rust::xxh3::xxh3_128(name.as_bytes())))
    }
}

impl Known {
    fn cluster_of(&self, tenant: &TenantId, queue_id: u128, incarnation: u128) -> Option<&str> {
        let lives = self.queues.get(&(tenant.clone(), queue_id))?;
        lives.iter().find(|life| life.incarnation == incarnation).map(|life| life.cluster.as_str())
    }

    fn add(&mut self, peer: &Peer, queue_id: u128, life: Life) {
        self.next_order = self.next_order.max(life.order.saturating_add(1));
        let of = self.of.entry(peer.clone()).or_default();
        of.push_back((queue_id, life.incarnation));
        let oldest = if of.len() > LIVES_MAX { of.pop_front() } else { None };
        self.queues.entry((peer.tenant.clone(), queue_id)).or_default().push(life);
        if let Some((queue_id, incarnation)) = oldest {
            let queue = (peer.tenant.clone(), queue_id);
            if let Some(lives) = self.queues.get_mut(&queue) {
                lives.retain(|life| life.incarnation != incarnation);
                if lives.is_empty() {
                    self.queues.remove(&queue);
                }
            }
        }
    }

    /// Whether something new is known: a name speaks of a queue that another has begun to use since.
    fn hear(&mut self, peer: &Peer, queue_id: u128) -> bool {
        let Some(lives) = self.queues.get_mut(&(peer.tenant.clone(), queue_id)) else { return false };
        let of_others = lives.iter().filter(|life| life.cluster != peer.cluster);
        let Some(last_other) = of_others.map(|life| life.order).max() else { return false };
        let is_own = |life: &&mut Life| life.cluster == peer.cluster;
        let passed = |life: &&mut Life| life.order < last_other && !life.shared;
        let mut found = false;
        for life in lives.iter_mut().filter(is_own).filter(passed) {
            life.shared = true;
            found = true;
        }
        if found {
            self.unsaved.insert(peer.clone());
        }
        found
    }

    fn encode(&self, peer: &Peer) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION);
        for text in [peer.tenant.as_str(), &peer.cluster] {
            put_text(&mut out, text);
        }
        let of = self.of.get(peer);
        let lives = of.into_iter().flatten().filter_map(|(queue_id, incarnation)| {
            let lives = self.queues.get(&(peer.tenant.clone(), *queue_id))?;
            Some((queue_id, lives.iter().find(|life| life.incarnation == *incarnation)?))
        });
        for (queue_id, life) in lives {
            out.extend_from_slice(&queue_id.to_le_bytes());
            out.extend_from_slice(&life.incarnation.to_le_bytes());
            out.push(if life.shared { SHARED } else { 0 });
            put_varint(&mut out, life.order);
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("the checksum is wrong")]
    Checksum,
    #[error("it is of a later version")]
    Version,
    #[error("it is no file of names")]
    Kind,
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

fn decode(bytes: &[u8]) -> Result<(Peer, Vec<(u128, Life)>), Damage> {
    let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(Damage::Kind)?;
    let rest = content.strip_prefix(&MAGIC).ok_or(Damage::Kind)?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(Damage::Kind)?;
    if version[0] != VERSION[0] {
        return Err(Damage::Version);
    }
    let mut cursor = Cursor::new(rest);
    let tenant = TenantId::new(cursor.text()?).map_err(|_| Malformed("the tenant's name is not valid"))?;
    let cluster = cursor.text()?.to_owned();
    let mut lives = Vec::new();
    while !cursor.is_empty() {
        if lives.len() == LIVES_MAX {
            return Err(Malformed("too many lives").into());
        }
        let queue_id = cursor.u128_le()?;
        let incarnation = cursor.u128_le()?;
        let shared = cursor.byte()? & SHARED != 0;
        let order = cursor.varint()?;
        lives.push((queue_id, Life { incarnation, cluster: cluster.clone(), order, shared }));
    }
    Ok((Peer { tenant, cluster }, lives))
}

/// For fuzzing: a file of any content is refused or means what it says.
#[doc(hidden)]
pub fn fuzz_names(bytes: &[u8]) {
    let Ok((peer, lives)) = decode(bytes) else { return };
    let mut known = Known::default();
    lives.into_iter().for_each(|(queue_id, life)| known.add(&peer, queue_id, life));
    let again = decode(&known.encode(&peer)).expect("our own");
    assert_eq!(again.0, peer);
}

#[cfg(test)]
mod tests;
