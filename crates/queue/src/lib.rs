//! A disk-backed queue of opaque blocks: written once, read by several readers, each with a durable cursor.
