//! What a caller may see: which endpoints, and through them which series.
//!
//! Every endpoint is one of four kinds, and one that is not listed here is the narrowest. So a new endpoint is
//! closed to readers of one tenant or of some clusters until somebody has thought about it.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{MatchOp, Matcher, TenantId};
use storage::{
    ListedExemplars, ListedLabels, ListedMetadata, QueryError, Queryable, Request, Select, SeriesSet,
};

use crate::auth::Caller;
use crate::reply::{ApiError, ErrorKind};

/// The label that a scope is about.
const CLUSTER: &str = "cluster";
/// What a family's series have behind its name.
const SUFFIXES: [&str; 8] = ["", "_bucket", "_sum", "_count", "_total", "_created", "_info", "_gsum"];

/// What an endpoint shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// Nothing of anybody.
    Nothing,
    /// Series, which a caller's view of the store filters, or what is filtered in the same way.
    Series,
    /// What belongs to a tenant, its clusters together.
    Tenant,
    /// The program: configuration, figures about itself.
    Program,
}

fn shows(path: &str) -> Shows {
    let Some(path) = path.strip_prefix("/api/v1/") else {
        return if path == "/federate" { Shows::Series } else { Shows::Program };
    };
    match path {
        "parse_query" | "format_query" | "features" | "openapi.yaml" | "status/buildinfo"
        | "status/walreplay" => Shows::Nothing,
        "query" | "query_range" | "query_exemplars" | "series" | "labels" | "metadata" | "read"
        | "completeness" => Shows::Series,
        label if label.starts_with("label/") && label.ends_with("/values") => Shows::Series,
        "targets"
        | "targets/metadata"
        | "targets/relabel_steps"
        | "scrape_pools"
        | "scrape_pools/config"
        | "rules"
        | "alerts"
        | "alertmanagers"
        | "status/tsdb"
        | "status/tsdb/blocks"
        | "status/series" => Shows::Tenant,
        _ => Shows::Program,
    }
}

impl Caller {
    /// Whether the caller may see series of this cluster. Series without the label are `""`.
    pub fn sees_cluster(&self, cluster: &str) -> bool {
        self.clusters.is_empty() || self.clusters.iter().any(|allowed| allowed == cluster)
    }

    /// Whether the program itself is this caller's business: those of the default tenant, of all clusters.
    pub fn sees_program(&self) -> bool {
        self.tenant == TenantId::default() && self.clusters.is_empty()
    }

    /// The error for a caller who may not ask `path` because it shows more than is theirs.
    pub(crate) fn require_sight(&self, path: &str) -> Result<(), ApiError> {
        let message = match shows(path) {
            Shows::Nothing | Shows::Series => return Ok(()),
            _ if !self.clusters.is_empty() => {
                "the token is limited to some clusters, and this shows more than their series"
            }
            Shows::Tenant => return Ok(()),
            Shows::Program if !self.sees_program() => {
                "this is about the program, which belongs to the default tenant"
            }
            Shows::Program => return Ok(()),
        };
        Err(ApiError::new(ErrorKind::Forbidden, message))
    }

    /// The store as this caller may see it.
    pub fn view(&self, store: &Arc<dyn Queryable>) -> Arc<dyn Queryable> {
        let Some(matcher) = self.matcher() else { return Arc::clone(store) };
        Arc::new(View { store: Arc::clone(store), matcher })
    }

    /// As [`view`](Self::view), for what one request asks.
    pub(crate) fn view_for(&self, store: &Arc<dyn Queryable>, request: &Request) -> Arc<dyn Queryable> {
        store.for_request(request).map_or_else(|| self.view(store), |store| self.view(&store))
    }

    /// The condition that every series of this caller satisfies; `None` for all.
    fn matcher(&self) -> Option<Matcher> {
        if self.clusters.is_empty() {
            return None;
        }
        let pattern = self.clusters.iter().map(|cluster| quoted(cluster)).collect::<Vec<_>>().join("|");
        // Should the pattern be too large after all, nothing is seen rather than everything.
        let nothing = || Matcher::equal(CLUSTER, "\u{0}");
        Some(Matcher::new(MatchOp::Regex, CLUSTER, pattern).unwrap_or_else(|_| nothing()))
    }
}

/// A text as a pattern that matches it alone.
fn quoted(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// A store of which only the series are seen that satisfy one matcher.
struct View {
    store: Arc<dyn Queryable>,
    matcher: Matcher,
}

impl View {
    fn narrowed(&self, select: &Select) -> Select {
        let mut select = select.clone();
        select.matchers.push(self.matcher.clone());
        select
    }
}

impl Queryable for View {
    fn for_request(&self, request: &Request) -> Option<Arc<dyn Queryable>> {
        let store = self.store.for_request(request)?;
        Some(Arc::new(View { store, matcher: self.matcher.clone() }))
    }

    fn asks_others(&self, tenant: &TenantId) -> bool {
        self.store.asks_others(tenant)
    }

    fn expect(&self, selections: &dyn Fn() -> Vec<Select>) {
        self.store.expect(&|| selections().iter().map(|select| self.narrowed(select)).collect());
    }

    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.store.select(&self.narrowed(select))
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.store.series(&self.narrowed(select))
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.store.label_names(&self.narrowed(select))
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        self.store.label_values(name, &self.narrowed(select))
    }

    /// Of metrics that have series in sight; what is said of them may come from elsewhere in the tenant.
    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        let all = Select {
            tenant: tenant.clone(),
            start_ms: i64::MIN / 2,
            end_ms: i64::MAX / 2,
            matchers: Vec::new(),
        };
        let names = self.label_values("__name__", &all)?;
        let mut warnings = names.warnings;
        let names: BTreeSet<String> = names.values.into_iter().collect();
        let seen = |name: &str| SUFFIXES.iter().any(|suffix| names.contains(&format!("{name}{suffix}")));
        let mut found = self.store.metadata(tenant, metric)?;
        found.values.retain(|(name, _)| seen(name));
        warnings.retain(|warning| !found.warnings.contains(warning));
        found.warnings.extend(warnings);
        Ok(found)
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        let narrowed = |list: &Vec<Matcher>| list.iter().cloned().chain([self.matcher.clone()]).collect();
        let matchers: Vec<Vec<Matcher>> = matchers.iter().map(narrowed).collect();
        self.store.exemplars_of(tenant, start_ms, end_ms, &matchers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    #[test]
    fn a_scope_is_exactly_its_clusters() {
        let check = |clusters: &[&str], cluster: &str, seen: bool| {
            let clusters: Vec<String> = clusters.iter().map(ToString::to_string).collect();
            let caller = Caller { clusters: clusters.into(), ..Caller::new(TenantId::default(), Role::Read) };
            assert_eq!(caller.sees_cluster(cluster), seen, "{caller:?} {cluster}");
            let matches = caller.matcher().is_none_or(|matcher| matcher.matches(cluster));
            assert_eq!(matches, seen, "{caller:?} {cluster}");
        };
        check(&[], "", true);
        check(&[], "eu", true);
        check(&["eu"], "eu", true);
        check(&["eu"], "", false);
        check(&["eu"], "eu2", false);
        check(&["eu", "us.1"], "us.1", true);
        check(&["eu", "us.1"], "usx1", false);
        check(&[".*"], "eu", false);
        check(&["a|b", "größe"], "a", false);
        check(&["a|b", "größe"], "größe", true);
    }
}
