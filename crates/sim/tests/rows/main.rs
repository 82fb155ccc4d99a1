//! Rows through the real encoder, queue, sender, door, intake and store, on disks that lose what was not synced and
//! a network that loses, delays, doubles, reorders and cuts.
//!
//! Every sample whose row was made durable in the queue is in each hub's store, with its exact bits; what else is
//! there was appended by somebody.
//!
//! `MARIGRAPH_SIM_SEEDS=100000` runs that many seeds, `MARIGRAPH_SIM_SEED=7` one, and tells what happens.

mod agent;
mod hub;

use std::collections::BTreeMap;
use std::sync::Arc;

use agent::Agent;
use hub::Hub;
use sim::{Dice, Network, Packet};
use stdx::clock::{Clock, FakeClock};

const START_MS: i64 = 1_700_000_000_000;

/// A sample: its series and timestamp.
pub(crate) type Key = (String, i64);

/// What was ever appended, and whether it has to arrive.
#[derive(Debug, Default)]
pub(crate) struct Ground {
    pub(crate) sent: BTreeMap<Key, Sent>,
    pub(crate) agents: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) bits: u64,
    pub(crate) required: bool,
}

struct World {
    dice: Dice,
    /// The world's own time, which no machine's clock disturbs.
    time: Arc<FakeClock>,
    ground: Ground,
    agents: Vec<Agent>,
    hubs: Vec<Hub>,
    network: Network,
    trace: bool,
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        let mut dice = Dice::new(seed);
        let time = FakeClock::at(START_MS);
        let hubs = (0..1 + dice.below(2)).map(|_| Hub::new(&time)).collect::<Vec<_>>();
        let mut ground = Ground::default();
        let agent = Agent::new(&mut dice, &mut ground, &time, hubs.len());
        let network = Network::new(if dice.one_in(4) { 0 } else { 1 + dice.below(15) });
        World { dice, time, ground, agents: vec![agent], hubs, network, trace }
    }

    fn now_ms(&self) -> i64 {
        self.time.now_ms()
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} {}", self.now_ms() - START_MS, what());
        }
    }

    fn step(&mut self) {
        self.time.advance_ms(1 + self.dice.below(1_500) as i64);
        for agent in &mut self.agents {
            for _ in 0..self.dice.below(3) {
                agent.append(&mut self.dice, &mut self.ground);
            }
            match self.dice.below(4) {
                0 => agent.flush(&mut self.ground),
                1 => agent.upkeep(),
                _ => {}
            }
        }
        self.trouble();
        self.traffic();
    }

    fn trouble(&mut self) {
        let at = self.dice.below(self.agents.len() as u64) as usize;
        let hub = self.dice.below(self.hubs.len() as u64) as usize;
        match self.dice.below(160) {
            0..=1 => {
                let cut = self.dice.one_in(2);
                self.say(|| format!("agent {at} dies, power cut: {cut}"));
                self.agents[at].crash(cut, &mut self.dice);
                self.network.forget_agent(at);
            }
            2..=3 => {
                let cut = self.dice.one_in(2);
                self.say(|| format!("hub {hub} dies, power cut: {cut}"));
                self.hubs[hub].crash(cut, &mut self.dice);
            }
            4..=6 => {
                let until = self.now_ms() + self.dice.below(90_000) as i64;
                self.say(|| format!("hub {hub} is out of reach until {}", until - START_MS));
                self.network.cut(hub, until);
            }
            7 => self.hubs[hub].maintain(&mut self.dice),
            8 => {
                self.say(|| format!("the disk of agent {at} is full, or is not any more"));
                self.agents[at].fill_disk(&mut self.dice);
            }
            9 => {
                self.say(|| format!("the disk of hub {hub} is full, or is not any more"));
                self.hubs[hub].fill_disk(&mut self.dice);
            }
            10 if self.agents.len() < 2 => {
                self.say(|| format!("the volume of agent {at} is cloned"));
                let clone = self.agents[at].clone_volume(&mut self.ground);
                self.agents.push(clone);
            }
            11 => {
                let operations = self.dice.below(10);
                self.hubs[hub].disk.die_at(self.hubs[hub].disk.operations() + operations);
            }
            _ => {}
        }
        for hub in &mut self.hubs {
            if hub.is_broken() && self.dice.one_in(6) {
                hub.crash(true, &mut self.dice);
            }
        }
        for at in 0..self.agents.len() {
            if self.agents[at].is_broken() && self.dice.one_in(6) {
                self.agents[at].crash(true, &mut self.dice);
                self.network.forget_agent(at);
            }
        }
    }

    fn traffic(&mut self) {
        let now_ms = self.now_ms();
        for (at, agent) in self.agents.iter_mut().enumerate() {
            for (hub, outgoing) in agent.poll(now_ms) {
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
                self.network.send(packet, now_ms, &mut self.dice);
            }
        }
        while let Some(packet) = self.network.next(now_ms) {
            if packet.is_answer {
                let agent = &mut self.agents[packet.agent];
                if agent.epoch == packet.epoch {
                    agent.answered(packet.hub, packet.id, &packet.body, now_ms);
                }
                continue;
            }
            let body = self.hubs[packet.hub].answer(&packet.peer, packet.request, &packet.body);
            self.say(|| {
                format!("hub {} on request {}: {}", packet.hub, packet.id, hub::tell(&packet, &body))
            });
            if let Some(body) = body {
                self.network.send(Packet { is_answer: true, body, ..packet }, now_ms, &mut self.dice);
            }
        }
    }

    /// Everything heals, and what can arrive does.
    fn settle(&mut self) {
        self.network.heal();
        for hub in &mut self.hubs {
            hub.crash(false, &mut self.dice);
        }
        for at in 0..self.agents.len() {
            self.agents[at].crash(false, &mut self.dice);
            self.network.forget_agent(at);
        }
        for round in 0.. {
            self.time.advance_ms(500);
            self.traffic();
            self.agents.iter_mut().for_each(Agent::upkeep);
            if self.agents.iter().all(Agent::is_drained) {
                break;
            }
            let states: Vec<String> = self.agents.iter().map(Agent::state).collect();
            assert!(round < 3_000, "agents do not get rid of their blocks: {states:?}");
        }
        for hub in &mut self.hubs {
            hub.crash(true, &mut self.dice);
        }
    }

    fn check(&self) -> usize {
        for (at, hub) in self.hubs.iter().enumerate() {
            let found = hub.dump();
            for (key, sent) in self.ground.sent.iter().filter(|(_, sent)| sent.required) {
                let bits = found.get(key);
                assert_eq!(bits, Some(&sent.bits), "hub {at} lacks {key:?}, or has it changed");
            }
            for (key, bits) in &found {
                let sent = self.ground.sent.get(key).map(|sent| sent.bits);
                assert_eq!(sent, Some(*bits), "hub {at} has invented {key:?}");
            }
        }
        for agent in &self.agents {
            assert_eq!(agent.refused(), 0, "nothing is refused here: {}", agent.state());
        }
        self.ground.sent.values().filter(|sent| sent.required).count()
    }
}

fn run(seed: u64, trace: bool) -> usize {
    let mut world = World::new(seed, trace);
    for _ in 0..world.dice.below(250) {
        world.step();
    }
    world.settle();
    world.check()
}

#[test]
fn every_durable_sample_is_stored_with_its_bits_at_every_hub() {
    assert!(sim::run_seeds(20, run) > 0, "samples had to arrive");
}
