//! The netboot images that some machines have of their own: can the service read them?

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use p2v_dom0::doctor::{Finding, Severity};
use p2v_netboot::Missing;
use p2v_policy::settings::Settings;

use super::finding;

/// What the unit p2v-serve has no sight of, by `ProtectHome=` and `PrivateTmp=` (systemd.exec(5)).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// How long the question may take whether a file can be read.
const LIMIT: Duration = Duration::from_secs(10);

/// One for each image, or for each of its files that is wrong. `missing`: those that nobody can read.
pub fn findings(settings: &Settings, missing: Vec<Missing>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = missing
        .iter()
        .map(|Missing { error, .. }| {
            finding(
                Severity::Bad,
                error.what.as_str(),
                format!(
                    "its machines get the usual image: {}: {}",
                    error.path.display(),
                    error.source
                ),
                error.advice,
            )
        })
        .collect();
    for (name, macs) in settings.unknown_images() {
        let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
        findings.push(finding(
            Severity::Bad,
            format!("image `{name}`"),
            format!(
                "its machines get the usual image: there is no [serve.images.{name}] in the settings"
            ),
            format!(
                "add it, with `kernel` and `initrd`, or take `image` away from {} under [machines]",
                macs.join(", ")
            ),
        ));
    }
    let is_missing = |path: &Path| missing.iter().any(|missing| missing.error.path == path);
    let user = super::user_of(settings);
    for (name, files) in &settings.serve.images {
        let what = format!("image `{name}`");
        let files = [&files.kernel, &files.initrd];
        if files.iter().any(|path| is_missing(path)) {
            continue;
        }
        let sights = files.map(|path| (path, sight(path, user)));
        let hidden = sights.iter().find_map(|(path, sight)| match sight {
            Sight::Hidden(why) => Some(format!("{}: {why}", path.display())),
            _ => None,
        });
        let doubtful = sights.iter().find_map(|(path, sight)| match sight {
            Sight::NotLookedAt(why) => Some(format!("{}: {why}", path.display())),
            _ => None,
        });
        findings.push(match (hidden, doubtful) {
            (Some(found), _) => finding(
                Severity::Bad,
                what,
                format!("the unit p2v-serve gives its machines the usual image: {found}"),
                "put it into a directory of its own below /usr/share/p2v or /srv, readable for everybody (chmod a+r)",
            ),
            (None, Some(found)) => finding(
                Severity::Warning,
                what,
                format!("not looked at, whether the unit p2v-serve can read it: {found}"),
                "run `p2v doctor` as root, and look at the finding for the user of p2v serve",
            ),
            (None, None) => {
                let machines = settings.machines.values();
                let of_it = machines.filter(|machine| machine.image == Some(*name));
                let count = of_it.count();
                finding(
                    Severity::Good,
                    what,
                    format!("machines that get it: {count}"),
                    "",
                )
            }
        });
    }
    findings
}

/// Whether the service can read a file that root can.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    Seen,
    /// With the reason.
    Hidden(String),
    /// Why nobody could be asked.
    NotLookedAt(String),
}

/// By the path as it is written, which is what the service opens. `user`: its name.
fn sight(path: &Path, user: &str) -> Sight {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => return Sight::NotLookedAt(error.to_string()),
    };
    let hides = |place: &&&str| [path, &real].iter().any(|path| path.starts_with(place));
    if let Some(place) = HIDDEN.iter().find(hides) {
        return Sight::Hidden(format!("the unit does not see {place}"));
    }
    if !geteuid().is_root() {
        return Sight::NotLookedAt(format!("only root can look as the user {user}"));
    }
    let user = match User::from_name(user) {
        Ok(Some(user)) => user,
        Ok(None) => return Sight::NotLookedAt(format!("there is no user {user}")),
        Err(error) => return Sight::NotLookedAt(format!("the user {user}: {error}")),
    };
    match readable_to(&user, path) {
        Ok(true) => Sight::Seen,
        Ok(false) => Sight::Hidden(format!("the user {} cannot read it", user.name)),
        Err(why) => Sight::NotLookedAt(format!("as the user {}: {why}", user.name)),
    }
}

/// The kernel's own answer: directories above, groups and access lists count, too. In a session of its own, without
/// root's terminal and environment: that user's other processes can get at whatever this one has.
fn readable_to(user: &User, path: &Path) -> Result<bool, String> {
    let mut asked = Command::new("setsid")
        .arg("setpriv")
        .args(["--reuid", &user.uid.to_string()])
        .args(["--regid", &user.gid.to_string()])
        .args(["--init-groups", "test", "-r"])
        .arg(path)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run setsid: {error}"))?;
    let started = Instant::now();
    loop {
        match asked.try_wait().map_err(|error| error.to_string())? {
            // test(1) has these two; setpriv(1) that did not get to it has 126 or 127.
            Some(status) => match status.code() {
                Some(0) => return Ok(true),
                Some(1) => return Ok(false),
                _ => return Err(format!("`setsid setpriv ... test -r` ended with {status}")),
            },
            None if started.elapsed() >= LIMIT => {
                // Not waited for: on a file server that is gone it may not end before this process does.
                let _ = asked.kill();
                return Err(format!("no answer within {} s", LIMIT.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_netboot::{ImageFiles, missing_files};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_the_service_cannot_read_is_told_of() {
        // Not below a directory that the unit hides.
        let dir = tempfile::tempdir_in("/var/lib").unwrap();
        let (kernel, initrd) = (dir.path().join("vmlinuz"), dir.path().join("initrd"));
        for path in [&kernel, &initrd] {
            fs::write(path, "x").unwrap();
        }
        let mode =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(dir.path(), 0o700);
        let why = |path: &Path| match sight(path, "daemon") {
            Sight::Hidden(why) => why,
            other => panic!("{}: {other:?}", path.display()),
        };
        let seen = |path: &Path| assert_eq!(sight(path, "daemon"), Sight::Seen);
        assert!(why(&kernel).contains("daemon cannot read"));
        mode(dir.path(), 0o755);
        mode(&kernel, 0o644);
        seen(&kernel);
        mode(&initrd, 0o600);
        assert!(why(&initrd).contains("daemon cannot read"));
        // Root's own groups are not the user's; the user's are.
        mode(&initrd, 0o640);
        assert!(why(&initrd).contains("daemon cannot read"));
        let group = User::from_name("daemon").unwrap().unwrap().gid.as_raw();
        std::os::unix::fs::chown(&initrd, None, Some(group)).unwrap();
        seen(&initrd);
        for user in ["daemon", "p2v-nobody-here"] {
            let hidden = tempfile::NamedTempFile::new_in("/tmp").unwrap();
            match sight(hidden.path(), user) {
                Sight::Hidden(why) => assert!(why.contains("does not see /tmp")),
                other => panic!("{other:?}"),
            }
        }
        // The service opens what is written, whatever that leads to.
        let links = tempfile::tempdir_in("/tmp").unwrap();
        let link = links.path().join("kernel");
        std::os::unix::fs::symlink(&kernel, &link).unwrap();
        assert!(why(&link).contains("does not see /tmp"));
        let closed = tempfile::tempdir_in("/var/lib").unwrap();
        mode(closed.path(), 0o700);
        let link = closed.path().join("kernel");
        std::os::unix::fs::symlink(&kernel, &link).unwrap();
        assert!(why(&link).contains("daemon cannot read"));

        let name = "old".parse().unwrap();
        let mut settings = Settings::default();
        let files = ImageFiles {
            kernel: kernel.clone(),
            initrd: dir.path().join("missing"),
        };
        settings.serve.images.insert(name, files);
        let of_images = |settings: &Settings| {
            let mut missing = missing_files(&settings.serve);
            missing.retain(|missing| missing.need == p2v_netboot::Need::Image);
            findings(settings, missing)
        };
        let found = of_images(&settings);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Bad);
        assert!(
            found[0]
                .what
                .contains("initial RAM disk of the image `old`")
        );
        settings.serve.images.get_mut(&name).unwrap().initrd = kernel;
        let machine = toml::from_str("image = 'old'").unwrap();
        let mac = p2v_contract::MacAddr::new(2, 0, 0, 0, 0, 1);
        settings.machines.insert(mac, machine);
        // As whoever the settings name, and not as nobody.
        settings.serve.user = Some("p2v-nobody-here".into());
        let found = of_images(&settings);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(found[0].found.contains("no user p2v-nobody-here"));
        settings.serve.user = Some("daemon".into());
        let found = of_images(&settings);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Good);
        assert_eq!(found[0].found, "machines that get it: 1");
        settings.serve.images.clear();
        let found = of_images(&settings);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Bad);
        assert!(found[0].found.contains("no [serve.images.old]"));
        assert!(found[0].todo.contains("02:00:00:00:00:01"));
    }
}
