//! What a person looking at the page should know about the program, now and as it changes.
//!
//! Source: Prometheus `util/notifications/notifications.go`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// Pages that may listen at once. Source: Prometheus `--web.max-notifications-subscribers`.
const LISTENERS_MAX: usize = 16;
/// Changes that a slow listener may be behind.
const CHANGES_WAITING: usize = 64;

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The configuration could not be reloaded.
    ReloadFailed,
    /// The store refuses writes.
    ReadOnly,
    /// The program ends.
    Stopping,
}

impl Notice {
    /// The text, in Prometheus' words where it has any.
    pub fn text(self) -> &'static str {
        match self {
            Notice::ReloadFailed => "Configuration reload has failed.",
            Notice::ReadOnly => "The store refuses writes; the log says why. Queries go on.",
            Notice::Stopping => "Marigraph is shutting down and gracefully stopping all operations.",
        }
    }
}

/// A notice, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// What is told.
    pub notice: Notice,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// Whether it still holds.
    pub active: bool,
}

/// The notices that hold, and those who want to know of changes.
#[derive(Debug)]
pub struct Notifications {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    active: Vec<Notification>,
    /// None once the program stops.
    changes: Option<broadcast::Sender<Notification>>,
}

impl Default for Notifications {
    fn default() -> Notifications {
        let changes = Some(broadcast::Sender::new(CHANGES_WAITING));
        Notifications { inner: Mutex::new(Inner { active: Vec::new(), changes }) }
    }
}

impl Notifications {
    /// `notice` holds from now on, or no longer. Nothing happens when it did, or did not, before.
    pub fn set(&self, notice: Notice, holds: bool, now_ms: i64) {
        let mut inner = self.lock();
        let known = inner.active.iter().position(|known| known.notice == notice);
        let change = match (known, holds) {
            (None, true) => {
                let new = Notification { notice, since_ms: now_ms, active: true };
                inner.active.push(new);
                new
            }
            (Some(at), false) => Notification { active: false, ..inner.active.remove(at) },
            _ => return,
        };
        // nobody may be listening
        let _ = inner.changes.as_ref().map(|changes| changes.send(change));
    }

    /// Lets all listeners go, and takes no more.
    pub fn close(&self) {
        self.lock().changes = None;
    }

    /// What holds now, the oldest first.
    pub fn list(&self) -> Vec<Notification> {
        self.lock().active.clone()
    }

    /// What holds now, and what changes from now on; none when too many listen already.
    pub(crate) fn listen(&self) -> Option<(Vec<Notification>, broadcast::Receiver<Notification>)> {
        let inner = self.lock();
        let changes = inner.changes.as_ref()?;
        (changes.receiver_count() < LISTENERS_MAX).then(|| (inner.active.clone(), changes.subscribe()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_told_once() {
        let notifications = Notifications::default();
        notifications.set(Notice::ReloadFailed, true, 5);
        let (now, mut changes) = notifications.listen().expect("room");
        let failed = Notification { notice: Notice::ReloadFailed, since_ms: 5, active: true };
        assert_eq!(now, [failed]);
        notifications.set(Notice::ReloadFailed, true, 6);
        notifications.set(Notice::ReadOnly, false, 6);
        notifications.set(Notice::ReadOnly, true, 7);
        notifications.set(Notice::ReloadFailed, false, 8);
        let read_only = Notification { notice: Notice::ReadOnly, since_ms: 7, active: true };
        assert_eq!(changes.recv().await, Ok(read_only));
        assert_eq!(changes.recv().await, Ok(Notification { active: false, ..failed }));
        assert_eq!(notifications.list(), [read_only]);
        notifications.close();
        assert_eq!(changes.recv().await, Err(broadcast::error::RecvError::Closed));
        assert!(notifications.listen().is_none());
    }

    #[test]
    fn listeners_are_counted() {
        let notifications = Notifications::default();
        let listeners: Vec<_> = (0..LISTENERS_MAX).map(|_| notifications.listen().expect("room")).collect();
        assert!(notifications.listen().is_none());
        drop(listeners);
        assert!(notifications.listen().is_some());
    }
}
