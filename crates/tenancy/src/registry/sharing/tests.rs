//! Hubs that hear of each other, sometimes, end up alike.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::TenantId;
use proptest::prelude::*;
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;

use super::*;
use crate::{Revocation, TokenSpec};

const NOW_MS: i64 = 1_790_000_000_000;
const PAGE: usize = 600;

struct Hub {
    name: &'static str,
    disk: FakeDisk,
    clock: Arc<FakeClock>,
    registry: Registry,
    /// For each other hub: epoch and revision up to which this one knows it.
    heard: BTreeMap<&'static str, (u64, u64)>,
}

impl Hub {
    fn new(name: &'static str, clock: &Arc<FakeClock>) -> Hub {
        let disk = FakeDisk::new(Path::new("/d"));
        let registry = open(&disk, clock, name);
        Hub { name, disk, clock: Arc::clone(clock), registry, heard: BTreeMap::new() }
    }

    fn restart(&mut self) {
        self.registry = open(&self.disk, &self.clock, self.name);
    }

    /// Reads one page of another hub; how much was new, and whether there is more.
    fn hear(&mut self, other: &Hub) -> (Merged, bool) {
        let heard = self.heard.entry(other.name).or_default();
        let page = other.registry.since(heard.0, heard.1, PAGE);
        let text = serde_json::to_string(&page).expect("JSON");
        let page: Page = serde_json::from_str(&text).expect("the page");
        *heard = (page.epoch, page.revision);
        (self.registry.merge(page.records).expect("merged"), page.more)
    }

    fn hear_all(&mut self, other: &Hub) -> Merged {
        let mut all = Merged::default();
        loop {
            let (merged, more) = self.hear(other);
            all.news += merged.news;
            all.overdrawn.extend(merged.overdrawn);
            if !more {
                return all;
            }
        }
    }

    /// Everything that hubs have to agree on.
    fn view(&self) -> String {
        let mut tokens = self.registry.tokens();
        tokens.iter_mut().for_each(|token| {
            if token.home.is_empty() {
                token.home = self.name.to_owned();
            }
        });
        let mut agents = self.registry.agents();
        agents.iter_mut().for_each(|agent| agent.elsewhere = false);
        format!("{tokens:#?} {agents:#?} {:#?} {:#?}", self.registry.revocations(), self.registry.hubs())
    }
}

fn open(disk: &FakeDisk, clock: &Arc<FakeClock>, name: &str) -> Registry {
    Registry::open(disk.shared(), Path::new("/d/fleet"), clock.clone()).expect("opened").of_hub(name)
}

fn spec(uses: u32) -> TokenSpec {
    TokenSpec {
        kind: TokenKind::Enrol,
        tenant: TenantId::default(),
        clusters: vec!["eu".into()],
        labels: BTreeMap::new(),
        role: None,
        uses,
        ttl: Some(Duration::from_secs(3600)),
        pin: Some([9; 32]),
        hub: String::new(),
        author: "ann".into(),
    }
}

fn key(key: &[u8; 32]) -> Redeemer<'_> {
    Redeemer { kind: TokenKind::Enrol, key }
}

#[test]
fn a_token_is_redeemed_at_any_hub_and_its_uses_are_counted_at_home() {
    let clock = FakeClock::at(NOW_MS);
    let (mut a, mut b) = (Hub::new("a", &clock), Hub::new("b", &clock));
    let (token, _) = a.registry.create_token(spec(1)).expect("made");
    let text = token.to_string();
    let (first, second) = ([1; 32], [2; 32]);

    // Before b has heard of it.
    let Ok(Place::Unknown(claim)) = b.registry.place(&text, key(&first)) else { panic!("b knows it") };
    assert_eq!(b.registry.claim(&claim), Err(Refusal::Unknown));
    let wrong = Claim { digest: "0".repeat(64), ..claim.clone() };
    assert_eq!(a.registry.claim(&wrong), Err(Refusal::Unknown), "a wrong secret");
    let given = a.registry.claim(&claim).expect("claimed");
    assert_eq!(b.registry.merge(given).expect("merged").news, 2);
    assert_eq!(b.registry.place(&text, key(&first)), Ok(Place::Here));
    let grant = b.registry.redeem(&text, key(&first)).expect("redeemed");

    // It is used up, also for whoever goes to a with another key; the same key may come again anywhere.
    assert_eq!(a.registry.redeem(&text, key(&second)), Err(Refusal::Used));
    assert_eq!(a.registry.redeem(&text, key(&first)), Ok(grant));
    let Ok(Place::Home(home, claim)) = b.registry.place(&text, key(&second)) else { panic!("at home") };
    assert_eq!((home.as_str(), a.registry.claim(&claim)), ("a", Err(Refusal::Used)));
    a.hear_all(&b);
    b.hear_all(&a);
    assert_eq!(a.view(), b.view());
}

#[test]
fn redemptions_during_a_split_are_found_out() {
    let clock = FakeClock::at(NOW_MS);
    let (mut a, mut b) = (Hub::new("a", &clock), Hub::new("b", &clock));
    let (token, record) = a.registry.create_token(spec(1)).expect("made");
    b.hear_all(&a);
    let text = token.to_string();
    let one = a.registry.redeem(&text, key(&[1; 32])).expect("at home");
    clock.advance_ms(1);
    let two = b.registry.redeem(&text, key(&[2; 32])).expect("home cannot be asked");
    // The same holder at both is one use.
    let mut agents = vec![one.agent_id, two.agent_id];
    let found = a.hear_all(&b);
    assert_eq!((found.news, found.overdrawn.len()), (1, 1));
    let Overdrawn { id, uses_max, agents: mut found } = found.overdrawn[0].clone();
    agents.sort();
    found.sort();
    assert_eq!((id, uses_max, found), (record.id, 1, agents));
    b.hear_all(&a);
    assert_eq!(a.view(), b.view());
    assert_eq!((a.registry.overdrawn().len(), b.registry.overdrawn().len()), (1, 1));
    for hub in [&a, &b] {
        assert_eq!(hub.registry.redeem(&text, key(&[3; 32])), Err(Refusal::Used), "{}", hub.name);
    }
}

#[test]
fn nothing_that_was_revoked_comes_back() {
    let clock = FakeClock::at(NOW_MS);
    let (mut a, mut b) = (Hub::new("a", &clock), Hub::new("b", &clock));
    let api = TokenSpec { kind: TokenKind::Api, role: Some(crate::Role::Read), ttl: None, ..spec(0) };
    let (token, _) = a.registry.create_token(TokenSpec { clusters: Vec::new(), ..api }).expect("made");
    b.hear_all(&a);
    let text = token.to_string();
    assert!(b.registry.principal(&text).is_some(), "callers' tokens open every hub");
    b.registry.revoke_token(&token.id(), "ben").expect("revoked");
    b.registry.revoke_agent("x", None, "ben").expect("revoked");
    // a was away, and tells its old view first.
    b.restart();
    b.hear_all(&a);
    assert!(b.registry.principal(&text).is_none());
    let mut told = a.registry.revocations_changed();
    a.hear_all(&b);
    assert!(told.has_changed().expect("open") && a.registry.is_revoked("x", "01"));
    told.mark_unchanged();
    a.restart();
    assert!(a.registry.principal(&text).is_none() && a.registry.is_revoked("x", "01"));
    let merged = a.registry.merge(b.registry.since(0, 0, usize::MAX).records).expect("merged");
    assert_eq!(merged, Merged::default(), "what is known says nothing new");
    let revoked = Revocation { agent_id: "y".repeat(5000), serial: None, at_ms: 0, author: String::new() };
    assert!(a.registry.merge(vec![Record::Revoked(revoked)]).is_err());
}

#[test]
fn an_agent_that_another_hub_told_of_is_elsewhere_until_it_comes() {
    let clock = FakeClock::at(NOW_MS);
    let (a, mut b) = (Hub::new("a", &clock), Hub::new("b", &clock));
    a.registry.remember_agent(agent(1, 5)).expect("remembered");
    b.hear_all(&a);
    assert!(b.registry.agents()[0].elsewhere && !a.registry.agents()[0].elsewhere);
    let before = *b.registry.changes().borrow();
    b.registry.seen_here("agent-1").expect("seen");
    assert_eq!(*b.registry.changes().borrow(), before, "that is nobody else's business");
    b.restart();
    assert!(!b.registry.agents()[0].elsewhere);
    b.registry.seen_here("agent-2").expect("nothing to do");
}

fn agent(number: u8, renewed_ms: i64) -> AgentRecord {
    AgentRecord {
        agent_id: format!("agent-{number}"),
        tenant: "default".into(),
        cluster: "eu".into(),
        labels: BTreeMap::new(),
        serial: format!("{renewed_ms:02}"),
        not_after_ms: renewed_ms + 10,
        enrolled_ms: renewed_ms,
        renewed_ms,
        token: String::new(),
        roots: Vec::new(),
        brought: String::new(),
        elsewhere: false,
    }
}

/// What happens at hub `.0`.
#[derive(Debug, Clone)]
enum Step {
    Make(usize, u32),
    /// With the key of this number, the token of that.
    Redeem(usize, u8, usize),
    RevokeToken(usize, usize),
    RevokeAgent(usize, u8),
    Renew(usize, u8),
    Tell(usize, i64),
    Hear(usize, usize),
    Restart(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hub = 0usize..3;
    let step = prop_oneof![
        (hub.clone(), 1u32..3).prop_map(|(hub, uses)| Step::Make(hub, uses)),
        (hub.clone(), 0u8..4, 0usize..6).prop_map(|(hub, key, token)| Step::Redeem(hub, key, token)),
        (hub.clone(), 0usize..6).prop_map(|(hub, token)| Step::RevokeToken(hub, token)),
        (hub.clone(), 0u8..4).prop_map(|(hub, agent)| Step::RevokeAgent(hub, agent)),
        (hub.clone(), 0u8..4).prop_map(|(hub, agent)| Step::Renew(hub, agent)),
        (hub.clone(), 0i64..9).prop_map(|(hub, at_ms)| Step::Tell(hub, at_ms)),
        (hub.clone(), 0usize..3).prop_map(|(hub, other)| Step::Hear(hub, other)),
        (hub.clone(), 0usize..3).prop_map(|(hub, other)| Step::Hear(hub, other)),
        hub.prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn hubs_end_up_alike(steps in steps()) {
        let clock = FakeClock::at(NOW_MS);
        let mut hubs = ["a", "b", "c"].map(|name| Hub::new(name, &clock));
        let mut tokens = Vec::new();
        let mut revoked = Vec::new();
        for step in steps {
            clock.advance_ms(1);
            match step {
                Step::Make(hub, uses) => {
                    tokens.push(hubs[hub].registry.create_token(spec(uses)).expect("made").0);
                }
                Step::Redeem(hub, number, token) => if let Some(token) = tokens.get(token) {
                    let _ = hubs[hub].registry.redeem(&token.to_string(), key(&[number; 32]));
                },
                Step::RevokeToken(hub, token) => if let Some(token) = tokens.get(token)
                    && hubs[hub].registry.revoke_token(&token.id(), "ann").is_ok() {
                    revoked.push(token.id());
                },
                Step::RevokeAgent(hub, number) => {
                    hubs[hub].registry.revoke_agent(&format!("agent-{number}"), None, "ann").expect("revoked");
                }
                Step::Renew(hub, number) => {
                    let renewed_ms = stdx::clock::Clock::now_ms(&*clock);
                    hubs[hub].registry.remember_agent(agent(number, renewed_ms)).expect("remembered");
                }
                Step::Tell(hub, at_ms) => {
                    let hub_id = format!("hub-{}", at_ms % 2);
                    let address = if at_ms % 3 == 0 { String::new() } else { format!("https://{}:1", hubs[hub].name) };
                    let record = HubRecord { hub_id, address, roots: Vec::new(), at_ms };
                    hubs[hub].registry.remember_hub(record).expect("remembered");
                }
                Step::Hear(hub, other) if hub != other => {
                    let [to, from] = hubs.get_disjoint_mut([hub, other]).expect("two");
                    to.hear(from);
                }
                Step::Hear(..) => {}
                Step::Restart(hub) => hubs[hub].restart(),
            }
        }
        // a and c never hear of each other directly.
        for (to, from) in [(1, 0), (1, 2), (0, 1), (2, 1)] {
            let [to, from] = hubs.get_disjoint_mut([to, from]).expect("two");
            to.hear_all(from);
        }
        let views = hubs.each_ref().map(Hub::view);
        prop_assert_eq!(&views[0], &views[1]);
        prop_assert_eq!(&views[1], &views[2]);
        for hub in &mut hubs {
            for token in hub.registry.tokens() {
                prop_assert_eq!(token.revoked_ms.is_some(), revoked.contains(&token.id));
            }
            let before = hub.view();
            hub.restart();
            prop_assert_eq!(before, hub.view());
        }
    }
}
