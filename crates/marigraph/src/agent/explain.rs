//! `/api/v1/explain/target` of an agent: which of its steps kept a target from being scraped, also without a hub.
//!
//! As a hub tells it ([`crate::explain`]), but for what becomes of the rows: an agent knows what it keeps and what waits for
//! others, and a hub whether they have come.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value};
use stdx::clock::Clock;
use web::Caller;

use super::keep::Keep;
use crate::explain::steps::{self, Outgoing, Waiting};
use crate::explain::{
    Asked, Case, EXPLAIN_PATH, FOUND_MAX, Found, Own, Place, answer, rule_at_fault, rules_path,
};
use crate::pull::Pull;
use crate::replies::{Form, success};

/// What the endpoint works with.
#[derive(Clone)]
pub(super) struct Explain {
    /// This agent.
    pub(super) name: Found,
    /// Its own API, for readers.
    pub(super) own: Own,
    pub(super) pull: Arc<Pull>,
    pub(super) keep: Arc<Keep>,
    /// Whether it shares its targets with others.
    pub(super) is_paired: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl Explain {
    /// The endpoint; it stands where callers are known.
    pub(super) fn router(self) -> Router {
        Router::new().route(EXPLAIN_PATH, get(explain)).with_state(self)
    }

    /// What becomes of rows here.
    fn outgoing(&self) -> Outgoing {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status {
            queue: Option<Queue>,
        }
        #[derive(Deserialize)]
        struct Queue {
            readers: Vec<Waiting>,
        }
        let mut status = Map::new();
        self.keep.status(&mut status);
        let queue = Status::deserialize(Value::Object(status)).unwrap_or_default().queue;
        Outgoing {
            kept: Some(self.keep.retention()).filter(|retention| !retention.is_empty()),
            waiting: queue.map(|queue| queue.readers).unwrap_or_default(),
            is_paired: self.is_paired,
            now_ms: self.clock.now_ms(),
        }
    }

    async fn told(&self, case: &Case, outgoing: &Outgoing) -> Value {
        match case {
            Case::Scraped(target) => steps::sent(&self.name, target, outgoing),
            Case::Shared(target) => steps::shared(&self.name, target),
            Case::Dropped(target) => {
                let rules = self.own.get(&rules_path(target)).await;
                steps::dropped(&self.name, target, rules.as_ref().and_then(rule_at_fault).as_ref())
            }
            Case::Troubled(trouble) => steps::troubled(&self.name, trouble),
        }
    }
}

async fn explain(State(it): State<Explain>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match Asked::read(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let is_other = asked.cluster().is_some_and(|cluster| !cluster.is_empty() && cluster != it.name.cluster);
    let own = if is_other { None } else { it.own.targets().await };
    let Some((targets, pools)) = &own else {
        let warning = format!("this is an agent of cluster {:?}; others are known to hubs", it.name.cluster);
        return success(&answer(Vec::new(), 0, Vec::new()), &[warning]);
    };
    let (name, pools) = (it.name.clone(), pools.clone());
    let place = Place { name, targets, pools, troubles: it.pull.troubles() };
    let mut cases: Vec<Case> = place.cases(asked.word()).collect();
    let more = cases.len().saturating_sub(FOUND_MAX);
    cases.truncate(FOUND_MAX);
    let outgoing = it.outgoing();
    let mut found = Vec::with_capacity(cases.len());
    for case in &cases {
        found.push(it.told(case, &outgoing).await);
    }
    success(&answer(found, more, vec![place.looked()]), &[])
}
