//! What is so now: silent agents and sources.

use super::*;

/// The one silent source's first missing tick.
fn silent_since(bench: &Bench) -> Option<i64> {
    let (silent, more) = bench.ledger.silent(&TenantId::default(), |cluster| cluster == "a", 10);
    assert!(silent.len() <= 1 && more == 0, "{silent:?} {more}");
    silent.first().map(|source| source.since_ms)
}

#[test]
fn a_source_is_silent_two_intervals_after_its_last_row() {
    type Tell = fn(&Bench, SourceRef);
    let check = |tell: Tell, now_ms: i64, want: Option<i64>| {
        let bench = Bench::new();
        let source = bench.source("a", "node");
        bench.state(&[begin(source, 0), whole(source, 0), whole(source, 1)]);
        tell(&bench, source);
        bench.clock.set_ms(now_ms);
        assert_eq!(silent_since(&bench), want, "at {now_ms}");
        // The sum says the same.
        let sources = bench.report(tick(0), now_ms).total.silent_sources;
        assert_eq!(sources, u64::from(want.is_some()), "at {now_ms}");
    };
    let nothing: Tell = |_, _| {};
    check(nothing, tick(3) - 1, None);
    check(nothing, tick(3), Some(tick(2)));
    // One that does not answer in time is told of when its time is over.
    let late: Tell = |bench, source| _ = bench.state(&[told(source, 2, Outcome::Failed(Failure::Timeout))]);
    check(late, tick(5) - 1, None);
    check(late, tick(5), Some(tick(3)));
    let gone: Tell = |bench, source| _ = bench.state(&[end(source, 2, EndReason::Gone)]);
    check(gone, tick(9), None);
    let stopped: Tell = |bench, source| _ = bench.state(&[end(source, 2, EndReason::Shutdown)]);
    check(stopped, tick(9), Some(tick(3)));
    let paused: Tell = |bench, _| bench.ledger.pause(&TenantId::default(), "a", tick(2), tick(8)).unwrap();
    check(paused, tick(7), None);
    check(paused, tick(8), Some(tick(2)));
    let retired: Tell = |bench, _| bench.ledger.retire(&TenantId::default(), "a", tick(2)).unwrap();
    check(retired, tick(9), None);
    let anew: Tell = |bench, source| {
        bench.ledger.retire(&TenantId::default(), "a", tick(2)).unwrap();
        bench.state(&[begin(source, 4), whole(source, 4)]);
    };
    check(anew, tick(6), Some(tick(5)));
}

#[test]
fn a_ledger_that_has_just_been_opened_waits_for_rows() {
    let bench = Bench::new();
    let source = bench.source("a", "node");
    bench.state(&[begin(source, 0), whole(source, 0)]);
    bench.clock.set_ms(tick(10));
    assert_eq!(silent_since(&bench), Some(tick(1)));
    let fresh = bench.restarted(bench.disk.after_kill(), "boot");
    assert_eq!(silent_since(&fresh), None);
    fresh.clock.set_ms(tick(12));
    assert_eq!(silent_since(&fresh), Some(tick(1)));
}

#[test]
fn an_agent_is_silent_within_two_of_its_shortest_intervals() {
    let check = |interval_ms: Option<i64>, silent_after_ms: i64| {
        let bench = Bench::new();
        let tenant = TenantId::default();
        for (job, factor) in [("fast", 1), ("slow", 4)] {
            let Some(interval_ms) = interval_ms else { break };
            let (source, schedule) =
                (bench.source("a", job), Schedule { interval_ms: factor * interval_ms, offset_ms: 0 });
            bench.state(&[Account::Begin { source, at_ms: tick(0), schedule }]);
        }
        bench.ledger.agent_seen(&tenant, "a", "one", tick(0));
        bench.appender.maintain().unwrap();
        assert_eq!(bench.ledger.shortest_interval_ms(&tenant, "a"), interval_ms);
        for (after_ms, want) in [(silent_after_ms, false), (silent_after_ms + 1, true)] {
            bench.clock.set_ms(tick(0) + after_ms);
            assert_eq!(bench.ledger.agents(&tenant)[0].silent, want, "{interval_ms:?}: {after_ms}");
        }
    };
    check(None, 15_000);
    check(Some(200), 2_500);
    check(Some(2_000), 2_500);
    check(Some(5_000), 8_500);
    check(Some(15_000), 15_000);
    check(Some(60_000), 15_000);
}
