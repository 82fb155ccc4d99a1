//! What the records of a journal add up to, and in which order it changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use aws_lc_rs::constant_time;

use super::REMEMBERED_MS;
use crate::journal::Journal;
use crate::records::Record;
use crate::{AgentRecord, HubRecord, JournalError, Revocation, TokenKind, TokenRecord};

/// The journal, and what it adds up to.
#[derive(Debug)]
pub(super) struct State {
    pub(super) journal: Journal,
    pub(super) known: Known,
    /// The revision at which each thing that is known last changed, and the other way round.
    revisions: HashMap<Key, u64>,
    changes: BTreeMap<u64, Key>,
}

/// A thing that changes as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Token(String),
    /// Of a token, for the hash of a key.
    Used(String, String),
    TokenRevoked(String),
    Agent(String),
    Revoked(Revocation),
    Hub(String),
}

impl Key {
    fn of(record: &Record) -> Key {
        match record {
            Record::Token(token) => Key::Token(token.id.clone()),
            Record::TokenUsed { id, key, .. } => Key::Used(id.clone(), key.clone()),
            Record::TokenRevoked { id, .. } => Key::TokenRevoked(id.clone()),
            Record::Agent(agent) => Key::Agent(agent.agent_id.clone()),
            Record::Revoked(revocation) => Key::Revoked(revocation.clone()),
            Record::Hub(hub) => Key::Hub(hub.hub_id.clone()),
        }
    }
}

impl State {
    /// Everything has changed once, tokens before what refers to them.
    pub(super) fn new(journal: Journal, known: Known) -> State {
        let mut state = State { journal, known, revisions: HashMap::new(), changes: BTreeMap::new() };
        for record in state.known.records() {
            state.touch(Key::of(&record));
        }
        state
    }

    /// The newest change; 0 when there was none.
    pub(super) fn revision(&self) -> u64 {
        self.changes.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    /// What has changed after `revision`, in order, each thing once, as it is now.
    pub(super) fn since(&self, revision: u64) -> impl Iterator<Item = (u64, Record)> {
        let later = self.changes.range(revision.saturating_add(1)..);
        later.filter_map(|(revision, key)| Some((*revision, self.known.record(key)?)))
    }

    /// Writes a record down, then acts on it.
    pub(super) fn record(&mut self, record: Record) -> Result<(), JournalError> {
        self.journal.append(&record)?;
        self.apply(record);
        Ok(())
    }

    /// Acts on a record that is on the disk, or will be.
    pub(super) fn apply(&mut self, record: Record) {
        self.touch(Key::of(&record));
        self.known.apply(record);
    }

    /// Writes a record down that is for nobody else.
    pub(super) fn record_untold(&mut self, record: Record) -> Result<(), JournalError> {
        self.journal.append(&record)?;
        self.known.apply(record);
        Ok(())
    }

    /// Forgets tokens that have been worth nothing for long.
    pub(super) fn forget(&mut self, now_ms: i64) {
        self.known.forget(now_ms);
        let tokens = &self.known.tokens;
        self.revisions.retain(|key, _| match key {
            Key::Token(id) | Key::Used(id, _) | Key::TokenRevoked(id) => tokens.contains_key(id),
            Key::Agent(_) | Key::Revoked(_) | Key::Hub(_) => true,
        });
        let (newest, revisions) = (self.revision(), &self.revisions);
        // The newest revision stays, so that none is given twice.
        self.changes.retain(|revision, key| *revision == newest || revisions.contains_key(key));
    }

    fn touch(&mut self, key: Key) {
        let revision = self.revision() + 1;
        if let Some(before) = self.revisions.insert(key.clone(), revision) {
            self.changes.remove(&before);
        }
        self.changes.insert(revision, key);
    }
}

/// What the records add up to.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tokens: HashMap<String, TokenRecord>,
    /// (token, hash of the key) → the id it got, and when.
    pub(super) redeemed: BTreeMap<(String, String), (String, i64)>,
    pub(super) agents: BTreeMap<String, AgentRecord>,
    pub(super) revocations: BTreeSet<Revocation>,
    pub(super) revoked_agents: HashSet<String>,
    pub(super) revoked_serials: HashSet<(String, String)>,
    pub(super) hubs: BTreeMap<String, HubRecord>,
}

impl Known {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Token(mut token) => {
                token.uses = u32::try_from(self.uses(&token.id).count()).unwrap_or(u32::MAX);
                self.tokens.insert(token.id.clone(), token);
            }
            Record::TokenUsed { id, key, agent_id, at_ms } => {
                let news = self.redeemed.insert((id.clone(), key), (agent_id, at_ms)).is_none();
                if let Some(token) = self.tokens.get_mut(&id).filter(|_| news) {
                    token.uses += 1;
                }
            }
            Record::TokenRevoked { id, at_ms, author } => {
                if let Some(token) = self.tokens.get_mut(&id)
                    && token.revoked_ms.is_none_or(|before| at_ms < before)
                {
                    token.revoked_ms = Some(at_ms);
                    token.revoked_by = author;
                }
            }
            Record::Agent(agent) => {
                self.agents.insert(agent.agent_id.clone(), agent);
            }
            Record::Revoked(revocation) => {
                match &revocation.serial {
                    Some(serial) => {
                        self.revoked_serials.insert((revocation.agent_id.clone(), serial.clone()));
                    }
                    None => {
                        self.revoked_agents.insert(revocation.agent_id.clone());
                    }
                }
                self.revocations.insert(revocation);
            }
            Record::Hub(hub) => {
                self.hubs.insert(hub.hub_id.clone(), hub);
            }
        }
    }

    /// Who a token was redeemed by.
    pub(super) fn uses<'a>(&'a self, token: &'a str) -> impl Iterator<Item = &'a str> {
        let from = (token.to_owned(), String::new());
        let all = self.redeemed.range(from..).take_while(move |((id, _), _)| id == token);
        all.map(|(_, (agent_id, _))| agent_id.as_str())
    }

    /// Forgets tokens that have been worth nothing for long. Revocations and agents stay.
    pub(super) fn forget(&mut self, now_ms: i64) {
        self.tokens.retain(|_, token| !is_worthless(token, now_ms));
        let tokens = &self.tokens;
        self.redeemed.retain(|(token, _), _| tokens.contains_key(token));
    }

    /// The records that lead to this state.
    pub(super) fn records(&self) -> Vec<Record> {
        let tokens =
            self.tokens.values().map(|token| Record::Token(TokenRecord { uses: 0, ..token.clone() }));
        let used = self.redeemed.iter().map(|((id, key), (agent_id, at_ms))| Record::TokenUsed {
            id: id.clone(),
            key: key.clone(),
            agent_id: agent_id.clone(),
            at_ms: *at_ms,
        });
        let agents = self.agents.values().cloned().map(Record::Agent);
        let revoked = self.revocations.iter().cloned().map(Record::Revoked);
        let hubs = self.hubs.values().cloned().map(Record::Hub);
        tokens.chain(used).chain(agents).chain(revoked).chain(hubs).collect()
    }

    /// A thing as it is now; `None` once it is forgotten.
    fn record(&self, key: &Key) -> Option<Record> {
        Some(match key {
            Key::Token(id) => Record::Token(TokenRecord { uses: 0, ..self.tokens.get(id)?.clone() }),
            Key::Used(id, hash) => {
                let (agent_id, at_ms) = self.redeemed.get(&(id.clone(), hash.clone()))?.clone();
                Record::TokenUsed { id: id.clone(), key: hash.clone(), agent_id, at_ms }
            }
            Key::TokenRevoked(id) => {
                let token = self.tokens.get(id)?;
                let (at_ms, author) = (token.revoked_ms?, token.revoked_by.clone());
                Record::TokenRevoked { id: id.clone(), at_ms, author }
            }
            Key::Agent(id) => Record::Agent(self.agents.get(id)?.clone()),
            Key::Revoked(revocation) => Record::Revoked(revocation.clone()),
            Key::Hub(id) => Record::Hub(self.hubs.get(id)?.clone()),
        })
    }

    /// The record of a token whose secret is right. Takes as long for an id that is not known.
    pub(super) fn proven(&self, kind: TokenKind, id: &str, digest: &str) -> Option<&TokenRecord> {
        let record = self.tokens.get(id).filter(|record| record.kind == kind);
        let nobody = "0".repeat(64);
        let expected = record.map_or(nobody.as_str(), |record| record.digest.as_str());
        let same = constant_time::verify_slices_are_equal(expected.as_bytes(), digest.as_bytes());
        record.filter(|_| same.is_ok())
    }
}

/// Whether a token has been worth nothing for so long that it is forgotten.
pub(super) fn is_worthless(token: &TokenRecord, now_ms: i64) -> bool {
    let end = [token.expires_ms, token.revoked_ms].into_iter().flatten().min();
    end.is_some_and(|end| now_ms.saturating_sub(end) > REMEMBERED_MS)
}
