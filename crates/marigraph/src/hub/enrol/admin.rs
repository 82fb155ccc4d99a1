//! `/api/v1/admin/{tokens,agents,ca}`: what `marigraph token`, `agents`, `ca` and `hub join` ask.
//!
//! Forms in, JSON out; an error is `{error}`. An administrator of a tenant makes and sees what is that tenant's;
//! roots and hubs are for administrators of the default tenant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use http::StatusCode;
use model::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tenancy::{HubRecord, RegistryError, TokenKind, TokenSpec};
use tunnel::identity::{
    AgentTls, Alpn, IdentityError, JoinAnswer, JoinRequest, LocalKey, RootPin, ServerTrust, check_cluster,
    check_labels, join_at,
};
use tunnel::{Connector, Proxies};
use web::Caller;

use super::Identity;
use crate::hub::admin::{Administrator, Failure, administrator, changed, wrong};
use crate::hub::known;

pub(super) fn router(hub: Arc<Identity>) -> Router {
    Router::new()
        .route("/api/v1/admin/tokens", get(list_tokens).post(create_token))
        .route("/api/v1/admin/tokens/revoke", post(revoke_token))
        .route("/api/v1/admin/agents", get(list_agents))
        .route("/api/v1/admin/agents/revoke", post(revoke_agent))
        .route("/api/v1/admin/hubs", get(list_hubs))
        .route("/api/v1/admin/ca", get(roots))
        .route("/api/v1/admin/ca/rotate", post(rotate))
        .route("/api/v1/admin/ca/join", post(join))
        .with_state(hub)
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        let status = match &error {
            RegistryError::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
            RegistryError::Wrong(_) => StatusCode::BAD_REQUEST,
            RegistryError::Missing { .. } => StatusCode::NOT_FOUND,
        };
        Failure(status, error.to_string())
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Failure {
        let status = match &error {
            IdentityError::File { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Failure(status, error.to_string())
    }
}

/// Of the whole hub.
fn owner(caller: &Caller) -> Result<(), Failure> {
    administrator(caller)?;
    if caller.sees_program() {
        return Ok(());
    }
    Err(Failure(StatusCode::FORBIDDEN, "this is for administrators of the default tenant".into()))
}

/// What a token is to be for; names as the flags of `marigraph token create`.
#[derive(Debug, Deserialize)]
struct CreateToken {
    /// `enrol`, `join` or `api`.
    kind: TokenKind,
    tenant: Option<String>,
    /// Separated by commas.
    #[serde(default)]
    clusters: String,
    role: Option<tenancy::Role>,
    /// JSON: names and values.
    #[serde(default)]
    labels: String,
    uses: Option<u32>,
    ttl_seconds: Option<u64>,
}

async fn create_token(
    State(hub): State<Arc<Identity>>,
    Administrator(caller): Administrator,
    Form(form): Form<CreateToken>,
) -> Result<Response, Failure> {
    let tenant = match &form.tenant {
        Some(name) => TenantId::new(name).map_err(wrong)?,
        None => caller.tenant.clone(),
    };
    if tenant != caller.tenant || form.kind == TokenKind::Join {
        owner(&caller)?;
    }
    let clusters: Vec<String> =
        form.clusters.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect();
    clusters.iter().try_for_each(|cluster| check_cluster(cluster)).map_err(wrong)?;
    let labels: BTreeMap<String, String> = match form.labels.as_str() {
        "" => BTreeMap::new(),
        text => serde_json::from_str(text).map_err(wrong)?,
    };
    check_labels(&labels).map_err(wrong)?;
    changed(move || {
        let spec = TokenSpec {
            kind: form.kind,
            tenant,
            clusters,
            labels,
            role: form.role,
            uses: form.uses.unwrap_or(1),
            ttl: form.ttl_seconds.map(Duration::from_secs),
            pin: Some(hub.desk.authority.pin()?.0).filter(|_| form.kind != TokenKind::Api),
            hub: hub.address.clone(),
            author: caller.name.to_string(),
        };
        let (token, record) = hub.registry().create_token(spec)?;
        tracing::info!(id = record.id, kind = record.kind.name(), by = &*caller.name, "a token was made");
        Ok(json!({ "token": token.to_string(), "record": record }))
    })
    .await
}

async fn list_tokens(State(hub): State<Arc<Identity>>, caller: Caller) -> Result<Response, Failure> {
    administrator(&caller)?;
    let mut tokens = hub.registry().tokens();
    tokens.retain(|token| caller.sees_program() || token.tenant == caller.tenant.as_str());
    Ok(Json(tokens).into_response())
}

#[derive(Debug, Deserialize)]
struct Revoke {
    id: String,
    serial: Option<String>,
    /// Also an agent that nothing is known of.
    #[serde(default)]
    force: bool,
}

async fn revoke_token(
    State(hub): State<Arc<Identity>>,
    Administrator(caller): Administrator,
    Form(form): Form<Revoke>,
) -> Result<Response, Failure> {
    let theirs = |token: &&tenancy::TokenRecord| {
        token.id == form.id && (caller.sees_program() || token.tenant == caller.tenant.as_str())
    };
    if !hub.registry().tokens().iter().any(|token| theirs(&token)) {
        return Err(RegistryError::Missing { what: "token", id: form.id }.into());
    }
    changed(move || {
        hub.registry().revoke_token(&form.id, &caller.name)?;
        tracing::info!(id = form.id, by = &*caller.name, "a token was revoked");
        Ok(json!({ "revoked": form.id }))
    })
    .await
}

/// An agent as `marigraph agents list` shows it.
#[derive(Debug, Serialize)]
struct ShownAgent {
    #[serde(flatten)]
    record: tenancy::AgentRecord,
    revoked: bool,
}

async fn list_agents(State(hub): State<Arc<Identity>>, caller: Caller) -> Result<Response, Failure> {
    administrator(&caller)?;
    let registry = hub.registry();
    let theirs =
        |agent: &tenancy::AgentRecord| caller.sees_program() || agent.tenant == caller.tenant.as_str();
    let agents: Vec<ShownAgent> = registry
        .agents()
        .into_iter()
        .filter(theirs)
        .map(|record| ShownAgent { revoked: registry.is_revoked(&record.agent_id, &record.serial), record })
        .collect();
    Ok(Json(agents).into_response())
}

async fn revoke_agent(
    State(hub): State<Arc<Identity>>,
    Administrator(caller): Administrator,
    Form(form): Form<Revoke>,
) -> Result<Response, Failure> {
    let sees = |agent: &tenancy::AgentRecord| caller.sees_program() || agent.tenant == caller.tenant.as_str();
    let agents = hub.registry().agents();
    // A certificate of the user's own authority is known by its name, too.
    let mut named =
        agents.iter().filter(|agent| !form.id.is_empty() && agent.brought == form.id && sees(agent));
    let form = match (named.next(), named.next()) {
        (Some(agent), None) => Revoke { id: agent.agent_id.clone(), ..form },
        (Some(_), Some(_)) => {
            return Err(wrong(format!("several agents are called {:?}: give the id", form.id)));
        }
        (None, _) => form,
    };
    if form.id.is_empty() || form.id.len() > 64 {
        return Err(wrong("an agent's id has 1 to 64 characters"));
    }
    match agents.iter().find(|agent| agent.agent_id == form.id) {
        Some(agent) if sees(agent) => {}
        known => {
            // A hub, or an agent that enrolled elsewhere.
            owner(&caller)?;
            let is_known = known.is_some()
                || hub.hubs().iter().any(|other| other.hub_id == form.id)
                || hub.registry().revocations().iter().any(|revoked| revoked.agent_id == form.id);
            if !is_known && !form.force {
                return Err(known::no_agent(&form.id, &agents));
            }
        }
    }
    changed(move || {
        let known = hub.registry().agents().iter().any(|agent| agent.agent_id == form.id)
            || hub.hubs().iter().any(|other| other.hub_id == form.id);
        hub.registry().revoke_agent(&form.id, form.serial.as_deref(), &caller.name)?;
        tracing::warn!(agent = form.id, serial = form.serial, by = &*caller.name, "an agent was revoked");
        Ok(json!({ "revoked": form.id, "known": known }))
    })
    .await
}

async fn roots(State(hub): State<Arc<Identity>>, caller: Caller) -> Result<Response, Failure> {
    owner(&caller)?;
    let authority = &hub.desk.authority;
    let pem = authority.bundle()?.to_pem();
    let answer = json!({ "hub": authority.hub_id(), "roots": authority.roots(), "pem": pem });
    Ok(Json(answer).into_response())
}

async fn list_hubs(State(hub): State<Arc<Identity>>, caller: Caller) -> Result<Response, Failure> {
    owner(&caller)?;
    Ok(Json(hub.hubs()).into_response())
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Add,
    Switch,
    Retire,
}

#[derive(Debug, Deserialize)]
struct Rotate {
    step: Step,
    #[serde(default)]
    force: bool,
}

async fn rotate(
    State(hub): State<Arc<Identity>>,
    Administrator(caller): Administrator,
    Form(form): Form<Rotate>,
) -> Result<Response, Failure> {
    owner(&caller)?;
    changed(move || {
        match form.step {
            Step::Add => hub.desk.authority.add_root()?,
            Step::Switch => hub.desk.switch_root(form.force)?,
            Step::Retire => hub.desk.retire_root(form.force)?,
        }
        tracing::warn!(step = ?form.step, by = &*caller.name, "the fleet's roots were changed");
        hub.show().map_err(|error| Failure(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")))?;
        Ok(json!({ "roots": hub.desk.authority.roots() }))
    })
    .await
}

#[derive(Deserialize)]
struct Join {
    /// `https://host:port` of a hub with the root's key.
    hub: String,
    token: String,
    /// Also when agents have enrolled here, which are strangers afterwards.
    #[serde(default)]
    force: bool,
}

async fn join(
    State(hub): State<Arc<Identity>>,
    Administrator(caller): Administrator,
    Form(form): Form<Join>,
) -> Result<Response, Failure> {
    owner(&caller)?;
    let agents = hub.registry().agents().len();
    if agents > 0 && !form.force {
        let what = format!(
            "{agents} agents have enrolled at this hub and would be strangers afterwards; with --force it joins \
             all the same"
        );
        return Err(Failure(StatusCode::CONFLICT, what));
    }
    let token: tenancy::Token = form.token.parse().map_err(wrong)?;
    let pin = token.pin.filter(|_| token.kind == TokenKind::Join).map(RootPin);
    let pin = pin.ok_or_else(|| wrong("this needs a token made with `marigraph token create --join`"))?;
    let tls = AgentTls::new(ServerTrust::Pinned(pin), None, Arc::clone(&hub.clock))?;
    let key = LocalKey::generate()?;
    let message = JoinRequest {
        token: form.token,
        hub_id: hub.desk.authority.hub_id(),
        request: key.request()?,
        address: hub.address.clone(),
    };
    let reach = Connector::new(Proxies::from_environment());
    let answer: JoinAnswer = join_at(&reach, &form.hub, tls.client_config(Alpn::Http1), &message)
        .await
        .map_err(|error| Failure(StatusCode::BAD_GATEWAY, error.to_string()))?;
    changed(move || {
        hub.desk.authority.join(&key, answer.admission)?;
        hub.registry().merge_revocations(answer.revocations)?;
        if !answer.hub_id.is_empty() {
            // Whatever it says of itself is newer.
            let (hub_id, address) = (answer.hub_id, form.hub.clone());
            hub.registry().remember_hub(HubRecord { hub_id, address, roots: Vec::new(), at_ms: 0 })?;
        }
        hub.show().map_err(|error| Failure(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")))?;
        tracing::warn!(at = form.hub, by = &*caller.name, "this hub joined a fleet");
        Ok(json!({ "hub": hub.desk.authority.hub_id(), "roots": hub.desk.authority.roots() }))
    })
    .await
}
