//! Selections over several stores, local and far away, merged into one answer.
