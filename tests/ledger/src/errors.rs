//! What an error says about the row it happened to.

use std::io;

use tokio_postgres::error::SqlState;

use crate::connect::TimedOut;

/// A short, countable name of an error: `refused`, `timeout`, `closed`, an SQLSTATE, or the kind of an I/O error.
pub(crate) fn kind(error: &anyhow::Error) -> String {
    if error.is::<TimedOut>() {
        return "timeout".to_owned();
    }
    if let Some(state) = sql_state(error) {
        return state.code().to_owned();
    }
    let io_error = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    match io_error.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "refused".to_owned(),
        Some(io::ErrorKind::InvalidData) => "tls".to_owned(),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
            "closed".to_owned()
        }
        Some(other) => format!("{other:?}").to_lowercase(),
        None if error
            .downcast_ref::<tokio_postgres::Error>()
            .is_some_and(tokio_postgres::Error::is_closed) =>
        {
            "closed".to_owned()
        }
        None => "other".to_owned(),
    }
}

/// True if the server itself said that the statement was rolled back. An error that ends the session, or that leaves the outcome open,
/// says nothing: the server may have committed before.
pub(crate) fn rolled_back(error: &anyhow::Error) -> bool {
    let Some(server) = error
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(tokio_postgres::Error::as_db_error)
    else {
        return false;
    };
    let code = server.code();
    let open = code.code().starts_with("08")
        || code.code().starts_with("57")
        || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN;
    server.severity() == "ERROR" && !open
}

fn sql_state(error: &anyhow::Error) -> Option<&SqlState> {
    error
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(tokio_postgres::Error::code)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn errors_without_a_servers_answer_leave_the_outcome_open() {
        let refused = anyhow::Error::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(kind(&refused), "refused");
        assert!(!rolled_back(&refused));
        assert_eq!(kind(&anyhow!(TimedOut)), "timeout");
        assert_eq!(kind(&anyhow!("something else")), "other");
    }
}
