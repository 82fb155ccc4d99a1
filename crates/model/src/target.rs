//! What discovery gives and scraping takes.

use crate::Labels;

/// Targets that came from one place, and change together.
///
/// Source: Prometheus `discovery/targetgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetGroup {
    /// Names the group within its discovery: a later group of the same name replaces it, and one
    /// without targets removes it.
    pub source: String,
    /// Labels of every target of the group.
    pub labels: Labels,
    /// Each target's own labels; `__address__` among them. They win over the group's.
    pub targets: Vec<Labels>,
}
