//! A `ClusterMigration` as its user handles it: by kubectl.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::Stage;

/// Waits for a condition, looking every 200 ms.
///
/// # Errors
/// The condition cannot be read, or is not met in time.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// One `ClusterMigration` on a stage.
pub struct Migration<'a> {
    stage: &'a Stage,
    name: String,
}

impl<'a> Migration<'a> {
    /// The migration of a name.
    #[must_use]
    pub fn new(stage: &'a Stage, name: &str) -> Self {
        Self {
            stage,
            name: name.to_owned(),
        }
    }

    /// The resource as it is.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self) -> Result<Value> {
        let text = self
            .stage
            .kubectl(&["get", "clustermigration", &self.name, "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A field of its status as text; empty when it is not there.
    ///
    /// # Errors
    /// The resource is not there.
    pub fn status(&self, pointer: &str) -> Result<String> {
        let value = self.get()?["status"].pointer(pointer).cloned().unwrap_or_default();
        Ok(value.as_str().map_or_else(
            || {
                if value.is_null() {
                    String::new()
                } else {
                    value.to_string()
                }
            },
            ToOwned::to_owned,
        ))
    }

    /// Status, reason and message of a condition.
    ///
    /// # Errors
    /// The resource is not there.
    pub fn condition(&self, kind: &str) -> Result<(String, String, String)> {
        let resource = self.get()?;
        let empty = Vec::new();
        let conditions = resource["status"]["conditions"].as_array().unwrap_or(&empty);
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let field = |name: &str| {
            found
                .and_then(|condition| condition[name].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        Ok((field("status"), field("reason"), field("message")))
    }

    /// Changes the specification by a JSON merge patch.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn patch(&self, patch: &str) -> Result<String> {
        self.stage
            .kubectl(&["patch", "clustermigration", &self.name, "--type=merge", "-p", patch])
    }

    /// Waits for what `kubectl wait --for` understands, by one watch.
    ///
    /// # Errors
    /// It is not in time.
    pub fn watch(&self, condition: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let resource = format!("clustermigration/{}", self.name);
        self.stage
            .kubectl(&["wait", &resource, &format!("--for={condition}"), &timeout])
            .map(drop)
    }

    /// Waits until `Ready` is true for the present generation in this phase.
    ///
    /// # Errors
    /// It is not in time; the message has what the status says.
    pub fn wait_ready(&self, phase: &str, limit: Duration) -> Result<()> {
        let reached = until(phase, limit, || {
            let resource = self.get()?;
            let status = &resource["status"];
            let ready = status["conditions"].as_array().is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition["type"] == "Ready"
                        && condition["status"] == "True"
                        && condition["observedGeneration"] == resource["metadata"]["generation"]
                })
            });
            Ok(ready && status["phase"] == phase)
        });
        reached.or_else(|error| bail!("{error}: {}", self.status("/message")?))
    }

    /// Waits until a condition is false or a person must act, with a text in its message.
    ///
    /// # Errors
    /// It is not in time; the message has what the status says.
    pub fn wait_refusal(&self, words: &[&str], limit: Duration) -> Result<String> {
        let mut last = String::new();
        let reached = until("a refusal", limit, || {
            let (status, _, message) = self.condition("Stalled")?;
            last = message;
            Ok(status == "True" && words.iter().all(|word| last.contains(word)))
        });
        match reached {
            Ok(()) => Ok(last),
            Err(error) => bail!("{error} with {words:?}; status says: {}", self.status("/message")?),
        }
    }
}
