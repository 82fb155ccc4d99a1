//! How messages get from agents to hubs and back.

use sim::{Dice, Network, Packet};

/// What arrives somewhere.
pub(crate) enum Got {
    /// A request at a hub, or an answer at an agent.
    Packet(Packet),
    /// The agent knows that no answer comes.
    Failed(Packet),
}

/// A road that does harm to what goes on it.
pub(crate) trait Road {
    /// One that hurts about `faults` of a hundred messages, between so many hubs and whoever comes.
    fn new(seed: u64, hubs: usize, faults: u64) -> Self;

    /// After how long without an answer an agent gives up by itself, milliseconds.
    const PATIENCE_MS: i64;

    /// An agent asks.
    fn ask(&mut self, packet: Packet, now_ms: i64, dice: &mut Dice);

    /// A hub answers, or says that it cannot.
    fn answer(&mut self, packet: Packet, body: Option<Vec<u8>>, now_ms: i64, dice: &mut Dice);

    /// What has arrived by now.
    fn next(&mut self, now_ms: i64) -> Option<Got>;

    /// Time goes on.
    fn advance(&mut self, ms: i64);

    /// Nothing passes to or from the hub for so long.
    fn cut(&mut self, hub: usize, now_ms: i64, ms: i64, dice: &mut Dice);

    /// Nothing is hurt any more.
    fn heal(&mut self);

    /// The process of an agent has died.
    fn agent_died(&mut self, agent: usize);

    /// The process of a hub has died, and another is there at once.
    fn hub_died(&mut self, hub: usize);
}

impl Road for Network {
    const PATIENCE_MS: i64 = 10_000;

    fn new(_seed: u64, _hubs: usize, faults: u64) -> Network {
        Network::new(faults)
    }

    fn ask(&mut self, packet: Packet, now_ms: i64, dice: &mut Dice) {
        self.send(packet, now_ms, dice);
    }

    fn answer(&mut self, packet: Packet, body: Option<Vec<u8>>, now_ms: i64, dice: &mut Dice) {
        let Some(body) = body else { return };
        self.send(Packet { is_answer: true, body, ..packet }, now_ms, dice);
    }

    fn next(&mut self, now_ms: i64) -> Option<Got> {
        Network::next(self, now_ms).map(Got::Packet)
    }

    fn advance(&mut self, _ms: i64) {}

    fn cut(&mut self, hub: usize, now_ms: i64, ms: i64, _dice: &mut Dice) {
        Network::cut(self, hub, now_ms + ms);
    }

    fn heal(&mut self) {
        Network::heal(self);
    }

    fn agent_died(&mut self, agent: usize) {
        self.forget_agent(agent);
    }

    fn hub_died(&mut self, _hub: usize) {}
}
