//! The hub's part in the fleet's identity: what it shows in TLS, the doors where agents enrol and renew and
//! hubs join, and what administrators ask of tokens, agents and roots.
//!
//! The doors under `/fleet/v1` know their callers by token or certificate; they stand beside the router that
//! wants a credential. `/api/v1/admin/…` stands within it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use stdx::clock::Clock;
use stdx::disk::RealDisk;
use tenancy::{Registry, Token, TokenKind};
use tunnel::identity::{
    Authority, AuthorityOptions, Denied, Desk, ENROL_PATH, EXCHANGE_BYTES_MAX, EnrolRequest, HubTls,
    JOIN_PATH, JoinRequest, PeerIdentity, RENEW_PATH, Refused, RenewRequest, WHO_PATH,
};
use web::{Caller, ClientAddress, Role, Tokens};

use crate::cli::HubArgs;
use crate::config::FleetConfig;

pub(super) mod admin;
mod fellows;
pub(crate) mod files;

use fellows::Fellows;
pub(crate) use fellows::FleetHub;
use files::OwnFiles;

/// Where authority and registry stand, in the data directory.
pub(crate) const FLEET_DIRECTORY: &str = "fleet";
/// How often the hub looks whether its own certificate is due.
const LOOK: Duration = Duration::from_secs(3600);

/// Certificates of the fleet at this hub.
pub(crate) struct Identity {
    desk: Desk,
    tls: Arc<HubTls>,
    clock: Arc<dyn Clock>,
    /// Names and addresses in the server certificate.
    names: Vec<String>,
    /// Where agents reach this hub, for tokens; may be empty.
    pub(crate) address: String,
    /// Certificates of the user's own authorities.
    own: OwnFiles,
    /// When the server certificate was made, and how long it lasts.
    shown: Mutex<(i64, i64)>,
    /// The fleet's other hubs.
    fellows: Fellows,
}

impl Identity {
    /// Opens or makes the authority and the registry in the data directory, for a hub that listens on
    /// `addr`.
    ///
    /// # Errors
    /// A file cannot be read or written, or is damaged.
    pub(crate) fn open(args: &HubArgs, addr: SocketAddr, clock: Arc<dyn Clock>) -> Result<Arc<Identity>> {
        let directory = args.data.join(FLEET_DIRECTORY);
        let names = names_of(addr, &args.names);
        let options = AuthorityOptions::default();
        let authority =
            Authority::open_or_create(RealDisk::shared(), &directory, Arc::clone(&clock), options)
                .context("open the fleet's authority")?;
        let registry = Registry::open(RealDisk::shared(), &directory, Arc::clone(&clock))
            .context("open the registry of tokens and agents")?;
        let registry = Arc::new(registry.of_hub(&authority.hub_id()));
        let certificate = authority.issue_server(&names).context("make the hub's certificate")?;
        let shown = Mutex::new((clock.now_ms(), certificate.not_after_ms));
        let asked = Arc::clone(&registry);
        let revoked = Arc::new(move |peer: &PeerIdentity| asked.is_revoked(&peer.agent_id, &peer.serial));
        let tls = HubTls::new(certificate, &authority.bundle()?, revoked, Arc::clone(&clock))?;
        let desk = Desk::new(authority, registry, Arc::clone(&clock));
        let shown_files = args.tls_cert_file.clone().zip(args.tls_key_file.clone());
        let own = OwnFiles::new(shown_files);
        let address = args.advertise.clone();
        let fellows = Fellows::new(args.peers.clone());
        let identity = Identity { desk, tls: Arc::new(tls), clock, names, address, own, shown, fellows };
        identity.tell_of_self()?;
        Ok(Arc::new(identity))
    }

    /// Reads the user's files that `config` names: the hub's own certificate, and the authorities of agents' ones. Nothing has
    /// changed yet.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(crate) fn read_own(&self, config: &FleetConfig) -> Result<files::ReadFiles> {
        self.own.read(config)
    }

    /// Puts in force what was read. Gives whether some who were believed are not any more.
    pub(crate) fn apply_own(&self, read: files::ReadFiles) -> bool {
        self.own.apply(read, &self.tls)
    }

    /// Reads those files again when they change, until dropped; calls `close` when some are not believed any more.
    pub(crate) async fn keep_own(self: &Arc<Self>, close: impl FnMut()) {
        files::keep_read(self, close).await;
    }

    /// TLS of the listener.
    pub(crate) fn tls(&self) -> &Arc<HubTls> {
        &self.tls
    }

    /// Tokens, agents, revocations.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.desk.registry
    }

    /// Whether a connection of this peer must end: asked of all when revocations change.
    pub(crate) fn is_revoked(&self, peer: &PeerIdentity) -> bool {
        self.desk.is_revoked(peer)
    }

    /// API tokens, for [`web::Auth::with_tokens`].
    pub(crate) fn tokens(self: &Arc<Self>) -> Arc<dyn Tokens> {
        Arc::new(ApiTokens(Arc::clone(self.registry())))
    }

    /// Calls `close` whenever something was revoked, until dropped.
    pub(crate) async fn on_revocation(&self, mut close: impl FnMut()) {
        let mut changes = self.registry().revocations_changed();
        while changes.changed().await.is_ok() {
            close();
        }
    }

    /// Renews the hub's own certificate after two thirds of its time, until dropped.
    pub(crate) async fn keep_shown(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (made_ms, until_ms) = *self.shown.lock();
            if self.clock.now_ms() < made_ms + (until_ms - made_ms) / 3 * 2 {
                continue;
            }
            match self.show() {
                Ok(()) => tracing::info!("the hub's certificate was renewed"),
                Err(error) => tracing::error!("the hub's certificate could not be renewed: {error:#}"),
            }
        }
    }

    /// Shows a new certificate, and trusts the roots as they are now.
    fn show(&self) -> Result<()> {
        let certificate = self.desk.authority.issue_server(&self.names)?;
        let until_ms = certificate.not_after_ms;
        self.tls.replace_trusted(&self.desk.authority.bundle()?)?;
        self.tls.replace_certificate(certificate)?;
        *self.shown.lock() = (self.clock.now_ms(), until_ms);
        self.tell_of_self()
    }

    /// The doors of agents and hubs. They are for everybody who can connect, and guard themselves.
    pub(crate) fn doors(self: &Arc<Self>) -> Router {
        Router::new()
            .route(ENROL_PATH, post(enrol))
            .route(RENEW_PATH, post(renew))
            .route(JOIN_PATH, post(join))
            .route(WHO_PATH, post(who))
            .merge(fellows::doors())
            .layer(DefaultBodyLimit::max(EXCHANGE_BYTES_MAX))
            .with_state(Arc::clone(self))
    }

    /// What administrators ask; for the router that wants a credential.
    pub(crate) fn admin(self: &Arc<Self>) -> Router {
        admin::router(Arc::clone(self))
    }
}

/// The names a hub on `addr` surely has; addresses that stand for all are left out.
fn names_of(addr: SocketAddr, further: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !addr.ip().is_unspecified() {
        names.push(addr.ip().to_string());
    }
    names.extend(std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()));
    names.extend(further.iter().cloned());
    names.retain(|name| !name.is_empty() && name.is_ascii());
    names.sort();
    names.dedup();
    names
}

type Peer = Option<Extension<PeerIdentity>>;
type Client = Option<Extension<ClientAddress>>;

async fn enrol(
    State(hub): State<Arc<Identity>>,
    client: Client,
    Json(message): Json<EnrolRequest>,
) -> Response {
    if let Err(denied) = hub.claim(&message.token, TokenKind::Enrol, &message.request).await {
        return refuse("enrol", client, denied);
    }
    answer(hub, "enrol", client, move |hub| {
        let given = hub.desk.enrol(&message)?;
        tracing::info!(
            agent = given.agent_id,
            cluster = given.cluster,
            tenant = given.tenant,
            "an agent enrolled"
        );
        Ok(given)
    })
    .await
}

async fn renew(
    State(hub): State<Arc<Identity>>,
    peer: Peer,
    client: Client,
    Json(message): Json<RenewRequest>,
) -> Response {
    answer(hub, "renew", client, move |hub| {
        let given = hub.desk.renew(peer.as_ref().map(|Extension(peer)| peer), &message)?;
        tracing::info!(agent = given.agent_id, cluster = given.cluster, "a certificate was renewed");
        Ok(given)
    })
    .await
}

async fn who(State(hub): State<Arc<Identity>>, peer: Peer, client: Client) -> Response {
    answer(hub, "say who that is", client, move |hub| hub.desk.who(peer.as_ref().map(|Extension(peer)| peer)))
        .await
}

/// Before the doors of agents: remembers those that bring certificates of the user's own authorities.
pub(super) async fn meet(
    State(hub): State<Arc<Identity>>,
    peer: Peer,
    request: Request,
    next: Next,
) -> Response {
    if let Some(Extension(peer)) = peer.filter(|Extension(peer)| hub.desk.is_new(peer)) {
        let met = tokio::task::spawn_blocking(move || hub.desk.meet(&peer)).await;
        if let Ok(Err(denied)) = met {
            return refuse("meet an agent", None, denied);
        }
    }
    next.run(request).await
}

async fn join(
    State(hub): State<Arc<Identity>>,
    client: Client,
    Json(message): Json<JoinRequest>,
) -> Response {
    if let Err(denied) = hub.claim(&message.token, TokenKind::Join, &message.request).await {
        return refuse("join", client, denied);
    }
    answer(hub, "join", client, move |hub| {
        let given = hub.desk.join(&message)?;
        tracing::info!(hub = message.hub_id, "a hub joined the fleet");
        Ok(given)
    })
    .await
}

/// Runs what signs and writes on a thread that may block; a refusal is logged and told.
async fn answer<T: Serialize + Send + 'static>(
    hub: Arc<Identity>,
    what: &'static str,
    client: Client,
    run: impl FnOnce(&Identity) -> Result<T, Denied> + Send + 'static,
) -> Response {
    let ran = tokio::task::spawn_blocking(move || run(&hub)).await;
    let denied = match ran {
        Ok(Ok(given)) => return Json(given).into_response(),
        Ok(Err(denied)) => denied,
        Err(_) => Denied { status: 500, message: "the request panicked; the log has more".into() },
    };
    refuse(what, client, denied)
}

fn refuse(what: &'static str, client: Client, denied: Denied) -> Response {
    let client = client.map(|Extension(ClientAddress(client))| client.to_string()).unwrap_or_default();
    tracing::warn!(client, status = denied.status, reason = denied.message, "refuse to {what}");
    let status = StatusCode::from_u16(denied.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(Refused { error: denied.message })).into_response()
}

/// API tokens as the web's door wants them.
struct ApiTokens(Arc<Registry>);

impl Tokens for ApiTokens {
    fn caller(&self, token: &str) -> Option<Caller> {
        let principal = self.0.principal(token)?;
        let role = match principal.role {
            tenancy::Role::Read => Role::Read,
            tenancy::Role::Write => Role::Write,
            tenancy::Role::Admin => Role::Admin,
        };
        let mut caller = Caller::new(principal.tenant, role);
        caller.clusters = principal.clusters.into();
        caller.name = format!("token {}", principal.token).into();
        Some(caller)
    }

    fn claims(&self, token: &str) -> bool {
        Token::looks_like_one(token)
    }
}
