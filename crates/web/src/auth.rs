//! Who is calling: version 1, with bearer tokens and basic auth from the configuration.
//!
//! Off loopback nothing answers without a credential: the program asks [`Auth::is_configured`] and
//! refuses to start. Without credentials (on loopback) everybody is the administrator.
//!
//! Source: RFC 7235, RFC 7617, RFC 6750.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use model::TenantId;

use crate::query_log::ClientAddress;
use crate::reply::{ApiError, ErrorKind};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Query.
    Read,
    /// Push.
    Write,
    /// Everything, deletion, reload and end included.
    Admin,
}

impl Role {
    /// Whether somebody with this role may do what needs `needed`.
    pub fn allows(self, needed: Role) -> bool {
        self == Role::Admin || self == needed
    }

    fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }
}

/// Who is calling. In the extensions of every request that came through [`authenticate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose data.
    pub tenant: TenantId,
    /// What may be done with it.
    pub role: Role,
    /// The clusters whose series may be seen; all when empty.
    pub clusters: Arc<[String]>,
    /// For logs and records: which credential it was.
    pub name: Arc<str>,
}

impl Caller {
    /// A caller of the configuration, who sees all clusters of the tenant.
    pub fn new(tenant: TenantId, role: Role) -> Caller {
        Caller { tenant, role, clusters: Arc::from([]), name: Arc::from("configuration") }
    }

    /// The error for a caller who may not do what needs `needed`.
    pub(crate) fn require(&self, needed: Role) -> Result<(), ApiError> {
        if self.role.allows(needed) {
            return Ok(());
        }
        let message = format!(
            "this needs the role {}, and the credential has the role {}",
            needed.name(),
            self.role.name()
        );
        Err(ApiError::new(ErrorKind::Forbidden, message))
    }
}

/// Whether a browser sends this for a page of somebody else: it adds the user's credentials to such
/// requests unasked. What changes things refuses them.
///
/// Browsers say so outright only to addresses they trust (HTTPS, loopback); to others they send the
/// page's origin, which is then compared with our name.
///
/// Source: W3C Fetch Metadata, `Sec-Fetch-Site`; RFC 6454.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "cross-site";
    }
    let (Some(origin), Some(host)) = (headers.get(ORIGIN), headers.get(HOST)) else { return false };
    origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_none_or(|(_, from)| host != from)
}

/// Forbidden when the request did not come through [`authenticate`].
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Response> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| ApiError::new(ErrorKind::Forbidden, "the caller is unknown").into_response())
    }
}

/// How somebody proves who they are.
#[derive(Clone)]
pub enum Credential {
    /// `Authorization: Bearer <token>`
    Bearer(String),
    /// `Authorization: Basic <user:password>`
    Basic {
        /// The name, without a colon.
        user: String,
        /// The password.
        password: String,
    },
}

/// Prints no secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Bearer(_) => f.write_str("Bearer(<secret>)"),
            Credential::Basic { user, .. } => write!(f, "Basic({user}, <secret>)"),
        }
    }
}

/// Tokens that are not in the configuration: made and revoked while the program runs.
pub trait Tokens: Send + Sync {
    /// Who shows this bearer token; nobody when it is not known or not good any more.
    fn caller(&self, token: &str) -> Option<Caller>;

    /// Whether it claims to be one of these: then it must be good, also where nobody needs a credential.
    fn claims(&self, token: &str) -> bool;
}

/// The credentials that are accepted.
#[derive(Default)]
pub struct Auth {
    /// What the header has to be, and who that is.
    accepted: Vec<(Credential, Caller)>,
    /// Who everybody is, whatever they show; without one and without credentials, administrator of the default tenant.
    everybody: Option<Caller>,
    tokens: Option<Arc<dyn Tokens>>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

impl Auth {
    /// Accepts each of `credentials` as the caller beside it. None: everybody is administrator of
    /// the default tenant.
    pub fn new(credentials: Vec<(Credential, Caller)>) -> Auth {
        Auth { accepted: credentials, ..Auth::default() }
    }

    /// Everybody is `caller`: for doors where the way in has settled who calls.
    pub fn everybody(caller: Caller) -> Auth {
        Auth { everybody: Some(caller), ..Auth::default() }
    }

    /// Accepts `tokens` too. They do not make a credential necessary: who asks from the machine itself
    /// must be able to make the first.
    pub fn with_tokens(mut self, tokens: Arc<dyn Tokens>) -> Auth {
        self.tokens = Some(tokens);
        self
    }

    /// Whether a credential is needed at all.
    pub fn is_configured(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// Who sent these headers from `client` (`None`: this machine); `None` when they prove nothing. A credential that is
    /// shown and not known proves nothing, also where none is needed.
    pub fn caller(&self, headers: &HeaderMap, client: Option<IpAddr>) -> Option<Caller> {
        if self.everybody.is_some() {
            return self.everybody.clone();
        }
        let presented = Presented::read(headers);
        if let (Some(tokens), Some(Presented::Bearer(token))) = (&self.tokens, &presented)
            && let Ok(token) = std::str::from_utf8(token)
            && tokens.claims(token)
        {
            return tokens.caller(token);
        }
        if !self.is_configured() {
            // Whoever shows something means to be somebody: a mistake must not make an administrator.
            if headers.contains_key(AUTHORIZATION) {
                return None;
            }
            // Another door than the configured address may let strangers come as far as this.
            let here = client.is_none_or(|client| client.to_canonical().is_loopback());
            return here.then(|| Caller::new(TenantId::default(), Role::Admin));
        }
        let presented = presented?;
        let mut caller = None;
        // all are compared, whichever fits, so that the time tells nothing
        for (credential, owner) in &self.accepted {
            if presented.proves(credential) {
                caller = Some(owner);
            }
        }
        caller.cloned()
    }
}

/// What a request presents.
enum Presented {
    Bearer(Vec<u8>),
    /// `user:password`
    Basic(Vec<u8>),
}

impl Presented {
    fn read(headers: &HeaderMap) -> Option<Presented> {
        let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            Some(Presented::Bearer(rest.as_bytes().to_vec()))
        } else if scheme.eq_ignore_ascii_case("basic") {
            STANDARD.decode(rest).ok().map(Presented::Basic)
        } else {
            None
        }
    }

    fn proves(&self, credential: &Credential) -> bool {
        match (self, credential) {
            (Presented::Bearer(given), Credential::Bearer(token)) => same(given, token.as_bytes()),
            (Presented::Basic(given), Credential::Basic { user, password }) => {
                same(given, format!("{user}:{password}").as_bytes())
            }
            _ => false,
        }
    }
}

/// Compares in a time that depends on the length of `given` only.
fn same(given: &[u8], secret: &[u8]) -> bool {
    if secret.is_empty() {
        return false;
    }
    let mut difference = u8::from(given.len() != secret.len());
    for (at, byte) in given.iter().enumerate() {
        difference |= std::hint::black_box(byte ^ secret[at % secret.len()]);
    }
    std::hint::black_box(difference) == 0
}

/// The paths that answer everybody: probes of a kubelet carry no credential.
const OPEN_PATHS: [&str; 2] = ["/-/healthy", "/-/ready"];

/// Middleware: puts the [`Caller`] into the request's extensions, or answers 401.
///
/// For `axum::middleware::from_fn_with_state(auth, authenticate)`, around the routers of every door.
pub async fn authenticate(State(auth): State<Arc<Auth>>, mut request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ClientAddress>().map(|client| client.0);
    match auth.caller(request.headers(), client) {
        Some(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        // a browser's preflight carries no credential, and its answer tells nothing
        None if OPEN_PATHS.contains(&request.uri().path()) || request.method() == Method::OPTIONS => {
            next.run(request).await
        }
        None => unauthorized(request.headers()),
    }
}

fn unauthorized(headers: &HeaderMap) -> Response {
    let why = if headers.contains_key(AUTHORIZATION) {
        "unauthorized: the credential is not known here\n"
    } else {
        "unauthorized: send a bearer token or basic auth\n"
    };
    let mut response = (StatusCode::UNAUTHORIZED, why).into_response();
    // Basic first: it is what browsers ask their user for.
    for challenge in ["Basic realm=\"marigraph\", charset=\"UTF-8\"", "Bearer realm=\"marigraph\""] {
        response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Auth {
        let caller = |tenant: &str, role| Caller::new(TenantId::new(tenant).expect("a tenant"), role);
        Auth::new(vec![
            (Credential::Bearer("t0ken".into()), caller("a", Role::Read)),
            (Credential::Basic { user: "ann".into(), password: "p:w".into() }, caller("b", Role::Admin)),
            (Credential::Bearer(String::new()), caller("c", Role::Admin)),
        ])
    }

    #[test]
    fn only_exact_credentials_pass() {
        let cases = [
            ("Bearer t0ken", Some("a")),
            ("bearer  t0ken ", Some("a")),
            ("Bearer t0kenx", None),
            ("Bearer t0kent0ken", None),
            ("Bearer t0ke", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic YW5uOnA6dw==", Some("b")),
            ("Basic YW5uOnA6", None),
            ("Basic t0ken", None),
            ("Basic !", None),
            ("Digest t0ken", None),
        ];
        for (header, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(header));
            let caller = auth().caller(&headers, None);
            assert_eq!(caller.as_ref().map(|c| c.tenant.as_str()), expected, "{header}");
        }
        assert_eq!(auth().caller(&HeaderMap::new(), None), None);
    }

    #[test]
    fn pages_of_other_sites_are_known() {
        for (site, origin, cross) in [
            (None, None, false),
            (None, Some("http://hub:9190"), false),
            (None, Some("http://hub"), true),
            (None, Some("http://elsewhere"), true),
            (None, Some("null"), true),
            (Some("same-origin"), Some("https://front"), false),
            (Some("cross-site"), Some("http://hub:9190"), true),
            (Some("none"), None, false),
        ] {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("hub:9190"))]);
            site.map(|site| headers.insert("sec-fetch-site", HeaderValue::from_static(site)));
            origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
            assert_eq!(is_cross_site(&headers), cross, "{site:?} {origin:?}");
        }
    }

    #[test]
    fn without_credentials_everybody_on_this_machine_is_administrator() {
        for (client, known) in [
            (None, true),
            (Some("127.0.0.1"), true),
            (Some("::1"), true),
            (Some("::ffff:127.0.0.1"), true),
            (Some("10.0.0.1"), false),
            (Some("fd00::1"), false),
        ] {
            let client = client.map(|client| client.parse().expect("an address"));
            let caller = Auth::default().caller(&HeaderMap::new(), client);
            for wrong in ["Bearer guess", "Basic YW5uOnA6dw==", "Basic", "Digest x", ""] {
                let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(wrong))]);
                assert_eq!(Auth::default().caller(&headers, client), None, "{client:?} with {wrong:?}");
            }
            let administrator = Caller::new(TenantId::default(), Role::Admin);
            assert_eq!(caller, known.then_some(administrator), "{client:?}");
        }
    }

    struct One;

    impl Tokens for One {
        fn caller(&self, token: &str) -> Option<Caller> {
            (token == "ours_good").then(|| Caller::new(TenantId::default(), Role::Read))
        }

        fn claims(&self, token: &str) -> bool {
            token.starts_with("ours_")
        }
    }

    #[test]
    fn tokens_count_beside_the_configuration_and_a_bad_one_is_never_administrator() {
        for (token, configured, open) in [
            ("ours_good", Some(Role::Read), Some(Role::Read)),
            ("ours_revoked", None, None),
            ("t0ken", Some(Role::Read), None),
            ("unknown", None, None),
        ] {
            let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            for (auth, role) in [(auth(), configured), (Auth::default(), open)] {
                let caller = auth.with_tokens(Arc::new(One)).caller(&headers, None);
                assert_eq!(caller.map(|caller| caller.role), role, "{token}");
            }
        }
    }

    #[test]
    fn roles_allow_themselves_and_admin_allows_all() {
        use Role::{Admin, Read, Write};
        for (has, needs, allowed) in [
            (Read, Read, true),
            (Read, Write, false),
            (Write, Read, false),
            (Admin, Write, true),
            (Read, Admin, false),
        ] {
            assert_eq!(has.allows(needs), allowed, "{has:?} {needs:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?}", auth());
        assert!(!printed.contains("t0ken") && !printed.contains("p:w"), "{printed}");
    }
}
