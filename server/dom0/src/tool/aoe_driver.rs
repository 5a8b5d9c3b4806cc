//! The kernel's `aoe` driver: loading it, finding its devices, letting go of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use p2v_contract::{Address, SECTOR};
use p2v_copy::atomic_file;

use super::{ToolError, Tools};
use crate::host::Paths;
use crate::lock::Held;

/// How often a device that is awaited is looked for.
const POLL: Duration = Duration::from_millis(100);
/// How often the driver is asked to send its discovery again while a device is awaited (by itself
/// it does so once a minute).
const REDISCOVER: Duration = Duration::from_secs(2);
/// Seconds that requests are kept at least while what waits is given up: more than lost frames take of a device that
/// answers (a sector that its disk cannot read may take longer).
const GIVE_UP_SECONDS_MIN: u32 = 20;

/// The kernel's aoe driver on this host.
#[derive(Clone, Copy, Debug)]
pub struct AoeDriver<'a> {
    tools: &'a Tools,
    paths: &'a Paths,
}

impl<'a> AoeDriver<'a> {
    /// The driver, reached through `paths`.
    pub fn new(tools: &'a Tools, paths: &'a Paths) -> Self {
        AoeDriver { tools, paths }
    }

    /// Whether the module is loaded (or built in).
    pub fn is_loaded(&self) -> bool {
        self.paths.sys_module.join("aoe").exists()
    }

    /// The interfaces it speaks on, as it lists them; empty means every interface.
    ///
    /// # Errors
    /// Its parameter cannot be read.
    pub fn interfaces(&self) -> Result<Vec<String>, ToolError> {
        let path = self.paths.sys_module.join("aoe/parameters/aoe_iflist");
        let text = fs::read_to_string(&path).map_err(|e| io_error("read", &path, &e))?;
        Ok(text
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Loads the driver for `iface`, or adds `iface` to a loaded one that speaks on others only.
    /// Returns whether this call loaded it.
    ///
    /// # Errors
    /// What `modprobe` said.
    pub fn load(&self, iface: &str) -> Result<bool, ToolError> {
        if !self.is_loaded() {
            self.tools
                .run("modprobe", ["aoe", &format!("aoe_iflist={iface}")])?;
            return Ok(true);
        }
        let mut interfaces = self.interfaces()?;
        if !interfaces.is_empty() && !interfaces.iter().any(|i| i == iface) {
            interfaces.push(iface.to_owned());
            self.tell("interfaces", &interfaces.join(" "))?;
        }
        Ok(false)
    }

    /// Has the driver keep the requests of a device that does not answer for so many seconds (`aoe_deadsecs`, which
    /// holds for all its devices at once), and remembers what it was until [`AoeDriver::as_before`].
    ///
    /// # Errors
    /// The parameter cannot be read or written.
    pub fn keep_requests(&self, seconds: u32) -> Result<(), ToolError> {
        let file = self.lock_file()?;
        file.lock()
            .map_err(|e| io_error("lock", &self.lock_path(), &e))?;
        self.set_kept_seconds(&Held(file), seconds)
    }

    /// The same, where no other p2v is about to change it, and if `any_waits`, which is asked when nobody else can.
    ///
    /// # Errors
    /// As [`AoeDriver::keep_requests`].
    pub fn keep_requests_unless_held(
        &self,
        seconds: u32,
        any_waits: impl FnOnce() -> bool,
    ) -> Result<(), ToolError> {
        let file = self.lock_file()?;
        if file.try_lock().is_err() {
            return Ok(());
        }
        let held = Held(file);
        match self.is_loaded() && any_waits() {
            true => self.set_kept_seconds(&held, seconds),
            false => Ok(()),
        }
    }

    /// Has the driver refuse what it has kept for longer than `seconds`, until the result is dropped; then it keeps it for
    /// `afterwards`.
    ///
    /// # Errors
    /// As [`AoeDriver::keep_requests`].
    pub fn give_up(self, seconds: u32, afterwards: u32) -> Result<GivingUp<'a>, ToolError> {
        let file = self.lock_file()?;
        file.lock()
            .map_err(|e| io_error("lock", &self.lock_path(), &e))?;
        let held = Held(file);
        self.set_kept_seconds(&held, seconds.max(GIVE_UP_SECONDS_MIN))?;
        Ok(GivingUp {
            driver: self,
            held,
            afterwards,
        })
    }

    fn set_kept_seconds(&self, _: &Held, seconds: u32) -> Result<(), ToolError> {
        let (parameter, kept) = self.dead_seconds();
        let before = self.kept_seconds()?;
        if before == seconds {
            return Ok(());
        }
        if !kept.exists() {
            atomic_file::replace(&kept, before.to_string().as_bytes(), 0o644)
                .map_err(|e| io_error("write", &kept, &e))?;
        }
        fs::write(&parameter, seconds.to_string()).map_err(|e| io_error("write", &parameter, &e))
    }

    /// Who changes it holds this file's lock.
    fn lock_file(&self) -> Result<fs::File, ToolError> {
        let path = self.lock_path();
        fs::create_dir_all(&self.paths.run)
            .and_then(|()| fs::File::create(&path))
            .map_err(|e| io_error("open", &path, &e))
    }

    fn lock_path(&self) -> PathBuf {
        self.paths.run.join("aoe_deadsecs.lock")
    }

    /// How many seconds the driver keeps the requests of a device that does not answer.
    ///
    /// # Errors
    /// The parameter cannot be read.
    pub fn kept_seconds(&self) -> Result<u32, ToolError> {
        let (parameter, _) = self.dead_seconds();
        let text = fs::read_to_string(&parameter).map_err(|e| io_error("read", &parameter, &e))?;
        text.trim().parse().map_err(|_| {
            ToolError::NotDone(format!("{} is `{}`", parameter.display(), text.trim()))
        })
    }

    /// Undoes [`AoeDriver::keep_requests`] if `nobody_waits`, which is asked when nobody else can change it.
    ///
    /// # Errors
    /// The parameter cannot be written.
    pub fn as_before(&self, nobody_waits: impl FnOnce() -> bool) -> Result<(), ToolError> {
        let (parameter, kept) = self.dead_seconds();
        if !kept.exists() {
            return Ok(());
        }
        let file = self.lock_file()?;
        file.lock()
            .map_err(|e| io_error("lock", &self.lock_path(), &e))?;
        let _held = Held(file);
        let Ok(before) = fs::read_to_string(&kept) else {
            return Ok(());
        };
        if !nobody_waits() {
            return Ok(());
        }
        if self.is_loaded() {
            fs::write(&parameter, before.trim()).map_err(|e| io_error("write", &parameter, &e))?;
        }
        fs::remove_file(&kept).map_err(|e| io_error("remove", &kept, &e))
    }

    /// The parameter, and the file that keeps what it was.
    fn dead_seconds(&self) -> (PathBuf, PathBuf) {
        let parameter = self.paths.sys_module.join("aoe/parameters/aoe_deadsecs");
        (parameter, self.paths.run.join("aoe_deadsecs"))
    }

    /// Whether it has given the device of `address` up, and refused what it had kept for it. (aoeblk.c, aoeblk_open():
    /// ENODEV unless it is up.)
    pub fn has_given_up(&self, address: Address) -> bool {
        match sectors(&self.device(address)) {
            Ok(sectors) => sectors == 0,
            Err(error) => {
                let errno = error.raw_os_error().map(Errno::from_raw);
                matches!(errno, Some(Errno::ENODEV | Errno::ENXIO))
            }
        }
    }

    /// Unloads the driver.
    ///
    /// # Errors
    /// What `modprobe` said: it refuses while a device is in use.
    pub fn unload(&self) -> Result<(), ToolError> {
        self.tools.run("modprobe", ["--remove", "aoe"]).map(drop)
    }

    /// The device node of `address`.
    pub fn device(&self, address: Address) -> PathBuf {
        self.paths.dev_etherd.join(address.to_string())
    }

    /// Waits until the device of `address` is there with a size, at most `limit`; returns its size
    /// in sectors.
    ///
    /// # Errors
    /// It did not come: what was seen instead.
    pub fn wait(&self, address: Address, limit: Duration) -> Result<u64, ToolError> {
        let device = self.device(address);
        let started = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            if asked.is_none_or(|at| at.elapsed() >= REDISCOVER) {
                // The node appears a moment after the module: a failure now is not final.
                let _ = self.tell("discover", "1");
                asked = Some(Instant::now());
            }
            let seen = match sectors(&device) {
                Ok(0) => "its size is 0 (the driver has it as down)".to_owned(),
                Ok(sectors) => return Ok(sectors),
                Err(error) => error.to_string(),
            };
            if started.elapsed() >= limit {
                return Err(ToolError::NotDone(format!(
                    "the kernel's aoe driver did not bring up {} within {} s: {seen}. Check that it speaks on \
                     the right interface ({}) and that the old machine still answers (`p2v list`)",
                    device.display(),
                    limit.as_secs(),
                    self.paths.dev_etherd.join("interfaces").display(),
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Has the driver read the size of `address` again (only while nobody has it open).
    ///
    /// # Errors
    /// What the driver said.
    pub fn revalidate(&self, address: Address) -> Result<(), ToolError> {
        self.tell("revalidate", &address.to_string())
    }

    /// Makes the driver forget the device of `address` if nobody has it open.
    ///
    /// # Errors
    /// What the driver said.
    pub fn forget(&self, address: Address) -> Result<(), ToolError> {
        if !self.paths.dev_etherd.join("flush").exists() {
            // The driver is not there, so it knows no device.
            return Ok(());
        }
        // aoedev.c, user_req(): compares by the text's length, so there must be no newline.
        self.tell("flush", &address.to_string())
    }

    fn tell(&self, control: &str, text: &str) -> Result<(), ToolError> {
        let path = self.paths.dev_etherd.join(control);
        // Not created if it is missing: a plain file in /dev would hide what is wrong.
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| io::Write::write_all(&mut f, text.as_bytes()))
            .map_err(|e| io_error(&format!("write `{text}` to"), &path, &e))
    }
}

/// The driver refuses what it has kept for long; afterwards it keeps it as it should.
#[derive(Debug)]
pub struct GivingUp<'a> {
    driver: AoeDriver<'a>,
    held: Held,
    afterwards: u32,
}

impl Drop for GivingUp<'_> {
    fn drop(&mut self) {
        // `p2v watch` sets it again while anything waits, and `p2v doctor` tells of it.
        let _ = self.driver.set_kept_seconds(&self.held, self.afterwards);
    }
}

/// Size of a block device (or file) in whole 512-byte sectors. Seeking to the end of a block
/// device gives the same figure as `BLKGETSIZE64`.
///
/// # Errors
/// It cannot be opened.
pub fn sectors(device: &Path) -> io::Result<u64> {
    let mut file = fs::File::open(device)?;
    Ok(io::Seek::seek(&mut file, io::SeekFrom::End(0))? / SECTOR)
}

fn io_error(doing: &str, path: &Path, error: &io::Error) -> ToolError {
    ToolError::NotDone(format!("cannot {doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path) -> Paths {
        Paths::under(dir)
    }

    #[test]
    fn an_interface_is_added_and_none_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let parameters = paths.sys_module.join("aoe/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::create_dir_all(&paths.dev_etherd).unwrap();
        let control = paths.dev_etherd.join("interfaces");
        let tools = Tools::in_dir(dir.path());
        let driver = AoeDriver::new(&tools, &paths);
        for (before, told) in [("\n", ""), ("xenbr0\n", ""), ("eth7\n", "eth7 xenbr0")] {
            fs::write(parameters.join("aoe_iflist"), before).unwrap();
            fs::write(&control, "").unwrap();
            assert!(!driver.load("xenbr0").unwrap());
            assert_eq!(fs::read_to_string(&control).unwrap(), told);
        }
    }

    #[test]
    fn the_driver_keeps_requests_and_is_as_before_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let parameter = paths.sys_module.join("aoe/parameters/aoe_deadsecs");
        fs::create_dir_all(parameter.parent().unwrap()).unwrap();
        fs::write(&parameter, "180\n").unwrap();
        let tools = Tools::in_dir(dir.path());
        let driver = AoeDriver::new(&tools, &paths);
        let seconds = || fs::read_to_string(&parameter).unwrap().trim().to_owned();
        driver.as_before(|| true).unwrap();
        assert_eq!(seconds(), "180");
        for limit in [3600, 3600, 7200] {
            driver.keep_requests(limit).unwrap();
            assert_eq!(seconds(), limit.to_string());
        }
        let giving_up = driver.give_up(7, 7200).unwrap();
        assert_eq!(seconds(), "20");
        driver.keep_requests_unless_held(7200, || true).unwrap();
        assert_eq!(seconds(), "20");
        drop(giving_up);
        assert_eq!(seconds(), "7200");
        driver.as_before(|| false).unwrap();
        assert_eq!(seconds(), "7200");
        driver.as_before(|| true).unwrap();
        assert_eq!(seconds(), "180");
        driver.keep_requests_unless_held(7200, || false).unwrap();
        assert_eq!(seconds(), "180");
        driver.keep_requests_unless_held(7200, || true).unwrap();
        assert_eq!(seconds(), "7200");
        fs::remove_file(&parameter).unwrap();
        assert!(
            driver
                .keep_requests(1)
                .unwrap_err()
                .to_string()
                .contains("aoe_deadsecs")
        );
    }

    #[test]
    fn waiting_ends_with_what_was_seen() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        fs::create_dir_all(&paths.dev_etherd).unwrap();
        let tools = Tools::in_dir(dir.path());
        let driver = AoeDriver::new(&tools, &paths);
        let address = Address::new(7, 0);
        let error = driver
            .wait(address, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("e7.0") && error.contains("No such file"),
            "{error}"
        );
        fs::write(driver.device(address), "").unwrap();
        let error = driver
            .wait(address, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(error.contains("size is 0"), "{error}");
        fs::write(driver.device(address), [0; 1024]).unwrap();
        assert_eq!(driver.wait(address, Duration::ZERO).unwrap(), 2);
    }
}
