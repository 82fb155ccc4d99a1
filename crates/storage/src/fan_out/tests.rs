use model::{Matcher, SourceId};

use super::*;
use crate::{MemoryStore, Policy, Queryable, Select};

fn desc(tenant: &TenantId) -> SourceDesc {
    let labels = Labels::from_pairs([("job", "a")]);
    SourceDesc { tenant: tenant.clone(), id: SourceId::of(tenant, "", "test", &labels, ""), labels }
}

fn labels(name: &str) -> Labels {
    Labels::from_pairs([("__name__", name)])
}

/// All of a tenant's floats: labels, time, value.
fn all(store: &MemoryStore, tenant: &TenantId) -> Vec<(String, i64, f64)> {
    let any = Matcher::new(model::MatchOp::NotEqual, "__name__", "").expect("a matcher");
    let select = Select { tenant: tenant.clone(), start_ms: i64::MIN, end_ms: i64::MAX, matchers: vec![any] };
    let set = store.select(&select).expect("a selection");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("columns");
    let mut found = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let name = set.labels(at).metric_name().to_owned();
        found.extend(
            column.times.iter().zip(&column.values).map(|(time, value)| (name.clone(), *time, *value)),
        );
    }
    found
}

struct Bench {
    first: Arc<MemoryStore>,
    second: Arc<MemoryStore>,
    branch: Arc<Branch>,
    fan_out: FanOut,
    tenant: TenantId,
}

impl Bench {
    fn new(only: Option<&str>) -> Bench {
        let (first, second) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        // Other references than the first store's, and a source of its own.
        let other = second.open_source(&desc(&TenantId::new("other").expect("a name"))).expect("a source");
        second.resolve(other, &[labels("x"), labels("y")]).expect("series");
        let tenant = only.map(|name| TenantId::new(name).expect("a name"));
        let branch = Branch::new(tenant);
        branch.switch(Some(second.clone()));
        let fan_out = FanOut::new(first.clone(), vec![branch.clone()]);
        Bench { first, second, branch, fan_out, tenant: TenantId::default() }
    }

    fn series(&self, names: &[&str]) -> (SourceRef, Vec<SeriesRef>) {
        let source = self.fan_out.open_source(&desc(&self.tenant)).expect("a source");
        let labels: Vec<Labels> = names.iter().map(|name| labels(name)).collect();
        let series = self.fan_out.resolve(source, &labels).expect("series");
        (source, series.into_iter().flatten().collect())
    }

    fn put(&self, source: SourceRef, time: i64, series: &[SeriesRef], values: &[f64]) -> Appended {
        let row = Row::floats(source, time, series, values);
        self.fan_out.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append")
    }

    fn check_same(&self) {
        assert_eq!(all(&self.second, &self.tenant), all(&self.first, &self.tenant));
    }
}

#[test]
fn the_branch_gets_what_the_first_took() {
    let bench = Bench::new(None);
    let (source, series) = bench.series(&["a", "b", "c"]);
    bench.put(source, 1000, &series, &[1.0, 2.0, 3.0]);
    bench.put(source, 2000, &series, &[1.5, 2.5, 3.5]);
    bench.put(source, 3000, &series[1..], &[4.0, 5.0]);
    // Late for `b` and `c`, which the first refuses; `a` is taken.
    let appended = bench.put(source, 2500, &series, &[7.0, 8.0, 9.0]);
    assert_eq!(appended.rejected.len(), 2);
    assert_eq!(all(&bench.first, &bench.tenant).len(), 9);
    bench.check_same();
    assert_eq!(bench.branch.lost(), 0);
}

#[test]
fn a_branch_of_one_tenant_gets_no_other() {
    let bench = Bench::new(Some("west"));
    let (source, series) = bench.series(&["a"]);
    bench.put(source, 1000, &series, &[1.0]);
    assert_eq!(all(&bench.second, &bench.tenant), []);
    assert_eq!(all(&bench.first, &bench.tenant).len(), 1);
}

#[test]
fn a_branch_that_fails_costs_only_itself() {
    let bench = Bench::new(None);
    let (source, series) = bench.series(&["a", "b"]);
    bench.put(source, 1000, &series, &[1.0, 2.0]);
    bench.second.set_read_only("a test");
    let appended = bench.put(source, 2000, &series, &[1.0, 2.0]);
    assert_eq!((appended.samples, appended.rejected.len()), (2, 0));
    assert_eq!(bench.branch.lost(), 2);
    assert_eq!(all(&bench.first, &bench.tenant).len(), 4);
}

#[test]
fn what_a_branch_has_forgotten_it_is_told_again() {
    let bench = Bench::new(None);
    let (source, series) = bench.series(&["a", "b"]);
    bench.put(source, 1000, &series, &[1.0, 2.0]);
    let theirs = bench.branch.state.lock().sources.get(source).expect("a known source").series[&series[0]]
        .theirs
        .expect("a place");
    bench.second.forget(theirs);
    bench.put(source, 2000, &series, &[3.0, 4.0]);
    assert_eq!(bench.branch.lost(), 0);
    let found = all(&bench.second, &bench.tenant);
    assert_eq!(
        found,
        [("a".to_owned(), 2000, 3.0), ("b".to_owned(), 1000, 2.0), ("b".to_owned(), 2000, 4.0)]
    );
}

#[test]
fn idle_series_are_forgotten_and_come_back_by_resolving() {
    let bench = Bench::new(None);
    let (source, series) = bench.series(&["a", "b"]);
    bench.put(source, 1000, &series, &[1.0, 2.0]);
    for time in [2000, 3000, 4000] {
        bench.branch.forget_idle();
        bench.put(source, time, &series[..1], &[1.0]);
    }
    assert_eq!(bench.branch.state.lock().sources.get(source).expect("a known source").series.len(), 1);
    let appended = bench.put(source, 5000, &series, &[1.0, 2.0]);
    let unknown = Rejection { row: 0, series: series[1], reason: RejectReason::UnknownSeries };
    assert_eq!(appended.rejected, [unknown]);
    let (source, series) = bench.series(&["a", "b"]);
    let appended = bench.put(source, 5000, &series, &[1.0, 2.0]);
    assert_eq!(appended.rejected, []);
    bench.check_same();
    // A source that nobody writes to is emptied.
    (0..4).for_each(|_| bench.branch.forget_idle());
    assert!(bench.branch.state.lock().sources.get(source).expect("a known source").series.is_empty());
}

#[test]
fn a_branch_that_is_off_gets_nothing_and_switched_on_it_gets_all() {
    let bench = Bench::new(None);
    bench.branch.switch(None);
    let (source, series) = bench.series(&["a"]);
    assert_eq!(bench.put(source, 1000, &series, &[1.0]).rejected, []);
    bench.branch.switch(Some(bench.second.clone()));
    let appended = bench.put(source, 2000, &series, &[2.0]);
    assert_eq!(appended.rejected.len(), 1, "the writer is to resolve again");
    let (source, series) = bench.series(&["a"]);
    assert_eq!(bench.put(source, 2000, &series, &[2.0]).rejected, []);
    assert_eq!(all(&bench.second, &bench.tenant), [("a".to_owned(), 2000, 2.0)]);
    assert_eq!(bench.branch.lost(), 0);
}
