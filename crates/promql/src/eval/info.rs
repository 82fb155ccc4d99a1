//! `info`: labels of info series for the series they are about.
//!
//! Source: Prometheus `promql/info.go`.

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::{Labels, LabelsBuilder, MatchOp, Matcher};

use super::plan::{Kind, LinkNode, Node, Selector, When, WindowSource};
use super::rows::{LabelMap, merged};
use super::{Evaluator, Row, Steps, is_absent};
use crate::answer::EvalError;
use crate::ast::RangeMode;
use crate::depth::deeper;

/// The labels by which info series are found.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

const NAME: &str = "__name__";

/// An info series: its labels, and at each step its value and the time of its sample, milliseconds.
struct Info {
    labels: Labels,
    name: String,
    key: Vec<String>,
    times_ms: Vec<f64>,
}

/// The identifying labels.
fn key_of(labels: &Labels) -> Vec<String> {
    IDENTIFYING.iter().map(|name| labels.get(name).unwrap_or_default().to_owned()).collect()
}

/// The matchers that an info series' name must satisfy.
fn name_matchers(given: &[Matcher]) -> Result<Vec<Matcher>, EvalError> {
    let mut names: Vec<Matcher> = given.iter().filter(|m| m.name == NAME).cloned().collect();
    if names.is_empty() {
        return Ok(vec![Matcher::equal(NAME, "target_info")]);
    }
    if !names.iter().any(|m| matches!(m.op, MatchOp::Equal | MatchOp::Regex)) {
        let any = Matcher::new(MatchOp::Regex, NAME, ".+_info");
        names.insert(0, any.map_err(|error| EvalError::Internal(error.to_string()))?);
    }
    Ok(names)
}

/// The time that the first selector inside looks at.
fn first_when(node: &Node) -> Option<When> {
    deeper(|| match &node.kind {
        Kind::Select(selector) | Kind::Timestamps { selector, .. } => Some(selector.when),
        Kind::Window(window) => when_of_source(&window.source),
        Kind::Over(over) => when_of_source(&over.window.source),
        Kind::Call { args, .. } => args.iter().find_map(first_when),
        Kind::Aggregate(aggregate) => first_when(&aggregate.input),
        Kind::Chain(chain) => {
            let operands = || chain.links.iter().map(|link| &link.operand);
            match chain.links.first() {
                Some(LinkNode { operand_left: true, .. }) => {
                    operands().rev().find_map(first_when).or_else(|| first_when(&chain.first))
                }
                _ => first_when(&chain.first).or_else(|| operands().find_map(first_when)),
            }
        }
        Kind::Negate(inner) | Kind::Invariant(inner) => first_when(inner),
        Kind::Number(_) | Kind::Text(_) => None,
    })
}

/// Offsets of subqueries add up until an `@` fixes the time.
fn when_of_source(source: &WindowSource) -> Option<When> {
    match source {
        WindowSource::Select(selector) => Some(selector.when),
        WindowSource::Subquery { node, when, .. } => first_when(node).map(|inner| {
            if inner.at_ms.is_some() {
                inner
            } else {
                When { offset_ms: inner.offset_ms + when.offset_ms, at_ms: when.at_ms }
            }
        }),
    }
}

impl Evaluator<'_> {
    /// `info(v, {selector})`.
    pub(crate) fn info(&self, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let Some(input) = args.first() else {
            return Err(EvalError::Internal("an argument is missing".into()));
        };
        let given: &[Matcher] = match args.get(1).map(|n| &n.kind) {
            Some(Kind::Select(selector)) => &selector.matchers,
            _ => &[],
        };
        let names = name_matchers(given)?;
        let data: Vec<&Matcher> = given.iter().filter(|m| m.name != NAME).collect();
        let when = first_when(input).unwrap_or(When { offset_ms: 0, at_ms: None });
        let rows = self.vector(input, steps)?;
        let is_info = |labels: &Labels| names.iter().all(|m| m.matches(labels.metric_name()));
        let mut matchers = names.clone();
        matchers.extend(data.iter().map(|m| (*m).clone()));
        let infos = self.info_series(&rows, &is_info, matchers, when, steps)?;

        let mut out: Vec<Row> = Vec::with_capacity(rows.len());
        for row in rows {
            if is_info(&row.labels) {
                out.push(row);
            } else {
                self.enrich(&row, &infos, &data, steps, &mut out)?;
            }
        }
        merged(out)
    }

    /// The info series that may be about any of `rows`.
    fn info_series(
        &self,
        rows: &[Row],
        is_info: &dyn Fn(&Labels) -> bool,
        mut matchers: Vec<Matcher>,
        when: When,
        steps: Steps,
    ) -> Result<Vec<Info>, EvalError> {
        let mut identified = false;
        for name in IDENTIFYING {
            let values: HashSet<&str, RandomState> = rows
                .iter()
                .filter(|row| !is_info(&row.labels))
                .filter_map(|row| row.labels.get(name))
                .collect();
            if values.is_empty() {
                continue;
            }
            identified = true;
            let mut quoted: Vec<String> = values.iter().map(|v| quote(v)).collect();
            quoted.sort_unstable();
            let matcher = Matcher::new(MatchOp::Regex, name, quoted.join("|"));
            matchers.push(matcher.map_err(|error| EvalError::Exec(error.to_string()))?);
        }
        if !identified {
            return Ok(Vec::new());
        }
        let selector = Selector { matchers, when, mode: RangeMode::Plain, statistics: false };
        let mut found = Vec::new();
        self.stream_times(&selector, steps, &mut |rows| {
            for row in rows {
                if row.histograms.is_some() {
                    return Err(EvalError::Exec(format!(
                        "this should be an info metric, with float samples: {}",
                        row.labels
                    )));
                }
                found.push(Info {
                    name: row.labels.metric_name().to_owned(),
                    key: key_of(&row.labels),
                    labels: row.labels,
                    times_ms: row.floats,
                });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The row with the labels of its info series, which may differ by step.
    fn enrich(
        &self,
        row: &Row,
        infos: &[Info],
        data: &[&Matcher],
        steps: Steps,
        out: &mut Vec<Row>,
    ) -> Result<(), EvalError> {
        let key = key_of(&row.labels);
        let about: Vec<&Info> = infos.iter().filter(|info| info.key == key).collect();
        let needs_info = data.iter().any(|m| !m.matches_empty());
        let mut place: LabelMap<Labels, usize> = LabelMap::default();
        for step in (0..steps.count).filter(|step| row.has(*step)) {
            let current = newest(&about, step)?;
            if current.is_empty() && needs_info {
                continue;
            }
            let labels = joined(&row.labels, &current, data)?;
            let next = out.len();
            let at = *place.entry(labels.clone()).or_insert(next);
            if at == next {
                out.push(Row { drop_name: row.drop_name, ..Row::empty(labels, steps.count) });
            }
            out[at].set(step, row.cell(step));
        }
        Ok(())
    }
}

/// Of each metric the info series with the newest sample.
fn newest<'i>(about: &[&'i Info], step: usize) -> Result<Vec<&'i Info>, EvalError> {
    let mut current: Vec<&Info> = Vec::new();
    for info in about.iter().filter(|info| !is_absent(info.times_ms[step])) {
        let Some(other) = current.iter_mut().find(|other| other.name == info.name) else {
            current.push(info);
            continue;
        };
        let (t, other_t) = (info.times_ms[step], other.times_ms[step]);
        if t == other_t {
            return Err(EvalError::Exec(format!(
                "found duplicate series for info metric: existing {} @ {other_t}, new {} @ {t}",
                other.labels, info.labels
            )));
        }
        if t > other_t {
            *other = info;
        }
    }
    Ok(current)
}

/// The labels of a series with the data labels of its info series.
fn joined(labels: &Labels, infos: &[&Info], data: &[&Matcher]) -> Result<Labels, EvalError> {
    let mut added = LabelsBuilder::default();
    for info in infos {
        for (name, value) in &info.labels {
            let wanted = data.is_empty() || data.iter().any(|m| m.name == name);
            if name == NAME || !wanted {
                continue;
            }
            if added.get(name).is_some_and(|other| other != value) {
                return Err(EvalError::Exec(format!("conflicting label: {name}")));
            }
            if labels.get(name).is_none() {
                added.set(name, value);
            }
        }
    }
    let mut builder = LabelsBuilder::from_labels(labels);
    for (name, value) in added.iter() {
        builder.set(name, value);
    }
    Ok(builder.build())
}

/// A regular expression for exactly this text.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
