//! What a request asks before its turn: all its selections at once.
//!
//! Each is kept until it has been used as often as it was announced; a selection that a query makes twice is
//! fetched once. Should all of them together be more than the request may hold, those whose turn has not come
//! give way, and are asked for again in their turn.

use parking_lot::Mutex;
use storage::{QueryError, Select};

use crate::request::{Asked, Asking, Begun, Read, within_bounds};
use crate::samples::FarSet;

/// Selections that have been announced and not used.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<Vec<Expected>>);

#[derive(Debug)]
struct Expected {
    select: Select,
    /// How often it will be made.
    uses: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Asking(Begun<Read>),
    Known(Known),
}

/// What came of a selection: sets, and warnings.
#[derive(Debug, Clone)]
struct Known {
    far: Vec<FarSet>,
    warnings: Vec<String>,
}

impl Ahead {
    /// Whether `select` was announced.
    pub(crate) fn knows(&self, select: &Select) -> bool {
        self.0.lock().iter().any(|expected| expected.select == *select)
    }

    fn take(&self, select: &Select) -> Option<Expected> {
        let mut all = self.0.lock();
        let at = all.iter().position(|expected| expected.select == *select)?;
        Some(all.remove(at))
    }

    /// Keeps what came of a selection for its other uses.
    fn keep(&self, select: &Select, uses: usize, known: &Known) {
        if uses > 0 {
            let state = State::Known(known.clone());
            self.0.lock().push(Expected { select: select.clone(), uses, state });
        }
    }
}

impl Asking {
    /// Asks for all `selections`. One alone is as well asked for in its turn.
    pub(crate) fn ask_ahead(&self, selections: &dyn Fn() -> Vec<Select>) {
        let mut uses: Vec<(Select, usize)> = Vec::new();
        for select in selections() {
            match uses.iter_mut().find(|(known, _)| *known == select) {
                Some((_, uses)) => *uses += 1,
                None => uses.push((select, 1)),
            }
        }
        if uses.iter().map(|(_, uses)| uses).sum::<usize>() < 2 {
            return;
        }
        let together = uses.len();
        let mut all = self.ahead.0.lock();
        for (select, uses) in uses {
            // What cannot be sent fails in its turn.
            if let Ok(begun) = self.begin_read(&select, "", together) {
                all.push(Expected { select, uses, state: State::Asking(begun) });
            }
        }
    }

    /// What came of a selection that was announced; `meanwhile` is the local one.
    pub(crate) fn read_ahead<L>(
        &self,
        select: &Select,
        meanwhile: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<Asked<L, FarSet>, QueryError> {
        let (local, known, uses) = match self.ahead.take(select) {
            Some(Expected { uses, state: State::Known(known), .. }) => (meanwhile()?, known, uses),
            Some(Expected { uses, state: State::Asking(begun), .. }) => {
                let Asked { local, far, warnings } = self.finish(begun, meanwhile)?;
                match far.into_iter().collect::<Result<Vec<FarSet>, _>>() {
                    Ok(far) => (local, Known { far, warnings }, uses),
                    Err(_too_much) => {
                        self.ahead.0.lock().clear();
                        (local, self.read_alone(select)?, uses)
                    }
                }
            }
            None => (meanwhile()?, self.read_alone(select)?, 1),
        };
        self.ahead.keep(select, uses - 1, &known);
        let Known { far, warnings } = known;
        Ok(Asked { local, far, warnings })
    }

    fn read_alone(&self, select: &Select) -> Result<Known, QueryError> {
        let Asked { far, warnings, .. } = self.finish(self.begin_read(select, "", 1)?, || Ok(()))?;
        Ok(Known { far: within_bounds(far)?, warnings })
    }
}
