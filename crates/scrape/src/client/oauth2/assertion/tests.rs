//! What is signed is read back with the public key, as a token's server would.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    UnparsedPublicKey,
};
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::*;

/// PKCS #8 in front of a key of 2,048 bits: the rest is PKCS #1 (RFC 5958 section 2).
const PKCS8_HEAD: usize = 26;

fn pem(label: &str, der: &[u8]) -> Source {
    let text = BASE64.encode(der);
    Source::Inline(Secret::new(format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")))
}

fn what(key: Source, algorithm: SignatureAlgorithm) -> AssertionConfig {
    AssertionConfig {
        key,
        key_id: Some("k1".to_owned()),
        algorithm,
        issuer: "me".to_owned(),
        audience: "https://auth/token".to_owned(),
        claims: [("aud".to_owned(), json!(["a", 2])), ("org".to_owned(), json!({ "id": 7 }))]
            .into_iter()
            .collect(),
    }
}

fn part(text: &str) -> Value {
    serde_json::from_slice(&BASE64_URL.decode(text).expect("base64url")).expect("JSON")
}

#[test]
fn a_server_can_check_what_was_signed() {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der = key.as_der().expect("PKCS #8");
    let (pkcs8, pkcs1) = (der.as_ref(), &der.as_ref()[PKCS8_HEAD..]);
    for (source, algorithm, verified) in [
        (pem("PRIVATE KEY", pkcs8), SignatureAlgorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
        (pem("RSA PRIVATE KEY", pkcs1), SignatureAlgorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
        (pem("PRIVATE KEY", pkcs8), SignatureAlgorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    ] {
        let what = what(source, algorithm);
        let token = signed(&what, "me", &["read".to_owned(), "all".to_owned()]).expect("an assertion");
        let (body, signature) = token.rsplit_once('.').expect("three parts");
        let (header, claims) = body.split_once('.').expect("three parts");
        assert_eq!(part(header), json!({ "alg": algorithm.name(), "typ": "JWT", "kid": "k1" }));
        let mut claims = part(claims);
        let fields = claims.as_object_mut().expect("an object");
        let mut taken = |name: &str| fields.remove(name).unwrap_or_default();
        let (issued, expires) = (taken("iat").as_u64(), taken("exp").as_u64());
        assert_eq!(expires, issued.map(|at| at + LIFETIME.as_secs()));
        assert_eq!(taken("jti").as_str().map(str::len), Some(32));
        let rest =
            json!({"iss": "me", "sub": "me", "aud": ["a", 2], "org": { "id": 7 }, "scope": "read all"});
        assert_eq!(claims, rest);
        let signature = BASE64_URL.decode(signature).expect("base64url");
        let public = UnparsedPublicKey::new(verified, key.public_key().as_ref());
        public.verify(body.as_bytes(), &signature).expect("a signature that holds");
        assert_ne!(signed(&what, "me", &[]), signed(&what, "me", &[]), "an assertion is used once");
    }
}

#[test]
fn a_key_that_cannot_sign_is_named() {
    for (key, told) in [
        (Source::Inline(Secret::new("hush")), "client_certificate_key: no private key in PEM: "),
        (pem("EC PRIVATE KEY", b"0"), "client_certificate_key: not an RSA key"),
        (pem("PRIVATE KEY", b"0123"), "client_certificate_key: not an RSA key that can be used: "),
        (Source::File("/no/such/key".into()), "read /no/such/key: "),
    ] {
        let problem = signed(&what(key, SignatureAlgorithm::Rs256), "me", &[]).expect_err("no assertion");
        assert!(problem.starts_with(told) && !problem.contains("hush"), "{problem}");
    }
}
