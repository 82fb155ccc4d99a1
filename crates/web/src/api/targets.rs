//! What is scraped.

use axum::extract::State;
use model::duration;
use model::status::{ActiveTarget, DroppedTarget};

use super::{ApiResult, Reply};
use crate::App;
use crate::auth::Caller;
use crate::form::Form;
use crate::json;

/// `/targets`
pub(super) async fn targets(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let pool = form.get("scrapePool").to_owned();
    let state = form.get("state").to_lowercase();
    let shows = |part: &str| state.is_empty() || state == "any" || state == part;
    let (active, dropped) = (shows("active"), shows("dropped"));
    let status = app.state.targets.clone();
    let listen = app.state.options.listen_address.clone();
    let run = move || {
        let of_pool = |name: &str| pool.is_empty() || name == pool;
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            let targets = if active { status.active(&caller.tenant) } else { Vec::new() };
            let wanted = targets.iter().filter(|target| of_pool(&target.scrape_pool));
            data.array("activeTargets", wanted, |out, target| write_active(out, target, &listen));
            let targets = if dropped { status.dropped(&caller.tenant) } else { Vec::new() };
            let wanted = targets.iter().filter(|target| of_pool(&target.scrape_pool));
            data.array("droppedTargets", wanted, write_dropped);
            if dropped {
                let mut counts = json::Object::new(data.field("droppedTargetCounts"));
                for (name, count) in status.dropped_counts(&caller.tenant) {
                    counts.integer(&name, count);
                }
                counts.end();
            } else {
                data.null("droppedTargetCounts");
            }
            data.end();
        }))
    };
    app.work.lookup(run).await
}

fn write_active(out: &mut Vec<u8>, target: &ActiveTarget, listen: &str) {
    let mut entry = json::Object::new(out);
    entry.labels("discoveredLabels", &target.discovered_labels);
    entry.labels("labels", &target.labels);
    entry.text("scrapePool", &target.scrape_pool);
    entry.text("scrapeUrl", &target.scrape_url);
    entry.text("globalUrl", &global_url(&target.scrape_url, &crate::process::hostname(), listen));
    entry.text("lastError", &target.last_error);
    entry.time("lastScrape", Some(target.last_scrape_ms).filter(|ms| *ms != 0));
    entry.number("lastScrapeDuration", target.last_scrape_duration_seconds);
    entry.text("health", target.health.as_str());
    entry.text("scrapeInterval", &duration::format(target.scrape_interval_ms));
    entry.text("scrapeTimeout", &duration::format(target.scrape_timeout_ms));
    if let Some(agent) = &target.scraped_by {
        entry.text("scrapedBy", agent);
    }
    entry.end();
}

fn write_dropped(out: &mut Vec<u8>, target: &DroppedTarget) {
    let mut entry = json::Object::new(out);
    entry.labels("discoveredLabels", &target.discovered_labels);
    entry.text("scrapePool", &target.scrape_pool);
    entry.end();
}

/// `url` as it looks from another machine: a loopback host becomes this machine's name; for our own
/// port the scheme becomes ours, too.
///
/// Source: Prometheus `web/api/v1/api.go`, `getGlobalURL`.
fn global_url(url: &str, hostname: &str, listen: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let (host, port) = split_port(authority);
    if hostname.is_empty() || !["127.0.0.1", "localhost", "[::1]"].contains(&host) {
        return url.to_owned();
    }
    let ours = !port.is_empty() && split_port(listen).1 == port;
    let scheme = if ours { "http" } else { scheme };
    let colon = if port.is_empty() { "" } else { ":" };
    format!("{scheme}://{hostname}{colon}{port}{path}")
}

/// Host (with the brackets of an IPv6 address) and port (empty when there is none).
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (authority, ""),
    }
}

/// `/scrape_pools`
pub(super) async fn scrape_pools(State(app): State<App>, caller: Caller) -> ApiResult {
    let status = app.state.targets.clone();
    let run = move || {
        let pools = status.scrape_pools(&caller.tenant);
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            json::texts(data.field("scrapePools"), &pools);
            data.end();
        }))
    };
    app.work.lookup(run).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_targets_get_a_name_others_can_dial() {
        let cases = [
            ("http://127.0.0.1:9100/metrics", "http://box:9100/metrics"),
            ("https://localhost:9190/metrics?a=b", "http://box:9190/metrics?a=b"),
            ("https://[::1]/metrics", "https://box/metrics"),
            ("https://localhost:8443", "https://box:8443"),
            ("http://[::2]:80/", "http://[::2]:80/"),
            ("http://10.0.0.1:80/", "http://10.0.0.1:80/"),
            ("nonsense", "nonsense"),
        ];
        for (url, expected) in cases {
            assert_eq!(global_url(url, "box", "127.0.0.1:9190"), expected);
        }
    }
}
