//! Agents and hubs under one seed: real queues on disks that lose what was not synced, real senders and doors, a
//! network that loses, delays, doubles, reorders and cuts. The blocks are opaque here.
//!
//! Every block whose write was synced and that was not reported lost is stored exactly once at each hub, with
//! its bytes; what a hub has acknowledged survives its power cuts; nothing is invented.
//!
//! `MARIGRAPH_SIM_SEEDS=100000` runs that many seeds, `MARIGRAPH_SIM_SEED=7` one, and tells what happens.

mod agent;
mod hub;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent::Agent;
use hub::Hub;
use remote::ship::Request;
use remote::ship::message::Answer;
use sim::{Dice, Network, Packet};

pub(crate) type Key = (u128, u64);

/// What was ever written, and what of it must arrive.
#[derive(Default)]
pub(crate) struct Ground {
    pub(crate) written: BTreeMap<Key, Vec<u8>>,
    pub(crate) required: BTreeSet<Key>,
    /// By hub: blocks that an agent reported as lost.
    pub(crate) lost: Vec<BTreeSet<Key>>,
}

struct World {
    dice: Dice,
    now_ms: i64,
    ids: Arc<AtomicU64>,
    ground: Ground,
    agents: Vec<Agent>,
    hubs: Vec<Hub>,
    network: Network,
    trace: bool,
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        let mut dice = Dice::new(seed);
        let hubs: Vec<Hub> = (0..1 + dice.below(2)).map(|_| Hub::new()).collect();
        let ids = Arc::new(AtomicU64::new(1));
        let ground = Ground { lost: vec![BTreeSet::new(); hubs.len()], ..Ground::default() };
        let quiet = dice.one_in(4);
        let mut world = World {
            network: Network::new(if quiet { 0 } else { 1 + dice.below(20) }),
            dice,
            now_ms: 1_000,
            ids,
            ground,
            agents: Vec::new(),
            hubs,
            trace,
        };
        let agent = Agent::new(&mut world.dice, &world.ids, world.hubs.len(), world.now_ms);
        world.agents.push(agent);
        world
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} {}", self.now_ms, what());
        }
    }

    fn step(&mut self) {
        self.now_ms += 1 + self.dice.below(200) as i64;
        for at in 0..self.agents.len() {
            let writes = self.dice.below(4);
            let agent = &mut self.agents[at];
            for _ in 0..writes {
                agent.write(&mut self.dice, &mut self.ground);
            }
            if self.dice.one_in(3) {
                agent.sync(&mut self.ground);
            }
            if self.dice.one_in(5) {
                agent.upkeep(&mut self.ground);
            }
        }
        self.trouble();
        self.traffic();
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        let at = self.dice.below(self.agents.len() as u64) as usize;
        let hub = self.dice.below(self.hubs.len() as u64) as usize;
        match self.dice.below(300) {
            0..=2 => {
                let cut = self.dice.one_in(2);
                self.say(|| format!("agent {at} dies, power cut: {cut}"));
                let re_enrol = self.dice.one_in(6);
                self.agents[at].crash(cut, re_enrol, &mut self.dice, &mut self.ground, self.now_ms);
                self.network.forget_agent(at);
            }
            3..=5 => {
                let cut = self.dice.one_in(2);
                self.say(|| format!("hub {hub} dies, power cut: {cut}"));
                self.hubs[hub].crash(cut, &mut self.dice);
            }
            6 => self.agents[at].fill_disk(&mut self.dice),
            7 => self.hubs[hub].fill_disk(&mut self.dice),
            8..=11 => {
                let until = self.now_ms + self.dice.below(60_000) as i64;
                self.say(|| format!("hub {hub} is out of reach until {until}"));
                self.network.cut(hub, until);
            }
            12 => self.agents[at].clock.advance_ms(self.dice.below(2_000_000) as i64 - 1_000_000),
            13 if self.agents.len() < 3 => {
                self.say(|| format!("the volume of agent {at} is cloned"));
                let hubs = self.hubs.len();
                let clone = self.agents[at].clone_volume(&mut self.dice, &mut self.ground, hubs, self.now_ms);
                self.agents.push(clone);
            }
            14 => {
                let operations = self.dice.below(8);
                self.say(|| format!("the disk of agent {at} fails in {operations} operations"));
                self.agents[at].disk.die_at(self.agents[at].disk.operations() + operations);
                self.agents[at].failing = true;
            }
            15 => {
                let operations = self.dice.below(8);
                self.hubs[hub].disk.die_at(self.hubs[hub].disk.operations() + operations);
            }
            _ => {}
        }
        for at in 0..self.agents.len() {
            if self.agents[at].failing && self.dice.one_in(10) {
                self.agents[at].crash(true, false, &mut self.dice, &mut self.ground, self.now_ms);
                self.network.forget_agent(at);
            }
        }
    }

    /// Requests and answers that are due, and new ones.
    fn traffic(&mut self) {
        for (at, agent) in self.agents.iter_mut().enumerate() {
            for (hub, sending) in agent.sending.iter_mut().enumerate() {
                for outgoing in sending.poll(self.now_ms) {
                    let packet = Packet {
                        agent: at,
                        hub,
                        epoch: agent.epoch,
                        peer: agent.peer.clone(),
                        id: outgoing.id,
                        request: outgoing.request,
                        is_answer: false,
                        body: outgoing.body,
                    };
                    self.network.send(packet, self.now_ms, &mut self.dice);
                }
            }
        }
        while let Some(packet) = self.network.next(self.now_ms) {
            if packet.is_answer { self.deliver_answer(&packet) } else { self.deliver_request(&packet) }
        }
    }

    fn deliver_request(&mut self, packet: &Packet) {
        let Some(body) = self.hubs[packet.hub].answer(&packet.peer, packet.request, &packet.body) else {
            self.say(|| format!("hub {} refuses request {}", packet.hub, packet.id));
            return;
        };
        if packet.request == Request::Blocks {
            let answer = Answer::decode(&body).expect("our own answer");
            self.say(|| format!("hub {} on request {}: {:?}", packet.hub, packet.id, answer.verdicts));
            self.hubs[packet.hub].promise(&packet.body, &answer);
        }
        let answer = Packet { is_answer: true, body, ..packet.clone() };
        self.network.send(answer, self.now_ms, &mut self.dice);
    }

    fn deliver_answer(&mut self, packet: &Packet) {
        let Some(agent) = self.agents.get_mut(packet.agent) else { return };
        if agent.epoch == packet.epoch {
            agent.sending[packet.hub].answered(packet.id, &packet.body, self.now_ms);
        }
    }

    /// Everything heals, and what can arrive does.
    fn settle(&mut self) {
        self.network.heal();
        for hub in &mut self.hubs {
            hub.crash(false, &mut self.dice);
        }
        for at in 0..self.agents.len() {
            self.agents[at].crash(false, false, &mut self.dice, &mut self.ground, self.now_ms);
            self.network.forget_agent(at);
            self.agents[at].sync(&mut self.ground);
        }
        for round in 0.. {
            self.now_ms += 500;
            self.traffic();
            self.agents.iter_mut().for_each(|agent| agent.upkeep(&mut self.ground));
            if self.agents.iter().all(Agent::is_drained) {
                break;
            }
            assert!(
                round < 5_000,
                "agents do not get rid of their blocks: {:?}",
                self.agents.iter().map(Agent::state).collect::<Vec<_>>()
            );
        }
        for hub in &mut self.hubs {
            hub.crash(true, &mut self.dice);
        }
    }

    fn check(&self) {
        for (at, hub) in self.hubs.iter().enumerate() {
            hub.intake(|intake| {
                for key in &self.ground.required {
                    let accounted =
                        intake.has(key) || self.ground.lost[at].contains(key) || intake.refused(key);
                    assert!(accounted, "hub {at} never got {key:?}, and nobody says why");
                }
                for (key, payload) in intake.blocks() {
                    let written = self.ground.written.get(key);
                    assert_eq!(written, Some(payload), "hub {at} has another {key:?} than was written");
                }
                for key in &hub.promised {
                    assert!(
                        intake.has(key) || intake.refused(key),
                        "hub {at} lost {key:?}, which it had acknowledged"
                    );
                }
            });
        }
        for agent in &self.agents {
            for sending in &agent.sending {
                let lost = sending.stats().refused.keys().any(|refusal| refusal.as_str() == "context_lost");
                assert!(!lost, "no context is ever lost here: {:?}", sending.stats());
            }
        }
    }
}

fn run(seed: u64, trace: bool) -> usize {
    let mut world = World::new(seed, trace);
    for _ in 0..world.dice.below(400) {
        world.step();
    }
    world.settle();
    world.check();
    assert!(world.ids.load(Ordering::SeqCst) > 1);
    world.ground.required.len()
}

/// Seeds that found something.
const REGRESSIONS: [(u64, &str); 1] = [(42913, "two copies of a queue undid each other's context")];

#[test]
fn seeds_that_found_something() {
    for (seed, what) in REGRESSIONS {
        assert!(run(seed, false) > 0, "seed {seed}: {what}");
    }
}

#[test]
fn every_synced_block_is_stored_exactly_once_at_every_hub() {
    assert!(sim::run_seeds(30, run) > 0, "blocks had to arrive");
}
