//! `p2v serve`: the netboot service, with the machine records as its policy.

use std::fs;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use p2v_aoe::line_limit::LineLimit;
use p2v_contract::MacAddr;
use p2v_contract::cmdline::Hosts;
use p2v_contract::key::PublicKey;
use p2v_dom0::{Store, host_key};
use p2v_netboot::{Machines, Notice, Opened};
use p2v_policy::records::Policy;
use p2v_policy::settings::Settings;
use p2v_policy::{News, Records};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::arguments::exit;
use crate::in_one_line;
use crate::log::Log;
use crate::{descriptors, privileges, service_manager};

/// How often it is logged how many lines were left out.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Panics that get a line in each [`PANICS_PERIOD`].
const PANICS: u32 = 20;
const PANICS_PERIOD: Duration = Duration::from_secs(60);

/// Serves until SIGINT or SIGTERM.
pub fn run(settings: Settings, once: bool) -> Result<ExitCode> {
    let (service, store, hosts) = prepare(&settings)?;
    let log = Log::start("p2v serve");
    // The usual one waits for who reads, and whoever panicked would be waited for.
    std::panic::set_hook(Box::new(panic_lines()));
    // Why it ended is logged as all else is: also where nobody reads it, it does end.
    let code = match serve(settings, once, service, store, hosts, &log) {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{}", in_one_line(&error));
            ExitCode::from(exit::FAILED)
        }
    };
    Ok(code)
}

/// All that needs root, which is given up then.
fn prepare(settings: &Settings) -> Result<(Opened, Store, Hosts)> {
    if let Err(error) = descriptors::allow_all() {
        eprintln!(
            "p2v serve: cannot raise the limit of open files (fewer machines boot at a time): {error}"
        );
    }
    let store = Store::open_for_boot_service(&settings.state)?.with_shelves(settings.shelves);
    let hosts = hosts(settings, own_key(settings))?;
    let as_user = privileges::user(settings.serve.user.as_deref())?;
    // Leases, what booted, and whose network card is whose.
    let kept = &settings.serve.state_dir;
    fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
    if let Some(user) = &as_user {
        privileges::give(kept, user)?;
        privileges::give(store.machines(), user)?;
    }
    // Before root's power is gone, and before there are threads, which would keep theirs.
    let service = p2v_netboot::open(settings.serve.clone())?;
    if let Some(user) = &as_user {
        privileges::go_on_as(user)?;
        fs::read_dir(store.machines()).with_context(|| {
            format!(
                "the user {} cannot use {}: let it pass, with `chmod o+x` on each directory above",
                user.name,
                store.machines().display()
            )
        })?;
    } else if !nix::unistd::geteuid().is_root()
        && let Err(error) = privileges::give_up_capabilities()
    {
        // A unit of the site's own may forbid it. Not to serve is worse: moved machines would start their own disks.
        eprintln!("p2v serve: {error:#}; continuing with them");
    }
    Ok((service, store, hosts))
}

fn serve(
    settings: Settings,
    once: bool,
    service: Opened,
    store: Store,
    hosts: Hosts,
    log: &Log,
) -> Result<()> {
    let unknown_images = settings.unknown_images();
    if settings.serve.allow.is_empty() {
        info!(
            "`allow` is empty: machines are booted when they are approved (`p2v list` shows those that ask, \
             `p2v approve NAME|MAC` lets one in)"
        );
    }
    let policy = Policy {
        hosts,
        machines: settings.machines,
        lists: settings.serve.clone(),
        shared_uuids: settings.shared_uuids,
        once,
    };
    let kept = &settings.serve.state_dir;
    let records = Records::open(store, &settings.state, kept, policy, |news| match news {
        News::Serving(what) => service_manager::ready(&what),
        News::Status(what) => service_manager::status(&what),
    });
    let machines = Arc::new(records);
    for (name, macs) in unknown_images {
        let macs: Vec<String> = macs.iter().map(MacAddr::to_string).collect();
        machines.noticed(&Notice::ImageMissing {
            why: format!(
                "there is no [serve.images.{name}] in the settings (add it, with `kernel` and `initrd`, or take `image` \
                 away from {} under [machines])",
                macs.join(", ")
            ),
        });
    }
    let tell = || {
        machines.tell_left_out();
        log.tell_lost();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let stopped = async {
            // Without signals it serves until it is killed.
            if signalled().await.is_err() {
                std::future::pending::<()>().await;
            }
            service_manager::stopping();
        };
        let keep_telling = async {
            let mut due = tokio::time::interval(TOLD_EVERY);
            loop {
                due.tick().await;
                tell();
            }
        };
        tokio::select! {
            end = service.serve(Arc::clone(&machines) as Arc<dyn Machines>, stopped) => end,
            () = service_manager::keep_alive() => Ok(()),
            () = keep_telling => Ok(()),
        }
    });
    tell();
    Ok(ended?)
}

/// What writes the line of a panic: of one that a frame causes, which anybody can send again, some are enough.
fn panic_lines() -> impl Fn(&PanicHookInfo<'_>) {
    let limit = Mutex::new(LineLimit::new(PANICS, PANICS_PERIOD));
    move |panic| {
        let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !limit.admits((), now) {
            return;
        }
        for ((), count) in limit.take_left_out(now) {
            error!("{count} more panics before this");
        }
        error!("{panic}");
    }
}

/// This host's public key. Without one it serves all the same: else moved machines would start their own disks.
fn own_key(settings: &Settings) -> Option<PublicKey> {
    // Made by the first command of root's; the unit runs one.
    if nix::unistd::geteuid().is_root() {
        let _ = host_key::secret(&settings.state);
    }
    match host_key::public(&settings.state) {
        Ok(key) => Some(key),
        Err(error) => {
            // Not by the log, whose thread would keep the power that is given up later.
            eprintln!(
                "p2v serve: old machines will take no orders from this host (run `p2v key` as root, then start p2v serve \
                 again): {error}"
            );
            None
        }
    }
}

/// This host, with the addresses that agents answer: its own, and those of the settings.
/// `key`: its own, if there is one.
pub fn hosts(settings: &Settings, key: Option<PublicKey>) -> Result<Hosts> {
    let mut hosts = Vec::new();
    for iface in std::iter::once(&settings.iface).chain(&settings.more_ifaces) {
        hosts.push(mac_of(iface)?);
    }
    for mac in &settings.hosts {
        if !hosts.contains(mac) {
            hosts.push(*mac);
        }
    }
    // For people only: without one, they read the address.
    let name = nix::unistd::gethostname().unwrap_or_default();
    let mut keys: Vec<PublicKey> = key.into_iter().collect();
    keys.extend(
        settings
            .host_keys
            .iter()
            .filter(|other| Some(**other) != key),
    );
    Ok(Hosts::new(hosts, &name.to_string_lossy(), keys))
}

/// Returns on SIGINT or SIGTERM.
pub async fn signalled() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The MAC address of an interface: what its AoE frames come from.
fn mac_of(iface: &str) -> Result<MacAddr> {
    if iface.contains('/') {
        bail!("`{iface}` is not the name of a network interface");
    }
    let path = format!("/sys/class/net/{iface}/address");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "there is no network interface {iface} (`ip link` lists them; --iface names another)"
        )
    })?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} holds no MAC address"))
}
