//! Members under one seed: crashes, freezes, quick restarts, departures, clocks that differ, drift and jump, a
//! directory that is slow or away. No tick of a target is scraped twice, and one is missed only right after
//! something that nobody could announce. Members that hear of each other at a hub miss none while the place is away, for all
//! or for one of them; the hub is slow, forgets, cannot be reached, and tells older words after newer ones.
//!
//! `MARIGRAPH_SIM_SEEDS=5000 cargo test -p pairs --test simulation` runs many, `MARIGRAPH_SIM_SEED=7` replays one and
//! tells what happens.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use pairs::{Held, Lease, LeaseError, Member, Now, Settings, Share, Turn, Version, Word, Write};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

const STEP_MS: i64 = 25;
const DURATION_MS: i64 = 8_000;
const BEAT_MS: i64 = 500;
/// From what nobody announced to the last tick that may be missed for it.
const BOUND_MS: i64 = 10_000;
/// Clocks differ by at most this much.
const SKEW_MS: i64 = 3_000;
const TARGETS: u128 = 8;
const END_MS: i64 = 300_000;

/// The leases' place.
#[derive(Default)]
struct Place {
    leases: BTreeMap<String, (Lease, u64)>,
    writes: u64,
    latency_ms: i64,
}

/// What carries words.
#[derive(Default)]
struct Hub {
    words: BTreeMap<String, Vec<(i64, Word)>>,
    latency_ms: i64,
}

/// A word on its way, and the answer.
struct Said {
    word: Word,
    at_ms: i64,
    ends_ms: i64,
    found: Option<Vec<Word>>,
}

impl Place {
    fn held(&self, name: &str) -> Option<Held> {
        let (lease, version) = self.leases.get(name)?;
        Some(Held { lease: lease.clone(), version: Version(version.to_string()) })
    }

    fn list(&self) -> Vec<Held> {
        self.leases.keys().filter_map(|name| self.held(name)).collect()
    }

    fn put(&mut self, write: &Write) -> Result<Version, LeaseError> {
        let there = self.held(&write.lease.member);
        if there.as_ref().map(|held| &held.version) != write.over.as_ref() {
            return Err(LeaseError::Conflict(there.map(Box::new)));
        }
        self.writes += 1;
        self.leases.insert(write.lease.member.clone(), (write.lease.clone(), self.writes));
        Ok(Version(self.writes.to_string()))
    }
}

/// What a process is at.
enum At {
    Rest {
        until_ms: i64,
    },
    /// The list is that of `at_ms`.
    Read {
        began: Now,
        at_ms: i64,
        ends_ms: i64,
        found: Option<Vec<Held>>,
        writes: u8,
    },
    /// The write lands at `at_ms`.
    Write {
        write: Write,
        at_ms: i64,
        ends_ms: i64,
        outcome: Option<Result<Version, LeaseError>>,
        writes: u8,
    },
}

struct Process {
    member: Member,
    share: Share,
    at: At,
    said: Option<Said>,
    speaks_ms: i64,
    leaving: bool,
    /// By target, the next tick.
    next: Vec<i64>,
}

struct Machine {
    name: String,
    skew_ms: i64,
    drift: f64,
    mono_offset: f64,
    frozen: bool,
    /// For how long it goes on while the place is away.
    keep: Duration,
    /// The place is away for it.
    away: bool,
    /// It does not reach the hub.
    cut: bool,
    process: Option<Process>,
}

impl Machine {
    fn now(&self, time_ms: i64) -> Now {
        let mono = (self.mono_offset + time_ms as f64) * self.drift;
        Now { wall_ms: time_ms + self.skew_ms, mono: Duration::from_micros((mono * 1000.0) as u64) }
    }

    fn start(&mut self, time_ms: i64, incarnation: u64) {
        let duration = Duration::from_millis(DURATION_MS as u64);
        let settings = Settings { name: self.name.clone(), duration, setup: String::new(), keep: self.keep };
        let share = Share::new(&self.name);
        let mut member = Member::new(settings, incarnation, share.clone());
        member.ready();
        member.hears_on(usize::from(!self.keep.is_zero()));
        let now_ms = self.now(time_ms).wall_ms;
        let next = (0..TARGETS).map(|target| next_tick(target, now_ms)).collect();
        let at = At::Rest { until_ms: time_ms };
        self.process =
            Some(Process { member, share, at, said: None, speaks_ms: time_ms, leaving: false, next });
    }
}

fn interval(target: u128) -> i64 {
    [1_000, 2_000, 5_000, 15_000][(target % 4) as usize]
}

fn key(target: u128) -> u128 {
    (target + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn next_tick(target: u128, from_ms: i64) -> i64 {
    let offset = (key(target) % interval(target) as u128) as i64;
    from_ms + (offset - from_ms).rem_euclid(interval(target))
}

struct World {
    seed: u64,
    random: SmallRng,
    place: Place,
    hub: Hub,
    machines: Vec<Machine>,
    keeps: bool,
    /// When the place is back.
    away_until_ms: i64,
    /// When something happened.
    last_ms: i64,
    /// Who scraped what.
    scraped: HashMap<(u128, i64), String>,
    /// Times of ticks that may be missed.
    excused: Vec<(i64, i64)>,
    loud: bool,
}

impl World {
    fn new(seed: u64, keeps: bool, loud: bool) -> World {
        let count = 2 + (seed % 2) as usize;
        let mut random = SmallRng::seed_from_u64(seed);
        let machine = |n: usize, random: &mut SmallRng| Machine {
            name: format!("agent-{n}"),
            skew_ms: random.random_range(-SKEW_MS / 2..=SKEW_MS / 2),
            drift: 1.0 + random.random_range(-100.0e-6..=100.0e-6),
            mono_offset: random.random_range(0.0..1e9),
            frozen: false,
            keep: if keeps { Duration::from_secs(3600) } else { Duration::ZERO },
            away: false,
            cut: false,
            process: None,
        };
        let machines = (0..count).map(|n| machine(n, &mut random)).collect();
        let place = Place { latency_ms: 50, ..Place::default() };
        let (scraped, excused) = (HashMap::new(), Vec::new());
        let hub = Hub { latency_ms: 50, ..Hub::default() };
        World {
            seed,
            keeps,
            random,
            place,
            hub,
            machines,
            scraped,
            excused,
            away_until_ms: 0,
            last_ms: 0,
            loud,
        }
    }

    fn say(&self, time_ms: i64, what: &str) {
        if self.loud {
            eprintln!("{:>8.3} {what}", time_ms as f64 / 1000.0);
        }
    }

    fn latency(&mut self) -> i64 {
        self.random.random_range(0..=self.place.latency_ms)
    }

    fn step(&mut self, time_ms: i64) {
        for n in 0..self.machines.len() {
            self.land(n, time_ms);
            if !self.machines[n].frozen && self.machines[n].process.is_some() {
                self.scrape(n, time_ms);
                self.talk(n, time_ms);
                self.advance(n, time_ms);
            }
        }
    }

    /// What the place does by itself, also while the process is frozen or after it has died.
    fn land(&mut self, n: usize, time_ms: i64) {
        let Machine { process: Some(process), away, cut, .. } = &mut self.machines[n] else { return };
        let (away, cut) = (*away, *cut);
        if let Some(Said { word, at_ms, found: found @ None, .. }) = &mut process.said
            && *at_ms <= time_ms
            && !cut
        {
            let lasts = |(at_ms, word): &&(i64, Word)| time_ms < at_ms + word.lasts().as_millis() as i64;
            let told = self.hub.words.values().flatten().filter(lasts);
            *found = Some(told.map(|(_, word)| word.clone()).collect());
            // Older ones are told, too, and after newer ones.
            let told = self.hub.words.entry(word.member.clone()).or_default();
            told.truncate(2);
            told.insert(0, (time_ms, word.clone()));
        }
        match &mut process.at {
            At::Read { at_ms, found: found @ None, .. } if *at_ms <= time_ms && !away => {
                *found = Some(self.place.list());
            }
            At::Write { write, at_ms, outcome: outcome @ None, .. } if *at_ms <= time_ms && !away => {
                *outcome = Some(self.place.put(write));
            }
            _ => {}
        }
    }

    fn scrape(&mut self, n: usize, time_ms: i64) {
        let now = self.machines[n].now(time_ms);
        let name = self.machines[n].name.clone();
        let Some(process) = &mut self.machines[n].process else { return };
        for target in 0..TARGETS {
            let tick_ms = process.next[target as usize];
            if tick_ms > now.wall_ms {
                continue;
            }
            process.next[target as usize] = next_tick(target, now.wall_ms + 1);
            if process.share.turn_at(key(target), tick_ms, now.mono) == Turn::Mine {
                let before = self.scraped.insert((target, tick_ms), name.clone());
                assert_eq!(
                    before, None,
                    "seed {}: target {target} at {tick_ms} again by {name} at {time_ms}",
                    self.seed
                );
            }
        }
    }

    /// As `Pair` tells and hears words.
    fn talk(&mut self, n: usize, time_ms: i64) {
        let now = self.machines[n].now(time_ms);
        let (there, back) = (
            self.random.random_range(0..=self.hub.latency_ms),
            self.random.random_range(0..=self.hub.latency_ms),
        );
        let Some(process) = &mut self.machines[n].process else { return };
        match process.said.take() {
            None if process.speaks_ms <= time_ms => {
                process.speaks_ms = time_ms + BEAT_MS;
                let said = |word| Said {
                    word,
                    at_ms: time_ms + there,
                    ends_ms: time_ms + there + back,
                    found: None,
                };
                process.said = process.member.word(now).map(said);
            }
            Some(Said { word, ends_ms, found: Some(found), .. }) if ends_ms <= time_ms => {
                process.member.hear(now, 0, word.mark, found);
                process.speaks_ms = time_ms + BEAT_MS;
            }
            Some(said) if said.at_ms + DURATION_MS / 4 < time_ms => process.speaks_ms = time_ms + BEAT_MS,
            said => process.said = said,
        }
    }

    fn read(&mut self, n: usize, time_ms: i64, writes: u8) -> At {
        let (there, back) = (self.latency(), self.latency());
        let at_ms = time_ms + there;
        let began = self.machines[n].now(time_ms);
        At::Read { began, at_ms, ends_ms: at_ms + back, found: None, writes }
    }

    /// As `Pair` goes about it.
    fn advance(&mut self, n: usize, time_ms: i64) {
        let now = self.machines[n].now(time_ms);
        let Some(mut process) = self.machines[n].process.take() else { return };
        let patience = if self.keeps { DURATION_MS / 4 } else { DURATION_MS / 2 };
        let at = std::mem::replace(&mut process.at, At::Rest { until_ms: 0 });
        match &at {
            At::Read { began, at_ms, .. } if at_ms + DURATION_MS / 8 < time_ms => {
                process.member.missed(*began)
            }
            At::Write { at_ms, .. } if at_ms + DURATION_MS / 8 < time_ms => process.member.missed(now),
            _ => {}
        }
        process.at = match at {
            At::Rest { until_ms } if until_ms > time_ms => At::Rest { until_ms },
            At::Rest { .. } => self.read(n, time_ms, 0),
            At::Read { began, ends_ms, found: Some(found), writes, .. } if ends_ms <= time_ms => {
                process.member.read(began, now, found);
                self.after(n, time_ms, &mut process, writes)
            }
            At::Read { began, at_ms, writes, .. } if at_ms + patience < time_ms => {
                process.member.missed(began);
                if process.member.keeps_share(now) {
                    process.at = At::Rest { until_ms: time_ms + BEAT_MS };
                    self.machines[n].process = Some(process);
                    return;
                }
                self.after(n, time_ms, &mut process, writes)
            }
            At::Write { ends_ms, outcome: Some(outcome), writes, .. } if ends_ms <= time_ms => {
                process.member.wrote(now, outcome.as_ref().map(Clone::clone));
                match outcome {
                    Ok(_) => self.read(n, time_ms, writes),
                    Err(_) => At::Rest { until_ms: time_ms + BEAT_MS },
                }
            }
            At::Write { write, at_ms, outcome: None, .. } if at_ms + patience < time_ms => {
                process.member.wrote(now, Err(&LeaseError::Unavailable("late".to_owned())));
                // It may still arrive.
                if self.random.random_bool(0.5) {
                    _ = self.place.put(&write);
                }
                At::Rest { until_ms: time_ms + BEAT_MS }
            }
            at => at,
        };
        if process.leaving && matches!(process.at, At::Rest { .. }) && process.member.has_left(now) {
            self.say(time_ms, &format!("{} has left", self.machines[n].name));
            self.place.leases.remove(&self.machines[n].name);
            return;
        }
        self.machines[n].process = Some(process);
    }

    fn after(&mut self, n: usize, time_ms: i64, process: &mut Process, writes: u8) -> At {
        let now = self.machines[n].now(time_ms);
        if writes < 3
            && let Some(write) = process.member.beat(now)
        {
            if self.loud && process.member.lease().is_none_or(|(own, _)| own.views != write.lease.views) {
                self.say(
                    time_ms,
                    &format!(
                        "{} writes {:?} {:?}",
                        self.machines[n].name, write.lease.standing, write.lease.views
                    ),
                );
            }
            let (there, back) = (self.latency(), self.latency());
            let at_ms = time_ms + there;
            return At::Write { write, at_ms, ends_ms: at_ms + back, outcome: None, writes: writes + 1 };
        }
        At::Rest { until_ms: time_ms + BEAT_MS }
    }

    fn excuse(&mut self, from_ms: i64, to_ms: i64) {
        self.excused.push((from_ms - SKEW_MS, to_ms + SKEW_MS));
    }

    /// Something happens; gives the time at which it is over.
    fn happen(&mut self, time_ms: i64) -> Vec<(i64, End)> {
        let n = self.random.random_range(0..self.machines.len());
        let name = self.machines[n].name.clone();
        let lasts_ms = self.random.random_range(200..25_000_i64);
        let back = time_ms + lasts_ms;
        if self.machines[n].process.is_none() {
            return Vec::new();
        }
        let kind = self.random.random_range(0..if self.keeps { 9 } else { 7 });
        if self.keeps && time_ms < self.away_until_ms {
            // Nobody takes over what nobody can give away.
            self.excuse(time_ms, self.away_until_ms + BOUND_MS + DURATION_MS);
        }
        let quiet = time_ms - std::mem::replace(&mut self.last_ms, time_ms) > 35_000;
        match kind {
            0 | 1 => {
                self.say(time_ms, &format!("{name} crashes for {lasts_ms} ms"));
                self.machines[n].process = None;
                self.excuse(time_ms, time_ms + BOUND_MS);
                vec![(back, End::Start(n))]
            }
            2 => {
                self.say(time_ms, &format!("{name} is frozen for {lasts_ms} ms"));
                self.machines[n].frozen = true;
                // A short freeze is no change of hands, and its end may be.
                self.excuse(time_ms, (time_ms + BOUND_MS).max(back.min(time_ms + BOUND_MS) + BOUND_MS));
                vec![(back, End::Thaw(n))]
            }
            3 => {
                self.say(time_ms, &format!("{name} leaves"));
                if let Some(process) = &mut self.machines[n].process {
                    process.member.leave();
                    process.leaving = true;
                }
                vec![(time_ms + 10_000 + lasts_ms, End::Start(n))]
            }
            4 => {
                self.say(time_ms, &format!("the place is slow for {lasts_ms} ms"));
                self.place.latency_ms = self.random.random_range(200..4_000);
                // What was asked when it was slow is answered late.
                self.excuse(time_ms, back + BOUND_MS + 2 * self.place.latency_ms);
                vec![(back, End::Quick)]
            }
            5 => {
                let alone = self.keeps && self.random.random_bool(0.5);
                let whom = if alone { name.as_str() } else { "all" };
                self.say(time_ms, &format!("the place is away for {whom}, for {lasts_ms} ms"));
                for (m, machine) in self.machines.iter_mut().enumerate() {
                    machine.away |= !alone || m == n;
                }
                self.away_until_ms = back;
                // Nothing is missed where they hear of each other.
                if !(self.keeps && quiet) {
                    let more = if self.keeps { DURATION_MS } else { 0 };
                    self.excuse(time_ms, back + BOUND_MS + more);
                }
                vec![(back, End::Quick)]
            }
            7 => {
                let alone = self.random.random_bool(0.5);
                let whom = if alone { name.as_str() } else { "nobody" };
                self.say(time_ms, &format!("the hub cannot be reached ({whom}) for {lasts_ms} ms"));
                for (m, machine) in self.machines.iter_mut().enumerate() {
                    machine.cut |= !alone || m == n;
                }
                vec![(back, End::Reached)]
            }
            8 => {
                self.hub.latency_ms = self.random.random_range(50..4_000);
                let slow = self.hub.latency_ms;
                self.say(time_ms, &format!("the hub takes up to {slow} ms for {lasts_ms} ms, and forgets"));
                self.hub.words.clear();
                vec![(back, End::Reached)]
            }
            _ => {
                let skew_ms = self.random.random_range(-SKEW_MS / 2..=SKEW_MS / 2);
                self.say(time_ms, &format!("the clock of {name} is now {skew_ms} ms off"));
                self.machines[n].skew_ms = skew_ms;
                // It does not scrape a tick a second time that it has scraped before.
                if let Some(process) = &mut self.machines[n].process {
                    for (target, next) in process.next.iter_mut().enumerate() {
                        *next = (*next).max(next_tick(target as u128, time_ms + skew_ms));
                    }
                }
                self.excuse(time_ms, time_ms + BOUND_MS);
                Vec::new()
            }
        }
    }

    fn run(&mut self) {
        let mut ends: Vec<(i64, End)> = Vec::new();
        let mut next_ms = 30_000;
        for n in 0..self.machines.len() {
            // One after the other, all at once, or anything between.
            let at = self.random.random_range(0..6_000) * i64::from(self.random.random_bool(0.7));
            ends.push((at, End::Start(n)));
        }
        self.excuse(0, 6_000 + 3_000);
        let mut time_ms = 0;
        while time_ms < END_MS {
            for (_, end) in ends.extract_if(.., |(at, _)| *at <= time_ms).collect::<Vec<_>>() {
                match end {
                    End::Start(n) if self.machines[n].process.is_none() => {
                        self.say(time_ms, &format!("{} starts", self.machines[n].name));
                        // Who begins anew before the others have missed it, and while nobody else is there.
                        let others =
                            self.machines.iter().any(|other| other.process.is_some() && !other.frozen);
                        if !others {
                            self.excuse(time_ms, time_ms + BOUND_MS);
                        }
                        let incarnation = self.random.next_u64();
                        self.machines[n].start(time_ms, incarnation);
                    }
                    End::Start(_) => {}
                    End::Thaw(n) => self.machines[n].frozen = false,
                    End::Quick => {
                        self.say(time_ms, "the place is back");
                        self.place.latency_ms = 50;
                        self.machines.iter_mut().for_each(|machine| machine.away = false);
                    }
                    End::Reached => {
                        self.hub.latency_ms = 50;
                        self.machines.iter_mut().for_each(|machine| machine.cut = false);
                    }
                }
            }
            if time_ms >= next_ms && time_ms < END_MS - 60_000 {
                // Now and then the next thing happens while the last one is not over.
                let after: i64 = if self.random.random_bool(0.2) { 500 } else { 45_000 };
                next_ms = time_ms + after + self.random.random_range(0..5_000);
                let more = self.happen(time_ms);
                ends.extend(more);
            }
            if self.machines.iter().all(|machine| machine.process.is_none() || machine.frozen) {
                self.excuse(time_ms, time_ms + BOUND_MS);
            }
            self.step(time_ms);
            time_ms += STEP_MS;
        }
        self.count();
    }

    /// Nothing happens but `stages`; gives who scraped when, up to the time after the last of them.
    fn play(&mut self, stages: &[(i64, Stage)], end_ms: i64) -> Vec<(i64, String)> {
        let mut time_ms = 0;
        while time_ms < end_ms {
            for (_, stage) in stages.iter().filter(|(at_ms, _)| *at_ms == time_ms) {
                match *stage {
                    Stage::Start(n) => {
                        let incarnation = self.random.next_u64();
                        self.machines[n].start(time_ms, incarnation);
                    }
                    Stage::Crash(n) => self.machines[n].process = None,
                    Stage::Away(n, away) => self.machines[n].away = away,
                    Stage::Cut(n, cut) => self.machines[n].cut = cut,
                }
            }
            self.step(time_ms);
            time_ms += STEP_MS;
        }
        self.scraped.iter().map(|((_, tick_ms), name)| (*tick_ms, name.clone())).collect()
    }

    /// Every tick was scraped but those that are excused.
    fn count(&self) {
        for target in 0..TARGETS {
            let mut tick_ms = next_tick(target, SKEW_MS);
            while tick_ms < END_MS - SKEW_MS {
                let excused = self.excused.iter().any(|(from, to)| (*from..=*to).contains(&tick_ms));
                let scraped = self.scraped.contains_key(&(target, tick_ms));
                assert!(
                    scraped || excused,
                    "seed {}: nobody scraped target {target} at {tick_ms}",
                    self.seed
                );
                tick_ms += interval(target);
            }
        }
    }
}

/// What a staged case lets happen, to which machine.
#[derive(Clone, Copy)]
enum Stage {
    Start(usize),
    Crash(usize),
    /// The place is away for it, or back.
    Away(usize, bool),
    /// The hub cannot be reached by it, or can.
    Cut(usize, bool),
}

enum End {
    Start(usize),
    Thaw(usize),
    Quick,
    Reached,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run_all(keeps: bool) {
    if let Some(seed) = number("MARIGRAPH_SIM_SEED") {
        World::new(seed, keeps, true).run();
        return;
    }
    for seed in 0..number("MARIGRAPH_SIM_SEEDS").unwrap_or(40) {
        World::new(seed, keeps, false).run();
    }
}

#[test]
fn no_tick_twice_and_none_missed_that_could_be_announced() {
    run_all(false);
}

#[test]
fn the_place_away_costs_no_tick_where_members_hear_of_each_other() {
    run_all(true);
}

/// Who begins anew and finds an old lease: its owner is dead, or goes on without the leases and does not know of us.
#[test]
fn who_begins_anew_takes_nobody_for_dead_that_may_go_on_without_leases() {
    use Stage::{Away, Crash, Cut, Start};
    const FORGOTTEN: [(i64, Stage); 3] = [(0, Start(0)), (2_000, Start(1)), (60_000, Crash(1))];
    // For how long members go on; from when to when the second one may begin to scrape; seconds.
    let check = |name: &str, keep_s: u64, stages: &[(i64, Stage)], begins_s: Option<(i64, i64)>| {
        for seed in 0..8 {
            let mut world = World::new(2 * seed, keep_s > 0, false);
            for machine in &mut world.machines {
                machine.keep = Duration::from_secs(keep_s);
            }
            let all: Vec<(i64, Stage)> = FORGOTTEN.iter().chain(stages).copied().collect();
            // That nothing is scraped twice is seen to by the world.
            let scraped = world.play(&all, 240_000);
            let second = scraped.iter().filter(|(tick_ms, name)| name == "agent-1" && *tick_ms > 100_000);
            let first_ms = second.map(|(tick_ms, _)| *tick_ms).min();
            let fits = match (first_ms, begins_s) {
                (Some(first_ms), Some((from, to))) => (from * 1000..to * 1000).contains(&first_ms),
                (first_ms, begins_s) => first_ms.is_none() && begins_s.is_none(),
            };
            assert!(fits, "{name}, seed {seed}: from {first_ms:?} on");
        }
    };
    let alone = [(90_000, Away(0, true)), (110_000, Cut(1, true)), (110_000, Start(1))];
    check("it goes on, and the hub is out of reach", 3600, &alone, None);
    let back = [alone[0], alone[1], alone[2], (160_000, Away(0, false))];
    check("and it is back", 3600, &back, Some((158, 172)));
    let heard = [alone[0], alone[1], alone[2], (140_000, Cut(1, false))];
    // Each hears of the other then, and nobody can give anything away.
    check("and the hub is in reach again", 3600, &heard, None);
    let dead = [(90_000, Crash(0)), (110_000, Start(1))];
    check("it is dead, and the hub knows nothing of it", 3600, &dead, Some((117, 124)));
    let nobody = [dead[0], (110_000, Cut(1, true)), dead[1]];
    check("it is dead, and the hub is out of reach", 40, &nobody, Some((130, 185)));
    check("it is dead, and nobody goes on without leases", 0, &dead, Some((116, 124)));
}
