//! Logs.

use tracing_subscriber::EnvFilter;

/// Sends logs to standard error. `MITOSIS_LOG` sets the level, `MITOSIS_LOG_FORMAT=json` the format.
pub fn start() {
    let level = std::env::var("MITOSIS_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(format!("{level},kube=warn,hyper=warn,tower=warn"))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var("MITOSIS_LOG_FORMAT").as_deref() == Ok("json") {
        logs.json().init();
    } else {
        logs.init();
    }
}
