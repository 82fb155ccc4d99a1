//! Pages of long lists: each tells where the next one begins.

use serde_json::Value;

/// The longest token that is read, bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Where a page begins: behind what stands at these names, by which the list is sorted. Empty for the first page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Behind(Vec<String>);

impl Behind {
    /// From a token of [`token`]; no token is the first page.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn parse(token: Option<&str>) -> Result<Behind, String> {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(Behind::default()) };
        let bytes = Some(token).filter(|token| token.len() <= TOKEN_BYTES_MAX).and_then(bytes_of);
        let names = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        names
            .map(Behind)
            .ok_or_else(|| "page_token: this is none; the answer before has it as nextPageToken".to_owned())
    }

    /// Whether something at `names` is on this page or a later one.
    pub(super) fn is_before(&self, names: &[&str]) -> bool {
        self.0.iter().map(String::as_str).lt(names.iter().copied())
    }

    /// Whether anything whose names begin with `names` may be.
    pub(super) fn may_be_before(&self, names: &[&str]) -> bool {
        self.0.iter().map(String::as_str).take(names.len()).le(names.iter().copied())
    }
}

/// Says that the next page begins behind `names`: hexadecimal digits, which stand in a URL as they are.
pub(super) fn token(names: &[&str]) -> String {
    let names: Value = names.iter().copied().collect();
    names.to_string().bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_behind_its_token() {
        let behind = Behind::parse(Some(&token(&["eu", "one", "node \"x\"", "07"]))).expect("a token");
        let check = |names: [&str; 4], is_before: bool| {
            assert_eq!(behind.is_before(&names), is_before, "{names:?}");
            assert!(!is_before || behind.may_be_before(&names[..2]), "{names:?}");
            assert!(Behind::default().is_before(&names), "the first page has everything");
        };
        check(["eu", "one", "node \"x\"", "07"], false);
        check(["eu", "one", "node \"x\"", "08"], true);
        check(["eu", "one", "a", "09"], false);
        check(["eu", "two", "a", "01"], true);
        check(["ap", "two", "z", "09"], false);
        check(["us", "", "", ""], true);
        assert!(!behind.may_be_before(&["ap", "two"]));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for wrong in ["7", "zz", "5b5d5d", "äö", &"00".repeat(4000)] {
            let refused = Behind::parse(Some(wrong)).expect_err(wrong);
            assert!(refused.starts_with("page_token: "), "{refused}");
        }
        assert_eq!(Behind::parse(Some("")), Ok(Behind::default()));
    }
}
