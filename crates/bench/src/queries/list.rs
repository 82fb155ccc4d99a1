//! The 22 queries: what dashboards ask for, two that touch every series, and lists of labels.

/// Over which time a query runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// At the end.
    Instant,
    /// All of it, at 60 s.
    Range,
    /// The last hour, at 60 s.
    LastHour,
    /// A list of labels, values or series over all of it.
    List,
}

/// A query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub(crate) name: &'static str,
    pub(crate) time: Time,
    /// PromQL, or for lists the path below `/api/v1/` with its parameters.
    pub(crate) text: &'static str,
    /// Whether all systems mean the same by it: `topk` and thresholds on a `rate` they do not.
    pub(crate) same_in_all: bool,
}

const fn query(name: &'static str, time: Time, text: &'static str) -> Query {
    Query { name, time, text, same_in_all: true }
}

const fn differing(query: Query) -> Query {
    Query { same_in_all: false, ..query }
}

/// All of them, in the order they are asked.
pub(crate) const QUERIES: [Query; 22] = [
    query("i1", Time::Instant, r#"count({job="node"})"#),
    query("i2", Time::Instant, "sum by (cluster, mode) (rate(node_cpu_seconds_total[5m]))"),
    differing(query("i3", Time::Instant, "topk(10, rate(node_interrupts_total[5m]))")),
    query("i4", Time::Instant, r#"{instance="10.0.0.3:9100", __name__=~"node_memory_.+"}"#),
    query(
        "i5",
        Time::Instant,
        "(1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes) \
         * on (instance) group_left (release, machine) node_uname_info",
    ),
    query("r1", Time::Range, "sum by (cluster, mode) (rate(node_cpu_seconds_total[5m]))"),
    query(
        "r2",
        Time::Range,
        r#"1 - avg(rate(node_cpu_seconds_total{mode="idle", instance="10.0.0.3:9100"}[5m]))"#,
    ),
    query(
        "r3",
        Time::Range,
        "histogram_quantile(0.99, sum by (le, handler) \
         (rate(prometheus_http_request_duration_seconds_bucket[5m])))",
    ),
    differing(query("r4", Time::Range, "topk(5, node_memory_Active_bytes)")),
    query(
        "r5",
        Time::Range,
        r#"sum by (instance) (rate(node_network_receive_bytes_total{device!~"lo|veth.*"}[5m]))"#,
    ),
    query(
        "r6",
        Time::Range,
        "sum by (cluster, release) (node_load1 * on (instance) group_left (release) node_uname_info)",
    ),
    query(
        "r7",
        Time::Range,
        r#"sum by (cluster) ({__name__=~"node_memory_(Active|Inactive|MemFree|Cached|Buffers).*"})"#,
    ),
    query("r8", Time::Range, "sum(rate(node_interrupts_total[5m]))"),
    query("r9", Time::Range, "max by (cluster) (max_over_time(node_load1[30m]))"),
    query("i6", Time::Instant, r#"sum by (cluster) ({__name__=~".+", job="node"})"#),
    query("r10", Time::LastHour, r#"sum by (cluster) ({__name__=~".+", job="node"})"#),
    query("r11", Time::Range, "sum by (le) (rate(prometheus_http_response_size_bytes_bucket[5m]))"),
    differing(query(
        "r12",
        Time::Range,
        r#"sum by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[5m])) > 0.5"#,
    )),
    query("m1", Time::List, "label/instance/values?"),
    query("m2", Time::List, "label/device/values?"),
    query(
        "m3",
        Time::List,
        r#"series?match[]={__name__=~"node_load1|node_load5|node_load15|node_uname_info"}&"#,
    ),
    query("m4", Time::List, "labels?"),
];
