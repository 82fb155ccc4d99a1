//! Fuzz targets: one for each door that takes bytes from a stranger, a disk or a person.
//!
//! A target takes any bytes and must come back: no panic, no endless loop, no memory beyond its
//! bounds, and, where something can be said about the answer, that it holds (what was printed parses
//! again; a remembered line means what a new one means). `make fuzz` runs them under libFuzzer, each
//! for a short while; `tests/seeds.rs` runs each with its seeds and a few hundred mutations of them,
//! so that the targets themselves stay alive.

mod block;
mod chaos;
mod fleet;
mod language;
mod passing;
mod rows;
mod store;
mod text;
mod trust;
mod wires;

pub use chaos::Chaos;

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// As `make fuzz TARGET=name` calls it.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs that get far, to begin from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "exposition", run: wires::exposition, seeds: wires::exposition_seeds },
    Target {
        name: "exposition-protobuf",
        run: wires::exposition_protobuf,
        seeds: wires::exposition_protobuf_seeds,
    },
    Target { name: "remote-read", run: wires::remote_read, seeds: wires::remote_read_seeds },
    Target {
        name: "remote-read-frames",
        run: wires::remote_read_frames,
        seeds: wires::remote_read_frames_seeds,
    },
    Target { name: "accept", run: wires::accept, seeds: wires::accept_seeds },
    Target { name: "content-type", run: wires::content_type, seeds: wires::content_type_seeds },
    Target { name: "remote-write-1", run: wires::remote_write_1, seeds: wires::remote_write_1_seeds },
    Target { name: "remote-write-2", run: wires::remote_write_2, seeds: wires::remote_write_2_seeds },
    Target { name: "snappy", run: wires::snappy, seeds: wires::snappy_seeds },
    Target { name: "promql-parse", run: language::parse, seeds: language::parse_seeds },
    Target { name: "promql-evaluate", run: language::evaluate, seeds: language::evaluate_seeds },
    Target { name: "regex", run: language::regex, seeds: language::regex_seeds },
    Target { name: "numbers", run: text::numbers, seeds: text::number_seeds },
    Target { name: "config", run: text::config, seeds: text::config_seeds },
    Target { name: "lease", run: text::lease, seeds: text::lease_seeds },
    Target { name: "backup-catalog", run: text::catalog, seeds: text::catalog_seeds },
    Target { name: "query-answer", run: text::answer, seeds: text::answer_seeds },
    Target { name: "discovery", run: text::discovery, seeds: text::discovery_seeds },
    Target { name: "relabel", run: text::relabel, seeds: text::relabel_seeds },
    Target { name: "pushprox-push", run: passing::push, seeds: passing::push_seeds },
    Target { name: "proxy-hosts", run: passing::hosts, seeds: passing::host_seeds },
    Target { name: "tsdb-codec", run: tsdb::codec::fuzz_decoders, seeds: store::codec_seeds },
    Target { name: "tsdb-record", run: store::record, seeds: store::record_seeds },
    Target { name: "tsdb-segment", run: store::segment, seeds: store::segment_seeds },
    Target { name: "tsdb-manifest", run: store::manifest, seeds: store::manifest_seeds },
    Target { name: "tsdb-part", run: store::part, seeds: store::part_seeds },
    Target { name: "rows-block", run: rows::block, seeds: rows::block_seeds },
    Target { name: "block-chunk", run: block::chunk, seeds: block::chunk_seeds },
    Target { name: "block-index", run: block::index, seeds: block::index_seeds },
    Target { name: "ship", run: fleet::ship, seeds: fleet::ship_seeds },
    Target { name: "queue-files", run: fleet::queue_files, seeds: fleet::queue_seeds },
    Target { name: "queue-names", run: fleet::queue_names, seeds: fleet::queue_names_seeds },
    Target { name: "ledger", run: trust::ledger, seeds: trust::ledger_seeds },
    Target { name: "registry", run: trust::registry_records, seeds: trust::registry_seeds },
    Target { name: "token", run: trust::token, seeds: trust::token_seeds },
    Target { name: "certificates", run: trust::certificates, seeds: trust::certificate_seeds },
];
