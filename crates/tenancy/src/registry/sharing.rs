//! What hubs tell each other: pages of records, claims on tokens, and how records of several hubs add up.
//!
//! Every thing in the registry has the revision at which it last changed. A hub asks another for what came
//! after the revision it has, and merges that; records merge the same in whatever order and however often they
//! come (tokens and revocations are unions, of agents and hubs the newest record counts), so hubs that hear of each
//! other at all end up alike, and nothing that was revoked comes back. What is learned is told on, so not every
//! hub must reach every other. Revisions are counted from the start of the process, under a random epoch:
//! after a restart, or a restore from a backup, everything is told once more.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::known::{State, is_worthless};
use super::{Redeemer, Refusal, Registry, RegistryError, TOKENS_MAX, usable};
use crate::records::Record;
use crate::token::hex;
use crate::{AgentRecord, HubRecord, Token, TokenKind, TokenRecord};

/// So many records are appended one by one; more of them, by writing the journal anew.
const APPENDED_MAX: usize = 16;
/// Longest text of a record that another hub sends, bytes: ids, names, addresses.
const TEXT_BYTES_MAX: usize = 1024;

/// What has changed at a hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Revisions are counted within it; when it is another than before, all is told from the start.
    pub epoch: u64,
    /// Where the next page starts.
    pub revision: u64,
    /// There is a next page already.
    #[serde(default)]
    pub more: bool,
    /// In an order in which tokens come before their uses.
    pub records: Vec<Record>,
}

/// What a merge brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records that said something new.
    pub news: usize,
    /// Tokens of which it turned out now that they were redeemed more often than they may be.
    pub overdrawn: Vec<Overdrawn>,
}

/// A token that hubs which did not reach each other redeemed more often than it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdrawn {
    /// The token.
    pub id: String,
    /// How often it was to be redeemed at most.
    pub uses_max: u32,
    /// Who has a certificate by it.
    pub agents: Vec<String>,
}

/// A wish of one hub to redeem a token that another made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The token.
    pub id: String,
    /// What it has to be for.
    pub kind: TokenKind,
    /// SHA-256 of its secret, hexadecimal.
    pub digest: String,
    /// SHA-256 of the key, hexadecimal.
    pub key: String,
}

/// Where a token is redeemed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At this hub.
    Here,
    /// At the hub with this id, if it can be asked; else here.
    Home(String, Claim),
    /// This hub has not heard of the token: at the hub that has made it, if there is one.
    Unknown(Claim),
}

impl Registry {
    /// What has changed here after `revision` of `epoch`, about `bytes_max` of it; everything, from the
    /// start, when the epoch is another.
    pub fn since(&self, epoch: u64, revision: u64, bytes_max: usize) -> Page {
        let state = self.state.read();
        let from = if epoch == self.epoch { revision } else { 0 };
        let mut page = Page { epoch: self.epoch, revision: from, ..Page::default() };
        let mut bytes = 0;
        for (revision, record) in state.since(from) {
            let record = self.told(record);
            bytes += serde_json::to_vec(&record).map_or(0, |json| json.len());
            if bytes > bytes_max && !page.records.is_empty() {
                page.more = true;
                return page;
            }
            page.records.push(record);
            page.revision = revision;
        }
        page.revision = page.revision.max(state.revision());
        page
    }

    /// Under which revisions are counted until the registry is opened again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Tells of changes: the newest revision.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes in what another hub knows. Every [`Registry::revocations_changed`] is told.
    ///
    /// # Errors
    /// A record makes no sense, or it cannot be written down; part of it may have been taken in, which does no
    /// harm.
    pub fn merge(&self, records: Vec<Record>) -> Result<Merged, RegistryError> {
        records.iter().try_for_each(check)?;
        let now_ms = self.clock.now_ms();
        let mut state = self.state.write();
        let many = records.len() > APPENDED_MAX;
        let mut merged = Merged::default();
        let mut revoked = false;
        let mut written = Ok(());
        for record in records {
            let Some(news) = news(&state, record, now_ms) else { continue };
            revoked |= matches!(news, Record::Revoked(_));
            let used = match &news {
                Record::TokenUsed { id, .. } => Some(id.clone()),
                _ => None,
            };
            if many {
                state.apply(news);
            } else if let Err(error) = state.record(news) {
                written = Err(error);
                break;
            }
            merged.news += 1;
            let overdrawn = used.and_then(|id| overdrawn(&state, state.known.tokens.get(&id)?));
            merged.overdrawn.extend(overdrawn);
        }
        if many && merged.news > 0 {
            let records = state.known.records();
            written = state.journal.rewrite(&records);
        }
        self.tell(&state);
        drop(state);
        if revoked {
            self.revoked.send_modify(|version| *version += 1);
        }
        written?;
        merged.overdrawn.dedup_by(|later, earlier| {
            let same = later.id == earlier.id;
            if same {
                earlier.agents = std::mem::take(&mut later.agents);
            }
            same
        });
        Ok(merged)
    }

    /// Where a token has to be redeemed.
    ///
    /// # Errors
    /// It cannot be read, or is for something else.
    pub fn place(&self, text: &str, redeemer: Redeemer<'_>) -> Result<Place, Refusal> {
        let token: Token = text.parse()?;
        if token.kind != redeemer.kind {
            return Err(Refusal::Kind(token.kind, redeemer.kind));
        }
        let (id, digest, key) = (token.id(), token.digest(), hex(redeemer.key));
        let state = self.state.read();
        let known = state.known.tokens.get(&id);
        let redeemed = state.known.redeemed.contains_key(&(id.clone(), key.clone()));
        let home = known.map(|token| token.home.clone());
        let claim = Claim { id, kind: token.kind, digest, key };
        Ok(match home {
            None => Place::Unknown(claim),
            Some(home) if home.is_empty() || home == self.hub_id || redeemed => Place::Here,
            Some(home) => Place::Home(home, claim),
        })
    }

    /// Redeems a token of this hub for another; gives what that one has to merge, then it can redeem the token
    /// itself.
    ///
    /// # Errors
    /// Why not. [`Refusal::Unknown`] also when another hub has made it.
    pub fn claim(&self, claim: &Claim) -> Result<Vec<Record>, Refusal> {
        let mut state = self.state.write();
        let record =
            state.known.proven(claim.kind, &claim.id, &claim.digest).ok_or(Refusal::Unknown)?.clone();
        if !record.home.is_empty() && record.home != self.hub_id {
            return Err(Refusal::Unknown);
        }
        let now_ms = self.clock.now_ms();
        usable(&record, now_ms)?;
        if claim.key.len() != 64 {
            return Err(Refusal::Unknown);
        }
        let agent_id = self.use_up(&mut state, &record, claim.key.clone())?;
        let at_ms =
            state.known.redeemed.get(&(claim.id.clone(), claim.key.clone())).map_or(now_ms, |it| it.1);
        let used = Record::TokenUsed { id: claim.id.clone(), key: claim.key.clone(), agent_id, at_ms };
        Ok(vec![self.told(Record::Token(record)), used])
    }

    /// The tokens that were redeemed more often than they may be.
    pub fn overdrawn(&self) -> Vec<Overdrawn> {
        let state = self.state.read();
        state.known.tokens.values().filter_map(|token| overdrawn(&state, token)).collect()
    }

    /// Remembers a hub of the fleet; an older record of it than the one that is known changes nothing.
    ///
    /// # Errors
    /// It makes no sense, or cannot be written down.
    pub fn remember_hub(&self, hub: HubRecord) -> Result<(), RegistryError> {
        self.merge(vec![Record::Hub(hub)]).map(drop)
    }

    /// The hubs of the fleet that have told of themselves, this one among them.
    pub fn hubs(&self) -> Vec<HubRecord> {
        self.state.read().known.hubs.values().cloned().collect()
    }

    /// An agent was seen at this hub.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn seen_here(&self, agent_id: &str) -> Result<(), RegistryError> {
        let known = |state: &State| state.known.agents.get(agent_id).filter(|agent| agent.elsewhere).cloned();
        if known(&self.state.read()).is_none() {
            return Ok(());
        }
        let mut state = self.state.write();
        if let Some(agent) = known(&state) {
            state.record_untold(Record::Agent(AgentRecord { elsewhere: false, ..agent }))?;
        }
        Ok(())
    }

    /// A record as other hubs are to have it.
    fn told(&self, record: Record) -> Record {
        match record {
            Record::Token(token) => {
                let home = if token.home.is_empty() { self.hub_id.clone() } else { token.home.clone() };
                Record::Token(TokenRecord { home, uses: 0, ..token })
            }
            Record::Agent(agent) => Record::Agent(AgentRecord { elsewhere: false, ..agent }),
            other => other,
        }
    }
}

/// What of a record is not known yet, as it is to be written down.
fn news(state: &State, record: Record, now_ms: i64) -> Option<Record> {
    let known = &state.known;
    match record {
        Record::Token(theirs) => match known.tokens.get(&theirs.id) {
            Some(_) => news(state, revocation(&theirs)?, now_ms),
            None if known.tokens.len() >= TOKENS_MAX || is_worthless(&theirs, now_ms) => None,
            None => Some(Record::Token(theirs)),
        },
        Record::TokenUsed { id, key, agent_id, at_ms } => {
            known.tokens.get(&id)?;
            let mine = known.redeemed.get(&(id.clone(), key.clone()));
            // The same key at two hubs is one use; both agree on the first.
            mine.is_none_or(|(mine, mine_ms)| (at_ms, &agent_id) < (*mine_ms, mine))
                .then_some(Record::TokenUsed { id, key, agent_id, at_ms })
        }
        Record::TokenRevoked { id, at_ms, author } => {
            let mine = known.tokens.get(&id)?.revoked_ms;
            mine.is_none_or(|mine| at_ms < mine).then_some(Record::TokenRevoked { id, at_ms, author })
        }
        Record::Agent(theirs) => {
            let Some(mine) = known.agents.get(&theirs.agent_id) else {
                return Some(Record::Agent(AgentRecord { elsewhere: true, ..theirs }));
            };
            let together = newest(mine, &theirs);
            (together != *mine).then_some(Record::Agent(together))
        }
        Record::Revoked(theirs) => (!known.revocations.contains(&theirs)).then_some(Record::Revoked(theirs)),
        Record::Hub(theirs) => {
            let Some(mine) = known.hubs.get(&theirs.hub_id) else { return Some(Record::Hub(theirs)) };
            let order = |hub: &HubRecord| (hub.at_ms, hub.address.clone(), hub.roots.clone());
            let (newer, older) = if order(&theirs) > order(mine) { (&theirs, mine) } else { (mine, &theirs) };
            // A hub that does not know how it is reached is reached as others have reached it.
            let known_by = [newer, older].into_iter().find(|hub| !hub.address.is_empty());
            let address = known_by.map_or(String::new(), |hub| hub.address.clone());
            let together = HubRecord { address, ..newer.clone() };
            (together != *mine).then_some(Record::Hub(together))
        }
    }
}

fn revocation(token: &TokenRecord) -> Option<Record> {
    let (id, at_ms) = (token.id.clone(), token.revoked_ms?);
    Some(Record::TokenRevoked { id, at_ms, author: token.revoked_by.clone() })
}

/// An agent as two hubs know it: its newest certificate, its first enrolment.
fn newest(mine: &AgentRecord, theirs: &AgentRecord) -> AgentRecord {
    let order = |agent: &AgentRecord| (agent.renewed_ms, agent.serial.clone());
    let first = |agent: &AgentRecord| (agent.token.is_empty(), agent.enrolled_ms, agent.token.clone());
    let newer = if order(theirs) > order(mine) { theirs } else { mine };
    let older = if first(theirs) < first(mine) { theirs } else { mine };
    AgentRecord {
        enrolled_ms: mine.enrolled_ms.min(theirs.enrolled_ms),
        token: older.token.clone(),
        elsewhere: mine.elsewhere,
        ..newer.clone()
    }
}

fn overdrawn(state: &State, token: &TokenRecord) -> Option<Overdrawn> {
    (token.kind != TokenKind::Api && token.uses > token.uses_max).then(|| Overdrawn {
        id: token.id.clone(),
        uses_max: token.uses_max,
        agents: state.known.uses(&token.id).map(str::to_owned).collect(),
    })
}

/// Whether a record of another hub is one that this one could have made.
fn check(record: &Record) -> Result<(), RegistryError> {
    let texts: Vec<&String> = match record {
        Record::Token(token) => {
            let labels = token.labels.iter().flat_map(|(name, value)| [name, value]);
            let one =
                [&token.id, &token.digest, &token.tenant, &token.author, &token.revoked_by, &token.home];
            one.into_iter().chain(&token.clusters).chain(labels).collect()
        }
        Record::TokenUsed { id, key, agent_id, .. } => vec![id, key, agent_id],
        Record::TokenRevoked { id, author, .. } => vec![id, author],
        Record::Agent(agent) => {
            let labels = agent.labels.iter().flat_map(|(name, value)| [name, value]);
            let one =
                [&agent.agent_id, &agent.tenant, &agent.cluster, &agent.serial, &agent.token, &agent.brought];
            one.into_iter().chain(&agent.roots).chain(labels).collect()
        }
        Record::Revoked(revocation) => vec![&revocation.agent_id, &revocation.author],
        Record::Hub(hub) => [&hub.hub_id, &hub.address].into_iter().chain(&hub.roots).collect(),
    };
    match texts.iter().find(|text| text.len() > TEXT_BYTES_MAX) {
        Some(text) => Err(RegistryError::Wrong(format!("a text of {} bytes in a record", text.len()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
