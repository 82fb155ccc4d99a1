//! `marigraph query`: promtool's verbs, flags and output, against any Prometheus-compatible server.
//!
//! - [`answer`]: what the API's answers mean;
//! - [`print`]: values as promtool prints them;
//! - [`times`]: times and steps as promtool reads them.
//!
//! Source: Prometheus `cmd/promtool/main.go`; `client_golang`, `api/prometheus/v1`.

pub mod answer;
pub mod print;
pub mod times;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use self::answer::{Envelope, Value};
use self::print::Printed;
use self::times::Time;
use crate::verbs::client::{ClientArgs, Server};
use crate::verbs::terminal::print;

/// Flags of `marigraph query`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        marigraph query instant http://127.0.0.1:9190 'sum by (job) (up)'\n  \
        marigraph query range --start 2026-11-22T00:00:00Z --step 5m http://127.0.0.1:9190 'rate(node_cpu_seconds_total[5m])'\n  \
        marigraph query series --match 'up{job=\"node\"}' http://127.0.0.1:9190\n  \
        marigraph query labels -o json http://127.0.0.1:9190 job\n\n\
        Verbs, flags and output are promtool's; the server may be any that speaks Prometheus' HTTP API.")]
pub struct QueryArgs {
    /// What to ask.
    #[command(subcommand)]
    pub verb: QueryVerb,
    /// Form of the output
    #[arg(
        id = "query_format",
        short = 'o',
        long = "format",
        value_name = "FORMAT",
        default_value = "promql",
        global = true
    )]
    pub format: Format,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As PromQL writes values: a line for each sample
    Promql,
    /// JSON, as the API has it
    Json,
}

/// The verbs of `marigraph query`.
#[derive(Debug, Subcommand)]
pub enum QueryVerb {
    /// Evaluate an expression at one time
    Instant {
        /// The server, such as http://127.0.0.1:9190
        server: String,
        /// The expression
        expr: String,
        /// When (RFC 3339 or seconds since the epoch); now otherwise
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        time: Option<Time>,
        /// How to reach the server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Evaluate an expression at every step from start to end
    Range {
        /// The server, such as http://127.0.0.1:9190
        server: String,
        /// The expression
        expr: String,
        /// First time (RFC 3339 or seconds since the epoch); five minutes before the end otherwise
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        start: Option<Time>,
        /// Last time; now otherwise
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        end: Option<Time>,
        /// Time between two steps (15s, 1m30s, 250ms); a 250th of the range otherwise
        #[arg(long, value_name = "DURATION", value_parser = times::parse_step)]
        step: Option<Duration>,
        /// How to reach the server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the series that a selector finds
    Series {
        /// The server, such as http://127.0.0.1:9190
        server: String,
        /// Series selector; may be given several times
        #[arg(long = "match", value_name = "SELECTOR", required = true)]
        matches: Vec<String>,
        /// Only series with samples from this time on
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        start: Option<Time>,
        /// Only series with samples up to this time
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        end: Option<Time>,
        /// How to reach the server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the values of a label
    Labels {
        /// The server, such as http://127.0.0.1:9190
        server: String,
        /// The label, such as job; __name__ lists metrics
        name: String,
        /// Series selector; may be given several times
        #[arg(long = "match", value_name = "SELECTOR")]
        matches: Vec<String>,
        /// Only of series with samples from this time on
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        start: Option<Time>,
        /// Only of series with samples up to this time
        #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
        end: Option<Time>,
        /// How to reach the server.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// `marigraph query`; the answer goes to the standard output.
///
/// # Errors
/// The server cannot be reached or refuses; a flag makes no sense.
pub fn run(args: &QueryArgs) -> Result<()> {
    print(&answer(args)?)
}

fn answer(args: &QueryArgs) -> Result<String> {
    let format = args.format;
    match &args.verb {
        QueryVerb::Instant { server, expr, time, client } => {
            let form = [("query", expr.clone()), ("time", time.unwrap_or_else(Time::now).api())];
            let asked = Asked { expressions: std::slice::from_ref(expr), form: &form };
            let value: Value = asked.post(&Server::new(server, client)?, "/api/v1/query")?.0;
            Ok(value.printed(format))
        }
        QueryVerb::Range { server, expr, start, end, step, client } => {
            let end = end.unwrap_or_else(Time::now);
            let start = start.unwrap_or_else(|| end.minus(Duration::from_secs(5 * 60)));
            let Some(range) = end.since(start).filter(|range| !range.is_zero()) else {
                bail!("start time is not before end time");
            };
            let step = step.unwrap_or_else(|| times::default_step(range));
            let form = [
                ("query", expr.clone()),
                ("start", start.api()),
                ("end", end.api()),
                ("step", times::api_step(step)),
            ];
            let asked = Asked { expressions: std::slice::from_ref(expr), form: &form };
            let value: Value = asked.post(&Server::new(server, client)?, "/api/v1/query_range")?.0;
            Ok(value.printed(format))
        }
        QueryVerb::Series { server, matches, start, end, client } => {
            let form = selection(matches, *start, *end);
            let asked = Asked { expressions: matches, form: &form };
            let (found, warnings): (Vec<answer::LabelSet>, _) =
                asked.post(&Server::new(server, client)?, "/api/v1/series")?;
            warn(&warnings);
            Ok(found.printed(format))
        }
        QueryVerb::Labels { server, name, matches, start, end, client } => {
            let form = selection(matches, *start, *end);
            let asked = Asked { expressions: matches, form: &form };
            let path = format!("/api/v1/label/{}/values", answer::escape_path(name));
            let (found, warnings): (Vec<String>, _) = asked.get(&Server::new(server, client)?, &path)?;
            warn(&warnings);
            Ok(found.printed(format))
        }
    }
}

/// Selectors and times of a look-up, as promtool sends them: without times, 9999 hours about now.
fn selection(matches: &[String], start: Option<Time>, end: Option<Time>) -> Vec<(&'static str, String)> {
    let far = Duration::from_secs(9999 * 3600);
    let mut form: Vec<(&'static str, String)> = vec![
        ("start", start.unwrap_or_else(|| Time::now().minus(far)).api()),
        ("end", end.unwrap_or_else(|| Time::now().plus(far)).api()),
    ];
    form.extend(matches.iter().map(|selector| ("match[]", selector.clone())));
    form
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("query warning: {warning}"));
}

/// A request, and the expressions in it, to point at when one is refused.
struct Asked<'a> {
    expressions: &'a [String],
    form: &'a [(&'static str, String)],
}

impl Asked<'_> {
    /// Posts the form; servers that do not take that get it as a query string.
    fn post<T: DeserializeOwned>(&self, server: &Server, path: &str) -> Result<(T, Vec<String>)> {
        let answer = server.ask_blocking(Method::POST, path, self.form)?;
        if matches!(answer.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
            return self.get(server, path);
        }
        self.read(server, path, answer.status, &answer.body)
    }

    fn get<T: DeserializeOwned>(&self, server: &Server, path: &str) -> Result<(T, Vec<String>)> {
        let answer = server.ask_blocking(Method::GET, path, self.form)?;
        self.read(server, path, answer.status, &answer.body)
    }

    fn read<T: DeserializeOwned>(
        &self,
        server: &Server,
        path: &str,
        status: StatusCode,
        body: &[u8],
    ) -> Result<(T, Vec<String>)> {
        let shown = server.shown();
        if status == StatusCode::UNAUTHORIZED {
            bail!("{shown} wants a credential, or another one: --bearer-token-file or --basic-auth.user");
        }
        let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
            let start: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
            bail!("{shown}{path} answered {status}, which is no answer of a Prometheus API: {start}");
        };
        match envelope.status.as_str() {
            "success" => {
                let data = envelope.data.ok_or_else(|| anyhow!("the answer of {shown} has no data"))?;
                let data = serde_json::from_str(data.get())
                    .with_context(|| format!("the answer of {shown} cannot be understood"))?;
                Ok((data, envelope.warnings))
            }
            _ => {
                let (kind, error) = (envelope.error_type, envelope.error);
                let mark = self.mark(&error).map(|mark| format!("\n{mark}")).unwrap_or_default();
                bail!("query error: {kind}: {error}{mark}")
            }
        }
    }

    /// The line of the expression that an error is about, with a caret below the place it names.
    fn mark(&self, error: &str) -> Option<String> {
        let [expression] = self.expressions else { return None };
        caret(expression, error)
    }
}

/// `LINE:COLUMN: parse error: …` in an error, as a mark below that place; columns count bytes, from 1.
pub(crate) fn caret(expression: &str, error: &str) -> Option<String> {
    let before = &error[..error.find(": parse error:")?];
    let place = before.rsplit([' ', '"']).next()?;
    let (line, column) = place.split_once(':')?;
    let (line, column): (usize, usize) = (line.parse().ok()?, column.parse().ok()?);
    let text = expression.lines().nth(line.checked_sub(1)?)?;
    let skip = text.char_indices().take_while(|(at, _)| *at + 1 < column).count();
    let indent: String = text.chars().take(skip).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    Some(format!("  {text}\n  {indent}^"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_stands_below_the_place() {
        let check = |expression: &str, error: &str, want: Option<&str>| {
            assert_eq!(caret(expression, error).as_deref(), want, "{error}");
        };
        let at = |place: &str| format!("invalid parameter \"query\": {place}: parse error: unexpected \")\"");
        check("sum(foo))", &at("1:9"), Some("  sum(foo))\n          ^"));
        check("up", &at("1:1"), Some("  up\n  ^"));
        check("up", &at("1:3"), Some("  up\n    ^"));
        check("up +\n  )", &at("2:3"), Some("    )\n    ^"));
        check("x{a=\"ü\"})", &at("1:10"), Some("  x{a=\"ü\"})\n          ^"));
        check("up", &at("7:1"), None);
        check("up", &at("0:1"), None);
        check("up", "query timed out", None);
    }
}
