//! Chunks of histograms: one layout, then counts as differences of differences (integers) or of bits
//! (floats).
//!
//! A chunk says of its first histogram whether a counter reset lies before it; the others of a chunk
//! have none between them. So a run of histograms ends where the layout changes, a counter goes down, or
//! the series ends.

use std::sync::Arc;

use model::Histogram;
use model::histogram::{Buckets, CounterResetHint};
use stdx::bytes::{CUT_SHORT, Malformed};

use super::Encoding;
use super::layout::{self, Layout};
use crate::bits::{BitReader, BitWriter, XorFloat, get_int, get_uint, put_int, put_uint};

const UNKNOWN: u8 = 0b0000_0000;
const NOT_RESET: u8 = 0b0100_0000;
const RESET: u8 = 0b1000_0000;
const GAUGE: u8 = 0b1100_0000;

/// Most bucket counts that one chunk decodes to.
const COUNTS_MAX: usize = 4 << 20;

type Timed = (i64, Arc<Histogram>);

/// Cuts the histograms of a series into runs that fit a chunk.
#[derive(Debug, Default)]
pub(super) struct Runs {
    last: Option<Arc<Histogram>>,
}

impl Runs {
    /// Something else lies between the last run and the next.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
    }

    /// How many of `candidates` (at least one) fit the next chunk, and the chunk's header.
    pub(super) fn next(&mut self, candidates: &[Timed]) -> (usize, u8) {
        let first = &candidates[0].1;
        let header = match (first.counter_reset_hint, &self.last) {
            (CounterResetHint::Gauge, _) => GAUGE,
            (CounterResetHint::Reset, _) => RESET,
            (_, Some(last)) if is_comparable(last, first) && is_reset(last, first) => RESET,
            (_, Some(last)) if is_comparable(last, first) => NOT_RESET,
            _ => UNKNOWN,
        };
        let mut count = 1;
        while count < candidates.len() && continues(&candidates[count - 1].1, &candidates[count].1) {
            count += 1;
        }
        self.last = Some(candidates[count - 1].1.clone());
        (count, header)
    }
}

/// Whether `next` may follow `last` in a chunk. A staleness marker always may, and ends it.
fn continues(last: &Histogram, next: &Histogram) -> bool {
    if last.is_stale() {
        return false;
    }
    let is_gauge = |histogram: &Histogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    next.is_stale()
        || next.counter_reset_hint != CounterResetHint::Reset
            && is_gauge(last) == is_gauge(next)
            && is_comparable(last, next)
            && (is_gauge(next) || !is_reset(last, next))
}

/// Whether both are samples of one kind and layout.
fn is_comparable(a: &Histogram, b: &Histogram) -> bool {
    let same_kind = matches!(
        (&a.buckets, &b.buckets),
        (Buckets::Int { .. }, Buckets::Int { .. }) | (Buckets::Float { .. }, Buckets::Float { .. })
    );
    same_kind && !a.is_stale() && !b.is_stale() && layout::equal(a, b)
}

/// Whether a count of `next` is below that of `last`; both have the same kind and layout.
fn is_reset(last: &Histogram, next: &Histogram) -> bool {
    match (&last.buckets, &next.buckets) {
        (
            Buckets::Int { count: c, zero_count: z, positive: p, negative: n },
            Buckets::Int { count, zero_count, positive, negative },
        ) => count < c || zero_count < z || falls(p, positive) || falls(n, negative),
        (
            Buckets::Float { count: c, zero_count: z, positive: p, negative: n },
            Buckets::Float { count, zero_count, positive, negative },
        ) => {
            let falls = |last: &[f64], next: &[f64]| last.iter().zip(next).any(|(last, next)| next < last);
            count < c || zero_count < z || falls(p, positive) || falls(n, negative)
        }
        _ => true,
    }
}

/// Whether a bucket of `next` has less than in `last`; both are differences to the bucket before.
fn falls(last: &[i64], next: &[i64]) -> bool {
    let mut change = 0i64;
    last.iter().zip(next).any(|(last, next)| {
        change = change.wrapping_add(next.wrapping_sub(*last));
        change < 0
    })
}

/// Encodes a run that [`Runs::next`] has given. Its last histogram may be a staleness marker.
pub(super) fn encode<'o>(run: &[Timed], header: u8, out: &'o mut BitWriter) -> (Encoding, &'o [u8]) {
    out.restart(3);
    let first = &run[0].1;
    let encoding = match (&first.buckets, first.is_stale()) {
        (Buckets::Int { count, zero_count, positive, negative }, false) => {
            layout::put(first, out);
            encode_ints(run, IntState::new(run[0].0, *count, *zero_count, positive, negative), out);
            Encoding::Histogram
        }
        (Buckets::Float { count, zero_count, positive, negative }, false) => {
            layout::put(first, out);
            encode_floats(run, FloatState::new(run[0].0, *count, *zero_count, positive, negative), out);
            Encoding::FloatHistogram
        }
        (_, true) => {
            // Nothing of a staleness marker counts but its sum.
            layout::put(&Histogram::stale(), out);
            encode_floats(run, FloatState::new(run[0].0, 0.0, 0.0, &[], &[]), out);
            Encoding::FloatHistogram
        }
    };
    let [high, low] = (run.len() as u16).to_be_bytes();
    (encoding, out.finish(&[high, low, header]))
}

fn encode_ints(run: &[Timed], mut state: IntState, out: &mut BitWriter) {
    put_int(out, run[0].0);
    put_uint(out, state.count.0 as u64);
    put_uint(out, state.zero_count.0 as u64);
    let mut sum = XorFloat::new(run[0].1.sum);
    out.put(sum.bits, 64);
    state.positive.iter().chain(&state.negative).for_each(|bucket| put_int(out, bucket.0));
    for (time, histogram) in &run[1..] {
        put_int(out, next_dod(&mut state.time, *time));
        let buckets = match &histogram.buckets {
            Buckets::Int { count, zero_count, positive, negative } if !histogram.is_stale() => {
                put_int(out, next_dod(&mut state.count, *count as i64));
                put_int(out, next_dod(&mut state.zero_count, *zero_count as i64));
                Some((positive, negative))
            }
            _ => {
                put_int(out, 0);
                put_int(out, 0);
                None
            }
        };
        sum.put(histogram.sum, out);
        if let Some((positive, negative)) = buckets {
            let states = state.positive.iter_mut().chain(&mut state.negative);
            for (state, bucket) in states.zip(positive.iter().chain(negative)) {
                put_int(out, next_dod(state, *bucket));
            }
        }
    }
}

fn encode_floats(run: &[Timed], mut state: FloatState, out: &mut BitWriter) {
    put_int(out, run[0].0);
    out.put(state.count.bits, 64);
    out.put(state.zero_count.bits, 64);
    let mut sum = XorFloat::new(run[0].1.sum);
    out.put(sum.bits, 64);
    state.positive.iter().chain(&state.negative).for_each(|bucket| out.put(bucket.bits, 64));
    for (time, histogram) in &run[1..] {
        put_int(out, next_dod(&mut state.time, *time));
        match &histogram.buckets {
            Buckets::Float { count, zero_count, positive, negative } if !histogram.is_stale() => {
                state.count.put(*count, out);
                state.zero_count.put(*zero_count, out);
                sum.put(histogram.sum, out);
                let states = state.positive.iter_mut().chain(&mut state.negative);
                for (state, bucket) in states.zip(positive.iter().chain(negative)) {
                    state.put(*bucket, out);
                }
            }
            _ => {
                state.count.put(0.0, out);
                state.zero_count.put(0.0, out);
                sum.put(histogram.sum, out);
            }
        }
    }
}

/// A number and its last change.
type Moving = (i64, i64);

/// Makes `value` the next of a sequence; how its change differs from the last one.
fn next_dod(state: &mut Moving, value: i64) -> i64 {
    let change = value.wrapping_sub(state.0);
    let dod = change.wrapping_sub(state.1);
    *state = (value, change);
    dod
}

/// The other way.
fn apply_dod(state: &mut Moving, dod: i64) -> i64 {
    state.1 = state.1.wrapping_add(dod);
    state.0 = state.0.wrapping_add(state.1);
    state.0
}

struct IntState {
    time: Moving,
    count: Moving,
    zero_count: Moving,
    positive: Vec<Moving>,
    negative: Vec<Moving>,
}

impl IntState {
    fn new(time: i64, count: u64, zero_count: u64, positive: &[i64], negative: &[i64]) -> IntState {
        let moving = |values: &[i64]| values.iter().map(|value| (*value, 0)).collect();
        IntState {
            time: (time, 0),
            count: (count as i64, 0),
            zero_count: (zero_count as i64, 0),
            positive: moving(positive),
            negative: moving(negative),
        }
    }

    fn buckets(&self) -> Buckets {
        let values = |list: &[Moving]| list.iter().map(|(value, _)| *value).collect();
        Buckets::Int {
            count: self.count.0 as u64,
            zero_count: self.zero_count.0 as u64,
            positive: values(&self.positive),
            negative: values(&self.negative),
        }
    }
}

struct FloatState {
    time: Moving,
    count: XorFloat,
    zero_count: XorFloat,
    positive: Vec<XorFloat>,
    negative: Vec<XorFloat>,
}

impl FloatState {
    fn new(time: i64, count: f64, zero_count: f64, positive: &[f64], negative: &[f64]) -> FloatState {
        let floats = |values: &[f64]| values.iter().map(|value| XorFloat::new(*value)).collect();
        FloatState {
            time: (time, 0),
            count: XorFloat::new(count),
            zero_count: XorFloat::new(zero_count),
            positive: floats(positive),
            negative: floats(negative),
        }
    }

    fn buckets(&self) -> Buckets {
        let values = |list: &[XorFloat]| list.iter().map(XorFloat::value).collect();
        Buckets::Float {
            count: self.count.value(),
            zero_count: self.zero_count.value(),
            positive: values(&self.positive),
            negative: values(&self.negative),
        }
    }
}

/// Either kind of counts.
enum State {
    Int(IntState),
    Float(FloatState),
}

pub(super) fn decode(encoding: Encoding, data: &[u8], out: &mut Vec<Timed>) -> Result<(), Malformed> {
    let (head, body) = data.split_at_checked(3).ok_or(CUT_SHORT)?;
    let count = usize::from(u16::from_be_bytes([head[0], head[1]]));
    if count == 0 {
        return Ok(());
    }
    let mut bits = BitReader::new(body);
    let layout = layout::get(&mut bits)?;
    let buckets = layout::buckets(&layout.positive_spans) + layout::buckets(&layout.negative_spans);
    if buckets.saturating_mul(count) > COUNTS_MAX {
        return Err(Malformed("a chunk has more than 4194304 bucket counts"));
    }
    let time = get_int(&mut bits)?;
    let (mut state, mut sum) = match encoding {
        Encoding::Histogram => first_ints(time, &layout, &mut bits)?,
        _ => first_floats(time, &layout, &mut bits)?,
    };
    let header = head[2] & GAUGE;
    out.push((time, Arc::new(assemble(&layout, &state, sum.value(), hint(header, true)))));
    for _ in 1..count {
        let time = match &mut state {
            State::Int(ints) => next_ints(ints, &mut sum, &mut bits)?,
            State::Float(floats) => next_floats(floats, &mut sum, &mut bits)?,
        };
        out.push((time, Arc::new(assemble(&layout, &state, sum.value(), hint(header, false)))));
    }
    Ok(())
}

fn first_ints(time: i64, layout: &Layout, bits: &mut BitReader<'_>) -> Result<(State, XorFloat), Malformed> {
    let (count, zero_count) = (get_uint(bits)?, get_uint(bits)?);
    let sum = XorFloat::new(f64::from_bits(bits.get(64)?));
    let mut side = |count| (0..count).map(|_| get_int(bits)).collect::<Result<Vec<i64>, _>>();
    let positive = side(layout::buckets(&layout.positive_spans))?;
    let negative = side(layout::buckets(&layout.negative_spans))?;
    Ok((State::Int(IntState::new(time, count, zero_count, &positive, &negative)), sum))
}

fn first_floats(
    time: i64,
    layout: &Layout,
    bits: &mut BitReader<'_>,
) -> Result<(State, XorFloat), Malformed> {
    let mut float = || bits.get(64).map(f64::from_bits);
    let (count, zero_count, sum) = (float()?, float()?, float()?);
    let mut side = |count| (0..count).map(|_| float()).collect::<Result<Vec<f64>, _>>();
    let positive = side(layout::buckets(&layout.positive_spans))?;
    let negative = side(layout::buckets(&layout.negative_spans))?;
    let state = FloatState::new(time, count, zero_count, &positive, &negative);
    Ok((State::Float(state), XorFloat::new(sum)))
}

fn next_ints(state: &mut IntState, sum: &mut XorFloat, bits: &mut BitReader<'_>) -> Result<i64, Malformed> {
    let time = apply_dod(&mut state.time, get_int(bits)?);
    apply_dod(&mut state.count, get_int(bits)?);
    apply_dod(&mut state.zero_count, get_int(bits)?);
    if !model::is_stale(sum.get(bits)?) {
        for bucket in state.positive.iter_mut().chain(&mut state.negative) {
            apply_dod(bucket, get_int(bits)?);
        }
    }
    Ok(time)
}

fn next_floats(
    state: &mut FloatState,
    sum: &mut XorFloat,
    bits: &mut BitReader<'_>,
) -> Result<i64, Malformed> {
    let time = apply_dod(&mut state.time, get_int(bits)?);
    state.count.get(bits)?;
    state.zero_count.get(bits)?;
    if !model::is_stale(sum.get(bits)?) {
        for bucket in state.positive.iter_mut().chain(&mut state.negative) {
            bucket.get(bits)?;
        }
    }
    Ok(time)
}

fn assemble(layout: &Layout, state: &State, sum: f64, hint: CounterResetHint) -> Histogram {
    if model::is_stale(sum) {
        return Histogram::stale();
    }
    Histogram {
        counter_reset_hint: hint,
        schema: layout.schema,
        zero_threshold: layout.zero_threshold,
        sum,
        positive_spans: layout.positive_spans.clone(),
        negative_spans: layout.negative_spans.clone(),
        custom_values: layout.custom_values.clone(),
        buckets: match state {
            State::Int(ints) => ints.buckets(),
            State::Float(floats) => floats.buckets(),
        },
    }
}

/// What a reader may say of a histogram. "No reset before the chunk" is not said of the first one: what
/// was before may have been deleted.
fn hint(header: u8, first: bool) -> CounterResetHint {
    match (header, first) {
        (GAUGE, _) => CounterResetHint::Gauge,
        (_, false) => CounterResetHint::NotReset,
        (RESET, true) => CounterResetHint::Reset,
        _ => CounterResetHint::Unknown,
    }
}
