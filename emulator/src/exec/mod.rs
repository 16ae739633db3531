//! Execution: blocks on threads, warps at once.

use crate::engine::{Fault, FaultCode, Launch, Report};

pub(crate) fn run(_launch: &Launch<'_>) -> Report {
    let message = "not built yet".into();
    Report {
        fault: Some(Fault {
            code: FaultCode::LaunchFailed,
            message,
        }),
        ..Report::default()
    }
}
