//! What a query is going to select, known before it is evaluated: a store that has to ask others asks for all
//! of it at once, where evaluation comes to one selector after the other.

use storage::Select;

use super::plan::{Kind, Node, Selector, Window, WindowSource};
use super::{Evaluator, Steps};
use crate::ast::RangeMode;
use crate::depth::deeper;

/// Most selections that a store is told of; those behind them are asked for in their turn.
const SELECTIONS_MAX: usize = 1000;

impl Evaluator<'_> {
    /// Tells the store what `node`, the whole query, is going to select. What depends on what is found first
    /// (the series of `info`) is not in it.
    pub(crate) fn announce(&self, node: &Node) {
        self.store.expect(&|| {
            let mut selections = Vec::new();
            self.selections(node, self.steps, &mut selections);
            selections
        });
    }

    /// Appends what evaluating `node` at `steps` selects, in about the order of evaluation.
    fn selections(&self, node: &Node, steps: Steps, out: &mut Vec<Select>) {
        if steps.count == 0 || out.len() >= SELECTIONS_MAX {
            return;
        }
        deeper(|| match &node.kind {
            Kind::Number(_) | Kind::Text(_) => {}
            Kind::Select(selector) => {
                let after = if selector.mode == RangeMode::Smoothed { self.lookback_ms } else { 0 };
                out.push(self.of_selector(selector, steps, (self.lookback_ms, after)));
            }
            Kind::Timestamps { start: true, .. } if !self.start_timestamps => {}
            Kind::Timestamps { selector, .. } => {
                out.push(self.of_selector(selector, steps, (self.lookback_ms, 0)));
            }
            Kind::Window(window) => self.of_window(window, steps, out),
            Kind::Over(over) => {
                over.params.iter().for_each(|param| self.selections(param, steps, out));
                self.of_window(&over.window, steps, out);
            }
            // The second argument is no vector but says which info series are meant.
            Kind::Call { name: "info", args } => {
                args.iter().take(1).for_each(|arg| self.selections(arg, steps, out));
            }
            Kind::Call { args, .. } => args.iter().for_each(|arg| self.selections(arg, steps, out)),
            Kind::Aggregate(aggregate) => {
                aggregate.param.iter().for_each(|param| self.selections(param, steps, out));
                self.selections(&aggregate.input, steps, out);
            }
            Kind::Chain(chain) => {
                self.selections(&chain.first, steps, out);
                chain.links.iter().for_each(|link| self.selections(&link.operand, steps, out));
            }
            Kind::Negate(inner) => self.selections(inner, steps, out),
            Kind::Invariant(inner) => self.selections(inner, steps.first(), out),
        });
    }

    fn of_window(&self, window: &Window, steps: Steps, out: &mut Vec<Select>) {
        match &window.source {
            WindowSource::Select(selector) => {
                out.push(self.of_selector(selector, steps, self.reach(window)));
            }
            WindowSource::Subquery { node, step_ms, when } => {
                let inner = self.subquery_steps(window.range_ms, *step_ms, *when, steps);
                self.selections(node, inner, out);
            }
        }
    }

    fn of_selector(&self, selector: &Selector, steps: Steps, (before_ms, after_ms): (i64, i64)) -> Select {
        self.selection(&selector.matchers, selector.when, steps, before_ms, after_ms)
    }
}
