//! A network that loses, delays, doubles, reorders and cuts.

use std::collections::BTreeMap;

use remote::ship::{Peer, Request};

use crate::Dice;

#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) agent: usize,
    pub(crate) hub: usize,
    /// Which life of the agent.
    pub(crate) epoch: u64,
    pub(crate) peer: Peer,
    pub(crate) id: u64,
    pub(crate) request: Request,
    pub(crate) is_answer: bool,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Network {
    /// Of a hundred packets, about so many get hurt.
    faults: u64,
    under_way: BTreeMap<(i64, u64), Packet>,
    sequence: u64,
    cut_until: BTreeMap<usize, i64>,
}

impl Network {
    pub(crate) fn new(faults: u64) -> Network {
        Network { faults, under_way: BTreeMap::new(), sequence: 0, cut_until: BTreeMap::new() }
    }

    pub(crate) fn cut(&mut self, hub: usize, until_ms: i64) {
        self.cut_until.insert(hub, until_ms);
    }

    pub(crate) fn heal(&mut self) {
        self.faults = 0;
        self.cut_until.clear();
    }

    pub(crate) fn forget_agent(&mut self, agent: usize) {
        // Requests that are on their way may still arrive, answers find nobody.
        self.under_way.retain(|_, packet| packet.agent != agent || !packet.is_answer);
    }

    pub(crate) fn send(&mut self, mut packet: Packet, now_ms: i64, dice: &mut Dice) {
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

    pub(crate) fn next(&mut self, now_ms: i64) -> Option<Packet> {
        let entry = self.under_way.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        Some(entry.remove())
    }
}
