//! Templates: `$1`, `${name}`, `$$`.

/// A group as a template names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group<'t> {
    /// By number; 0 is the whole match.
    Number(usize),
    /// By name.
    Name(&'t str),
}

/// Appends `template` to `out`, with what `group` says in place of groups. A dollar sign that begins
/// no group stays as it is.
///
/// Source: Go `regexp.Regexp.Expand`.
pub(crate) fn expand<'g>(out: &mut String, template: &str, group: &impl Fn(Group<'_>) -> &'g str) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some((named, after)) = reference(after) {
            out.push_str(group(named));
            after
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
}

/// Reads what follows a dollar sign: the longest name, or one in braces.
fn reference(text: &str) -> Option<(Group<'_>, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let len = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(len);
    if name.is_empty() {
        return None;
    }
    let rest = if braced { rest.strip_prefix('}')? } else { rest };
    let numeric = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    let number = if numeric { name.parse().ok() } else { None };
    Some((number.map_or(Group::Name(name), Group::Number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_expand() {
        let group = |group: Group<'_>| match group {
            Group::Number(0) => "whole",
            Group::Number(1) => "one",
            Group::Name("name") => "named",
            Group::Name("größe") => "size",
            _ => "",
        };
        for (template, want) in [
            ("", ""),
            ("plain", "plain"),
            ("$0-$1", "whole-one"),
            ("${1}x", "onex"),
            ("$1x", ""),
            ("$name.$größe", "named.size"),
            ("$$1", "$1"),
            ("$$$1", "$one"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("${", "${"),
            ("${}", "${}"),
            ("${1", "${1"),
            ("${1 }", "${1 }"),
            ("$2|$99999999999999999999|$01", "||"),
            ("$-1", "$-1"),
        ] {
            let mut out = String::new();
            expand(&mut out, template, &group);
            assert_eq!(out, want, "{template}");
        }
    }
}
