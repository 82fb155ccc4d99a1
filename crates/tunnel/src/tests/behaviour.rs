//! What a tunnel does, over loopback.

use std::sync::Arc;
use std::time::Duration;

use super::kit::*;
use crate::agents::{Ask, To};
use crate::connect::Tcp;
use crate::protocol::Timings;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_hub_asks_its_agents() {
    let ca = Ca::new();
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let mut tunnels = Vec::new();
    for name in ["acme/prod/a", "acme/prod/b", "acme/test/a", "other/prod/a"] {
        let answers = handler(move |path| (200, format!("{name} {path}")));
        let dialled = dial(vec![url.clone()], ca.agent(name), Arc::new(Tcp), Timings::default(), &answers);
        tunnels.push(dialled);
    }
    hub.until_connected(4).await;
    let cluster = |tenant: &str, cluster: &str| To::Cluster { tenant: tenant.into(), cluster: cluster.into() };
    for (to, expected) in [
        (agent("acme/prod/a"), "200 acme/prod/a /x"),
        (agent("acme/prod/b"), "200 acme/prod/b /x"),
        (agent("other/prod/a"), "200 other/prod/a /x"),
        (agent("other/prod/b"), "agent other/prod/b is not connected"),
        (cluster("acme", "test"), "200 acme/test/a /x"),
        (cluster("other", "prod"), "200 other/prod/a /x"),
        (cluster("acme", "pro"), "cluster acme/pro is not connected"),
    ] {
        let said = whole(hub.agents.request(&to, get("/x"), Ask::scrape(SECOND * 10)).await).await;
        assert_eq!(said, expected, "{to}");
        let said = whole(hub.agents.request(&to, get("/x"), Ask::bulk(SECOND * 10)).await).await;
        assert_eq!(said, expected, "{to}, bulk");
    }
    assert_eq!(hub.agents.of_cluster("acme", "prod").len(), 2);
    let state = hub.agents.list().remove(0);
    assert_eq!((state.version.as_deref(), state.started_ms), (Some("1.2.3"), Some(7)));
    let status = tunnels[0].0.states().remove(0);
    assert!(status.connected_since_ms.is_some() && status.round_trip.is_some(), "{status:?}");
    for (tunnels, _) in tunnels {
        tunnels.stop().await;
    }
    hub.until_connected(0).await;
}
