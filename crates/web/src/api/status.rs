//! The program about itself: configuration, flags, build, run time, cardinality.

use axum::extract::State;

use super::{ApiResult, Reply};
use crate::App;
use crate::auth::Caller;
use crate::form::Form;
use crate::json;
use crate::process;
use crate::state::{BlockInfo, BuildInfo, TsdbStatus};

/// Most entries of a list of `/status/tsdb`, and how many there are unasked.
const TSDB_LIMIT_MAX: usize = 10_000;
const TSDB_LIMIT_DEFAULT: usize = 10;

/// `/status/config`
pub(super) async fn config(State(app): State<App>) -> ApiResult {
    let lifecycle = app.state.lifecycle.clone();
    let run = move || {
        let yaml = lifecycle.config_yaml();
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            data.text("yaml", &yaml);
            data.end();
        }))
    };
    app.work.lookup(run).await
}

/// `/status/flags`
pub(super) async fn flags(State(app): State<App>) -> Reply {
    Reply::new(|out| {
        let mut data = json::Object::new(out);
        for (name, value) in &app.state.options.flags {
            data.text(name, value);
        }
        data.end();
    })
}

/// `/status/buildinfo`
pub(super) async fn build(State(app): State<App>) -> Reply {
    Reply::new(|out| write_build(out, &app.state.options.build))
}

pub(crate) fn write_build(out: &mut Vec<u8>, build: &BuildInfo) {
    let mut data = json::Object::new(out);
    data.text("version", &build.version);
    data.text("revision", &build.revision);
    data.text("branch", &build.branch);
    data.text("buildUser", &build.build_user);
    data.text("buildDate", &build.build_date);
    data.text("goVersion", &build.compiler);
    data.end();
}

/// `/status/runtimeinfo`: what is Go's own in Prometheus has the nearest thing we have.
pub(super) async fn runtime(State(app): State<App>) -> ApiResult {
    let (lifecycle, now_ms) = (app.state.lifecycle.clone(), app.state.clock.now_ms());
    let run = move || {
        let runtime = lifecycle.runtime();
        let cwd = std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default();
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            data.time("startTime", Some(runtime.start_ms));
            data.text("CWD", &cwd);
            data.text("hostname", &process::hostname());
            data.time("serverTime", Some(now_ms));
            data.boolean("reloadConfigSuccess", runtime.reload_succeeded);
            data.time("lastConfigTime", Some(runtime.last_config_ms));
            data.integer("corruptionCount", runtime.corruptions);
            data.integer("goroutineCount", process::threads());
            data.integer("GOMAXPROCS", std::thread::available_parallelism().map_or(1, usize::from));
            data.integer("GOMEMLIMIT", i64::MAX);
            data.text("GOGC", "");
            data.text("GODEBUG", "");
            data.text("storageRetention", &runtime.retention);
            data.end();
        }))
    };
    app.work.lookup(run).await
}

/// `/status/tsdb`
pub(super) async fn tsdb(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let limit = super::entry_limit(&form, TSDB_LIMIT_DEFAULT, TSDB_LIMIT_MAX)?;
    let admin = app.state.admin.clone();
    let run = move || {
        let status = admin.tsdb_status(&caller.tenant, limit)?;
        Ok(Reply::new(|out| write_tsdb(out, &status, limit)))
    };
    app.work.lookup(run).await
}

fn write_tsdb(out: &mut Vec<u8>, status: &TsdbStatus, limit: usize) {
    let mut data = json::Object::new(out);
    let mut head = json::Object::new(data.field("headStats"));
    head.integer("numSeries", status.series);
    head.integer("numLabelPairs", status.label_pairs);
    head.integer("chunkCount", status.tiles);
    head.integer("minTime", status.min_time_ms);
    head.integer("maxTime", status.max_time_ms);
    head.end();
    for (name, counts) in [
        ("seriesCountByMetricName", &status.series_by_metric_name),
        ("labelValueCountByLabelName", &status.values_by_label_name),
        ("memoryInBytesByLabelName", &status.bytes_by_label_name),
        ("seriesCountByLabelValuePair", &status.series_by_label_pair),
    ] {
        data.array(name, counts.iter().take(limit), |out, (name, value)| {
            let mut entry = json::Object::new(out);
            entry.text("name", name);
            entry.integer("value", *value);
            entry.end();
        });
    }
    data.end();
}

/// `/status/walreplay`: whoever gets this answer gets it after the replay.
pub(super) async fn wal_replay() -> Reply {
    Reply::new(|out| out.extend_from_slice(b"{\"min\":0,\"max\":0,\"current\":0}"))
}

/// `/status/tsdb/blocks`: parts are what blocks are elsewhere.
pub(super) async fn blocks(State(app): State<App>, caller: Caller) -> ApiResult {
    let admin = app.state.admin.clone();
    let run = move || {
        let blocks = admin.blocks(&caller.tenant)?;
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            data.array("blocks", &blocks, write_block);
            data.end();
        }))
    };
    app.work.lookup(run).await
}

/// Source: Prometheus `tsdb/block.go`, `BlockMeta`.
fn write_block(out: &mut Vec<u8>, block: &BlockInfo) {
    let mut entry = json::Object::new(out);
    entry.text("ulid", &block.ulid);
    entry.integer("minTime", block.min_ms);
    entry.integer("maxTime", block.end_ms);
    let mut stats = json::Object::new(entry.field("stats"));
    for (name, count) in [
        ("numSamples", block.floats + block.histograms),
        ("numFloatSamples", block.floats),
        ("numHistogramSamples", block.histograms),
        ("numSeries", block.series),
    ] {
        if count > 0 {
            stats.integer(name, count);
        }
    }
    stats.end();
    let mut compaction = json::Object::new(entry.field("compaction"));
    compaction.integer("level", block.level);
    compaction.end();
    entry.integer("version", 1);
    entry.end();
}
