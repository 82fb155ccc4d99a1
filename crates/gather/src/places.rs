//! How many questions are under way at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions of one request to one store: enough that it need not wait for the way there and back, few enough
/// that those of others have their turn.
const OF_STORE: usize = 4;
/// Questions of one request.
const OF_REQUEST: usize = 256;
/// Questions of all requests.
const OF_ALL: usize = 2048;

/// The places of the whole program.
pub(crate) fn all_places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(OF_ALL))
}

/// The places of one request.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    of_request: Arc<Semaphore>,
    of_stores: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The way to one store.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Narrowest first: who waits for a place at a slow store holds none that others could have.
    ways: [Arc<Semaphore>; 3],
}

impl Places {
    pub(crate) fn new(all: &Arc<Semaphore>) -> Places {
        let of_request = Arc::new(Semaphore::new(OF_REQUEST));
        Places { all: Arc::clone(all), of_request, of_stores: Mutex::default() }
    }

    pub(crate) fn lane(&self, store: &str) -> Lane {
        let mut of_stores = self.of_stores.lock();
        let of_store = match of_stores.get(store) {
            Some(known) => known,
            None => of_stores.entry(store.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(OF_STORE))),
        };
        Lane { ways: [Arc::clone(of_store), Arc::clone(&self.of_request), Arc::clone(&self.all)] }
    }
}

impl Lane {
    /// Waits in line; the places are kept until what comes back is dropped.
    pub(crate) async fn places(self) -> Vec<OwnedSemaphorePermit> {
        let mut permits = Vec::with_capacity(self.ways.len());
        for way in self.ways {
            // Nobody closes them.
            permits.extend(way.acquire_owned().await.ok());
        }
        permits
    }

    /// How many of `together` questions share the line at once.
    pub(crate) fn shares(&self, together: usize) -> u32 {
        together.clamp(1, OF_STORE) as u32
    }
}
