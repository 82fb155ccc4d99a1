//! Pushes get what enrolment stamped, as scraped targets do.

use std::sync::Arc;

use model::{Labels, LabelsBuilder};
use storage::{Appended, Appender, Batch, CommitPosition, SeriesRef, SourceDesc, SourceRef, StoreError};

/// An appender whose series all carry `stamped`.
pub(super) struct Stamping {
    inner: Arc<dyn Appender>,
    stamped: Labels,
}

impl Stamping {
    pub(super) fn new(inner: Arc<dyn Appender>, stamped: Labels) -> Stamping {
        Stamping { inner, stamped }
    }

    fn stamp(&self, labels: &Labels) -> Labels {
        let mut builder = LabelsBuilder::from_labels(labels);
        builder.stamp(&self.stamped);
        builder.build()
    }
}

impl Appender for Stamping {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        let source = SourceDesc { labels: self.stamp(&source.labels), ..source.clone() };
        self.inner.open_source(&source)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let stamped: Vec<Labels> = labels.iter().map(|labels| self.stamp(labels)).collect();
        self.inner.resolve(source, &stamped)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        self.inner.append(batch)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.inner.wait_durable(position)
    }
}
