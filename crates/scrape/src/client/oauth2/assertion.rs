//! Assertions: JSON web tokens that a client signs with its RSA key.
//!
//! Source: RFC 7515 section 7.1 (compact form), RFC 7519 section 4.1 (claims), RFC 7523 section 3.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::config::{AssertionConfig, Secret, SignatureAlgorithm, Source};

/// How long an assertion is good for.
const LIFETIME: Duration = Duration::from_secs(600);

/// An assertion of now, in compact form.
///
/// # Errors
/// No key, or one that cannot sign.
pub(super) fn signed(what: &AssertionConfig, subject: &str, scopes: &[String]) -> Result<String, String> {
    let key = key_of(&what.key)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut claims = json!({
        "iss": what.issuer,
        "sub": subject,
        "aud": what.audience,
        "jti": once()?,
        "iat": now.as_secs(),
        "exp": (now + LIFETIME).as_secs(),
    });
    if !scopes.is_empty() {
        claims["scope"] = scopes.join(" ").into();
    }
    for (name, claim) in &what.claims {
        claims[name] = claim.clone();
    }
    let mut header = json!({ "alg": what.algorithm.name(), "typ": "JWT" });
    if let Some(id) = &what.key_id {
        header["kid"] = id.as_str().into();
    }
    let encoded = |part: serde_json::Value| BASE64_URL.encode(part.to_string());
    let mut token = format!("{}.{}", encoded(header), encoded(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(padding(what.algorithm), &SystemRandom::new(), token.as_bytes(), &mut signature)
        .map_err(|_| "the client's key cannot sign".to_owned())?;
    token.push('.');
    BASE64_URL.encode_string(signature, &mut token);
    Ok(token)
}

/// The key in PEM, as PKCS #8 or as PKCS #1. It is read anew each time: its file may change.
fn key_of(source: &Source) -> Result<KeyPair, String> {
    let named = match source {
        Source::File(path) => path.display().to_string(),
        Source::Inline(_) => "client_certificate_key".to_owned(),
    };
    let text: Secret = source.read()?;
    let der = PrivateKeyDer::from_pem_slice(text.reveal().as_bytes())
        .map_err(|error| format!("{named}: no private key in PEM: {error}"))?;
    let key = match &der {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(format!("{named}: not an RSA key")),
    };
    key.map_err(|error| format!("{named}: not an RSA key that can be used: {error}"))
}

fn padding(algorithm: SignatureAlgorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        SignatureAlgorithm::Rs256 => &RSA_PKCS1_SHA256,
        SignatureAlgorithm::Rs384 => &RSA_PKCS1_SHA384,
        SignatureAlgorithm::Rs512 => &RSA_PKCS1_SHA512,
    }
}

/// A name that no other assertion has, so that none can be used twice.
fn once() -> Result<String, String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
