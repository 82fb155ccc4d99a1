//! Tokens as people carry them.
//!
//! `marigraph_<kind>_<base64url>`, without padding, of: version (1), id (8 bytes), secret (32 bytes), and for
//! what is redeemed at a hub the hash of the fleet root's key (32 bytes) and the hub's address (rest, may be
//! empty); at the end CRC-32C of all before it, little endian, which tells a token that was cut by
//! copying from one that is not known.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const PIN_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const HINT_BYTES_MAX: usize = 256;
/// Longest token that is looked at, characters.
const TOKEN_CHARACTERS_MAX: usize = 600;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// An agent gets its certificate for it.
    Enrol,
    /// A hub becomes one of the fleet for it.
    Join,
    /// A caller shows it with every request.
    Api,
}

impl TokenKind {
    /// `enrol`, `join` or `api`.
    pub fn name(self) -> &'static str {
        match self {
            TokenKind::Enrol => "enrol",
            TokenKind::Join => "join",
            TokenKind::Api => "api",
        }
    }
}

/// A token with its secret. Prints it with `Display` and hides it in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    pub(crate) id: [u8; ID_BYTES],
    pub(crate) secret: [u8; SECRET_BYTES],
    /// The SHA-256 of the fleet root's public key; not for API tokens.
    pub pin: Option<[u8; PIN_BYTES]>,
    /// Where the hub that made it can be reached, such as `https://hub.example:9443`; may be empty.
    pub hub: String,
}

/// A text that is no token of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Another kind of text.
    #[error(
        "this is no token of Marigraph: it does not start with marigraph_enrol_, marigraph_join_ or marigraph_api_"
    )]
    Foreign,
    /// It has been changed or cut.
    #[error("the token is damaged: was it copied whole?")]
    Damaged,
    /// Of a later version.
    #[error("the token is of version {0}; this program reads version 1")]
    Version(u8),
}

impl Token {
    /// A new token. A `hub` that is longer than 256 bytes is left out.
    pub(crate) fn random(kind: TokenKind, pin: Option<[u8; PIN_BYTES]>, hub: &str) -> Token {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        rand::fill(&mut id);
        rand::fill(&mut secret);
        let hub = if hub.len() <= HINT_BYTES_MAX { hub.to_owned() } else { String::new() };
        Token { kind, id, secret, pin: pin.filter(|_| kind != TokenKind::Api), hub }
    }

    /// The part that may be shown: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// The SHA-256 of the secret, hexadecimal: what a hub keeps. The secret is 256 random bits, so no
    /// slow hash is needed.
    pub(crate) fn digest(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.secret).as_ref())
    }

    /// Whether the text claims to be a token of ours, of any kind.
    pub fn looks_like_one(text: &str) -> bool {
        split(text.trim()).is_some()
    }
}

fn split(text: &str) -> Option<(TokenKind, &str)> {
    let rest = text.strip_prefix("marigraph_")?;
    [TokenKind::Enrol, TokenKind::Join, TokenKind::Api]
        .into_iter()
        .find_map(|kind| Some((kind, rest.strip_prefix(kind.name())?.strip_prefix('_')?)))
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Token, BadToken> {
        let (kind, encoded) = split(text.trim()).ok_or(BadToken::Foreign)?;
        if encoded.len() > TOKEN_CHARACTERS_MAX {
            return Err(BadToken::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadToken::Damaged)?;
        let (bytes, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(BadToken::Damaged)?;
        if crc32c::crc32c(bytes) != u32::from_le_bytes(*checksum) {
            return Err(BadToken::Damaged);
        }
        let (version, rest) = bytes.split_first().ok_or(BadToken::Damaged)?;
        if *version != VERSION {
            return Err(BadToken::Version(*version));
        }
        let (id, rest) = rest.split_first_chunk().ok_or(BadToken::Damaged)?;
        let (secret, rest) = rest.split_first_chunk().ok_or(BadToken::Damaged)?;
        let (pin, rest) = match kind {
            TokenKind::Api => (None, rest),
            TokenKind::Enrol | TokenKind::Join => {
                let (pin, rest) = rest.split_first_chunk().ok_or(BadToken::Damaged)?;
                (Some(*pin), rest)
            }
        };
        let hub = String::from_utf8(rest.to_vec()).map_err(|_| BadToken::Damaged)?;
        if hub.len() > HINT_BYTES_MAX {
            return Err(BadToken::Damaged);
        }
        Ok(Token { kind, id: *id, secret: *secret, pin, hub })
    }
}

/// With the secret: for the one moment it is given to its owner.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.id);
        bytes.extend(self.secret);
        if self.kind != TokenKind::Api {
            bytes.extend(self.pin.unwrap_or_default());
            bytes.extend(self.hub.as_bytes());
        }
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        write!(f, "marigraph_{}_{}", self.kind.name(), URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} {}, <secret>)", self.kind.name(), self.id())
    }
}

/// Hexadecimal, lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_printed_and_nothing_else_is() {
        for (kind, pin, hub) in [
            (TokenKind::Enrol, Some([7; 32]), "https://hub.example:9443"),
            (TokenKind::Join, Some([7; 32]), ""),
            (TokenKind::Api, None, ""),
        ] {
            let token = Token::random(kind, pin, hub);
            let text = token.to_string();
            assert_eq!(text.parse(), Ok(token.clone()));
            assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
            for cut in 1..20 {
                assert_eq!(text[..text.len() - cut].parse::<Token>(), Err(BadToken::Damaged), "{cut}");
            }
            let other = text.replacen(kind.name(), "other", 1);
            assert_eq!(other.parse::<Token>(), Err(BadToken::Foreign));
            assert!(!format!("{token:?}").contains(&text[30..60]));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_trap(text in "(marigraph_(enrol|join|api)_)?[A-Za-z0-9_-]{0,200}") {
            prop_assert!(text.parse::<Token>().is_err());
        }
    }
}
