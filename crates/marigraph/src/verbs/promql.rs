//! `marigraph promql`: what can be done with a query without a server.
//!
//! Source: Prometheus `cmd/promtool/main.go` (`promql format`, `promql label-matchers`).

use ::promql::ast::Expr;
use ::promql::parser::{ParseOptions, parse};
use ::promql::printer::pretty;
use anyhow::{Result, anyhow};
use clap::Subcommand;
use model::{MatchOp, Matcher};

use crate::verbs::query::caret;
use crate::verbs::terminal::print;

/// The verbs of `marigraph promql`.
#[derive(Debug, Subcommand)]
pub enum PromqlVerb {
    /// Print a query as people write it: lines and indents where it is long
    Format {
        /// The query
        query: String,
    },
    /// Change the conditions of all selectors in a query
    LabelMatchers {
        /// What to change.
        #[command(subcommand)]
        verb: LabelMatchersVerb,
    },
}

/// The verbs of `marigraph promql label-matchers`.
#[derive(Debug, Subcommand)]
pub enum LabelMatchersVerb {
    /// Give every selector a condition, in place of those it has on the label
    Set {
        /// How it compares: =, !=, =~ or !~
        #[arg(short = 't', long = "type", default_value = "=", value_parser = parse_op)]
        op: MatchOp,
        /// The query
        query: String,
        /// The label
        name: String,
        /// The value or pattern
        value: String,
    },
    /// Take the conditions on a label from every selector
    Delete {
        /// The query
        query: String,
        /// The label
        name: String,
    },
}

fn parse_op(text: &str) -> Result<MatchOp, String> {
    [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]
        .into_iter()
        .find(|op| op.to_string() == text)
        .ok_or_else(|| format!("{text:?} is none of =, !=, =~, !~"))
}

/// `marigraph promql`; the query goes to the standard output.
///
/// # Errors
/// The query does not parse, or would not any more.
pub fn run(verb: &PromqlVerb) -> Result<()> {
    print(&format!("{}\n", changed(verb)?))
}

fn changed(verb: &PromqlVerb) -> Result<String> {
    let (query, change): (&str, Change) = match verb {
        PromqlVerb::Format { query } => (query, Change::Nothing),
        PromqlVerb::LabelMatchers { verb: LabelMatchersVerb::Set { op, query, name, value } } => {
            let matcher = Matcher::new(*op, name.as_str(), value.as_str());
            (query, Change::Set(matcher.map_err(|error| anyhow!("{name}{op}{value:?}: {error}"))?))
        }
        PromqlVerb::LabelMatchers { verb: LabelMatchersVerb::Delete { query, name } } => {
            (query, Change::Delete(name))
        }
    };
    let mut expr = read(query)?;
    expr.each_selector_mut(&mut |selector| match &change {
        Change::Nothing => {}
        Change::Set(matcher) => {
            let named = |own: &Matcher| own.name == matcher.name;
            match selector.matchers.iter().position(named) {
                Some(at) => selector.matchers[at] = matcher.clone(),
                None => selector.matchers.push(matcher.clone()),
            }
            let mut seen = false;
            selector.matchers.retain(|own| !named(own) || !std::mem::replace(&mut seen, true));
            if matcher.name == "__name__" {
                selector.name = (matcher.op == MatchOp::Equal).then(|| matcher.value.clone());
            }
        }
        Change::Delete(name) => {
            selector.matchers.retain(|own| own.name != *name);
            if *name == "__name__" {
                selector.name = None;
            }
        }
    });
    let text = pretty(&expr);
    // A selector may have lost all it had.
    read(&text).map(|_| text)
}

enum Change<'a> {
    Nothing,
    Set(Matcher),
    Delete(&'a str),
}

fn read(query: &str) -> Result<Expr> {
    parse(query, &ParseOptions::all()).map_err(|error| {
        let error = error.to_string();
        let mark = caret(query, &error).map(|mark| format!("\n{mark}")).unwrap_or_default();
        anyhow!("{error}{mark}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(query: &str, op: MatchOp, name: &str, value: &str) -> Result<String> {
        let (query, name, value) = (query.to_owned(), name.to_owned(), value.to_owned());
        changed(&PromqlVerb::LabelMatchers { verb: LabelMatchersVerb::Set { op, query, name, value } })
    }

    fn delete(query: &str, name: &str) -> Result<String> {
        let (query, name) = (query.to_owned(), name.to_owned());
        changed(&PromqlVerb::LabelMatchers { verb: LabelMatchersVerb::Delete { query, name } })
    }

    #[test]
    fn selectors_change_wherever_they_stand() {
        for (query, want) in [
            ("up", "up{job=\"x\"}"),
            ("up{job=~\"a|b\",job!=\"c\",z=\"1\"}", "up{job=\"x\",z=\"1\"}"),
            ("sum(rate(a[5m])) / -(b offset 1m)", "sum(rate(a{job=\"x\"}[5m])) / -(b{job=\"x\"} offset 1m)"),
            ("max_over_time(c[1h:5m])", "max_over_time(c{job=\"x\"}[1h:5m])"),
            ("topk(scalar(n), v) or 1", "topk(scalar(n{job=\"x\"}), v{job=\"x\"}) or 1"),
        ] {
            match set(query, MatchOp::Equal, "job", "x") {
                Ok(text) => assert_eq!(text, want),
                Err(error) => assert!(query.ends_with("or 1"), "{query}: {error}"),
            }
        }
        assert_eq!(set("up", MatchOp::NotRegex, "a", "b.*").expect("a query"), "up{a!~\"b.*\"}");
        assert_eq!(set("up{a=\"1\"}", MatchOp::Equal, "__name__", "down").expect("a query"), "down{a=\"1\"}");
        assert_eq!(delete("up{a=\"1\",b=\"2\"}", "a").expect("a query"), "up{b=\"2\"}");
        assert_eq!(delete("up{a=\"1\"}", "__name__").expect("a query"), "{a=\"1\"}");
        assert!(delete("{a=\"1\"}", "a").is_err(), "a selector without a condition");
        assert!(set("up", MatchOp::Regex, "a", "(").is_err());
    }

    #[test]
    fn queries_are_formatted_and_errors_have_a_mark() {
        let format = |query: &str| changed(&PromqlVerb::Format { query: query.to_owned() });
        assert_eq!(format(" sum by(job)(up) ").expect("a query"), "sum by (job) (up)");
        let error = format("sum(up))").expect_err("one too many").to_string();
        assert!(error.contains("1:9: parse error") && error.ends_with("  sum(up))\n          ^"), "{error}");
    }
}
