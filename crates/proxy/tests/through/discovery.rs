//! Lists for Prometheus' HTTP service discovery.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use expect_test::expect;
use proxy::{Caller, Clusters, Options};

use crate::fixture::{Setup, all, setup, target, text};

async fn list(setup: &Setup, caller: &Caller, query: &str) -> (u16, String) {
    text(setup.proxy.targets(caller, query).await).await
}

/// The addresses of the groups, in the order of the list.
async fn addresses(setup: &Setup, caller: &Caller, query: &str) -> Vec<String> {
    let (status, body) = list(setup, caller, query).await;
    assert_eq!(status, 200, "{query}: {body}");
    let groups: Vec<serde_json::Value> = serde_json::from_str(&body).expect("JSON");
    groups.iter().map(|group| group["targets"][0].as_str().expect("an address").to_owned()).collect()
}

fn fleet() -> Setup {
    let setup = setup(Options::default());
    setup.fleet.set(
        "default",
        "north",
        true,
        vec![
            target("b", "https://10.0.0.2:9100/metrics", &[("job", "node"), ("instance", "10.0.0.2:9100")]),
            target(
                "a",
                "http://blackbox:9115/probe?module=http_2xx&target=https%3A%2F%2Fexample.org&target=second",
                &[
                    ("job", "probe"),
                    ("instance", "https://example.org"),
                    ("team", "web"),
                    ("cluster", "forged"),
                ],
            ),
        ],
    );
    setup.fleet.set(
        "default",
        "South.1",
        true,
        vec![target("b", "https://10.0.0.2:9100/metrics", &[("job", "node"), ("instance", "10.0.0.2:9100")])],
    );
    setup.fleet.set("other", "east", true, vec![target("z", "http://10.0.0.9/metrics", &[("job", "node")])]);
    setup
}

#[tokio::test]
async fn labels_are_those_of_a_scrape_in_place() {
    let (_, body) = list(&fleet(), &all(), "cluster=north").await;
    let groups: Vec<serde_json::Value> = serde_json::from_str(&body).expect("JSON");
    let shown = serde_json::to_string_pretty(&groups).expect("JSON");
    expect![[r#"
        [
          {
            "labels": {
              "__meta_kubernetes_pod_name": "api-0",
              "__meta_marigraph_target_id": "a",
              "__meta_marigraph_target_url": "http://blackbox:9115/probe?module=http_2xx&target=https%3A%2F%2Fexample.org&target=second",
              "__metrics_path__": "/probe",
              "__param_module": "http_2xx",
              "__param_target": "https://example.org",
              "__scheme__": "http",
              "__scrape_interval__": "15s",
              "__scrape_timeout__": "10s",
              "cluster": "north",
              "instance": "https://example.org",
              "job": "probe",
              "team": "web"
            },
            "targets": [
              "a.north.marigraph.internal:80"
            ]
          },
          {
            "labels": {
              "__meta_kubernetes_pod_name": "api-0",
              "__meta_marigraph_target_id": "b",
              "__meta_marigraph_target_url": "https://10.0.0.2:9100/metrics",
              "__metrics_path__": "/metrics",
              "__scheme__": "http",
              "__scrape_interval__": "15s",
              "__scrape_timeout__": "10s",
              "cluster": "north",
              "instance": "10.0.0.2:9100",
              "job": "node"
            },
            "targets": [
              "b.north.marigraph.internal:80"
            ]
          }
        ]"#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn filters_choose_and_addresses_differ() {
    let setup = fleet();
    let (a, b) = ("a.north.marigraph.internal:80", "b.north.marigraph.internal:80");
    let south = "b.mg---53outh-2e1.marigraph.internal:80";
    let north_only = Caller { clusters: Clusters::Only(["north".to_owned()].into()), ..all() };
    for (caller, query, expected) in [
        (all(), "", vec![south, a, b]),
        (all(), "job=node", vec![south, b]),
        (all(), "job=node&job=probe&cluster=north", vec![a, b]),
        (all(), "cluster=north&cluster=South.1", vec![south, a, b]),
        (all(), "job=none", vec![]),
        (all(), "selector=team%3Dweb", vec![a]),
        (all(), "selector=team!%3Dweb&selector=cluster%3Dnorth", vec![b]),
        (all(), "selector=instance=~10[.].*&selector=cluster!~S.*", vec![b]),
        (all(), "selector=__meta_kubernetes_pod_name=api-0&job=probe", vec![a]),
        (north_only, "", vec![a, b]),
    ] {
        assert_eq!(addresses(&setup, &caller, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_an_error_and_no_short_list() {
    let setup = fleet();
    let north_only = Caller { clusters: Clusters::Only(["north".to_owned()].into()), ..all() };
    for (caller, query, status, words) in [
        (all(), "cluster=nowhere", 404, "no cluster nowhere"),
        (all(), "cluster=east", 404, "no cluster east"),
        (north_only, "cluster=South.1", 404, "no cluster South.1"),
        (all(), "clusters=north", 400, "unknown parameter `clusters`"),
        (all(), "selector=team", 400, "selector `team` is not of the form"),
        (all(), "selector=%3Dx", 400, "is not of the form"),
        (all(), "selector=team!x", 400, "is not of the form"),
        (all(), "selector=team=~(", 400, "selector `team=~(`"),
        (all(), &format!("job={}", "x".repeat(20_000)), 400, "at most"),
    ] {
        let (found, body) = list(&setup, &caller, query).await;
        assert!(found == status && body.contains(words), "{query}: {found} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_away_keeps_its_targets() {
    let setup = fleet();
    let before = addresses(&setup, &all(), "").await;
    setup.fleet.set("default", "north", false, vec![]);
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(addresses(&setup, &all(), "").await, before);
    setup.fleet.clusters.lock().retain(|(_, name), _| name != "north");
    assert_eq!(addresses(&setup, &all(), "").await, before[..1]);
}

#[tokio::test(start_paused = true)]
async fn while_clusters_dial_home_there_is_no_list_with_holes() {
    let setup = fleet();
    setup.fleet.set("default", "late", false, vec![]);
    let (status, body) = list(&setup, &all(), "").await;
    assert!(status == 503 && body.contains("has not heard from cluster late"), "{status} {body}");
    assert_eq!(addresses(&setup, &all(), "cluster=north").await.len(), 2);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(addresses(&setup, &all(), "").await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn many_readers_ask_each_cluster_once() {
    let setup = fleet();
    for _ in 0..10 {
        addresses(&setup, &all(), "").await;
    }
    assert_eq!(setup.fleet.asked.load(Ordering::SeqCst), 2);
    tokio::time::advance(Duration::from_secs(6)).await;
    addresses(&setup, &all(), "").await;
    assert_eq!(setup.fleet.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn every_listed_address_can_be_scraped() {
    let setup = fleet();
    let (_, body) = list(&setup, &all(), "").await;
    let groups: Vec<serde_json::Value> = serde_json::from_str(&body).expect("JSON");
    for group in groups {
        let labels: BTreeMap<String, String> =
            serde_json::from_value(group["labels"].clone()).expect("labels");
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in &labels {
            if let Some(name) = name.strip_prefix("__param_") {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        let address = group["targets"][0].as_str().expect("an address");
        let (status, text) =
            setup.get(&format!("http://{address}{}{mark}{query}", labels["__metrics_path__"])).await;
        let id = &labels["__meta_marigraph_target_id"];
        assert!(status == 200 && text.contains(&format!("target=\"{id}\"")), "{address}: {status} {text}");
    }
}
