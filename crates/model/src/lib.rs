//! The nouns that more than one stage uses.
//!
//! No I/O and no clock here: bytes and times come in as arguments. No type derives serde;
//! serialised shapes stay at the rim (`wire`, `web`, the configuration).

pub mod duration;
pub mod exemplar;
pub mod histogram;
pub mod labels;
pub mod matcher;
pub mod metadata;
pub mod number;
pub mod relabel;
pub mod sample;
pub mod source;
pub mod status;
pub mod target;

pub use exemplar::Exemplar;
pub use histogram::Histogram;
pub use labels::{Labels, LabelsBuilder, LabelsRef};
pub use matcher::{MatchOp, Matcher};
pub use metadata::{Metadata, MetricType};
pub use sample::{STALE_NAN_BITS, Sample, is_stale, stale_nan};
pub use source::{SourceId, TenantId};
pub use target::TargetGroup;
