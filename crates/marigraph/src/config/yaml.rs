//! YAML as go-yaml reads it, with the place of every node.
//!
//! The text becomes a tree of [`Node`]s first, and typed configuration is read from the tree. That
//! costs a copy and gives three things that reading types straight from the text does not: a key
//! without a value means "not set" wherever it stands, a scalar keeps the letters it was written
//! with (`1.10` stays `1.10` as a label), and a check made long after parsing can still say where.
//!
//! Anchors, aliases and merge keys (`<<`) are resolved while the tree is built. The YAML library is
//! used here and nowhere else.

mod de;
mod print;

use std::collections::HashMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// Nodes a document may have once aliases are expanded: far above any real file, far below harm.
const NODES_MAX: usize = 1_000_000;
/// How deep nodes may nest.
const DEPTH_MAX: usize = 100;

/// Ends the message of an error about text that may be a secret.
pub(crate) const TEXT_WITHHELD: &str = "text";

/// A place in a file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl From<Span> for Mark {
    fn from(span: Span) -> Mark {
        Mark { line: span.start.line().max(1), column: span.start.col() + 1 }
    }
}

/// One value of the document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Mark,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text; `plain` when it stood without quotes and so may also be a number or a boolean.
    Scalar { text: String, plain: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; no key twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) at: Mark,
}

/// What is wrong, where, and what may have been meant. The file's name is added by the caller.
#[derive(Debug, Clone)]
pub(crate) struct Error {
    pub(crate) message: String,
    pub(crate) at: Option<Mark>,
    pub(crate) hint: Option<String>,
}

impl Error {
    pub(crate) fn at(at: Mark, message: impl Into<String>) -> Error {
        Error { message: message.into(), at: Some(at), hint: None }
    }

    /// Gives the error a place unless it has a (more precise) one.
    fn or_at(mut self, at: Mark) -> Error {
        self.at.get_or_insert(at);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Node {
    /// The empty mapping, as an empty file means it.
    pub(crate) fn empty_map() -> Node {
        Node { value: Value::Map(Vec::new()), at: Mark { line: 1, column: 1 } }
    }

    /// A scalar that stands in no file.
    pub(crate) fn scalar(text: impl Into<String>) -> Node {
        Node { value: Value::Scalar { text: text.into(), plain: true }, at: Mark { line: 1, column: 1 } }
    }

    /// Reads a typed value.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(de::NodeReader(self)).map_err(|e| e.or_at(self.at))
    }

    /// The entries, when this is a mapping; nothing is an empty one.
    pub(crate) fn entries(&self) -> Result<&[(Key, Node)], Error> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            Value::Null => Ok(&[]),
            other => Err(self.misshapen("a mapping", other)),
        }
    }

    /// The items, when this is a list; nothing is an empty one.
    pub(crate) fn items(&self) -> Result<&[Node], Error> {
        match &self.value {
            Value::List(items) => Ok(items),
            Value::Null => Ok(&[]),
            other => Err(self.misshapen("a list", other)),
        }
    }

    /// This is not the mapping or list it should be. Text is not shown: where a credential was written
    /// without its key, it is the credential.
    fn misshapen(&self, expected: &str, found: &Value) -> Error {
        let hint = match (expected, found) {
            ("a list", Value::Scalar { .. }) => {
                Some("a list is written `[a, b]`, or as lines that begin with `- `")
            }
            ("a list", _) => Some("each entry of a list begins with `- `"),
            (_, Value::List(_)) => Some("leave the `- ` out"),
            _ => None,
        };
        let found = match found {
            Value::Scalar { .. } => TEXT_WITHHELD.to_owned(),
            other => other.describe(),
        };
        let mut error = Error::at(self.at, format!("expected {expected}, found {found}"));
        error.hint = hint.map(str::to_owned);
        error
    }

    /// The value of `key`, when this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value of `key`, to be changed.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value of `key`, set to `value` where it is missing; `None` when this is no mapping.
    pub(crate) fn get_or_insert(&mut self, key: &str, value: Node) -> Option<&mut Node> {
        if matches!(self.value, Value::Null) {
            self.value = Value::Map(Vec::new());
        }
        let at = self.at;
        let Value::Map(entries) = &mut self.value else { return None };
        let found = match entries.iter().position(|(k, _)| k.text == key) {
            Some(found) => found,
            None => {
                entries.push((Key { text: key.to_owned(), at }, value));
                entries.len() - 1
            }
        };
        Some(&mut entries[found].1)
    }

    /// Splits a mapping in two: the entries whose key `take` accepts, and the rest.
    pub(crate) fn split(&self, take: impl Fn(&str) -> bool) -> Result<(Node, Node), Error> {
        let (taken, rest) = self.entries()?.iter().cloned().partition(|(key, _)| take(&key.text));
        Ok((Node { value: Value::Map(taken), at: self.at }, Node { value: Value::Map(rest), at: self.at }))
    }

    /// The place of `path` (`a.b[2].c`), or of the nearest node above it that exists.
    pub(crate) fn locate(&self, path: &str) -> Mark {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match (step.strip_suffix(']'), &node.value) {
                (Some(index), Value::List(items)) => index.parse().ok().and_then(|i: usize| items.get(i)),
                (None, Value::Map(_)) => node.get(step),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.at
    }

    /// The document as YAML, values of secrets replaced.
    pub(crate) fn print(&self) -> String {
        print::print(self)
    }
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", shorten(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Parses one document. An empty text is an empty mapping.
///
/// # Errors
/// The first thing that is not YAML, a key given twice, or a document beyond the bounds.
pub(crate) fn parse(text: &str) -> Result<Node, Error> {
    Builder { events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 }.document()
}

/// Builds the tree from the parser's events.
struct Builder<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), Error> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, span.into())),
            Some(Err(e)) => {
                let at = Mark { line: e.marker().line().max(1), column: e.marker().col() + 1 };
                let mut error = Error::at(at, format!("not valid YAML: {}", e.info()));
                error.hint = hint_on_syntax(&e.info()).map(str::to_owned);
                Err(error)
            }
            None => Ok((Event::StreamEnd, Mark { line: 1, column: 1 })),
        }
    }

    fn document(&mut self) -> Result<Node, Error> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root.unwrap_or_else(Node::empty_map)),
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Error::at(at, "the file holds more than one YAML document"));
                }
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    let node = self.node(event, at, 0)?;
                    root = Some(if matches!(node.value, Value::Null) { Node::empty_map() } else { node });
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, at: Mark, depth: usize) -> Result<Node, Error> {
        self.count(1, at)?;
        if depth > DEPTH_MAX {
            return Err(Error::at(at, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar { text: text.into_owned(), plain } };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Value::List(self.items(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Value::Map(self.entries(depth)?), anchor),
            Event::Alias(anchor) => return self.alias(anchor, at),
            other => return Err(Error::at(at, format!("not valid YAML: unexpected {other:?}"))),
        };
        let node = Node { value, at };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, at: Mark) -> Result<Node, Error> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(Error::at(at, "the alias refers to the node it stands in"));
        };
        self.count(size(&node), at)?;
        Ok(Node { value: node.value, at })
    }

    fn count(&mut self, nodes: usize, at: Mark) -> Result<(), Error> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            return Err(Error::at(at, format!("the document has more than {NODES_MAX} nodes")));
        }
        Ok(())
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Error> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::SequenceEnd => return Ok(items),
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    items.push(self.node(event, at, depth + 1)?);
                }
                Event::StreamEnd => return Err(Error::at(at, "not valid YAML: unfinished list")),
                _ => {}
            }
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Error> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut first_lines: HashMap<String, usize> = HashMap::new();
        let mut merged: Vec<Node> = Vec::new();
        let mut key: Option<Key> = None;
        loop {
            let (event, at) = self.next()?;
            match (event, key.take()) {
                (Event::MappingEnd, _) => break,
                (Event::StreamEnd, _) => return Err(Error::at(at, "not valid YAML: unfinished mapping")),
                (Event::Scalar(text, ..), None) => key = Some(Key { text: text.into_owned(), at }),
                (Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_), None) => {
                    return Err(Error::at(at, "a key has to be a plain word"));
                }
                (
                    event @ (Event::Scalar(..)
                    | Event::SequenceStart(..)
                    | Event::MappingStart(..)
                    | Event::Alias(_)),
                    Some(key),
                ) => {
                    let node = self.node(event, at, depth + 1)?;
                    if key.text == "<<" {
                        merged.push(node);
                        continue;
                    }
                    if let Some(line) = first_lines.insert(key.text.clone(), key.at.line) {
                        let message = format!("`{}` is given twice, first on line {line}", key.text);
                        return Err(Error::at(key.at, message));
                    }
                    entries.push((key, node));
                }
                (_, pending) => key = pending,
            }
        }
        for node in merged {
            self.merge(&mut entries, node)?;
        }
        Ok(entries)
    }

    /// Adds the entries of a merge key's value; what the mapping states itself wins.
    fn merge(&mut self, entries: &mut Vec<(Key, Node)>, node: Node) -> Result<(), Error> {
        match node.value {
            Value::Map(added) => {
                for (key, value) in added {
                    if !entries.iter().any(|(known, _)| known.text == key.text) {
                        entries.push((key, value));
                    }
                }
                Ok(())
            }
            Value::List(nodes) => nodes.into_iter().try_for_each(|node| self.merge(entries, node)),
            _ => Err(Error::at(node.at, "`<<` takes a mapping or a list of mappings")),
        }
    }
}

/// What usually lies behind a complaint of the YAML parser.
fn hint_on_syntax(complaint: &str) -> Option<&'static str> {
    [
        ("tab", "indent with spaces"),
        (
            "mapping values are not allowed",
            "is a `:` missing on the line above, or quotes around a text with `: ` in it?",
        ),
        ("did not find expected", "is the line indented as its neighbours are?"),
    ]
    .into_iter()
    .find_map(|(word, hint)| complaint.contains(word).then_some(hint))
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar { .. } => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| size(node)).sum::<usize>(),
    }
}

/// The candidate closest to `word`, when one is close enough to have been meant, or the only one that
/// is `word` with something before it (`name`: `job_name`).
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = (word.len() / 3).clamp(1, 5);
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let longer = |candidate: &&&str| candidate.strip_suffix(word).is_some_and(|before| before.ends_with('_'));
    let mut longer = candidates.iter().filter(longer);
    if let (Some(only), None) = (longer.next(), longer.next()) {
        return Some(only);
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to insert, remove, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
