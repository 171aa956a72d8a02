//! When the kubelet was asked for what a pod mounts, also where the API server refused that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

/// When the kubelet was asked lately, by this process. Whoever may not change the pods is not to ask for it without end.
#[derive(Clone, Default)]
pub struct Refreshes {
    asked: Arc<Mutex<HashMap<(String, String), Timestamp>>>,
}

impl Refreshes {
    /// Remembers that it was asked for a pod of a namespace.
    pub fn note(&self, namespace: &str, pod: &str, at: Timestamp) {
        self.lock().insert((namespace.to_owned(), pod.to_owned()), at);
    }

    pub(super) fn last(&self, namespace: &str, pod: &str) -> Option<Timestamp> {
        self.lock().get(&(namespace.to_owned(), pod.to_owned())).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Timestamp>> {
        // A panic while the map was locked leaves it whole.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
