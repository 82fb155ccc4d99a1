//! Jobs whose targets are asked through somebody in their cluster.

use http::Response;
use hyper::ext::ReasonPhrase;

use super::*;
use crate::Clusters;

/// The way to one cluster: whole URLs go to whoever is there for it.
struct Way {
    network: Network,
    cluster: String,
}

impl Clusters for Network {
    fn connector(&self, cluster: &str) -> Arc<dyn Connector> {
        Arc::new(Way { network: self.clone(), cluster: cluster.to_owned() })
    }
}

impl Connector for Way {
    fn connect<'a>(&'a self, _host: &'a str, _port: u16, reach: Reach) -> Connecting<'a> {
        self.network.connect(&self.cluster, 1, reach)
    }

    fn takes_urls(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_with_a_cluster_asks_there_and_speaks_for_it() {
    let bench = Bench::stamping(Labels::from_pairs([("cluster", "here")]));
    bench.network.set("east:1", Answer::text("fish{cluster=\"painted\"} 3\n"));
    bench.apply(vec![job(|job, _| {
        job.cluster = Some("east".to_owned());
        job.scheme = Some("https".to_owned());
    })]);
    bench.targets("j", &["a:9100", "b:443"]);
    bench.pass(11).await;
    let asked = bench.network.requests.lock().clone();
    let asked = |url: &str| asked.iter().any(|line| line.starts_with(&format!("east:1 {url};")));
    assert!(asked("https://a:9100/metrics") && asked("https://b/metrics"), "{:?}", bench.network.requests);
    let fish = bench.samples_of(&["fish"]);
    let labels = "cluster=\"east\", exported_cluster=\"painted\", instance=\"a:9100\", job=\"j\"";
    assert!(fish.lines().count() == 2 && fish.contains(labels), "{fish}");

    bench.network.remove("east:1");
    bench.pass(10).await;
    assert!(bench.last_error().ends_with("connection refused"), "{}", bench.last_error());
}

#[tokio::test(start_paused = true)]
async fn only_who_has_a_way_takes_such_a_job() {
    let mut parts = Bench::parts(Labels::empty(), |store| store).0;
    parts.clusters = None;
    let manager = Manager::new(parts, &mut Registry::default());
    let far = job(|job, _| job.cluster = Some("east".to_owned()));
    let error = manager.apply(&[Arc::new(far)]).expect_err("an error").to_string();
    assert_eq!(error, "job j: `cluster` is for hubs, which ask through agents' tunnels");
}

#[test]
fn the_way_to_the_target_is_the_agents() {
    type Write = fn(&mut HttpClientText);
    let cases: [(&str, Write); 3] = [
        ("tls_config", |http| http.tls_config = Some(Default::default())),
        ("basic_auth", |http| http.basic_auth = Some(Default::default())),
        ("proxy_url", |http| http.proxy_url = Some("http://p:1".to_owned())),
    ];
    for (field, write) in cases {
        let written = ScrapeConfigText {
            job_name: Some("j".to_owned()),
            cluster: Some("east".to_owned()),
            ..ScrapeConfigText::default()
        };
        let mut http = HttpClientText::default();
        write(&mut http);
        let refused = written.validate(&http, &ScrapeDefaults::default(), std::path::Path::new("."));
        assert_eq!(refused.expect_err("an error").path, field);
    }
}

#[test]
fn what_stands_behind_a_status_is_told() {
    let mut answer = Response::builder().status(502).body(()).expect("a response");
    let told = |answer: &Response<()>| crate::client::FetchError::status(answer).to_string();
    assert_eq!(told(&answer), "server returned HTTP status 502 Bad Gateway");
    let reason = ReasonPhrase::from_static(b"nobody is there");
    answer.extensions_mut().insert(reason);
    assert_eq!(told(&answer), "server returned HTTP status 502 nobody is there");
}
