//! What is said of gaps: the endpoint, and the marks on answers.

use std::sync::Arc;

use model::{Labels, TenantId};
use storage::Select;
use web::{
    Completeness, CompletenessAsk, CompletenessReport, FleetAgent, IncompleteTime, PushedTally, RowGap,
    RowTally, TallyOf,
};

use super::fixture::{Fixture, Setup};

/// One gap of the job `a`, from second 1030 to 1040.
struct Account;

impl Completeness for Account {
    fn report(&self, _tenant: &TenantId, ask: &CompletenessAsk) -> CompletenessReport {
        let tally = RowTally {
            sources: 1,
            expected: 4,
            stored: 2,
            missing: vec![("agent_down", 1)],
            unknown: vec![("silent", 1)],
            cells_stored: 20,
            percent: Some(50.0),
            worst: Some((45_000, 15_000, 1_015_000)),
            newest_ms: Some(1_015_000),
            silent_sources: 1,
            ..RowTally::default()
        };
        let job = Some(format!("{:?}", ask.by));
        let labels = Labels::from_pairs([("job", "a")]);
        CompletenessReport {
            total: tally.clone(),
            groups: vec![TallyOf { cluster: "eu".into(), job, source: Some((7, labels.clone())), tally }],
            gaps: vec![RowGap {
                cluster: "eu".into(),
                job: "a".into(),
                source: 7,
                labels,
                from_ms: 1_030_000,
                to_ms: 1_030_000,
                rows: 1,
                reason: "agent_down",
            }],
            gaps_left_off: 2,
            detail_lost: vec![(1, 2)],
            pushed: vec![PushedTally {
                cluster: "eu".into(),
                job: "telegraf".into(),
                received: 3,
                stored: 2,
                cells_refused: 1,
                silent_since_ms: 1_000_000,
            }],
            agents: vec![FleetAgent {
                cluster: "eu".into(),
                agent: "one".into(),
                silent: true,
                enrolled_ms: Some(0),
                seen_ms: None,
            }],
        }
    }

    fn has_gaps(&self, _tenant: &TenantId) -> bool {
        true
    }

    fn touched(&self, _tenant: &TenantId, selections: &[Select]) -> Vec<IncompleteTime> {
        let touches = |select: &Select| {
            let of_a = select.matchers.iter().all(|matcher| matcher.name != "job" || matcher.matches("a"));
            of_a && select.start_ms <= 1_040_000 && select.end_ms >= 1_030_000
        };
        let one = IncompleteTime {
            cluster: "eu".into(),
            job: "a".into(),
            from_ms: 1_030_000,
            to_ms: 1_040_000,
            rows: 2,
            reason: "agent_down",
        };
        if selections.iter().any(touches) { vec![one] } else { Vec::new() }
    }
}

fn fixture() -> Fixture {
    Fixture::with(Setup { completeness: Some(Arc::new(Account)), ..Setup::default() })
}

#[tokio::test]
async fn the_account_is_told() {
    let tally = concat!(
        r#""sources":1,"silentSources":1,"expected":4,"stored":2,"partial":0,"missing":1,"unknown":1,"#,
        r#""reasons":{"agent_down":1,"silent":1},"cellsStored":20,"cellsLost":0,"percent":50,"#,
        r#""worstInterval":{"seconds":45,"configured":15,"from":"1970-01-01T00:16:55Z"},"#,
        r#""newest":"1970-01-01T00:16:55Z""#
    );
    let source = r#""source":"00000000000000000000000000000007","labels":{"job":"a"},"#;
    let want = [
        r#"{"status":"success","data":{"start":"1970-01-01T00:00:01Z","end":"1970-01-01T00:00:02Z","total":{"#,
        tally,
        r#"},"groups":[{"cluster":"eu","job":"Source","#,
        source,
        tally,
        r#"}],"gaps":[{"cluster":"eu","job":"a","#,
        source,
        r#""from":"1970-01-01T00:17:10Z","to":"1970-01-01T00:17:10Z","rows":1,"reason":"agent_down"}],"#,
        r#""gapsLeftOff":2,"detailLost":[{"from":"1970-01-01T00:00:00.001Z","to":"1970-01-01T00:00:00.002Z"}],"#,
        r#""pushed":[{"cluster":"eu","job":"telegraf","received":3,"stored":2,"cellsRefused":1,"#,
        r#""silentSince":"1970-01-01T00:16:40Z"}],"#,
        r#""agents":[{"cluster":"eu","agent":"one","silent":true,"enrolled":"1970-01-01T00:00:00Z","lastSeen":null}]}}"#,
    ];
    let answer = fixture().ask("/api/v1/completeness?start=1&end=2&by=source").await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, want.concat()));
    let nobody = Fixture::new().ask("/api/v1/completeness").await;
    assert_eq!(nobody.status, 404, "{}", nobody.body);
    for (bad, why) in [
        ("by=x", "is not cluster, job or source"),
        ("source=zz", "32 hexadecimal digits"),
        ("start=2&end=1", "must not be before"),
        ("limit=x", "limit must be a number"),
    ] {
        let answer = fixture().ask(&format!("/api/v1/completeness?{bad}")).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body.contains(why), "{bad}: {}", answer.body);
    }
}

#[tokio::test]
async fn answers_that_touch_a_gap_say_so_and_no_others() {
    const INFO: &str = concat!(
        r#""incomplete data: cluster \"eu\", job \"a\", 1970-01-01T00:17:10Z to 1970-01-01T00:17:20Z: "#,
        r#"2 rows agent_down""#
    );
    for (query, marked) in [
        ("query?query=up&time=1030", true),
        ("query?query=up{job=\"a\"}&time=1030", true),
        ("query?query=up{job=\"b\"}&time=1030", false),
        // The window of a range counts, and an offset moves it.
        ("query?query=rate(up[1m])&time=1060", true),
        ("query?query=rate(up[10s])&time=1060", false),
        ("query?query=rate(up[10s] offset 20s)&time=1060", true),
        ("query?query=1&time=1030", false),
        ("query_range?query=up&start=1000&end=1060&step=15", true),
        ("query_range?query=up&start=2000&end=2060&step=15", false),
    ] {
        let path = format!(
            "/api/v1/{}",
            query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22").replace(' ', "%20")
        );
        let (with, without) = (fixture().ask(&path).await, Fixture::new().ask(&path).await);
        let header = with
            .headers
            .get("x-marigraph-completeness")
            .map(|value| value.to_str().expect("text").to_owned());
        if marked {
            assert!(with.body.contains(INFO), "{query}: {}", with.body);
            assert_eq!(header.as_deref(), Some("incomplete; rows=2; start=1030; end=1040"), "{query}");
        } else {
            assert_eq!((&with.body, header), (&without.body, None), "{query}");
        }
        assert!(!without.headers.contains_key("x-marigraph-completeness"));
    }
}
