//! `p2v watch`.

use std::process::ExitCode;

use anyhow::Result;
use p2v_dom0::workflow::{self, Context};
use p2v_policy::boots;

use super::Session;
use crate::log::Log;
use crate::serve;

/// Looks at the old machines of running domains until a signal comes.
pub fn run(session: &Session<'_>) -> Result<ExitCode> {
    session.with_wire(|context| {
        let log = Log::start("p2v watch");
        let context = Context {
            report: &log,
            ..context
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signalled = std::pin::pin!(serve::signalled());
        let mut ended = Ok(());
        context
            .report
            .step("watching the old machines whose domains run on their disks");
        let last_boot = |mac| boots::last_boot(&session.settings.serve.state_dir, mac);
        workflow::watch(context, &last_boot, || {
            log.tell_lost();
            runtime.block_on(async {
                tokio::select! {
                    signal = &mut signalled => {
                        ended = signal.map(drop);
                        false
                    }
                    () = tokio::time::sleep(workflow::WATCH_INTERVAL) => true,
                }
            })
        })?;
        ended?;
        Ok(ExitCode::SUCCESS)
    })
}
