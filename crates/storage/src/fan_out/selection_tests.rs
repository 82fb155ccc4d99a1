//! Branches that get a selection: the cells, and what is said of rows that are due.

use model::{Metadata, MetricType, SourceId, stale_nan};
use proptest::prelude::*;

use super::*;
use crate::{EndReason, Failure, MemoryStore, Outcome, Policy, Schedule};

const SCHEDULE: Schedule = Schedule { interval_ms: 1000, offset_ms: 0 };

/// Writes down what it is sent, and keeps it.
#[derive(Default)]
struct Recorder {
    store: MemoryStore,
    said: Mutex<Vec<String>>,
    /// The series' names, by what they are called here.
    names: Mutex<HashMap<SeriesRef, String>>,
}

impl Recorder {
    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock())
    }
}

impl Appender for Recorder {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.said.lock().push(format!("open {}", source.labels.get("job").unwrap_or_default()));
        self.store.open_source(source)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let found = self.store.resolve(source, labels)?;
        for (labels, found) in labels.iter().zip(&found) {
            self.names.lock().extend(found.map(|found| (found, labels.metric_name().to_owned())));
        }
        Ok(found)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let mut said = self.said.lock();
        for account in batch.accounts {
            said.push(match *account {
                Account::Begin { at_ms, .. } => format!("begin {at_ms}"),
                Account::Tick { tick_ms, outcome: Outcome::Scraped { samples, exposed }, .. } => {
                    format!("tick {tick_ms} {samples}/{exposed}")
                }
                Account::Tick { tick_ms, outcome, .. } => format!("tick {tick_ms} {outcome:?}"),
                Account::End { at_ms, reason, .. } => format!("end {at_ms} {reason}"),
            });
        }
        for row in batch.rows {
            let names = self.names.lock();
            let cells: Vec<String> = row
                .series
                .iter()
                .zip(row.values)
                .map(|(series, value)| {
                    let value = if model::is_stale(*value) { "stale".to_owned() } else { value.to_string() };
                    format!("{}={value}", names.get(series).map(String::as_str).unwrap_or("?"))
                })
                .collect();
            said.push(format!("row {} {}", row.timestamp_ms, cells.join(" ")));
        }
        said.extend(batch.metadata.iter().map(|entry| format!("metadata {}", entry.metric)));
        self.store.append(batch)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.store.wait_durable(position)
    }
}

/// A scraper of one target, in small.
struct Bench {
    first: Arc<MemoryStore>,
    receiver: Arc<Recorder>,
    branch: Arc<Branch>,
    fan_out: FanOut,
    source: SourceRef,
    begin: Option<i64>,
}

fn target() -> Labels {
    Labels::from_pairs([("job", "a"), ("instance", "i")])
}

fn named(name: &str) -> Labels {
    Labels::from_pairs([("__name__", name), ("job", "a"), ("instance", "i")])
}

fn selecting(names: &'static [&'static str], ends_others_until_ms: i64) -> Selection {
    Selection { wants: Arc::new(|labels| names.contains(&labels.metric_name())), ends_others_until_ms }
}

impl Bench {
    fn new(selection: Selection) -> Bench {
        let (first, receiver) = (Arc::new(MemoryStore::new()), Arc::new(Recorder::default()));
        let branch = Branch::new(None);
        branch.switch_to(receiver.clone(), selection);
        let fan_out = FanOut::new(first.clone(), vec![branch.clone()]);
        let tenant = TenantId::default();
        let labels = target();
        let desc = SourceDesc { id: SourceId::of(&tenant, "", "a", &labels, ""), tenant, labels };
        let source = fan_out.open_source(&desc).expect("a source");
        Bench { first, receiver, branch, fan_out, source, begin: Some(0) }
    }

    fn resolve(&self, names: &[&str]) -> Vec<SeriesRef> {
        let labels: Vec<Labels> = names.iter().map(|name| named(name)).collect();
        let found = self.fan_out.resolve(self.source, &labels).expect("series");
        found.into_iter().flatten().collect()
    }

    /// Scrapes `names` and the report; `left_out` were exposed as well. What the receiver heard.
    fn scrape(&mut self, tick_ms: i64, names: &[&str], left_out: u32) -> Vec<String> {
        let all: Vec<&str> = names.iter().copied().chain(["up", "scrape_duration_seconds"]).collect();
        let samples = names.len() as u32;
        let outcome = Outcome::Scraped { samples, exposed: samples + left_out };
        for attempt in 0..2 {
            let series = self.resolve_once(&all, attempt);
            let values: Vec<f64> = (0..series.len()).map(|at| at as f64).collect();
            let row = Row::floats(self.source, tick_ms + 3, &series, &values);
            let appended = self.append(tick_ms, &[row], outcome);
            if appended.rejected.iter().all(|one| one.reason != RejectReason::UnknownSeries) {
                break;
            }
        }
        self.receiver.said()
    }

    /// As a scraper: resolves again only when it has to.
    fn resolve_once(&self, names: &[&str], attempt: u32) -> Vec<SeriesRef> {
        if attempt > 0 {
            return self.resolve(names);
        }
        let labels: Vec<Labels> = names.iter().map(|name| named(name)).collect();
        let first = self.first.resolve(self.source, &labels).expect("series");
        let series: Vec<SeriesRef> = first.into_iter().flatten().collect();
        let state = self.branch.state.lock();
        let source = state.sources.get(self.source);
        let knows = |series: &SeriesRef| source.is_some_and(|source| source.knows(*series));
        if !series.iter().any(knows) || series.iter().all(knows) {
            return series;
        }
        drop(state);
        self.resolve(names)
    }

    fn append(&mut self, tick_ms: i64, rows: &[Row<'_>], outcome: Outcome) -> Appended {
        let source = self.source;
        let begin = self.begin.take().map(|at_ms| Account::Begin { source, at_ms, schedule: SCHEDULE });
        let tick = Account::Tick { source, tick_ms, outcome };
        let accounts: Vec<Account> = begin.into_iter().chain([tick]).collect();
        let batch = Batch { accounts: &accounts, ..Batch::rows(rows, Policy::SCRAPE) };
        self.fan_out.append(&batch).expect("append")
    }

    fn fail(&mut self, tick_ms: i64) -> Vec<String> {
        let series = self.resolve_once(&["up"], 0);
        let row = Row::floats(self.source, tick_ms, &series, &[0.0]);
        self.append(tick_ms, &[row], Outcome::Failed(Failure::Timeout));
        self.receiver.said()
    }
}

#[test]
fn selected_cells_travel_and_ticks_speak_of_them() {
    let mut bench = Bench::new(selecting(&["a", "c", "up"], i64::MIN));
    bench.resolve(&["a", "b", "c", "up", "scrape_duration_seconds"]);
    assert_eq!(
        bench.scrape(1000, &["a", "b", "c"], 0),
        ["open a", "begin 1000", "tick 1000 2/2", "row 1003 a=0 c=2 up=3"]
    );
    // Steady, and with another column missing.
    assert_eq!(bench.scrape(2000, &["a", "b", "c"], 0), ["tick 2000 2/2", "row 2003 a=0 c=2 up=3"]);
    assert_eq!(bench.scrape(3000, &["b", "c"], 0), ["tick 3000 1/1", "row 3003 c=1 up=2"]);
    // Cells that the page shows twice are nobody's.
    assert_eq!(bench.scrape(4000, &["a", "b", "c"], 5), ["tick 4000 2/2", "row 4003 a=0 c=2 up=3"]);
    assert_eq!(bench.fail(5000), ["tick 5000 Failed(Timeout)", "row 5000 up=0"]);
    // The end of series is no cell.
    let series = bench.resolve(&["a", "b"]);
    let stale = [stale_nan(), stale_nan()];
    let row = Row::floats(bench.source, 6000, &series, &stale);
    bench.append(6000, &[row], Outcome::Skipped);
    assert_eq!(bench.receiver.said(), ["tick 6000 Skipped", "row 6000 a=stale"]);
    assert_eq!(bench.scrape(7000, &["a"], 0), ["tick 7000 1/1", "row 7003 a=0 up=1"]);
    assert_eq!(bench.branch.lost(), 0);
}

#[test]
fn a_source_of_which_nothing_is_selected_is_not_mentioned() {
    let mut bench = Bench::new(selecting(&["z"], i64::MIN));
    bench.resolve(&["a", "b", "up", "scrape_duration_seconds"]);
    for tick_ms in [1000, 2000, 3000] {
        assert_eq!(bench.scrape(tick_ms, &["a", "b"], 1), Vec::<String>::new());
    }
    assert_eq!(bench.fail(4000), Vec::<String>::new());
    let end = Account::End { source: bench.source, at_ms: 5000, reason: EndReason::Gone };
    bench.fan_out.append(&Batch { accounts: &[end], ..Batch::rows(&[], Policy::SCRAPE) }).expect("append");
    assert_eq!(bench.receiver.said(), Vec::<String>::new());
    assert_eq!(bench.branch.lost(), 0);
}

#[test]
fn a_source_begins_and_ends_with_its_selected_series() {
    let mut bench = Bench::new(selecting(&["z"], i64::MIN));
    assert_eq!(bench.scrape(1000, &["a"], 0), Vec::<String>::new());
    assert_eq!(bench.scrape(2000, &["a", "z"], 0), ["open a", "begin 2000", "tick 2000 1/1", "row 2003 z=1"]);
    // One that fails is missing there, too.
    assert_eq!(bench.fail(3000), ["tick 3000 Failed(Timeout)"]);
    assert_eq!(bench.scrape(4000, &["a"], 0), ["end 4000 reconfigured"]);
    assert_eq!(bench.scrape(5000, &["a"], 0), Vec::<String>::new());
    assert_eq!(bench.scrape(6000, &["z"], 0), ["begin 6000", "tick 6000 1/1", "row 6003 z=0"]);
    let end = Account::End { source: bench.source, at_ms: 7000, reason: EndReason::Shutdown };
    bench.fan_out.append(&Batch { accounts: &[end], ..Batch::rows(&[], Policy::SCRAPE) }).expect("append");
    assert_eq!(bench.receiver.said(), ["end 7000 shutdown"]);
}

#[test]
fn what_was_expected_before_the_start_is_ended_once() {
    let mut bench = Bench::new(selecting(&["z"], 5000));
    assert_eq!(bench.scrape(1000, &["a"], 0), ["open a", "end 1000 reconfigured"]);
    assert_eq!(bench.scrape(2000, &["a"], 0), Vec::<String>::new());
    assert_eq!(bench.scrape(3000, &["z"], 0), ["begin 3000", "tick 3000 1/1", "row 3003 z=0"]);
    // One that comes up long after is nobody's.
    let mut bench = Bench::new(selecting(&["z"], 5000));
    assert_eq!(bench.scrape(5000, &["a"], 0), Vec::<String>::new());
}

#[test]
fn another_selection_takes_over_at_the_next_scrape() {
    let mut bench = Bench::new(selecting(&["a"], i64::MIN));
    bench.resolve(&["a", "b", "up", "scrape_duration_seconds"]);
    bench.scrape(1000, &["a", "b"], 0);
    bench.branch.switch_to(bench.receiver.clone(), selecting(&["b"], i64::MIN));
    assert_eq!(bench.scrape(2000, &["a", "b"], 0), ["open a", "tick 2000 1/1", "row 2003 b=1"]);
    bench.branch.switch_to(bench.receiver.clone(), selecting(&[], i64::MIN));
    assert_eq!(bench.scrape(3000, &["a", "b"], 0), ["open a", "end 3000 reconfigured"]);
    bench.branch.switch_to(bench.receiver.clone(), selecting(&["a", "b"], i64::MIN));
    assert_eq!(
        bench.scrape(4000, &["a", "b"], 0),
        ["open a", "begin 4000", "tick 4000 2/2", "row 4003 a=0 b=1"]
    );
}

#[test]
fn a_branch_that_was_off_knows_that_rows_are_due() {
    let mut bench = Bench::new(selecting(&["a"], i64::MIN));
    bench.branch.switch(None);
    assert_eq!(bench.scrape(1000, &["a"], 0), Vec::<String>::new());
    bench.branch.switch_to(bench.receiver.clone(), selecting(&["a"], i64::MIN));
    assert_eq!(bench.scrape(2000, &["a"], 0), ["open a", "begin 2000", "tick 2000 1/1", "row 2003 a=0"]);
}

#[test]
fn selected_cells_that_the_first_did_not_take_are_lost() {
    let mut bench = Bench::new(selecting(&["a"], i64::MIN));
    bench.resolve(&["a", "b", "up", "scrape_duration_seconds"]);
    bench.scrape(2000, &["a", "b"], 0);
    // Out of order in the first store: `a` is lost, `b` is nobody's business.
    let series = bench.resolve(&["a", "b"]);
    let row = Row::floats(bench.source, 1000, &series, &[1.0, 1.0]);
    let appended = bench.append(1000, &[row], Outcome::Scraped { samples: 2, exposed: 2 });
    assert_eq!(appended.rejected.len(), 2);
    assert_eq!(bench.receiver.said(), ["tick 1000 0/1"]);
}

#[test]
fn metadata_goes_with_selected_families() {
    let bench = Bench::new(selecting(&["a_bucket", "c"], i64::MIN));
    let series = bench.resolve(&["a_bucket", "b_total", "c"]);
    let row = Row::floats(bench.source, 1000, &series, &[1.0, 2.0, 3.0]);
    let metadata = Metadata { metric_type: MetricType::Gauge, unit: String::new(), help: String::new() };
    let of = |metric| MetadataEntry { source: bench.source, metric, metadata: &metadata };
    let (entries, rows) = ([of("a"), of("b"), of("c")], [row]);
    let batch = Batch { metadata: &entries, ..Batch::rows(&rows, Policy::SCRAPE) };
    bench.fan_out.append(&batch).expect("append");
    let said = bench.receiver.said();
    assert_eq!(said, ["open a", "row 1000 a_bucket=1 c=3", "metadata a", "metadata c"]);
}

#[test]
fn idle_columns_are_forgotten_whether_selected_or_not() {
    let mut bench = Bench::new(selecting(&["a"], i64::MIN));
    bench.resolve(&["a", "b", "up", "scrape_duration_seconds"]);
    bench.scrape(1000, &["a", "b"], 0);
    for tick_ms in [2000, 3000, 4000] {
        bench.branch.forget_idle();
        assert_eq!(bench.scrape(tick_ms, &["a"], 0).len(), 2);
    }
    let series = bench.first.resolve(bench.source, &["a", "b", "up"].map(named)).expect("series");
    let knows = |at: usize| {
        let state = bench.branch.state.lock();
        series[at]
            .is_some_and(|series| state.sources.get(bench.source).expect("a known source").knows(series))
    };
    assert_eq!([0, 1, 2].map(knows), [true, false, true]);
    assert_eq!(bench.scrape(5000, &["a", "b"], 0), ["tick 5000 1/1", "row 5003 a=0"]);
}

proptest! {
    /// Whatever the rows: the receiver has the selected cells that the first store has, and no others.
    #[test]
    fn the_receiver_has_exactly_the_selected_cells(
        rows in proptest::collection::vec((any::<u8>(), any::<bool>()), 1..40),
        selected in any::<u8>(),
    ) {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let wants = move |labels: &Labels| {
            NAMES.iter().position(|name| *name == labels.metric_name()).is_some_and(|at| selected >> at & 1 == 1)
        };
        let bench = Bench::new(Selection { wants: Arc::new(wants), ends_others_until_ms: i64::MIN });
        let series = bench.resolve(&NAMES);
        let (mut want, mut got) = (Vec::new(), Vec::new());
        for (at, (columns, late)) in rows.into_iter().enumerate() {
            // Some come late, and are refused as a whole or in part.
            let time_ms = if late { at as i64 * 500 } else { 1000 + at as i64 * 1000 };
            let of: Vec<usize> = (0..8).filter(|at| columns >> at & 1 == 1).collect();
            let refs: Vec<SeriesRef> = of.iter().map(|at| series[*at]).collect();
            let values: Vec<f64> = of.iter().map(|column| (at * 10 + column) as f64).collect();
            let row = Row::floats(bench.source, time_ms, &refs, &values);
            let appended = bench.fan_out.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
            let taken = |at: &usize| !appended.rejected.iter().any(|one| one.series == refs[*at]);
            let cells = (0..refs.len()).filter(|at| taken(at) && selected >> of[*at] & 1 == 1);
            let cells: Vec<String> = cells.map(|at| format!("{}={}", NAMES[of[at]], values[at])).collect();
            if !cells.is_empty() {
                want.push(format!("row {time_ms} {}", cells.join(" ")));
            }
            got.extend(bench.receiver.said().into_iter().filter(|said| said.starts_with("row")));
        }
        prop_assert_eq!(got, want);
        prop_assert_eq!(bench.branch.lost(), 0);
    }
}
