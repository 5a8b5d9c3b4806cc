//! p2v's host without a machine of its own: a network namespace of this one, with a tap to the old
//! server. For stories of the wire and the old server that need no Xen, at a fraction of the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::artifacts::{Artifacts, checked};
use crate::old_server::TAP;

/// A host that serves.
pub struct LocalHost {
    p2v: PathBuf,
    settings: PathBuf,
    serve: Child,
}

/// Runs `story` with a network of its own, in which only the loopback interface is.
pub fn with_own_network(story: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("root is needed to make namespaces");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        // What interfaces there are is looked up there.
        let flags = MsFlags::empty();
        mount(Some("none"), "/sys", Some("sysfs"), flags, None::<&str>).unwrap();
        story();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Makes the tap that the old server's wire ends in, with the host's address. For [`with_own_network`] only.
///
/// # Errors
/// `ip` fails.
pub fn make_tap() -> Result<()> {
    for words in [
        format!("tuntap add {TAP} mode tap"),
        format!("address add 192.168.7.1/24 dev {TAP}"),
        format!("link set {TAP} up"),
    ] {
        checked(Command::new("ip").args(words.split(' ')))?;
    }
    Ok(())
}

impl LocalHost {
    /// Makes the tap for the old server and starts `p2v serve` on it. For [`with_own_network`] only.
    ///
    /// # Errors
    /// The tap or a file cannot be made, or `setpriv` not be run.
    pub fn start(artifacts: &Artifacts, work: &Path) -> Result<LocalHost> {
        make_tap()?;
        let settings = work.join("p2v.toml");
        let text = format!(
            "iface = \"{TAP}\"\nstate = \"{}\"\n[serve]\nmode = \"dhcp\"\nallow = [\"*\"]\n\
             pool = {{ start = \"192.168.7.200\", end = \"192.168.7.250\" }}\n\
             kernel = \"{image}/vmlinuz\"\ninitrd = \"{image}/initrd\"\n",
            work.join("state").display(),
            image = artifacts.image.display(),
        );
        fs::write(&settings, text)?;
        let p2v = artifacts.binaries.join("p2v");
        let log = fs::File::create(work.join("serve.log"))?;
        // `setpriv`: gone with the test, also when that is interrupted or killed.
        let serve = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&p2v)
            .arg("--config")
            .args([settings.as_path(), Path::new("serve")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setpriv and p2v")?;
        Ok(LocalHost {
            p2v,
            settings,
            serve,
        })
    }

    /// The command, with these arguments.
    pub fn p2v(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&self.p2v)
            .arg("--config")
            .arg(&self.settings)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for LocalHost {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}
