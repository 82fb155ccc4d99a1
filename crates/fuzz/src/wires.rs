//! What arrives over the network.

use std::collections::BTreeMap;

use model::{Histogram, Labels};
use wire::exposition::{CreatedLines, EscapingScheme, Protocol, RowMemory, RowOptions, ScrapedRow};
use wire::federation::{FederationWriter, Format, Latest};
use wire::remote_read::{ChunkRead, FrameReader, ReadRequest, write_chunk_frame};
use wire::remote_write::v1::Entry;
use wire::remote_write::{
    EncoderV1, EncoderV2, Sample, SeriesToWrite, decode_labels, snappy_decode, snappy_encode, v1, v2,
};

/// Unpacked bodies are at most this long here.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Splits an input into the scrapes that follow each other.
const NEXT_SCRAPE: &[u8] = b"\n---\n";

/// The first byte says which text format and what is made of it; the rest is scrapes of one target.
pub(crate) fn exposition(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let protocol = match first % 4 {
        0 => Protocol::PrometheusText0_0_4,
        1 => Protocol::PrometheusText1_0_0,
        2 => Protocol::OpenMetricsText0_0_1,
        _ => Protocol::OpenMetricsText1_0_0,
    };
    read_scrapes(rest, protocol, first >> 2);
}

/// The first byte says what is made of it; the rest is scrapes of one target in protobuf.
pub(crate) fn exposition_protobuf(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    read_scrapes(rest, Protocol::PrometheusProto, *first);
}

/// Reads one scrape after the other: what a memory that has seen the earlier ones makes of one must be
/// what an empty one makes of it.
fn read_scrapes(bytes: &[u8], protocol: Protocol, flags: u8) {
    let options = RowOptions {
        created: if flags & 1 == 0 { CreatedLines::StartTimestamps } else { CreatedLines::Series },
        native_histograms: flags & 2 != 0,
        keep_classic: flags & 4 != 0,
        convert_classic: flags & 8 != 0,
    };
    let mut memory = RowMemory::with_options(options);
    let mut labels: BTreeMap<u32, Labels> = BTreeMap::new();
    let mut row = ScrapedRow::default();
    for body in scrapes(bytes) {
        // What is said about a line that is wrong depends on what was expected there.
        let remembered = memory.read(body, protocol, &mut row).map_err(|error| error.place);
        for column in &row.retired_columns {
            labels.remove(column);
        }
        labels.extend(row.new_columns.iter().cloned());
        let remembered = remembered.map(|()| cells(&row, &labels));
        let mut fresh = RowMemory::with_options(options);
        let mut anew = ScrapedRow::default();
        let cold = fresh.read(body, protocol, &mut anew).map_err(|error| error.place);
        let cold = cold.map(|()| cells(&anew, &anew.new_columns.iter().cloned().collect()));
        assert_eq!(remembered, cold, "a remembered target reads otherwise than a new one");
    }
}

fn scrapes(bytes: &[u8]) -> Vec<&[u8]> {
    let mut scrapes = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(NEXT_SCRAPE.len()).position(|window| window == NEXT_SCRAPE) {
        scrapes.push(&rest[..=at]);
        rest = &rest[at + NEXT_SCRAPE.len()..];
        if scrapes.len() == 8 {
            break;
        }
    }
    scrapes.push(rest);
    scrapes
}

/// A row by labels: values bit for bit (of histograms as they print), own timestamps.
fn cells(row: &ScrapedRow, labels: &BTreeMap<u32, Labels>) -> Vec<(String, String, Option<i64>)> {
    assert_eq!(row.columns.len(), row.values.len());
    let own: BTreeMap<u32, i64> = row.timestamps.iter().copied().collect();
    let labels = |column: &u32| labels.get(column).expect("every column was new once").to_string();
    let floats = row.columns.iter().zip(&row.values).enumerate().map(|(at, (column, value))| {
        (labels(column), format!("{:x}", value.to_bits()), own.get(&(at as u32)).copied())
    });
    let histograms = row
        .histograms
        .iter()
        .map(|cell| (labels(&cell.column), format!("{:?}", cell.histogram), cell.timestamp_ms));
    floats.chain(histograms).collect()
}

pub(crate) fn exposition_seeds() -> Vec<Vec<u8>> {
    let text: &[&str] = &[
        "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\",y=\"\\\"z\\n\"} 1\na_total{x=\"2\"} 2.5e3 1700000000000\nb NaN\n\n---\n# TYPE a_total counter\na_total{x=\"1\",y=\"\\\"z\\n\"} 2\na_total{x=\"3\"} +Inf\nb 1\n",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n{\"quoted.name\",\"l.x\"=\"v\"} -0\n",
    ];
    let open: &[&str] = &[
        "# TYPE a counter\n# UNIT a seconds\n# HELP a Time.\na_total{x=\"1\"} 5 # {trace_id=\"abc\"} 0.5 1700000000.123\na_created{x=\"1\"} 1690000000.5\n# EOF\n\n---\n# TYPE a counter\na_total{x=\"1\"} 6\n# EOF\n",
        "# TYPE i info\ni_info{version=\"1\"} 1\n# TYPE s stateset\ns{s=\"on\"} 1\n# TYPE g gaugehistogram\ng_bucket{le=\"+Inf\"} 3\ng_gcount 3\ng_gsum 2\n# EOF\n",
    ];
    let with = |first: u8, text: &&str| [&[first], text.as_bytes()].concat();
    let text = text.iter().flat_map(|text| [with(0, text), with(1, text)]);
    text.chain(open.iter().flat_map(|text| [with(2, text), with(3, text)])).collect()
}

pub(crate) fn exposition_protobuf_seeds() -> Vec<Vec<u8>> {
    let (_, _, histograms, _) = series();
    let format = Format { protocol: Protocol::PrometheusProto, escaping: EscapingScheme::AllowUtf8 };
    let scrape = |value: f64| {
        let mut writer = FederationWriter::new(format);
        writer.sample("a", &[("x", "1")], 1_700_000_000_000, Latest::Float(value));
        writer.sample("a", &[("x", "2")], 1_700_000_000_000, Latest::Float(2.0));
        writer.sample("h", &[], 1_700_000_000_000, Latest::Histogram(&histograms[0].histogram));
        writer.finish()
    };
    let scrapes = [scrape(1.0), scrape(5.5)].join(NEXT_SCRAPE);
    (0..16).map(|flags| [&[flags], &scrapes[..]].concat()).collect()
}

/// What a remote reader asks: what was read is written as something that reads the same.
pub(crate) fn remote_read(bytes: &[u8]) {
    if let Ok(request) = ReadRequest::decode(bytes) {
        let _ = request.response_type();
        let again = ReadRequest::decode(&request.encode()).expect("what we write reads");
        assert_eq!(again.queries.len(), request.queries.len());
        assert_eq!(again.encode(), request.encode());
    }
}

pub(crate) fn remote_read_seeds() -> Vec<Vec<u8>> {
    let query = wire::remote_read::ReadQuery {
        start_ms: 1_700_000_000_000,
        end_ms: 1_700_000_600_000,
        matchers: vec![model::Matcher::equal("__name__", "up"), model::Matcher::equal("job", "x")],
        hints: Some(wire::remote_read::ReadHints {
            step_ms: 15_000,
            func: "rate".to_owned(),
            grouping: vec!["job".to_owned()],
            by: true,
            range_ms: 300_000,
            ..Default::default()
        }),
    };
    vec![ReadRequest { queries: vec![query.clone(), query], accepted: vec![1, 0] }.encode()]
}

/// A reader's end of an answer in frames: the first byte says into pieces of what size the stream is cut.
pub(crate) fn remote_read_frames(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
    for piece in rest.chunks(usize::from(*first).max(1)) {
        reader.push(piece);
        loop {
            match reader.next(&mut frames) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return,
            }
        }
    }
    let _ = reader.end();
}

pub(crate) fn remote_read_frames_seeds() -> Vec<Vec<u8>> {
    let mut bytes = vec![50];
    let labels = model::Labels::from_pairs([("__name__", "up"), ("job", "x")]);
    for encoding in 1..=3 {
        let chunk =
            ChunkRead { min_ms: 1, max_ms: 1_700_000_000_000, encoding, data: vec![7; 40], starts: vec![] };
        write_chunk_frame(&mut bytes, encoding.into(), &labels, &[chunk.clone(), chunk]);
    }
    vec![bytes]
}

/// What is asked of `/federate`.
pub(crate) fn accept(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let format = Format::negotiate(text);
    assert_eq!(Format::negotiate(&format.content_type()), format, "{text:?}");
}

pub(crate) fn accept_seeds() -> Vec<Vec<u8>> {
    let protocols = [
        Protocol::PrometheusProto,
        Protocol::OpenMetricsText1_0_0,
        Protocol::OpenMetricsText0_0_1,
        Protocol::PrometheusText1_0_0,
        Protocol::PrometheusText0_0_4,
    ];
    vec![wire::exposition::accept_header(&protocols, EscapingScheme::Underscores).into_bytes()]
}

/// Headers of answers and what is asked for.
pub(crate) fn content_type(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for fallback in [None, Some(Protocol::PrometheusText0_0_4)] {
        let found = Protocol::of_content_type(Some(text), fallback);
        assert!(found.is_ok() || fallback.is_none(), "a fallback always stands in");
    }
    if let Ok(protocol) = Protocol::parse(text) {
        assert_eq!(protocol.as_str(), text);
    }
}

pub(crate) fn content_type_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "text/plain; version=0.0.4; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; escaping=\"allow-utf-8\"",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
        "PrometheusText1.0.0",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// A request of version 1.0: series by series, point by point.
pub(crate) fn remote_write_1(bytes: &[u8]) {
    let mut well_formed = true;
    for entry in v1::entries(bytes) {
        match entry {
            Ok(Entry::Series(series)) => {
                let Ok(labels) = series.label_bytes() else {
                    well_formed = false;
                    continue;
                };
                let _ = decode_labels(labels);
                for point in series.points(labels.len()) {
                    match point {
                        Ok(v1::Point::Histogram(histogram)) => drop(histogram.decode()),
                        Ok(v1::Point::Exemplar(exemplar)) => drop(exemplar.decode()),
                        Ok(_) => {}
                        Err(_) => well_formed = false,
                    }
                }
            }
            Ok(_) => {}
            Err(_) => well_formed = false,
        }
    }
    let ordered = v1::in_order(bytes);
    if well_formed {
        let ordered = ordered.expect("what reads well can be put in order");
        assert_eq!(v1::entries(bytes).count(), v1::entries(&ordered).count());
    }
}

/// A request of version 2.0.
pub(crate) fn remote_write_2(bytes: &[u8]) {
    let Ok(request) = v2::Request::parse(bytes) else { return };
    for series in request.series() {
        let mut spelled = Vec::new();
        if series.write_label_bytes(&mut spelled, 1 << 16).is_ok() {
            assert!(spelled.len() <= 1 << 16);
            let _ = decode_labels(&spelled);
        }
        for point in series.points() {
            match point {
                Ok(v2::Point::Histogram(histogram)) => drop(histogram.decode()),
                Ok(v2::Point::Exemplar(exemplar)) => drop(exemplar.decode()),
                Ok(v2::Point::Metadata(metadata)) => drop(metadata.decode()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

/// What both versions can say, in a request each.
fn series() -> (Labels, Vec<Sample>, Vec<wire::remote_write::HistogramSample>, Vec<model::Exemplar>) {
    let labels = Labels::from_pairs([("__name__", "a_total"), ("instance", "h:9100"), ("ü", "ß")]);
    let sample = |timestamp_ms, value| Sample { timestamp_ms, value, start_timestamp_ms: 1_600_000_000_000 };
    let samples = vec![sample(1_700_000_000_000, 1.0), sample(1_700_000_015_000, f64::NAN)];
    let histogram = wire::remote_write::HistogramSample {
        timestamp_ms: 1_700_000_000_000,
        start_timestamp_ms: 0,
        histogram: histogram(),
    };
    let exemplar = model::Exemplar {
        labels: Labels::from_pairs([("trace_id", "abc")]),
        value: 0.5,
        timestamp_ms: 1_700_000_000_000,
    };
    (labels, samples, vec![histogram], vec![exemplar])
}

/// A small native histogram.
pub(crate) fn histogram() -> Histogram {
    Histogram {
        counter_reset_hint: model::histogram::CounterResetHint::Unknown,
        schema: 1,
        zero_threshold: 1e-128,
        sum: 12.5,
        positive_spans: vec![model::histogram::Span { offset: 0, length: 3 }],
        negative_spans: Vec::new(),
        custom_values: Vec::new(),
        buckets: model::histogram::Buckets::Int {
            count: 7,
            zero_count: 1,
            positive: vec![1, 2, -1],
            negative: Vec::new(),
        },
    }
}

pub(crate) fn remote_write_1_seeds() -> Vec<Vec<u8>> {
    let (labels, samples, histograms, exemplars) = series();
    let mut encoder = EncoderV1::default();
    encoder.series(&SeriesToWrite::floats(&labels, &samples));
    encoder.series(&SeriesToWrite {
        labels: &labels,
        samples: &[],
        histograms: &histograms,
        exemplars: &exemplars,
        metadata: None,
    });
    encoder.metadata("a_total", &model::Metadata::default());
    vec![encoder.finish()]
}

pub(crate) fn remote_write_2_seeds() -> Vec<Vec<u8>> {
    let (labels, samples, histograms, exemplars) = series();
    let metadata = model::Metadata::default();
    let mut encoder = EncoderV2::default();
    encoder.series(&SeriesToWrite {
        labels: &labels,
        samples: &samples,
        histograms: &histograms,
        exemplars: &exemplars,
        metadata: Some(&metadata),
    });
    vec![encoder.finish()]
}

/// Packed bodies: bombs too.
pub(crate) fn snappy(bytes: &[u8]) {
    let (mut body, mut again) = (Vec::new(), Vec::new());
    if snappy_decode(bytes, BODY_BYTES_MAX, &mut body).is_ok() {
        assert!(body.len() <= BODY_BYTES_MAX);
        let packed = snappy_encode(&body).expect("what was unpacked can be packed");
        assert!(snappy_decode(&packed, BODY_BYTES_MAX, &mut again).is_ok());
        assert_eq!(again, body);
    }
}

pub(crate) fn snappy_seeds() -> Vec<Vec<u8>> {
    remote_write_1_seeds().iter().filter_map(|body| snappy_encode(body).ok()).collect()
}
