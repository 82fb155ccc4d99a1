//! Names of clusters and targets as parts of a host name, and back.
//!
//! A name that is a plain host label (`a-z 0-9 -`, no hyphen at either end or at positions 3 and 4
//! together, at most 63 bytes) stands as it is. Every other name is written as `mg--` and its bytes,
//! `a-z 0-9` as themselves and all others as `-` with two hexadecimal digits; what does not fit into one
//! label goes on in further ones that begin with `mc--`. Each name has exactly one such form, and no two
//! names share one, so two clusters cannot clash, nor can a name contain a dot that moves the border
//! between target and cluster. Upper case, which host names do not tell from lower case, is escaped.
//!
//! Source: RFC 1035 section 2.3.4 and RFC 5890 section 2.3.1 for labels (hyphens at
//! positions 3 and 4 are reserved, which is what keeps plain and escaped names apart).

/// Longest label of a host name, bytes.
const LABEL_BYTES_MAX: usize = 63;
/// Longest host that is looked at, bytes.
const HOST_BYTES_MAX: usize = 4096;
/// Begins an escaped name.
const ESCAPED: &str = "mg--";
/// Begins what did not fit into the label before.
const CONTINUED: &str = "mc--";

/// `name` as one or more labels.
pub fn encode(name: &str) -> String {
    if is_plain(name) {
        return name.to_owned();
    }
    let mut out = String::with_capacity(ESCAPED.len() + name.len() + 8);
    out.push_str(ESCAPED);
    let mut used = ESCAPED.len();
    for byte in name.bytes() {
        let width = if is_literal(byte) { 1 } else { 3 };
        if used + width > LABEL_BYTES_MAX {
            out.push('.');
            out.push_str(CONTINUED);
            used = CONTINUED.len();
        }
        if is_literal(byte) {
            out.push(char::from(byte));
        } else {
            out.push('-');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        used += width;
    }
    out
}

/// The name that [`encode`] wrote as `labels`; `None` for anything it would not have written.
pub fn decode(labels: &str) -> Option<String> {
    let name = if labels.starts_with(ESCAPED) {
        let mut bytes = Vec::with_capacity(labels.len());
        for (at, label) in labels.split('.').enumerate() {
            let rest = label.strip_prefix(if at == 0 { ESCAPED } else { CONTINUED })?;
            unescape(rest, &mut bytes)?;
        }
        String::from_utf8(bytes).ok()?
    } else {
        labels.to_owned()
    };
    (!name.is_empty() && encode(&name) == labels).then_some(name)
}

/// The host name of a target, without a port.
pub fn target_host(target: &str, cluster: &str, suffix: &str) -> String {
    format!("{}.{}.{suffix}", encode(target), encode(cluster))
}

/// Target and cluster of a host name below `suffix`, in any case; `None` when it is not the name of one.
pub fn parse_target_host(host: &str, suffix: &str) -> Option<(String, String)> {
    let host = below(host, suffix)?;
    let (target, cluster) = split_cluster(&host)?;
    Some((decode(target)?, decode(cluster)?))
}

/// What stands before `suffix` in `host`, in lower case; `None` when `host` is not below it.
pub(crate) fn below(host: &str, suffix: &str) -> Option<String> {
    if host.len() > HOST_BYTES_MAX {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let rest = host.strip_suffix(suffix)?.strip_suffix('.')?;
    Some(rest.to_owned())
}

/// Parts the labels of the last name, which may be several, from what stands before them.
pub(crate) fn split_cluster(labels: &str) -> Option<(&str, &str)> {
    let mut end = labels.len();
    loop {
        let at = labels.get(..end)?.rfind('.')?;
        if !labels[at + 1..].starts_with(CONTINUED) {
            return Some((&labels[..at], &labels[at + 1..]));
        }
        end = at;
    }
}

fn is_literal(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_plain(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = bytes.first().is_some_and(|b| is_literal(*b)) && bytes.last().is_some_and(|b| is_literal(*b));
    ends && bytes.len() <= LABEL_BYTES_MAX
        && bytes.get(2..4) != Some(b"--")
        && bytes.iter().all(|b| is_literal(*b) || *b == b'-')
}

fn unescape(text: &str, into: &mut Vec<u8>) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'-' {
            into.push(first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        into.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_as_labels() {
        let long = "a".repeat(70);
        let broken = format!("mg--{}.mc--{}", "a".repeat(59), "a".repeat(11));
        for (name, labels) in [
            ("north", "north"),
            ("eu-west-1", "eu-west-1"),
            ("0a7f", "0a7f"),
            ("North", "mg---4eorth"),
            ("a.b", "mg--a-2eb"),
            ("a_b", "mg--a-5fb"),
            ("a-", "mg--a-2d"),
            ("xn--a", "mg--xn-2d-2da"),
            ("mg--a", "mg--mg-2d-2da"),
            ("é", "mg---c3-a9"),
            (&long, &broken),
        ] {
            assert_eq!(encode(name), labels, "{name}");
            assert_eq!(decode(labels).as_deref(), Some(name), "{labels}");
        }
    }

    #[test]
    fn only_what_encode_writes_is_read() {
        for labels in [
            "",
            "mg--",
            "mg--north",
            "mg--a-2",
            "mg--a-2E",
            "mg--a-xx",
            "mg--a-ff",
            "A",
            "a.b",
            "-a",
            "xn--a",
            "mc--a",
            "mg--a-2eb.c",
            "mg--a-2e.mc--b",
            "mg---+1",
        ] {
            assert_eq!(decode(labels), None, "{labels}");
        }
    }

    #[test]
    fn hosts_of_targets() {
        let suffix = "marigraph.internal";
        for (host, expected) in [
            ("0a7f.north.marigraph.internal", Some(("0a7f", "north"))),
            ("0A7F.North.Marigraph.Internal.", Some(("0a7f", "north"))),
            ("0a7f.mg---4eorth.marigraph.internal", Some(("0a7f", "North"))),
            ("north.marigraph.internal", None),
            ("marigraph.internal", None),
            ("a.b.c.marigraph.internal", None),
            ("0a7f.north.amarigraph.internal", None),
            (".north.marigraph.internal", None),
            ("0a7f..marigraph.internal", None),
        ] {
            let parsed = parse_target_host(host, suffix);
            let parsed = parsed.as_ref().map(|(target, cluster)| (target.as_str(), cluster.as_str()));
            assert_eq!(parsed, expected, "{host}");
        }
    }

    proptest! {
        #[test]
        fn every_pair_of_names_has_a_host_of_its_own(target in ".{1,90}", cluster in ".{1,90}") {
            let host = target_host(&target, &cluster, "marigraph.internal");
            let longest = host.split('.').map(str::len).max().unwrap_or(0);
            prop_assert!(longest <= LABEL_BYTES_MAX, "{host}");
            prop_assert!(host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)));
            prop_assert_eq!(parse_target_host(&host.to_uppercase(), "marigraph.internal"), Some((target, cluster)));
        }

        #[test]
        fn any_host_is_read_to_the_end(host in "[a-cA-C0-3.g-]{0,40}") {
            let host = format!("{host}.s");
            if let Some((target, cluster)) = parse_target_host(&host, "s") {
                prop_assert_eq!(target_host(&target, &cluster, "s"), host.to_lowercase());
            }
        }
    }
}
