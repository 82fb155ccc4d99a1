//! Exemplars of what an expression selects.

use std::sync::Arc;

use model::{Exemplar, Labels, SourceId, TenantId};
use storage::{Appender, Batch, MemoryStore, Policy, Row, SourceDesc};

use super::fixture::{Fixture, Setup};

fn store() -> MemoryStore {
    let store = MemoryStore::new();
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = store.open_source(&desc).expect("open");
    for (name, trace, value, at) in
        [("b", "4", 4.0, 10_000), ("a", "2", f64::NAN, 20_500), ("a", "1<", 0.25, 10_000), ("c", "9", 1.0, 5)]
    {
        let labels = Labels::from_pairs([("__name__", name), ("job", "x<y")]);
        let series = store.resolve(source, &[labels]).expect("resolve")[0].expect("a series");
        let exemplar =
            Exemplar { labels: Labels::from_pairs([("trace_id", trace)]), value, timestamp_ms: at };
        let exemplars = [(series, exemplar)];
        let row =
            Row { exemplars: &exemplars, ..Row::floats(source, at, std::slice::from_ref(&series), &[1.0]) };
        store.append(&Batch::rows(&[row], Policy::REMOTE_WRITE)).expect("append");
    }
    store
}

#[tokio::test]
async fn exemplars_stand_by_series_and_time() {
    let fixture = Fixture::over(Arc::new(store()), Setup::default());
    let a = concat!(
        r#"{"seriesLabels":{"__name__":"a","job":"x<y"},"exemplars":["#,
        r#"{"labels":{"trace_id":"1<"},"value":"0.25","timestamp":10},"#,
        r#"{"labels":{"trace_id":"2"},"value":"NaN","timestamp":20.500}]}"#
    );
    let b = concat!(
        r#"{"seriesLabels":{"__name__":"b","job":"x<y"},"exemplars":["#,
        r#"{"labels":{"trace_id":"4"},"value":"4","timestamp":10}]}"#
    );
    let late = concat!(
        r#"{"seriesLabels":{"__name__":"a","job":"x<y"},"exemplars":["#,
        r#"{"labels":{"trace_id":"2"},"value":"NaN","timestamp":20.500}]}"#
    );
    for (what, expected) in [
        ("/api/v1/query_exemplars?query=sum(rate(a%5B5m%5D))%2Fb%2Ba", format!("{a},{b}")),
        ("POST /api/v1/query_exemplars query=topk(scalar(a),-b)", format!("{a},{b}")),
        ("/api/v1/query_exemplars?query=a&start=11", late.to_owned()),
        ("/api/v1/query_exemplars?query=a&start=1&end=2", String::new()),
        ("/api/v1/query_exemplars?query=nothing", String::new()),
    ] {
        let answer = fixture.ask(what).await;
        let expected = format!("{{\"status\":\"success\",\"data\":[{expected}]}}");
        assert_eq!((answer.status.as_u16(), answer.body), (200, expected), "{what}");
    }
    assert_eq!(fixture.ask("/api/v1/query_exemplars?query=1").await.status.as_u16(), 204);
}
