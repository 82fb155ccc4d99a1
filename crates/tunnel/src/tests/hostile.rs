//! Peers that mean harm, or are broken: refused, told why, and nobody else is disturbed.

use std::sync::Arc;
use std::time::Duration;

use super::kit::*;
use crate::agents::Ask;
use crate::connect::Tcp;
use crate::protocol::Timings;

/// Waits until the agent knows what is wrong.
async fn last_error(tunnels: &crate::Tunnels) -> String {
    loop {
        if let Some((_, error)) = tunnels.states().remove(0).last_error {
            return error;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn strangers_get_no_tunnel() {
    let (ca, other) = (Ca::new(), Ca::new());
    let hub = TestHub::new(&ca, Timings::default());
    let url = hub.listen().await;
    let answers = handler(|path| (200, path.to_owned()));
    let start = |tls| dial(vec![url.clone()], tls, Arc::new(Tcp), Timings::default(), &answers).0;
    let good = start(ca.agent("t/c/good"));
    hub.until_connected(1).await;
    for (name, tls, expected) in [
        ("expired", ca.expired_agent("t/c/a"), "certificateexpired"),
        ("of another authority", other.agent_that_trusts(&ca, "t/c/a"), "fatal alert"),
        ("that trusts another authority", ca.agent_that_trusts(&other, "t/c/a"), "invalid peer certificate"),
        ("without an agent's name", ca.agent("t"), "ask 127.0.0.1"),
    ] {
        let tunnels = start(tls);
        let error = tokio::time::timeout(Duration::from_secs(20), last_error(&tunnels)).await;
        let error = error.expect("an error");
        assert!(error.to_lowercase().contains(&expected.to_lowercase()), "{name}: {error}");
        assert_eq!(tunnels.states()[0].connected_since_ms, None, "{name}");
    }
    assert_eq!(hub.agents.list().len(), 1);
    let said =
        whole(hub.agents.request(&agent("t/c/good"), get("/x"), Ask::scrape(Duration::from_secs(5))).await);
    assert_eq!(said.await, "200 /x");
    drop(good);
}
