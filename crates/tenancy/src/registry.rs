//! The hub's memory of tokens, agents and revocations.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::TenantId;
use parking_lot::RwLock;
use stdx::clock::Clock;
use stdx::disk::Disk;
use tokio::sync::watch;

use self::known::{Known, State};
use crate::journal::Journal;
use crate::records::Record;
use crate::token::hex;
use crate::{
    AgentRecord, BadToken, JournalError, Principal, Revocation, Role, Token, TokenKind, TokenRecord,
};

mod known;
mod sharing;

pub use sharing::{Claim, Merged, Overdrawn, Page, Place};

/// The journal's file in the hub's `fleet` directory.
pub const REGISTRY_FILE: &str = "registry.jsonl";
/// Most tokens, used and unused.
const TOKENS_MAX: usize = 100_000;
/// Records that say nothing any more before the journal is written anew at a start.
const STALE_MAX: usize = 1000;
/// How long what has expired or was revoked is still listed.
const REMEMBERED_MS: i64 = 90 * 24 * 3600 * 1000;

/// The tokens a hub gave out, the agents that enrolled, and what was revoked.
///
/// Whatever a method changes is on the disk when it returns.
pub struct Registry {
    clock: Arc<dyn Clock>,
    /// The hub's id; empty where it is of no account.
    hub_id: String,
    /// Stands for this opening of the registry: revisions are counted within it.
    epoch: u64,
    state: RwLock<State>,
    revoked: watch::Sender<u64>,
    /// The newest revision.
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

/// What a token is to be for.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// Its kind.
    pub kind: TokenKind,
    /// Whose data.
    pub tenant: TenantId,
    /// Of an agent: exactly one. Of a caller: those it may see, all when empty.
    pub clusters: Vec<String>,
    /// Further labels of an agent.
    pub labels: BTreeMap<String, String>,
    /// Of a caller.
    pub role: Option<Role>,
    /// How often it may be redeemed.
    pub uses: u32,
    /// How long it is good.
    pub ttl: Option<Duration>,
    /// The SHA-256 of the fleet root's key.
    pub pin: Option<[u8; 32]>,
    /// Where this hub is reached; may be empty.
    pub hub: String,
    /// Who makes it.
    pub author: String,
}

/// Who redeems a token: the kind of token that is expected, and the key a certificate is wanted for.
#[derive(Debug, Clone, Copy)]
pub struct Redeemer<'a> {
    /// An agent enrols, a hub joins.
    pub kind: TokenKind,
    /// SHA-256 of the request to sign, or of its key. The same one may come again: its answer was lost.
    pub key: &'a [u8; 32],
}

/// What a redeemed token gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token's id.
    pub token: String,
    /// Whose data.
    pub tenant: TenantId,
    /// The cluster; empty for a hub.
    pub cluster: String,
    /// Further labels.
    pub labels: BTreeMap<String, String>,
    /// The id of the new agent; the same when the same key comes again.
    pub agent_id: String,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error(transparent)]
    Bad(#[from] BadToken),
    /// It is for something else.
    #[error("the token is for {is}, not for {wanted}", is = .0.name(), wanted = .1.name())]
    Kind(TokenKind, TokenKind),
    /// Not one of this hub's, or the secret is wrong.
    #[error("the token is not known at this hub")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired; make a new one with `marigraph token create`")]
    Expired,
    /// It was taken back.
    #[error("the token was revoked")]
    Revoked,
    /// It was redeemed as often as it may be.
    #[error("the token was used already; make a new one with `marigraph token create`")]
    Used,
    /// The hub cannot write it down.
    #[error("the hub cannot record it: {0}")]
    Record(String),
}

/// Why the registry does not do as told.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The request makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// There is no such token or agent.
    #[error("there is no {what} {id:?}")]
    Missing {
        /// `token` or `agent`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
}

impl Registry {
    /// Opens or makes the registry in `directory`.
    ///
    /// # Errors
    /// The file cannot be read or is damaged before its last line.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Registry, JournalError> {
        let (mut journal, records) = Journal::open::<Record>(disk, &directory.join(REGISTRY_FILE))?;
        let count = records.len();
        let mut known = Known::default();
        records.into_iter().for_each(|record| known.apply(record));
        known.forget(clock.now_ms());
        let live = known.records();
        if count > live.len() + STALE_MAX {
            journal.rewrite(&live)?;
        }
        let state = State::new(journal, known);
        let changed = watch::Sender::new(state.revision());
        let (revoked, state) = (watch::Sender::new(0), RwLock::new(state));
        Ok(Registry { clock, hub_id: String::new(), epoch: rand::random(), state, revoked, changed })
    }

    /// The registry of the hub with this id: its tokens say that this is where their uses are counted.
    pub fn of_hub(self, hub_id: &str) -> Registry {
        Registry { hub_id: hub_id.to_owned(), ..self }
    }

    /// Makes a token. What is returned is the only time the secret is seen.
    ///
    /// # Errors
    /// The specification makes no sense, there are too many tokens, or it cannot be written down.
    pub fn create_token(&self, spec: TokenSpec) -> Result<(Token, TokenRecord), RegistryError> {
        check(&spec)?;
        let now_ms = self.clock.now_ms();
        let token = Token::random(spec.kind, spec.pin, &spec.hub);
        let ttl_ms = spec.ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let mut clusters = spec.clusters;
        clusters.sort();
        clusters.dedup();
        let record = TokenRecord {
            id: token.id(),
            kind: spec.kind,
            digest: token.digest(),
            tenant: spec.tenant.to_string(),
            clusters,
            labels: spec.labels,
            role: spec.role,
            uses_max: if spec.kind == TokenKind::Api { 0 } else { spec.uses },
            made_ms: now_ms,
            expires_ms: ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms)),
            author: spec.author,
            uses: 0,
            revoked_ms: None,
            revoked_by: String::new(),
            home: self.hub_id.clone(),
        };
        let mut state = self.state.write();
        state.forget(now_ms);
        if state.known.tokens.len() >= TOKENS_MAX {
            return Err(RegistryError::Wrong(format!("there are {TOKENS_MAX} tokens already")));
        }
        state.record(Record::Token(record.clone()))?;
        self.tell(&state);
        Ok((token, record.shown()))
    }

    /// The tokens, newest first, without digests. What has been worth nothing for 90 days is forgotten.
    pub fn tokens(&self) -> Vec<TokenRecord> {
        let state = self.state.read();
        let mut tokens: Vec<TokenRecord> =
            state.known.tokens.values().cloned().map(TokenRecord::shown).collect();
        tokens.sort_by(|a, b| b.made_ms.cmp(&a.made_ms).then_with(|| a.id.cmp(&b.id)));
        tokens
    }

    /// Takes a token back. Agents that enrolled with it stay.
    ///
    /// # Errors
    /// There is none of this id, or it cannot be written down.
    pub fn revoke_token(&self, id: &str, author: &str) -> Result<(), RegistryError> {
        let mut state = self.state.write();
        if !state.known.tokens.contains_key(id) {
            return Err(RegistryError::Missing { what: "token", id: id.to_owned() });
        }
        let at_ms = self.clock.now_ms();
        state.record(Record::TokenRevoked { id: id.to_owned(), at_ms, author: author.to_owned() })?;
        self.tell(&state);
        Ok(())
    }

    /// Redeems a token. It counts as used before this returns, whatever becomes of the answer; the same
    /// key may come again as long as the token has not expired.
    ///
    /// # Errors
    /// Why not; worth a line in the log.
    pub fn redeem(&self, text: &str, redeemer: Redeemer<'_>) -> Result<Grant, Refusal> {
        let token: Token = text.parse()?;
        if token.kind != redeemer.kind {
            return Err(Refusal::Kind(token.kind, redeemer.kind));
        }
        let mut state = self.state.write();
        let now_ms = self.clock.now_ms();
        let (id, digest) = (token.id(), token.digest());
        let record = state.known.proven(token.kind, &id, &digest).ok_or(Refusal::Unknown)?.clone();
        usable(&record, now_ms)?;
        let agent_id = self.use_up(&mut state, &record, hex(redeemer.key))?;
        // What was written was checked when the token was made.
        let tenant = TenantId::new(&record.tenant).map_err(|error| Refusal::Record(error.to_string()))?;
        let cluster = record.clusters.first().cloned().unwrap_or_default();
        Ok(Grant { token: record.id, tenant, cluster, labels: record.labels, agent_id })
    }

    /// The id that the holder of the key gets for a token, which is one use less then unless it is the
    /// same key again.
    fn use_up(&self, state: &mut State, record: &TokenRecord, key: String) -> Result<String, Refusal> {
        if let Some((agent_id, _)) = state.known.redeemed.get(&(record.id.clone(), key.clone())) {
            return Ok(agent_id.clone());
        }
        if record.uses >= record.uses_max {
            return Err(Refusal::Used);
        }
        let mut bytes = [0; 8];
        rand::fill(&mut bytes);
        let (id, agent_id, at_ms) = (record.id.clone(), hex(&bytes), self.clock.now_ms());
        let used = Record::TokenUsed { id, key, agent_id: agent_id.clone(), at_ms };
        state.record(used).map_err(|error| Refusal::Record(error.to_string()))?;
        self.tell(state);
        Ok(agent_id)
    }

    /// Who shows this API token; nobody when it is not known, has expired or was revoked.
    pub fn principal(&self, text: &str) -> Option<Principal> {
        let token: Token = text.parse().ok().filter(|token: &Token| token.kind == TokenKind::Api)?;
        let state = self.state.read();
        let record = state.known.proven(token.kind, &token.id(), &token.digest())?;
        usable(record, self.clock.now_ms()).ok()?;
        Some(Principal {
            token: record.id.clone(),
            role: record.role?,
            tenant: TenantId::new(&record.tenant).ok()?,
            clusters: record.clusters.clone(),
        })
    }

    /// Remembers an agent, or its newest certificate.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn remember_agent(&self, mut agent: AgentRecord) -> Result<(), RegistryError> {
        let mut state = self.state.write();
        if let Some(before) = state.known.agents.get(&agent.agent_id) {
            agent.enrolled_ms = before.enrolled_ms;
            agent.token.clone_from(&before.token);
        }
        agent.elsewhere = false;
        state.record(Record::Agent(agent))?;
        self.tell(&state);
        Ok(())
    }

    /// Whether this certificate of an agent, or one that ends no earlier, is known here. So two that are used side by
    /// side do not take each other's place all the time.
    pub fn has_certificate(&self, agent_id: &str, serial: &str, not_after_ms: i64) -> bool {
        let state = self.state.read();
        let known = state.known.agents.get(agent_id);
        known.is_some_and(|agent| agent.serial == serial || agent.not_after_ms >= not_after_ms)
    }

    /// The agents, by tenant and cluster.
    pub fn agents(&self) -> Vec<AgentRecord> {
        let mut agents: Vec<AgentRecord> = self.state.read().known.agents.values().cloned().collect();
        agents
            .sort_by(|a, b| (&a.tenant, &a.cluster, &a.agent_id).cmp(&(&b.tenant, &b.cluster, &b.agent_id)));
        agents
    }

    /// Revokes all certificates of an agent or hub, or the one with `serial`. Every
    /// [`Registry::revocations_changed`] is told.
    ///
    /// # Errors
    /// It cannot be written down. That the id is not known here is none: another hub may have enrolled it.
    pub fn revoke_agent(
        &self,
        agent_id: &str,
        serial: Option<&str>,
        author: &str,
    ) -> Result<(), RegistryError> {
        let at_ms = self.clock.now_ms();
        let serial = serial.map(str::to_ascii_lowercase);
        let author = author.to_owned();
        self.merge_revocations(vec![Revocation { agent_id: agent_id.to_owned(), serial, at_ms, author }])
    }

    /// Adds the revocations of another hub; those that are known already change nothing.
    ///
    /// # Errors
    /// They cannot be written down.
    pub fn merge_revocations(&self, revocations: Vec<Revocation>) -> Result<(), RegistryError> {
        self.merge(revocations.into_iter().map(Record::Revoked).collect()).map(drop)
    }

    /// All revocations, for other hubs and people.
    pub fn revocations(&self) -> Vec<Revocation> {
        self.state.read().known.revocations.iter().cloned().collect()
    }

    /// Whether this certificate is good for nothing any more. Asked in every handshake.
    pub fn is_revoked(&self, agent_id: &str, serial: &str) -> bool {
        let state = self.state.read();
        let known = &state.known;
        known.revoked_agents.contains(agent_id)
            || known.revoked_serials.contains(&(agent_id.to_owned(), serial.to_owned()))
    }

    /// Tells of new revocations: whoever holds connections asks [`Registry::is_revoked`] for each then,
    /// and closes.
    pub fn revocations_changed(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    /// Tells other hubs of what has changed.
    fn tell(&self, state: &State) {
        let revision = state.revision();
        self.changed.send_if_modified(|told| std::mem::replace(told, revision) != revision);
    }
}

impl TokenRecord {
    /// Without the digest.
    fn shown(self) -> TokenRecord {
        TokenRecord { digest: String::new(), ..self }
    }
}

fn usable(record: &TokenRecord, now_ms: i64) -> Result<(), Refusal> {
    if record.revoked_ms.is_some() {
        return Err(Refusal::Revoked);
    }
    match record.expires_ms {
        Some(expires_ms) if now_ms >= expires_ms => Err(Refusal::Expired),
        _ => Ok(()),
    }
}

fn check(spec: &TokenSpec) -> Result<(), RegistryError> {
    let wrong = |why: &str| Err(RegistryError::Wrong(why.to_owned()));
    match spec.kind {
        TokenKind::Enrol if spec.clusters.len() != 1 => wrong("an agent's token names one cluster"),
        TokenKind::Enrol | TokenKind::Join if spec.role.is_some() => {
            wrong("a role is for API tokens; agents and hubs have their own")
        }
        TokenKind::Enrol | TokenKind::Join if spec.pin.is_none() => wrong("the fleet's root is not known"),
        TokenKind::Enrol | TokenKind::Join if spec.uses == 0 => wrong("a token is for one use at least"),
        TokenKind::Api if spec.role.is_none() => wrong("an API token has a role: read, write or admin"),
        TokenKind::Api if !spec.labels.is_empty() => wrong("labels are for agents"),
        TokenKind::Api if !spec.clusters.is_empty() && spec.role != Some(Role::Read) => {
            wrong("only readers can be limited to clusters")
        }
        _ if spec.clusters.len() > 1000 => wrong("at most 1000 clusters"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
