//! The tree as YAML again, for people: secrets are replaced.

use super::{Node, Value};

/// What stands where a secret was.
const SECRET: &str = "<secret>";

/// Keys whose values are secrets in every section of Prometheus' and our own configuration; keys
/// that name files are not.
const SECRET_KEYS: [&str; 6] = ["password", "credentials", "secret", "bearer_token", "token", "key"];
/// Keys below which every value is a secret, whatever its own key.
const SECRET_SECTIONS: [&str; 4] = ["proxy_connect_header", "secrets", "bearer_tokens", "basic_auth_users"];

pub(super) fn print(root: &Node) -> String {
    let mut out = String::new();
    match &root.value {
        Value::Map(entries) if !entries.is_empty() => block(root, 0, false, &mut out),
        _ => out.push_str("{}\n"),
    }
    out
}

fn is_secret(key: &str) -> bool {
    !key.ends_with("_file")
        && SECRET_KEYS.iter().any(|word| key == *word || key.ends_with(&format!("_{word}")))
}

/// Writes the entries or items of `node`, each on a line of its own.
fn block(node: &Node, indent: usize, secret: bool, out: &mut String) {
    let pad = "  ".repeat(indent);
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                let below = secret || SECRET_SECTIONS.contains(&key.text.as_str());
                out.push_str(&pad);
                scalar(&key.text, is_plain(&key.text), out);
                out.push(':');
                value_of(value, indent, below || is_secret(&key.text), out);
            }
        }
        Value::List(items) => {
            for item in items {
                out.push_str(&pad);
                out.push('-');
                list_item(item, indent, secret, out);
            }
        }
        Value::Null | Value::Scalar { .. } => {}
    }
}

/// Writes what follows `key:`.
fn value_of(value: &Node, indent: usize, secret: bool, out: &mut String) {
    match &value.value {
        Value::Null => out.push('\n'),
        Value::Scalar { text, plain } => {
            out.push(' ');
            line(text, *plain, secret, out);
        }
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::List(_) => {
            out.push('\n');
            block(value, indent, secret, out);
        }
        Value::Map(_) => {
            out.push('\n');
            block(value, indent + 1, secret, out);
        }
    }
}

/// Writes what follows `-`.
fn list_item(item: &Node, indent: usize, secret: bool, out: &mut String) {
    match &item.value {
        Value::Map(entries) if !entries.is_empty() => {
            let mut text = String::new();
            block(item, indent + 1, secret, &mut text);
            out.push(' ');
            out.push_str(text.trim_start_matches(' '));
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            block(item, indent + 1, secret, out);
        }
        _ => value_of(item, indent, secret, out),
    }
}

fn line(text: &str, plain: bool, secret: bool, out: &mut String) {
    if secret {
        out.push_str(SECRET);
    } else {
        scalar(&without_password(text), plain && is_plain(text), out);
    }
    out.push('\n');
}

/// `http://user:password@host` without the password.
fn without_password(text: &str) -> String {
    let hidden = || {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user_info, host) = authority.rsplit_once('@')?;
        let (user, _) = user_info.split_once(':')?;
        Some(format!("{scheme}://{user}:xxxxx@{host}{path}"))
    };
    hidden().unwrap_or_else(|| text.to_owned())
}

/// Whether `text` means the same without quotes in block style.
fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let last = text.chars().next_back().unwrap_or(' ');
    !(text.is_empty()
        || first.is_whitespace()
        || last.is_whitespace()
        || last == ':'
        || "!&*-?|>@`\"'%#{}[],:".contains(first) && !is_number(text)
        || text.contains(": ")
        || text.contains(" #")
        || text.chars().any(char::is_control))
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

fn scalar(text: &str, plain: bool, out: &mut String) {
    if plain {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}
