//! Who may ask for what.

use proxy::Options;

use crate::fixture::{setup, target, text};

/// A cluster, headers, and the status.
type Case = (&'static str, &'static [(&'static str, &'static str)], u16);

#[tokio::test]
async fn credentials_and_what_they_open() {
    let setup = setup(Options::default());
    let url = "http://10.0.0.1/metrics";
    setup.fleet.set("default", "north", true, vec![target("a", url, &[])]);
    setup.fleet.set("default", "south", true, vec![target("a", url, &[])]);
    setup.fleet.set("other", "east", true, vec![target("a", url, &[])]);
    // x:t-all, x:t-north, anything:, x:wrong
    let cases: &[Case] = &[
        ("north", &[], 407),
        ("north", &[("authorization", "Bearer wrong")], 407),
        ("north", &[("authorization", "Bearer t-write")], 403),
        ("north", &[("authorization", "Bearer t-all")], 200),
        ("north", &[("proxy-authorization", "Bearer t-all")], 200),
        ("north", &[("proxy-authorization", "Basic eDp0LWFsbA==")], 200),
        ("north", &[("authorization", "Basic eDp0LWFsbA==")], 200),
        ("north", &[("proxy-authorization", "Basic eDo=")], 407),
        ("north", &[("proxy-authorization", "Basic !")], 407),
        ("north", &[("proxy-authorization", "Basic eDp3cm9uZw==")], 407),
        // The proxy's own field decides, whatever stands in the other one.
        ("north", &[("proxy-authorization", "Bearer wrong"), ("authorization", "Bearer t-all")], 407),
        ("south", &[("authorization", "Bearer t-all")], 200),
        ("south", &[("authorization", "Bearer t-north")], 404),
        ("north", &[("authorization", "Bearer t-north")], 200),
        ("east", &[("authorization", "Bearer t-all")], 404),
        ("east", &[("authorization", "Bearer t-other")], 200),
        ("north", &[("authorization", "Bearer t-other")], 404),
    ];
    for (cluster, headers, expected) in cases {
        let uri = format!("http://a.{cluster}.marigraph.internal:80/metrics");
        let response = setup.ask(&uri, headers).await;
        let challenged = response.headers().contains_key("proxy-authenticate");
        let (status, body) = text(response).await;
        assert_eq!(status, *expected, "{cluster} {headers:?}: {body}");
        assert_eq!(challenged, status == 407, "{cluster} {headers:?}");
    }
}

#[tokio::test]
async fn hidden_and_missing_clusters_look_the_same() {
    let setup = setup(Options::default());
    setup.fleet.set("default", "south", true, vec![target("a", "http://10.0.0.1/metrics", &[])]);
    let north = [("authorization", "Bearer t-north")];
    let (_, hidden) = text(setup.ask("http://a.south.marigraph.internal/metrics", &north).await).await;
    let (_, missing) = text(setup.ask("http://a.nowhere.marigraph.internal/metrics", &north).await).await;
    assert_eq!(hidden.replace("south", "nowhere"), missing);
}
