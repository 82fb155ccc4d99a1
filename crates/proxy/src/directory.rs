//! Which targets each cluster has, as last heard.
//!
//! A list is asked for when somebody wants it and it is older than they can bear; the last one stays
//! while a cluster is away, so that discovery goes on naming its targets: a Prometheus then shows them as
//! down instead of forgetting them. Lists nobody wanted for an hour are dropped, those of clusters that
//! are no longer enrolled at the next look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::TenantId;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::fleet::{Caller, Fleet, FleetError, FleetTarget};

/// How long a cluster may take to tell its targets.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a list is kept that nobody wants.
const UNWANTED: Duration = Duration::from_secs(3600);

/// The targets of a cluster at one time.
#[derive(Debug, Default)]
pub(crate) struct List {
    by_id: HashMap<String, Arc<FleetTarget>>,
    /// The ids in order.
    order: Vec<Arc<FleetTarget>>,
}

impl List {
    fn of(mut targets: Vec<FleetTarget>) -> List {
        targets.sort_by(|a, b| a.id.cmp(&b.id));
        targets.dedup_by(|a, b| a.id == b.id);
        let order: Vec<Arc<FleetTarget>> = targets.into_iter().map(Arc::new).collect();
        let by_id = order.iter().map(|target| (target.id.clone(), Arc::clone(target))).collect();
        List { by_id, order }
    }

    /// The target with this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<FleetTarget>> {
        self.by_id.get(id)
    }

    /// All, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &FleetTarget> {
        self.order.iter().map(Arc::as_ref)
    }
}

#[derive(Default)]
struct Entry {
    /// One asks, the others wait.
    asking: Arc<tokio::sync::Mutex<()>>,
    heard: Option<(Instant, Arc<List>)>,
    wanted: Option<Instant>,
}

/// All lists.
pub(crate) struct Directory {
    fleet: Arc<dyn Fleet>,
    clusters: Mutex<HashMap<(TenantId, String), Entry>>,
}

impl Directory {
    pub(crate) fn new(fleet: Arc<dyn Fleet>) -> Directory {
        Directory { fleet, clusters: Mutex::default() }
    }

    /// The fleet itself.
    pub(crate) fn fleet(&self) -> &Arc<dyn Fleet> {
        &self.fleet
    }

    /// The names of the clusters that `caller` may see, sorted.
    pub(crate) fn names(&self, caller: &Caller) -> Vec<String> {
        let clusters = self.fleet.clusters(&caller.tenant);
        let mut names: Vec<String> = clusters.into_iter().map(|cluster| cluster.name).collect();
        names.sort();
        names.dedup();
        let now = Instant::now();
        self.clusters.lock().retain(|(tenant, name), entry| {
            let enrolled = *tenant != caller.tenant || names.binary_search(name).is_ok();
            enrolled && entry.wanted.is_some_and(|at| now.duration_since(at) < UNWANTED)
        });
        names.retain(|name| caller.clusters.contains(name));
        names
    }

    /// The list as last heard, however long ago.
    pub(crate) fn last(&self, tenant: &TenantId, cluster: &str) -> Option<Arc<List>> {
        let mut clusters = self.clusters.lock();
        let entry = clusters.get_mut(&(tenant.clone(), cluster.to_owned()))?;
        entry.wanted = Some(Instant::now());
        entry.heard.as_ref().map(|(_, list)| Arc::clone(list))
    }

    /// A list at most `age_max` old. Whoever waits for it may be dropped without harm to others.
    ///
    /// # Errors
    /// As [`Fleet::targets`]; the list as last heard stays.
    pub(crate) async fn list(
        &self,
        tenant: &TenantId,
        cluster: &str,
        age_max: Duration,
    ) -> Result<Arc<List>, FleetError> {
        let key = (tenant.clone(), cluster.to_owned());
        let asking = match self.fresh(&key, age_max) {
            Ok(list) => return Ok(list),
            Err(asking) => asking,
        };
        let _asking = asking.lock().await;
        if let Ok(list) = self.fresh(&key, age_max) {
            return Ok(list);
        }
        let asked = timeout(LIST_PATIENCE, self.fleet.targets(tenant, cluster)).await;
        let list = Arc::new(List::of(asked.unwrap_or(Err(FleetError::Timeout))?));
        if let Some(entry) = self.clusters.lock().get_mut(&key) {
            entry.heard = Some((Instant::now(), Arc::clone(&list)));
        }
        Ok(list)
    }

    fn fresh(
        &self,
        key: &(TenantId, String),
        age_max: Duration,
    ) -> Result<Arc<List>, Arc<tokio::sync::Mutex<()>>> {
        let mut clusters = self.clusters.lock();
        let entry = clusters.entry(key.clone()).or_default();
        let now = Instant::now();
        entry.wanted = Some(now);
        match &entry.heard {
            Some((at, list)) if now.duration_since(*at) <= age_max => Ok(Arc::clone(list)),
            _ => Err(Arc::clone(&entry.asking)),
        }
    }
}
