//! The agent's own certificate, and what hubs and agents think of certificates of the user's own authorities.

use rustls::{CertificateError, Error};
use rustls_pki_types::CertificateDer;

use super::{Finding, bad, doubtful, good};
use crate::identity::agent::AgentIdentity;
use crate::identity::exchange::{Refused, WhoAnswer};
use crate::identity::peer::{PeerIdentity, Shown, Standing};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// The certificate that the agent shows, if it has one.
pub(super) fn own_certificate(
    identity: &AgentIdentity,
    now_ms: i64,
    findings: &mut Vec<Finding>,
) -> Result<(), Finding> {
    match (identity.shown(), identity.current()) {
        (Some(shown), _) => findings.push(brought(&shown, now_ms)?),
        (None, Some(peer)) => findings.push(enrolled(&peer, now_ms)?),
        (None, None) => {}
    }
    Ok(())
}

fn brought(shown: &Shown, now_ms: i64) -> Result<Finding, Finding> {
    let days = (shown.not_after_ms - now_ms) / DAY_MS;
    if now_ms < shown.not_before_ms {
        let found = format!("the certificate brought is not valid yet by this machine's clock ({shown})");
        return Err(bad("clock", found, "set this machine's clock (NTP)"));
    }
    if now_ms > shown.not_after_ms {
        let hours = (now_ms - shown.not_after_ms) / 3_600_000;
        let found = format!("the certificate brought expired {hours} hours ago ({shown})");
        let advice =
            "have whoever issues it issue a new one, and look why it was not renewed; compare the clock";
        return Err(bad("identity", found, advice));
    }
    if !shown.for_clients {
        let found = format!("the certificate brought is not for clients ({shown})");
        let advice = "issue it with the extended key usage client authentication (cert-manager: usages: [client auth])";
        return Err(bad("identity", found, advice));
    }
    Ok(good("identity", format!("a certificate of your own authority: {shown}; for {days} days more")))
}

fn enrolled(identity: &PeerIdentity, now_ms: i64) -> Result<Finding, Finding> {
    let days = (identity.not_after_ms - now_ms) / DAY_MS;
    match identity.standing(now_ms) {
        Standing::Current => Ok(good("identity", format!("{identity}, for {days} days more"))),
        Standing::RenewalOnly => Ok(doubtful(
            "identity",
            format!("{identity}, expired {} days ago", -days),
            "the agent renews it when it runs",
        )),
        Standing::Useless if now_ms < identity.not_before_ms => {
            let found = format!("{identity} is not valid yet by this machine's clock");
            Err(bad("clock", found, "set this machine's clock (NTP)"))
        }
        Standing::Useless => {
            let found = format!("{identity} expired {} days ago, which is more than 90", -days);
            Err(bad("identity", found, "enrol with a new token"))
        }
    }
}

pub(super) fn believed_by_user() -> Finding {
    good("certificate", "the hub's certificate is of your own authority (--hub.ca-file)".to_owned())
}

/// A certificate that is neither the fleet's nor of the user's authority.
pub(super) fn strange_to_user(error: &Error, certificate: &CertificateDer<'_>, host: &str) -> Finding {
    let names = Shown::read(certificate).map_or_else(|error| error.to_string(), |shown| shown.to_string());
    let Error::InvalidCertificate(why) = error else { return bad("certificate", error, "") };
    match why {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => bad(
            "certificate",
            format!("the hub's certificate is of your authority, but not for {host:?} ({names})"),
            "dial the hub by a name that is in its certificate, or have one issued with this name",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => bad(
            "certificate",
            format!("the hub's certificate has expired by this machine's clock ({names})"),
            "the hub reads --tls.cert-file again when it changes: look why it was not renewed; compare the clock",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => bad(
            "clock",
            format!("the hub's certificate is not valid yet by this machine's clock ({names})"),
            "set this machine's clock (NTP)",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => bad(
            "certificate",
            format!("the hub's certificate is not for servers ({names})"),
            "issue it with the extended key usage server authentication",
        ),
        _ => bad(
            "certificate",
            format!(
                "the certificate shown is neither the fleet's nor of an authority in --hub.ca-file ({names})"
            ),
            "give the authority that has signed what the hub has as --tls.cert-file; if the hub has none of your \
             authority, something between ends TLS",
        ),
    }
}

/// What a hub answers to the question who this is.
pub(super) fn said(answer: &str) -> Result<Finding, Finding> {
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    if answer.starts_with("HTTP/1.1 200")
        && let Ok(who) = serde_json::from_str::<WhoAnswer>(body)
    {
        let found = format!(
            "to it this is agent {} of cluster {:?} (tenant {})",
            who.agent_id, who.cluster, who.tenant
        );
        return Ok(good("hub", found));
    }
    if let Ok(refused) = serde_json::from_str::<Refused>(body) {
        return Err(bad("hub", refused.error, "look into the hub's log"));
    }
    let line = answer.lines().next().unwrap_or("nothing");
    Err(bad(
        "hub",
        format!("it answers {line:?}"),
        "look into the hub's log; is it starting, or older than this agent?",
    ))
}

/// What it means when a hub ends the connection with the alert in `text`, and what to do; `brought` when the agent's
/// certificate is of an authority of the user's.
pub fn explained(text: &str, brought: bool) -> Option<(&'static str, &'static str)> {
    let alerts = [
        (
            "CertificateRevoked",
            ("the hub says that this agent was revoked", "if that was not meant, enrol with a new token"),
            (
                "the hub says that this agent, or this certificate, was revoked",
                "if that was not meant, bring a certificate with another name",
            ),
        ),
        (
            "CertificateExpired",
            (
                "the hub says that this agent's certificate has expired",
                "compare the clocks of both; otherwise enrol with a new token",
            ),
            (
                "the hub says that the certificate brought has expired, or is not valid yet",
                "compare the clocks of both; otherwise have a new one issued",
            ),
        ),
        (
            "UnknownCA",
            (
                "the hub does not know the root of this agent's certificate",
                "it is another fleet's, or its root was retired: enrol with a new token",
            ),
            (
                "no authority that the hub believes has signed the certificate brought",
                "the hub's configuration needs that authority in `fleet: client_authorities`, and --hub.cert-file the \
                 intermediate certificates after the agent's own, if there are any",
            ),
        ),
        (
            "AccessDenied",
            ("the hub does not know whose this certificate is", "enrol with a new token"),
            (
                "the hub believes the authority, and finds no cluster in the certificate brought",
                "its names have to fit `names` of the authority in the hub's configuration (`fleet: client_authorities`), \
                 and its tenant `tenants`; the hub's log has both",
            ),
        ),
        (
            "DecryptError",
            ("the hub's root has this name and another key", "enrol with a new token"),
            (
                "an authority that the hub believes has the name of the one that signed the certificate brought, and another \
                 key",
                "was the authority made anew? Put its new certificate into the hub's `ca_file`",
            ),
        ),
        (
            "UnsupportedCertificate",
            ("the hub says that this agent's certificate is not for clients", "enrol with a new token"),
            (
                "the hub says that the certificate brought is not for clients",
                "issue it with the extended key usage client authentication",
            ),
        ),
    ];
    let meant = alerts.iter().find(|(alert, ..)| text.contains(alert));
    meant.map(|(_, ours, users)| if brought { *users } else { *ours })
}
