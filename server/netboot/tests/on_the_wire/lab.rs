//! Two machines on a private wire: the service's host and the client's.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use p2v_netboot::{
    BootDecision, BootEvent, Error, Image, ImageFiles, MachineId, Machines, Mode, Notice, Pool,
    Settings,
};
use pnet::util::MacAddr;

/// The service's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
/// The client's, where a test needs it to have one from the start.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
/// The client's hardware address.
pub const MAC: MacAddr = MacAddr(0x52, 0x54, 0, 0x12, 0x34, 0x56);
/// The wire's ends.
pub const SERVER_END: &str = "p2vs";
pub const CLIENT_END: &str = "p2vc";
/// Longer than anything takes on a loaded machine; nothing waits for it to pass.
pub const LIMIT: Duration = Duration::from_secs(400);

/// Runs a command to its end and expects it to succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Runs `ip` with these arguments.
pub fn ip(args: &str) {
    run(Command::new("ip").args(args.split_whitespace()));
}

/// A network namespace, gone when dropped.
pub struct Namespace(pub String);

impl Namespace {
    fn new(what: &str) -> Namespace {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("p2v-{what}-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Namespace(name)
    }

    /// A command that will run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Runs `f` on a thread of its own in it; sockets made there stay in it.
    pub fn enter<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// A UDP socket in it that waits at most `patience` for a datagram.
    pub fn udp(&self, local: SocketAddr, patience: Duration) -> UdpSocket {
        let socket = self
            .enter(move || UdpSocket::bind(local).unwrap())
            .join()
            .unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A program that is ended when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The caller's side: one decision for everybody, and every line that would be in the log.
pub struct Recorder {
    pub decision: Mutex<BootDecision>,
    /// For those that the lists leave out.
    pub unlisted: Mutex<Option<BootDecision>>,
    lines: Mutex<Vec<String>>,
    news: Condvar,
}

impl Recorder {
    fn line(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.news.notify_all();
    }

    /// Everything said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line contains `part`, and returns it.
    pub fn wait_for(&self, part: &str) -> String {
        self.wait_for_lines(part, 1)
    }

    /// Waits until so many lines contain `part`, and returns the last of them.
    pub fn wait_for_lines(&self, part: &str, count: usize) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines
                .iter()
                .filter(|line| line.contains(part))
                .nth(count - 1)
            {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line has {part:?}: {lines:#?}");
            lines = self.news.wait_timeout(lines, left).unwrap().0;
        }
    }
}

impl Machines for Recorder {
    fn boot(&self, _mac: MacAddr) -> BootDecision {
        self.decision.lock().unwrap().clone()
    }

    fn boot_unlisted(&self, _mac: MacAddr) -> Option<BootDecision> {
        self.unlisted.lock().unwrap().clone()
    }

    fn identified(&self, mac: MacAddr, id: MachineId) {
        self.line(format!("{mac}: is {id}"));
    }

    fn seen(&self, mac: MacAddr, event: &BootEvent) {
        self.line(format!("{mac}: {event}"));
    }

    fn noticed(&self, notice: &Notice) {
        self.line(notice.to_string());
    }
}

/// The wire, and files to serve.
pub struct Lab {
    pub server: Namespace,
    pub client: Namespace,
    pub dir: tempfile::TempDir,
    pub recorder: Arc<Recorder>,
}

impl Lab {
    pub fn new() -> Lab {
        let (server, client) = (Namespace::new("server"), Namespace::new("client"));
        let (s, c) = (&server.0, &client.0);
        ip(&format!(
            "-n {s} link add {SERVER_END} type veth peer name {CLIENT_END} netns {c}"
        ));
        ip(&format!("-n {c} link set {CLIENT_END} address {MAC} up"));
        ip(&format!("-n {s} addr add {SERVER}/24 dev {SERVER_END}"));
        ip(&format!("-n {s} link set {SERVER_END} up"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmlinuz"), pattern(300_001)).unwrap();
        std::fs::write(dir.path().join("initrd"), pattern(1456 * 40)).unwrap();
        let append = "p2v.shelf=7 p2v.token=secret".to_owned();
        let recorder = Arc::new(Recorder {
            decision: Mutex::new(BootDecision::Agent {
                append,
                image: Image::Usual,
            }),
            unlisted: Mutex::default(),
            lines: Mutex::default(),
            news: Condvar::new(),
        });
        Lab {
            server,
            client,
            dir,
            recorder,
        }
    }

    /// One whose client has its address.
    pub fn with_address() -> Lab {
        let lab = Lab::new();
        ip(&format!(
            "-n {} addr add {CLIENT}/24 dev {CLIENT_END}",
            lab.client.0
        ));
        lab
    }

    /// A bridge `br0` on the client's side with the wire in it and a tap `tap0` for a machine.
    pub fn add_tap(&self) {
        let c = &self.client.0;
        // Forwarding at once: a real switch port would wait 15 s here.
        ip(&format!("-n {c} link add br0 type bridge forward_delay 0"));
        ip(&format!(
            "-n {c} link set {CLIENT_END} address 52:54:00:00:00:02 master br0"
        ));
        ip(&format!("-n {c} tuntap add tap0 mode tap"));
        ip(&format!("-n {c} link set tap0 up master br0"));
        ip(&format!("-n {c} link set br0 up"));
    }

    /// What becomes of what machines send to the HTTP port: nft's statement, `drop` for instance.
    pub fn http(&self, verdict: &str) {
        let rules = format!(
            "add table ip p2v; add chain ip p2v input {{ type filter hook input priority 0; }}; \
             add rule ip p2v input tcp dport 80 {verdict}"
        );
        run(self.server.command("nft").arg(rules));
    }

    /// An image whose kernel is the file `own`.
    pub fn own_image(&self) -> ImageFiles {
        ImageFiles {
            kernel: self.path("own"),
            initrd: self.path("initrd"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn settings(&self, mode: Mode) -> Settings {
        let pool = |last| Ipv4Addr::new(192, 168, 7, last);
        Settings {
            mode,
            iface: SERVER_END.to_owned(),
            pool: Some(Pool {
                start: pool(200),
                end: pool(201),
            }),
            kernel: self.path("vmlinuz"),
            initrd: self.path("initrd"),
            state_dir: self.path("state"),
            allow: vec!["*".parse().unwrap()],
            ..Settings::default()
        }
    }

    /// With a real netboot image, which `P2V_IMAGE_DIR` names; without one there is nothing to start.
    pub fn settings_with_image(&self, mode: Mode) -> Option<Settings> {
        let Some(image) = std::env::var_os("P2V_IMAGE_DIR").map(PathBuf::from) else {
            eprintln!("skipped: P2V_IMAGE_DIR names no netboot image (`make image` makes one)");
            return None;
        };
        Some(Settings {
            kernel: image.join("vmlinuz"),
            initrd: image.join("initrd"),
            ..self.settings(mode)
        })
    }

    /// The same as an image of its own for every machine: the usual one cannot be started.
    pub fn settings_with_own_image(&self, mode: Mode) -> Option<Settings> {
        let real = self.settings_with_image(mode)?;
        let (kernel, initrd) = (real.kernel, real.initrd);
        let name = "own".parse().unwrap();
        if let BootDecision::Agent { image, .. } = &mut *self.recorder.decision.lock().unwrap() {
            *image = Image::Named(name);
        }
        Some(Settings {
            images: [(name, ImageFiles { kernel, initrd })].into(),
            ..self.settings(mode)
        })
    }

    /// Starts the service and waits until it serves.
    pub fn serve(&self, settings: Settings) -> Service {
        let before = self.recorder.lines().len();
        let until = Instant::now() + LIMIT;
        let mut service = self.start(settings.clone());
        let serving =
            |lines: &[String]| lines.iter().skip(before).any(|l| l.starts_with("serving"));
        while !serving(&self.recorder.lines()) {
            if service.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                match service.end() {
                    // Another test has forked, and until it has executed its program that child has every
                    // socket of this process, also one that was just closed.
                    Err(Error::Socket(error))
                        if error.source.kind() == ErrorKind::AddrInUse
                            && Instant::now() < until =>
                    {
                        service = self.start(settings.clone());
                    }
                    end => panic!("the service did not start: {end:?}"),
                }
            }
            std::thread::yield_now();
        }
        service
    }

    pub fn start(&self, settings: Settings) -> Service {
        self.start_in(&self.server, settings)
    }

    pub fn start_in(&self, namespace: &Namespace, settings: Settings) -> Service {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let machines = Arc::clone(&self.recorder);
        let thread = namespace.enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let shutdown = async { drop(stopped.await) };
            let end = runtime.block_on(p2v_netboot::serve(settings, machines, shutdown));
            // The look for other servers need not be waited for.
            runtime.shutdown_background();
            end
        });
        Service {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

/// The service, stopped when dropped.
pub struct Service {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Service {
    /// Stops it (if it has not stopped by itself) and says how it ended.
    pub fn end(mut self) -> Result<(), Error> {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }

    /// How it ended by itself.
    pub fn failure(mut self) -> Error {
        self.thread.take().unwrap().join().unwrap().unwrap_err()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes in which a block in the wrong place is noticed.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at ^ (at >> 8) ^ (at >> 13)) as u8)
        .collect()
}

/// What a machine prints on its serial port.
#[derive(Default, Clone)]
pub struct Screen(Arc<(Mutex<String>, Condvar)>);

impl Screen {
    pub fn of(mut from: impl Read + Send + 'static) -> Screen {
        let screen = Screen::default();
        let kept = screen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = from.read(&mut buffer) {
                kept.0
                    .0
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..got]));
                kept.0.1.notify_all();
            }
        });
        screen
    }

    /// Waits until it has printed `part`, and returns all it has printed.
    pub fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut text = self.0.0.lock().unwrap();
        while !text.contains(part) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no {part:?} at the end of {}",
                &text[text.ceil_char_boundary(text.len().saturating_sub(2000))..]
            );
            text = self.0.1.wait_timeout(text, left).unwrap().0;
        }
        text.clone()
    }
}

/// A file's contents once it has some (the script of a DHCP client wrote it).
pub fn contents(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// No output, no input.
pub fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}
