//! A network that loses, delays, doubles, reorders and cuts.

use std::collections::BTreeMap;

use remote::ship::{Peer, Request};

use crate::Dice;

/// A request or an answer.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Number of the agent.
    pub agent: usize,
    /// Number of the hub.
    pub hub: usize,
    /// Which life of the agent.
    pub epoch: u64,
    /// Who the agent is.
    pub peer: Peer,
    /// The sender's number of the request.
    pub id: u64,
    /// Which request.
    pub request: Request,
    /// On its way back.
    pub is_answer: bool,
    /// Its body.
    pub body: Vec<u8>,
}

/// Packets under way.
#[derive(Debug)]
pub struct Network {
    /// Of a hundred packets, about so many get hurt.
    faults: u64,
    under_way: BTreeMap<(i64, u64), Packet>,
    sequence: u64,
    cut_until: BTreeMap<usize, i64>,
}

impl Network {
    /// A network that hurts about `faults` of a hundred packets.
    pub fn new(faults: u64) -> Network {
        Network { faults, under_way: BTreeMap::new(), sequence: 0, cut_until: BTreeMap::new() }
    }

    /// Nothing passes to or from the hub until then.
    pub fn cut(&mut self, hub: usize, until_ms: i64) {
        self.cut_until.insert(hub, until_ms);
    }

    /// Nothing is hurt any more.
    pub fn heal(&mut self) {
        self.faults = 0;
        self.cut_until.clear();
    }

    /// Answers to the agent find nobody: it has died.
    pub fn forget_agent(&mut self, agent: usize) {
        // Requests that are on their way may still arrive.
        self.under_way.retain(|_, packet| packet.agent != agent || !packet.is_answer);
    }

    /// Sends a packet, or not.
    pub fn send(&mut self, mut packet: Packet, now_ms: i64, dice: &mut Dice) {
        if self.cut_until.get(&packet.hub).is_some_and(|until| *until > now_ms) {
            return;
        }
        let mut delay = dice.below(80) as i64;
        if dice.below(100) < self.faults {
            match dice.below(5) {
                0 => return,
                1 => delay += dice.below(20_000) as i64,
                2 => {
                    let later = now_ms + dice.below(8_000) as i64;
                    self.put(packet.clone(), later);
                }
                3 => packet.body.truncate(dice.below(packet.body.len() as u64) as usize),
                _ => {
                    let at = dice.below(packet.body.len() as u64) as usize;
                    if let Some(byte) = packet.body.get_mut(at) {
                        *byte ^= 1 << dice.below(8);
                    }
                }
            }
        }
        self.put(packet, now_ms + delay);
    }

    fn put(&mut self, packet: Packet, at_ms: i64) {
        self.sequence += 1;
        self.under_way.insert((at_ms, self.sequence), packet);
    }

    /// The next packet that has arrived.
    pub fn next(&mut self, now_ms: i64) -> Option<Packet> {
        let entry = self.under_way.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        Some(entry.remove())
    }
}
