//! `/openapi.yaml`: the API for programs that read descriptions, made from the list of routes, so that it
//! has all of them.
//!
//! Source: OpenAPI Specification 3.1.0.

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::App;
use crate::table::Endpoint;

const PREFIX: &str = "/api/v1";

/// What is said of an endpoint.
struct About {
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    /// A blank between each; `*` behind the required, `[]` behind those that may repeat.
    parameters: &'static str,
}

const fn about(
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    parameters: &'static str,
) -> About {
    About { path, tag, summary, parameters }
}

#[rustfmt::skip]
const ABOUT: &[About] = &[
    about("/query", "query", "Evaluate an instant query", "query* time timeout limit lookback_delta stats"),
    about("/query_range", "query", "Evaluate a range query", "query* start* end* step* timeout limit lookback_delta stats"),
    about("/query_exemplars", "query", "Exemplars of the series an expression selects", "query* start end"),
    about("/format_query", "query", "Format an expression", "query*"),
    about("/parse_query", "query", "The syntax tree of an expression", "query*"),
    about("/labels", "labels", "Label names", "match[] start end limit"),
    about("/label/{name}/values", "labels", "Values of a label", "match[] start end limit"),
    about("/series", "series", "Series that match", "match[]* start end limit"),
    about("/metadata", "metadata", "Metadata by metric", "metric limit limit_per_metric"),
    about("/targets", "targets", "Targets, active and dropped", "state scrapePool"),
    about("/targets/metadata", "targets", "Metadata by target", "match_target metric limit"),
    about("/targets/relabel_steps", "targets", "How a pool relabels a target, rule by rule", "scrapePool* labels*"),
    about("/completeness", "targets", "Rows expected, stored, missing and why", "cluster job source start end by limit"),
    about("/scrape_pools", "targets", "Names of the scrape pools", ""),
    about("/scrape_pools/config", "targets", "Configuration of a scrape pool", "scrapePool*"),
    about("/rules", "rules", "Rules", "type rule_name[] rule_group[] file[] match[] exclude_alerts group_limit group_next_token"),
    about("/alerts", "alerts", "Active alerts", ""),
    about("/alertmanagers", "alerts", "Alertmanagers alerts are sent to", ""),
    about("/notifications", "notifications", "What a person should know of the program", ""),
    about("/notifications/live", "notifications", "The same, as server-sent events", ""),
    about("/features", "features", "What is there and switched on", ""),
    about("/openapi.yaml", "features", "This document", "openapi_version"),
    about("/status/config", "status", "The configuration in force", ""),
    about("/status/flags", "status", "The flags of the program", ""),
    about("/status/buildinfo", "status", "What was built", ""),
    about("/status/runtimeinfo", "status", "Start, reloads, retention", ""),
    about("/status/self_metrics", "status", "Metrics of the program itself", "metric_name_pattern"),
    about("/status/tsdb", "status", "Cardinality of the store", "limit"),
    about("/status/tsdb/blocks", "status", "Finished files of the store", ""),
    about("/status/series", "status", "Who makes how many series", "limit"),
    about("/status/walreplay", "status", "Progress of the replay of the log", ""),
    about("/admin/tsdb/delete_series", "admin", "Delete samples", "match[]* start end"),
    about("/admin/tsdb/clean_tombstones", "admin", "Free what deleted samples occupy", ""),
    about("/admin/tsdb/snapshot", "admin", "Copy the store", "skip_head"),
    about("/read", "remote", "Remote read: snappy-packed protobuf", ""),
    about("/write", "remote", "Remote write: snappy-packed protobuf", ""),
    about("/otlp/v1/metrics", "otlp", "OpenTelemetry metrics", ""),
];

/// `/openapi.yaml`
pub(super) async fn document(State(app): State<App>) -> Response {
    let mut endpoints = crate::table(&app).into_parts().1;
    endpoints.extend(app.state.options.doors.iter().cloned());
    let body = write(&endpoints, &app.state.options.build.version);
    ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], body)
        .into_response()
}

fn write(endpoints: &[Endpoint], version: &str) -> String {
    let mut out = format!(
        "openapi: 3.1.0\n\
         info:\n  title: Prometheus API of Marigraph\n  version: '{version}'\n\
         servers:\n  - url: {PREFIX}\n\
         security:\n  - bearer: []\n  - basic: []\n\
         paths:\n"
    );
    let mut listed: Vec<(&str, &Endpoint)> =
        endpoints.iter().filter_map(|e| Some((e.path.strip_prefix(PREFIX)?, e))).collect();
    listed.sort_by_key(|(path, _)| *path);
    for (path, endpoint) in listed {
        let unknown = about("", "other", "", "");
        let about = ABOUT.iter().find(|about| about.path == path).unwrap_or(&unknown);
        line(&mut out, 1, format_args!("{path}:"));
        for method in &endpoint.methods {
            write_operation(&mut out, path, method, about);
        }
    }
    out.push_str(COMPONENTS);
    out
}

fn write_operation(out: &mut String, path: &str, method: &str, about: &About) {
    let words: Vec<&str> =
        path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let method = method.to_ascii_lowercase();
    line(out, 2, format_args!("{method}:"));
    line(out, 3, format_args!("operationId: {method}-{}", words.join("-")));
    line(out, 3, format_args!("tags: [{}]", about.tag));
    line(out, 3, format_args!("summary: '{}'", about.summary));
    let in_path = path.split(['{', '}']).skip(1).step_by(2).map(|name| (name, "path", true, false));
    let in_query = about.parameters.split_whitespace().map(|text| {
        let name = text.trim_end_matches('*');
        (name, "query", text.ends_with('*'), name.ends_with("[]"))
    });
    let parameters: Vec<_> = in_path.chain(in_query).collect();
    if !parameters.is_empty() {
        line(out, 3, format_args!("parameters:"));
    }
    for (name, place, required, repeats) in parameters {
        // a form may have what the query string lacks
        let required = required && (method == "get" || place == "path");
        let schema = if repeats { "{type: array, items: {type: string}}" } else { "{type: string}" };
        line(
            out,
            4,
            format_args!("- {{name: '{name}', in: {place}, required: {required}, schema: {schema}}}"),
        );
    }
    line(out, 3, format_args!("responses:"));
    line(out, 4, format_args!("'200': {{$ref: '#/components/responses/Success'}}"));
    line(out, 4, format_args!("default: {{$ref: '#/components/responses/Failure'}}"));
}

fn line(out: &mut String, depth: usize, text: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _ = writeln!(out, "{:1$}{text}", "", depth * 2);
}

const COMPONENTS: &str = "\
components:
  securitySchemes:
    bearer: {type: http, scheme: bearer}
    basic: {type: http, scheme: basic}
  responses:
    Success:
      description: The answer
      content: {application/json: {schema: {$ref: '#/components/schemas/Answer'}}}
    Failure:
      description: What is wrong
      content: {application/json: {schema: {$ref: '#/components/schemas/Error'}}}
  schemas:
    Answer:
      type: object
      required: [status, data]
      properties:
        status: {const: success}
        data: {}
        warnings: {type: array, items: {type: string}}
        infos: {type: array, items: {type: string}}
    Error:
      type: object
      required: [status, errorType, error]
      properties:
        status: {const: error}
        errorType: {type: string}
        error: {type: string}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_names_its_parameters() {
        let endpoint = Endpoint { path: "/api/v1/label/{name}/values".into(), methods: vec!["GET"] };
        let expected = "  /label/{name}/values:\n    get:\n      operationId: get-label-name-values\n      \
            tags: [labels]\n      summary: 'Values of a label'\n      parameters:\n        \
            - {name: 'name', in: path, required: true, schema: {type: string}}\n        \
            - {name: 'match[]', in: query, required: false, schema: {type: array, items: {type: string}}}\n";
        let document = write(&[endpoint], "1");
        assert!(document.contains(expected), "{document}");
    }

    #[test]
    fn nothing_is_described_twice() {
        let mut paths: Vec<&str> = ABOUT.iter().map(|about| about.path).collect();
        paths.sort_unstable();
        assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
        assert!(ABOUT.iter().all(|about| !about.summary.is_empty() && !about.summary.contains('\'')));
    }
}
