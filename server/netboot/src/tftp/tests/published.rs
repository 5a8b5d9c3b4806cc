//! The same files under the published server.

use std::sync::{Arc, Mutex};

use async_tftp::server::TftpServerBuilder;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::boot_decision::BootDecision;
use crate::boot_set::BootSet;
use crate::catalogue::Catalogue;
use crate::event::{BootEvent, Notice};
use crate::image::{Image, ImageFiles};
use crate::machines::Machines;
use crate::settings::Settings;
use crate::tftp::files::Files;
use pnet::util::MacAddr;

/// Every machine starts the agent.
#[derive(Default)]
struct Policy(Mutex<Vec<String>>);

impl Machines for Policy {
    fn boot(&self, mac: MacAddr) -> BootDecision {
        BootDecision::Agent {
            append: format!("p2v.shelf={}", mac.5),
            image: Image::Usual,
        }
    }

    fn seen(&self, _mac: MacAddr, _event: &BootEvent) {}

    fn noticed(&self, notice: &Notice) {
        self.0.lock().unwrap().push(notice.to_string());
    }
}

/// Lengths at which something begins or ends: a block, a window, the numbers of blocks of 8 bytes.
const LENGTHS: [usize; 9] = [
    1,
    511,
    512,
    513,
    1456,
    1456 * 16,
    65535 * 8 - 1,
    65536 * 8,
    300_001,
];

fn catalogue(folder: &Path, policy: &Arc<Policy>) -> Arc<Catalogue> {
    let mut settings = Settings::default();
    for len in LENGTHS {
        let bytes: Vec<u8> = (0..len)
            .map(|at| (at ^ (at >> 8) ^ (at >> 13)) as u8)
            .collect();
        let path = folder.join(len.to_string());
        std::fs::write(&path, bytes).unwrap();
        let files = ImageFiles {
            kernel: path.clone(),
            initrd: path.clone(),
        };
        (settings.kernel, settings.initrd) = (path.clone(), path);
        settings
            .images
            .insert(format!("of{len}").parse().unwrap(), files);
    }
    let set = BootSet::read(&settings, Ipv4Addr::LOCALHOST).unwrap().0;
    Arc::new(Catalogue {
        set,
        settings: Arc::new(settings),
        machines: Arc::clone(policy) as Arc<dyn Machines>,
        peers: Arc::default(),
        http: None,
    })
}

/// What clients ask for: files of all lengths, menus, loaders, and what is not there; with some options, in
/// any order.
fn request() -> impl Strategy<Value = (String, Vec<u8>)> {
    let file =
        proptest::sample::select(&LENGTHS[..]).prop_map(|len| format!("image/of{len}/vmlinuz"));
    let other = proptest::sample::select(vec![
        "pxelinux.cfg/01-52-54-00-12-34-56",
        "pxelinux.cfg/default",
        "grub/grub.cfg",
        "pxelinux.0",
        "none",
        "../secret",
        "",
    ]);
    let name = prop_oneof![3 => file, 1 => other.prop_map(str::to_owned)];
    let option = prop_oneof![
        (8..2000_u16).prop_map(|size| format!("blksize\0{size}\0")),
        (0..40_u16).prop_map(|size| format!("windowsize\0{size}\0")),
        Just("tsize\x000\0".to_owned()),
        (1..255_u16).prop_map(|seconds| format!("timeout\0{seconds}\0")),
        Just("x-unknown\0y\0".to_owned()),
    ];
    let options = proptest::collection::vec(option, 0..4);
    (
        name,
        options.prop_map(|options| options.concat().into_bytes()),
    )
}

#[test]
fn the_published_server_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let policy = Arc::default();
    let catalogue = catalogue(folder.path(), &policy);
    let ours = Server::start(Files(Arc::clone(&catalogue)));

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = socket.local_addr().unwrap();
    let builder = TftpServerBuilder::with_handler(Files(catalogue))
        .std_socket(socket)
        .unwrap();
    let builder = builder
        .block_size_limit(LIMITS.block_size)
        .window_size_limit(LIMITS.window);
    let server = futures_lite::future::block_on(builder.ignore_client_timeout().build()).unwrap();
    // Its futures want a runtime of tokio's, for decisions.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.spawn(server.serve());

    let mut files = 0;
    let mut runner = TestRunner::new(ProptestConfig::with_cases(120));
    runner
        .run(&request(), |(name, options)| {
            let [of_ours, of_theirs] = [ours.address, theirs].map(|server| {
                // A port of its own: the published server keeps that of a transfer for a while.
                Client::new().fetch(server, &name, &options)
            });
            prop_assert_eq!(
                of_ours.0.as_ref().map(Vec::len),
                of_theirs.0.as_ref().map(Vec::len)
            );
            prop_assert!(of_ours == of_theirs, "{:?} {:?}", of_ours.1, of_theirs.1);
            Ok(())
        })
        .unwrap();
    for len in LENGTHS {
        let name = format!("image/of{len}/initrd");
        let on_disk = std::fs::read(folder.path().join(len.to_string())).unwrap();
        for server in [ours.address, theirs] {
            let (file, _) = Client::new().fetch(server, &name, b"blksize\x008\0windowsize\x0016\0");
            assert!(file.unwrap() == on_disk, "{name}");
            files += 1;
        }
    }
    assert_eq!(files, 2 * LENGTHS.len());
    runtime.shutdown_background();
}
