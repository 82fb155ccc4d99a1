//! Look-ups without samples: label names, label values, series.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use model::{Labels, Matcher};
use storage::{ListedLabels, QueryError, Select};

use super::{ApiError, ApiResult, Reply, language, truncate};
use crate::App;
use crate::auth::Caller;
use crate::form::{Form, TIME_MAX_MS, TIME_MIN_MS, go_quoted};
use crate::json;
use crate::work::Patience;

/// `limit`, `start` and `end` of a look-up.
struct Bounds {
    limit: usize,
    start_ms: i64,
    end_ms: i64,
}

impl Bounds {
    fn read(form: &Form) -> Result<Bounds, ApiError> {
        let limit = form.limit()?;
        let start_ms = form.time_or("start", TIME_MIN_MS)?;
        let end_ms = form.time_or("end", TIME_MAX_MS)?;
        Ok(Bounds { limit, start_ms, end_ms })
    }

    fn select(&self, caller: &Caller, matchers: Vec<Matcher>) -> Select {
        Select { tenant: caller.tenant.clone(), start_ms: self.start_ms, end_ms: self.end_ms, matchers }
    }
}

/// `/labels`
pub(super) async fn names(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let bounds = Bounds::read(&form)?;
    list(app, caller, bounds, form, |store, select| store.label_names(select)).await
}

/// `/label/<name>/values`
pub(super) async fn values(
    State(app): State<App>,
    Path(name): Path<String>,
    caller: Caller,
    form: Form,
) -> ApiResult {
    let name = if name.starts_with("U__") { unescape_name(&name) } else { name };
    if name.is_empty() {
        return Err(ApiError::bad_data(format_args!("invalid label name: {}", go_quoted(&name))));
    }
    let bounds = Bounds::read(&form)?;
    list(app, caller, bounds, form, move |store, select| store.label_values(&name, select)).await
}

/// The union of what `find` gives for each selector of the form, or for everything.
async fn list(
    app: App,
    caller: Caller,
    bounds: Bounds,
    form: Form,
    find: impl Fn(&dyn storage::Queryable, &Select) -> Result<ListedLabels, QueryError> + Send + 'static,
) -> ApiResult {
    let (store, missing) = (Arc::clone(&app.state.store), form.missing()?);
    let at_hand = is_at_hand(&form, &*store, &caller);
    let run = move |patience: &Patience| {
        let store = caller.view_for(&store, &patience.request(missing));
        let mut sets = language::selectors(&form, patience, |why| ApiError::bad_data(why))?;
        if sets.is_empty() {
            sets.push(Vec::new());
        }
        let mut found = Vec::with_capacity(sets.len());
        for matchers in sets {
            patience.check()?;
            found.push(find(&*store, &bounds.select(&caller, matchers))?);
        }
        let ListedLabels { mut values, mut warnings } = union(found);
        truncate(&mut values, bounds.limit, &mut warnings);
        Ok(Reply::new(|out| json::texts(out, &values)).annotated(warnings, Vec::new()))
    };
    app.work.search_here(at_hand, run).await
}

/// Whether it is one look-up, and nobody else has to be asked: nothing that could be given up halfway.
fn is_at_hand(form: &Form, store: &dyn storage::Queryable, caller: &Caller) -> bool {
    form.all("match[]").nth(1).is_none() && !store.asks_others(&caller.tenant)
}

fn union(mut found: Vec<ListedLabels>) -> ListedLabels {
    match found.pop() {
        None => ListedLabels::default(),
        Some(only) if found.is_empty() => only,
        Some(last) => {
            found.push(last);
            let (mut values, mut warnings) = (BTreeSet::new(), BTreeSet::new());
            for listed in found {
                values.extend(listed.values);
                warnings.extend(listed.warnings);
            }
            ListedLabels { values: values.into_iter().collect(), warnings: warnings.into_iter().collect() }
        }
    }
}

/// `/series`
pub(super) async fn series(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    if form.strict()?.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let bounds = Bounds::read(&form)?;
    let (store, missing) = (Arc::clone(&app.state.store), form.missing()?);
    let at_hand = is_at_hand(&form, &*store, &caller);
    let run = move |patience: &Patience| {
        let store = caller.view_for(&store, &patience.request(missing));
        let sets = language::selectors(&form, patience, |why| ApiError::parameter("match[]", why))?;
        let many = sets.len() > 1;
        let mut found: Vec<Labels> = Vec::new();
        let mut warnings = BTreeSet::new();
        for matchers in sets {
            patience.check()?;
            let set = store.series(&bounds.select(&caller, matchers))?;
            found.extend((0..set.len()).map(|at| set.labels(at).clone()));
            warnings.extend(set.warnings());
        }
        if many {
            found.sort_unstable();
            found.dedup();
        }
        let mut warnings: Vec<String> = warnings.into_iter().collect();
        truncate(&mut found, bounds.limit, &mut warnings);
        Ok(Reply::new(|out| json::array(out, &found, json::labels)).annotated(warnings, Vec::new()))
    };
    app.work.search_here(at_hand, run).await
}

/// The name that `U__...` stands for: `__` is an underscore, `_xx_` the character of that number, and
/// whatever does not follow these rules stays as it is.
///
/// Source: Prometheus `common/model`, `UnescapeName` with `ValueEncodingEscaping`.
fn unescape_name(escaped: &str) -> String {
    try_unescape(escaped).unwrap_or_else(|| escaped.to_owned())
}

fn try_unescape(escaped: &str) -> Option<String> {
    let mut rest = escaped.strip_prefix("U__")?;
    let mut name = String::with_capacity(rest.len());
    while let Some((plain, after)) = rest.split_once('_') {
        name.push_str(plain);
        if let Some(after) = after.strip_prefix('_') {
            name.push('_');
            rest = after;
            continue;
        }
        let (code, after) = after.split_once('_')?;
        if code.len() > 6 || !code.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        name.push(u32::from_str_radix(code, 16).ok().and_then(char::from_u32)?);
        rest = after;
    }
    name.push_str(rest);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names() {
        let cases = [
            ("U__http_2e_status", "http.status"),
            ("U__a__b", "a_b"),
            ("U______name____", "__name__"),
            ("U___1f600_", "\u{1f600}"),
            ("U__", ""),
            ("U__a_2e", "U__a_2e"),
            ("U__a_zz_", "U__a_zz_"),
            ("U__a_d800_", "U__a_d800_"),
            ("U__a_1234567_", "U__a_1234567_"),
        ];
        for (escaped, name) in cases {
            assert_eq!(unescape_name(escaped), name, "{escaped}");
        }
    }
}
