//! `/features`: what is there and what is switched on, under Prometheus' names.
//!
//! Source: Prometheus `web/web.go`, `promql/engine.go`, `promql/parser/features.go`, `tsdb/db.go`.

use std::collections::BTreeMap;

use axum::extract::State;
use promql::ast::{AggregateOp, BinaryOp};
use promql::engine::EngineOptions;
use promql::function::FUNCTIONS;

use super::Reply;
use crate::App;
use crate::json;
use crate::state::Options;

type Features = BTreeMap<&'static str, BTreeMap<String, bool>>;

/// `/features`
pub(super) async fn features(State(app): State<App>) -> Reply {
    let features = collect(&app.state.options, app.state.engine.options());
    Reply::new(|out| {
        let mut data = json::Object::new(out);
        for (category, features) in &features {
            let mut entries = json::Object::new(data.field(category));
            for (name, on) in features {
                // operators are easier on the eye as they are
                entries.plain_field(name).extend_from_slice(if *on { b"true" } else { b"false" });
            }
            entries.end();
        }
        data.end();
    })
}

fn collect(options: &Options, engine: &EngineOptions) -> Features {
    let mut all = Features::new();
    let mut set = |category: &'static str, names: &[(&str, bool)]| {
        let known = all.entry(category).or_default();
        known.extend(names.iter().map(|(name, on)| ((*name).to_owned(), *on)));
    };
    let door = |path: &str| options.doors.iter().any(|door| door.path == path);
    set(
        "api",
        &[
            ("admin", options.enable_admin_api),
            ("exclude_alerts", true),
            ("label_values_match", true),
            ("lifecycle", options.enable_lifecycle),
            ("openapi_3.1", true),
            ("otlp_write_receiver", door("/api/v1/otlp/v1/metrics")),
            ("query_stats", true),
            ("query_warnings", true),
            ("remote_write_receiver", door("/api/v1/write")),
            ("search", false),
            ("time_range_labels", true),
            ("time_range_series", true),
        ],
    );
    set("prometheus", &[("agent_mode", false), ("auto_reload_config", false), ("server_mode", true)]);
    let switched = &engine.features;
    set(
        "promql",
        &[
            ("anchored", switched.extended_ranges),
            ("at_modifier", true),
            ("bool", true),
            ("by", true),
            ("delayed_name_removal", engine.delayed_name_removal),
            ("duration_expr", true),
            ("fill", switched.fill_modifiers),
            ("fill_left", switched.fill_modifiers),
            ("fill_right", switched.fill_modifiers),
            ("group_left", true),
            ("group_right", true),
            ("ignoring", true),
            ("negative_offset", true),
            ("offset", true),
            ("on", true),
            ("per_query_lookback_delta", true),
            ("smoothed", switched.extended_ranges),
            ("subqueries", true),
            ("type_and_unit_labels", engine.type_and_unit_labels),
            ("without", true),
        ],
    );
    let functions: Vec<(&str, bool)> =
        FUNCTIONS.iter().map(|f| (f.name, !f.experimental || switched.experimental_functions)).collect();
    set("promql_functions", &functions);
    let operators = BINARY_OPERATORS.map(|op| (op.as_str(), true));
    set("promql_operators", &operators);
    let aggregations = AGGREGATIONS
        .map(|(op, experimental)| (op.as_str(), !experimental || switched.experimental_functions));
    set("promql_operators", &aggregations);
    set(
        "scrape",
        &[
            ("extra_scrape_metrics", true),
            ("start_timestamp_zero_ingestion", false),
            ("type_and_unit_labels", false),
        ],
    );
    set("service_discovery_providers", &[("dns", true), ("file", true), ("http", true), ("static", true)]);
    set(
        "tsdb",
        &[("exemplar_storage", true), ("isolation", true), ("native_histograms", true), ("st_storage", true)],
    );
    set("ui", &[("ui_v2", false), ("ui_v3", false)]);
    all
}

const BINARY_OPERATORS: [BinaryOp; 18] = [
    BinaryOp::Add,
    BinaryOp::Sub,
    BinaryOp::Mul,
    BinaryOp::Div,
    BinaryOp::Mod,
    BinaryOp::Pow,
    BinaryOp::Atan2,
    BinaryOp::Eql,
    BinaryOp::Neq,
    BinaryOp::Lss,
    BinaryOp::Lte,
    BinaryOp::Gtr,
    BinaryOp::Gte,
    BinaryOp::And,
    BinaryOp::Or,
    BinaryOp::Unless,
    BinaryOp::TrimUpper,
    BinaryOp::TrimLower,
];

/// With whether Prometheus has a switch before it.
const AGGREGATIONS: [(AggregateOp, bool); 14] = [
    (AggregateOp::Sum, false),
    (AggregateOp::Avg, false),
    (AggregateOp::Min, false),
    (AggregateOp::Max, false),
    (AggregateOp::Count, false),
    (AggregateOp::Group, false),
    (AggregateOp::Stddev, false),
    (AggregateOp::Stdvar, false),
    (AggregateOp::Topk, false),
    (AggregateOp::Bottomk, false),
    (AggregateOp::Quantile, false),
    (AggregateOp::CountValues, false),
    (AggregateOp::Limitk, true),
    (AggregateOp::LimitRatio, true),
];
