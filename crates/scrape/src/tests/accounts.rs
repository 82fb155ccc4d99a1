//! What loops state beside their rows.

use storage::{Account, Appended, Batch, CommitPosition, SeriesRef, SourceDesc, SourceRef, StoreError};

use super::*;

/// Writes down what is stated on the way to the store.
struct Listener {
    store: Arc<MemoryStore>,
    heard: Arc<Mutex<Vec<(bool, Account)>>>,
}

impl Appender for Listener {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.store.open_source(source)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.store.resolve(source, labels)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let with_row = !batch.rows.is_empty();
        self.heard.lock().extend(batch.accounts.iter().map(|account| (with_row, *account)));
        self.store.append(batch)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.store.wait_durable(position)
    }
}

struct Heard(Arc<Mutex<Vec<(bool, Account)>>>);

impl Heard {
    fn bench() -> (Bench, Heard) {
        let heard = Arc::<Mutex<Vec<(bool, Account)>>>::default();
        let listening = heard.clone();
        let bench = Bench::over(Labels::empty(), move |store| Arc::new(Listener { store, heard: listening }));
        (bench, Heard(heard))
    }

    /// Since the last time, a line each; ticks count from the first one, in seconds.
    fn shown(&self, first_ms: &mut Option<i64>) -> String {
        let mut out = String::new();
        for (with_row, account) in self.0.lock().drain(..) {
            let mut at = |ms: i64| (ms - *first_ms.get_or_insert(ms)) as f64 / 1000.0;
            let what = match account {
                Account::Begin { schedule, at_ms, .. } => {
                    let first = at_ms + (schedule.offset_ms - at_ms).rem_euclid(schedule.interval_ms);
                    format!("begin {} every {}", at(first), schedule.interval_ms / 1000)
                }
                Account::Tick { tick_ms, outcome, .. } => format!("{} {outcome:?}", at(tick_ms)),
                Account::End { at_ms, reason, .. } => {
                    format!("end {} {reason}", (at(at_ms) / 10.0).ceil() * 10.0)
                }
            };
            writeln!(out, "{what}{}", if with_row { "" } else { " (no row)" }).expect("writing to a string");
        }
        out
    }
}

#[tokio::test(start_paused = true)]
async fn every_tick_is_stated_with_its_row() {
    let (bench, heard) = Heard::bench();
    let mut first = None;
    bench.apply(vec![plain()]);
    bench.targets("j", &["a:1"]);
    bench.network.set("a:1", Answer::text("a 1\nb 1\nup 7\n"));
    bench.pass(10).await;
    bench.network.remove("a:1");
    bench.pass(10).await;
    // The second sample of a series at one place in time does not count.
    bench.network.set("a:1", Answer::text("a 1\na 2\nb 1\n"));
    bench.pass(10).await;
    bench.store.set_series_max(8);
    bench.network.set("a:1", Answer::text("a 1\nb 1\nc 1\nd 1\n"));
    bench.pass(20).await;
    bench.network.set("a:1", Answer { delay: Duration::from_secs(7), ..Answer::text("a 1\n") });
    bench.pass(10).await;
    expect![[r#"
        begin 0 every 10
        0 Scraped { samples: 2, exposed: 2 }
        10 Failed(Unreachable)
        20 Scraped { samples: 2, exposed: 2 }
        30 Scraped { samples: 3, exposed: 4 }
        40 Scraped { samples: 3, exposed: 4 }
        50 Failed(Timeout)
    "#]]
    .assert_eq(&heard.shown(&mut first));
    bench.targets("j", &[]);
    bench.pass(1).await;
    expect![[r#"
        end 60 gone (no row)
    "#]]
    .assert_eq(&heard.shown(&mut first));
}

#[tokio::test(start_paused = true)]
async fn a_reload_goes_on_and_another_interval_begins() {
    let (bench, heard) = Heard::bench();
    let mut first = None;
    bench.network.set("a:1", Answer::text("a 1\n"));
    bench.apply(vec![plain()]);
    bench.targets("j", &["a:1"]);
    bench.pass(20).await;
    // The same schedule, another limit, while a scrape is under way.
    bench.network.set("a:1", Answer { delay: Duration::from_secs(4), ..Answer::text("a 1\n") });
    while heard.0.lock().len() < 3 {
        bench.pass(1).await;
    }
    let mut tick = 0;
    while bench.network.requests.lock().len() < 4 {
        bench.pass(1).await;
        tick += 1;
        assert!(tick < 20, "a scrape begins");
    }
    bench.apply(vec![job(|job, _| job.sample_limit = Some(100))]);
    bench.network.set("a:1", Answer::text("a 1\n"));
    bench.pass(10).await;
    bench.apply(vec![job(|job, _| {
        job.scrape_interval = Some(crate::config::ConfigDuration::from_secs(20));
    })]);
    bench.pass(40).await;
    bench.manager.shutdown().await;
    let shown = heard.shown(&mut first);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "begin 0 every 10",
            "0 Scraped { samples: 1, exposed: 1 }",
            "10 Scraped { samples: 1, exposed: 1 }",
            "20 Scraped { samples: 1, exposed: 1 }",
            "30 Skipped",
        ]
    );
    let begins: Vec<&&str> = lines.iter().filter(|line| line.starts_with("begin")).collect();
    assert_eq!(begins.len(), 2, "{shown}");
    assert!(begins[1].ends_with("every 20"), "{shown}");
    let last = lines.last().copied().unwrap_or_default();
    assert!(last.starts_with("end") && last.ends_with("shutdown (no row)"), "{shown}");
}
